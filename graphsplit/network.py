"""A loaded network made ready to plan: its dialect, its trained tensors, its shapes; and the plan itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, TypeVar, Unpack

from graphsplit.errors import FormatError, GraphsplitError, PlanError, UnevenError, UnsupportedError
from graphsplit.facts import Facts
from graphsplit.formats.onnx_dialect import OnnxDialect
from graphsplit.formats.onnx_file import load
from graphsplit.formats.onnx_sizes import choose_sizes, mended, unshaped
from graphsplit.graph import Graph
from graphsplit.labels import Flowed, flow, less_divided, parameters, refuse_unknown
from graphsplit.labels.decide import Outputs
from graphsplit.labels.quantised import refuse_quantised
from graphsplit.labels.trainable import Lookup
from graphsplit.narrow import NarrowDialect, NarrowError, SubModel, narrow
from graphsplit.partition import Partition, partition
from graphsplit.planning import Plan, make_plan
from graphsplit.rules import registry

Refusal = TypeVar("Refusal", bound=GraphsplitError)
MAX_PARTS = 4096
TRAINABLE_KEY = "graphsplit.trainable"
CONSTANT_KEY = "graphsplit.constant"
"""Metadata of a sub-model: tensors that train, or don't, in the source, and that one couldn't tell by their slices."""


class PlanDialect(NarrowDialect, Protocol):
    """What a network's dialect does besides what narrowing needs."""

    def evaluate(self, graph: Graph, sizes: Mapping[str, int], parameters: frozenset[str]) -> Facts: ...


@dataclass(frozen=True)
class Network:
    """A graph with all that planning needs: `sizes` are those of its dynamic axes, `trained` the tensors that train.

    `others` are the facts for another choice of sizes: what is the same there doesn't depend on them.
    """

    graph: Graph
    dialect: PlanDialect
    trained: frozenset[str]
    sizes: Mapping[str, int]
    facts: Facts
    others: Facts

    @property
    def changing(self) -> frozenset[str]:
        """The tensors that training or running the network changes."""
        return self.trained

    def located(self, error: Refusal) -> Refusal:
        """A refusal as the user should read it: a network that came from source code adds its line."""
        return error


def prepare(
    model: Graph | str | os.PathLike[str],
    *,
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Network:
    """Load a network if need be, find what trains, and the shapes of all values.

    `trainable` and `constant` override what is taken for a parameter, `rules` are further rule lines, `sizes` fixes sizes of
    dynamic axes (others are chosen). Raises FormatError, RuleError, UnsupportedError, GraphsplitError.
    """
    graph = model if isinstance(model, Graph) else load(model)
    lines = tuple(rules)
    dialect = OnnxDialect(registry("onnx").extended(lines) if lines else None)
    for node in graph.nodes:
        refuse_unknown(node, dialect.lookup(node))
    trained = parameters(
        graph,
        dialect.lookup,
        (*trainable, *recorded(graph, TRAINABLE_KEY)),
        (*constant, *recorded(graph, CONSTANT_KEY)),
    )

    def evaluate(sizes: Mapping[str, int]) -> Facts:
        return dialect.evaluate(graph, sizes, trained)

    chosen = choose_sizes(graph, evaluate, sizes)
    facts = evaluate(chosen)
    refuse_quantised(graph, facts)
    varied = other_sizes(chosen)
    others = evaluate(varied) if varied else facts
    if unshaped(others) > unshaped(facts):
        others = evaluate(mended(graph, evaluate, varied, lambda name, size: size != chosen[name]))
    return Network(graph, dialect, trained, chosen, facts, others)


def recorded(graph: Graph, key: str) -> tuple[str, ...]:
    """Names of tensors that a sub-model's metadata lists under a key. Raises FormatError where that isn't a list of names."""
    text = graph.metadata.get(key)
    if text is None:
        return ()
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"the metadata {key!r} of {graph.name!r} is not a list of names")
    return tuple(name for name in names if name in graph.tensors)


def trained_record(graph: Graph, lookup: Lookup, trained: frozenset[str]) -> dict[str, str]:
    """Metadata that says of a sub-model's tensors which ones train, as far as the tensors themselves don't."""
    plain = parameters(graph, lookup, ())
    found = {}
    for key, names in ((TRAINABLE_KEY, trained - plain), (CONSTANT_KEY, plain - trained)):
        if names:
            found[key] = json.dumps(sorted(names))
    return found


def other_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Other sizes for the same dynamic axes; whether every shape fits them doesn't matter for what they're used for."""
    return {name: 2 * size + 1 if size > 1 else 3 for name, size in sizes.items()}


class PlanChoices(TypedDict, total=False):
    """What `make` may be told of a split."""

    strategy: str
    seed: int
    shares: Sequence[float] | None
    keep: Iterable[str]
    outputs: Outputs
    output_scale: Literal["weights", "activation"]


def make(
    network: Network,
    k: int,
    *,
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    outputs: Outputs = "auto",
    output_scale: Literal["weights", "activation"] = "weights",
    whole: frozenset[int] = frozenset(),
) -> Plan:
    """Plan the split of a prepared network into `k` parts. `whole` are nodes whose operands each part has whole.

    Raises PlanError, UnsupportedError, GraphsplitError.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_PARTS:
        raise PlanError(
            f"a network can't be split into {k!r} parts", hint=f"-k takes a whole number from 1 to {MAX_PARTS}"
        )
    if not network.trained:
        raise PlanError(
            f"{network.graph.name or 'the network'} holds no tensor that trains: there is nothing to divide",
            hint="name the tensors that train with --trainable",
        )
    facts = network.facts
    try:
        flowed = flow(
            network.graph,
            network.dialect,
            facts,
            network.trained,
            k,
            keep=keep,
            outputs=outputs,
            others=network.others,
            whole=whole,
        )
        return make_plan(*_divided(flowed, strategy, seed, shares), output_scale=output_scale)
    except (UnsupportedError, PlanError) as error:
        located = network.located(error)
        if located is error:
            raise
        raise located from error


def narrowed(
    network: Network, k: int, *, report: Callable[[int], None] = lambda _: None, **choices: Unpack[PlanChoices]
) -> tuple[Plan, tuple[SubModel, ...]]:
    """The plan of a split, and its sub-models. `report` hears which part is being narrowed.

    Where a node can't be narrowed as the labels say, it is planned again with all of the node's operands whole in each part.
    Raises what `make` raises, and the first refusal where that doesn't help.
    """
    whole: frozenset[int] = frozenset()
    first: GraphsplitError | None = None
    while True:
        try:
            plan = make(network, k, **choices, whole=whole)
            found = []
            for part in range(k):
                report(part)
                found.append(narrow(plan, network.dialect, part))
            return plan, tuple(found)
        except NarrowError as error:
            first = first or network.located(error)
            if error.node in whole:
                raise first from None
            whole |= {error.node}
        except (UnsupportedError, PlanError) as error:
            raise (first or error) from None


def _divided(flowed: Flowed, strategy: str, seed: int, shares: Sequence[float] | None) -> tuple[Flowed, Partition]:
    """A partition; layers of which no part can have its share, for the sake of equal counts, are whole in every part."""
    refused: PlanError | None = None
    while True:
        try:
            return flowed, partition(flowed, strategy=strategy, seed=seed, shares=shares)
        except PlanError as error:
            refused = refused or error
            fewer = less_divided(flowed, error.uneven) if isinstance(error, UnevenError) else None
            if fewer is None:
                raise refused from None
            flowed = fewer
