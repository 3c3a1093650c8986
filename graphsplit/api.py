"""The public functions that aren't a room of their own: load, plan, split of whatever kind, and merge with its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from graphsplit import merging, splitting
from graphsplit.formats.onnx_file import load
from graphsplit.graph import Graph
from graphsplit.labels.decide import Outputs
from graphsplit.merging import Layers, Merge, Scale
from graphsplit.network import make, prepare
from graphsplit.planning import Plan
from graphsplit.splitting import Init, Progress, Split

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.modules import ModuleSplit

__all__ = ["load", "merge", "plan", "split"]


@overload
def split(
    model: Graph | str | os.PathLike[str],
    k: int,
    *,
    out: str | os.PathLike[str],
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    outputs: Outputs = "auto",
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
    init: Init = "keep",
    force: bool = False,
    progress: Progress | None = None,
) -> Split: ...


@overload
def split(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    k: int,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    outputs: Outputs = "auto",
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
    init: Init = "keep",
) -> ModuleSplit: ...


def split(model: Any, *args: Any, **options: Any) -> Split | ModuleSplit:
    """Cut a network by width into `k` standalone sub-models.

    An ONNX file (or a loaded Graph): `split(model, k, *, out, …)` writes the sub-models with their manifest into the folder
    `out`; nothing is written unless everything is. A torch module: `split(model, args, kwargs=None, *, k, …)` takes its inputs
    as `torch.export` does and gives modules.

    `init="rescale"` multiplies each hidden weight by the square root of how much its fan-in shrinks, so that signals keep
    their size; "keep" leaves slices as they are.

    Raises GraphsplitError for whatever can't be split exactly, with the reason.
    """
    if "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module):
        from graphsplit.modules import split_module

        return split_module(model, *args, **options)
    return splitting.split(model, *args, **options)


def plan(
    model: Graph | str | os.PathLike[str],
    k: int,
    *,
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    outputs: Outputs = "auto",
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Compute how a network would be split into `k` parts; nothing is written. Raises GraphsplitError."""
    network = prepare(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    return make(network, k, strategy=strategy, seed=seed, shares=shares, keep=keep, outputs=outputs)


def merge(
    folder: str | os.PathLike[str],
    trained: Sequence[str | os.PathLike[str]] = (),
    *,
    out: str | os.PathLike[str] | None = None,
    layers: Layers = "duplicated",
    output_scale: Scale = "weights",
    allow_nonfinite: bool = False,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Merge:
    """Put trained sub-models back together, and write the merged network to `out` if it is given.

    `trained` are files (ONNX, safetensors, torch state dicts) or folders of further splits, one for each part, in any order
    where they say which part they are; by default the sub-models in `folder` as they stand. `layers="duplicated"` repeats
    what each part must compute for itself, and equals the mean of the sub-models; "original" has the source's topology, and
    `Merge.difference` says how far that is from the mean. `output_scale` puts the 1/K of the mean into the output
    layers' weights, or behind them.

    Raises ManifestError, FormatError or MergeError, with nothing written.
    """
    done = merging.merge(
        folder,
        trained,
        out=out,
        layers=layers,
        output_scale=output_scale,
        allow_nonfinite=allow_nonfinite,
        force=force,
        progress=progress,
    )
    if layers != "original" or not done.leaves:
        return done
    from graphsplit.verification.difference import difference  # a runtime is only loaded where something is run

    return replace(done, difference=difference(done.opened, done.leaves, done.graph))
