"""The public functions that aren't a room of their own: load, plan, and merge with its report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from graphsplit import merging
from graphsplit.formats.onnx_file import load
from graphsplit.graph import Graph
from graphsplit.labels.decide import Outputs
from graphsplit.merging import Layers, Merge, Scale
from graphsplit.network import make, prepare
from graphsplit.plan import Plan

__all__ = ["load", "merge", "plan"]


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
