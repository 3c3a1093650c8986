"""What a split may be told: the options of `split` and `plan`, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

from graphsplit.errors import PlanError
from graphsplit.labels.decide import Outputs
from graphsplit.manifest import Options
from graphsplit.narrow import SubModel
from graphsplit.network import Network, narrowed
from graphsplit.planning import Plan

Init = Literal["keep", "rescale"]
Scale = Literal["weights", "activation"]


class SplitOptions(TypedDict, total=False):
    """Options of a split, by their names.

    strategy, seed: which vertices go together ("contiguous", "interleaved", "random"). shares: widths of the parts. keep:
    nodes, parameters or values whose layer isn't divided. trainable, constant: tensors that train, or don't, though they
    don't look like it. outputs: whether outputs are merged as the parts' mean or put side by side ("mean", "concat"; "auto"
    puts those side by side that have no output layer). rules: rule lines for custom ops. sizes: sizes to plan with for
    dynamic axes. init: "rescale" makes up for the smaller fan-in of hidden weights, "keep" takes slices as they are.
    """

    strategy: str
    seed: int
    shares: Sequence[float] | None
    keep: Iterable[str]
    trainable: Iterable[str]
    constant: Iterable[str]
    outputs: Outputs
    rules: Iterable[str]
    sizes: Mapping[str, int] | None
    init: Init


@dataclass(frozen=True)
class Choices:
    """Options with the defaults filled in."""

    strategy: str = "contiguous"
    seed: int = 0
    shares: Sequence[float] | None = None
    keep: tuple[str, ...] = ()
    trainable: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    outputs: Outputs = "auto"
    rules: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    init: Init = "keep"

    @classmethod
    def of(cls, options: SplitOptions) -> Choices:
        """Options as they were given. Raises PlanError for an unknown initialisation, TypeError for an unknown option."""
        held: dict[str, Any] = dict(options)
        unknown = sorted(held.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise TypeError(f"a split has no option {unknown[0]!r}; it has {', '.join(cls.__dataclass_fields__)}")
        for name in ("keep", "trainable", "constant", "rules"):
            held[name] = tuple(held.get(name, ()))
        held["sizes"] = dict(held.get("sizes") or {})
        found = cls(**held)
        if found.init not in ("keep", "rescale"):
            raise PlanError(f"there is no initialisation {found.init!r}", hint="choose keep or rescale")
        if found.outputs not in get_args(Outputs):
            raise PlanError(f"outputs can't be {found.outputs!r}", hint=f"choose {', '.join(get_args(Outputs))}")
        return found

    @classmethod
    def recorded(cls, options: Options) -> Choices:
        """The options in a manifest."""
        return cls(
            options.strategy,
            options.seed,
            options.shares,
            options.keep,
            options.trainable,
            options.constant,
            options.outputs,  # type: ignore[arg-type]
            options.rules,
            options.sizes,
            options.init,  # type: ignore[arg-type]
        )

    @property
    def preparing(self) -> dict[str, Any]:
        """Those that count when a network is made ready to plan."""
        return {"trainable": self.trainable, "constant": self.constant, "rules": self.rules, "sizes": self.sizes}

    def plan(self, network: Network, k: int, *, output_scale: Scale = "weights") -> Plan:
        """The plan that they make. Raises what `narrowed` raises."""
        return self.narrowed(network, k, output_scale=output_scale)[0]

    def narrowed(
        self,
        network: Network,
        k: int,
        *,
        output_scale: Scale = "weights",
        report: Callable[[int], None] = lambda _: None,
    ) -> tuple[Plan, tuple[SubModel, ...]]:
        """The plan that they make, and its sub-models; `report` hears of each part. Raises what `network.narrowed` raises."""
        return narrowed(
            network,
            k,
            report=report,
            strategy=self.strategy,
            seed=self.seed,
            shares=self.shares,
            keep=self.keep,
            outputs=self.outputs,
            output_scale=output_scale,
        )

    def record(self, network: Network, plan: Plan) -> Options:
        """What the manifest says of them."""
        return Options(
            plan.partition.shares,
            self.strategy,
            self.seed,
            self.init,
            self.keep,
            self.trainable,
            self.constant,
            self.outputs,
            self.rules,
            dict(network.sizes),
        )
