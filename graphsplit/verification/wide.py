"""Half precision proves little: its rounding hides what parts differ by. The same split is then run in single precision.

The source is widened and split again, with the same options; every sub-model has the numbers that it has. What this says
holds for the split itself where both are divided alike, element by element, and merge into the same nodes: law 1 is about
numbers, not about how they are rounded. That the merged file holds what the merge makes is compared bit for bit elsewhere; of
its values, what the merge itself rounded to half precision is allowed for, and measured: it moves the tensors of output
layers as far where the noise of a value is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from graphsplit.errors import GraphsplitError
from graphsplit.formats.onnx_wide import WideTensor, is_half
from graphsplit.graph import Array, Tensor
from graphsplit.merging import LeafModel, Opened, merged_graph, merged_tensor_of, open_split, read_leaves
from graphsplit.options import Choices
from graphsplit.splitting import split
from graphsplit.verification.inputs import Draw
from graphsplit.verification.result import NOTHING_PROVED, Check
from graphsplit.verification.running import Bench, Subject, original, subjects

__all__ = ["in_single_precision"]


def in_single_precision(
    bench: Bench,
    leaves: Sequence[LeafModel],
    check: Check,
    again: Callable[[Bench, Sequence[Subject]], Check],
    *,
    rounded: bool = False,
) -> Check:
    """A check; where it proved nothing in half precision, the same one in single precision.

    `rounded`: the merged network's tensors are those that the merge rounded to half precision.
    """
    if check.detail != NOTHING_PROVED or any(len(leaf.path) > 1 for leaf in leaves):
        return check
    try:
        wide = _wide(bench, leaves, rounded)
    except GraphsplitError:  # what half precision allows, single precision doesn't always
        return check
    if wide is None:
        return check
    found = again(*wide)
    return replace(found, detail=f"in single precision, for half precision hides it: {found.detail}")


def _wide(bench: Bench, leaves: Sequence[LeafModel], rounded: bool) -> tuple[Bench, list[Subject]] | None:
    """The split in single precision, and its sub-models; None where there is nothing to widen, or it is another split."""
    graph = bench.runtime.widened(original(bench.opened, leaves))
    if graph is None:
        return None
    manifest = bench.opened.manifest
    chosen = Choices.recorded(manifest.options)
    options: Any = {item.name: getattr(chosen, item.name) for item in fields(chosen)}
    folder = bench.folder / "wide"
    opened = open_split(split(graph, manifest.parts, out=folder, force=folder.exists(), **options).folder or folder)
    mine = {leaf.path: leaf for leaf in leaves}
    widened = [
        replace(leaf, label=f"part {leaf.path[0]}", tensors=_tensors(mine[leaf.path])) for leaf in read_leaves(opened)
    ]
    if not _alike(bench.opened, leaves, opened, widened):
        return None
    units = _rounding(bench.opened, leaves, opened, widened) if rounded else {}
    draws = [_draw(draw) for draw in bench.draws]
    return Bench(opened, draws, bench.folder, bench.runtime, bench.remarks, units), subjects(opened, widened)


def _tensors(leaf: LeafModel) -> dict[str, Tensor]:
    return {name: WideTensor(t) if is_half(t.dtype) else t for name, t in leaf.tensors.items()}


def _alike(one: Opened, leaves: Sequence[LeafModel], other: Opened, widened: Sequence[LeafModel]) -> bool:
    """Whether two splits divide every tensor alike, and merge into the same nodes."""
    mine = {name: replace(entry, dtype="") for name, entry in one.manifest.parameters.items()}
    theirs = {name: replace(entry, dtype="") for name, entry in other.manifest.parameters.items()}
    if mine != theirs or one.manifest.groups != other.manifest.groups:
        return False
    nodes = [
        {(n.name, n.op, n.domain, n.inputs, n.outputs) for n in merged_graph(opened, found)[0].nodes}
        for opened, found in ((one, leaves), (other, widened))
    ]
    return nodes[0] == nodes[1]


def _rounding(
    one: Opened, leaves: Sequence[LeafModel], other: Opened, widened: Sequence[LeafModel]
) -> dict[str, float]:
    """How far the merge into half precision rounded the tensors of output layers: the largest way, relative to the element."""
    found: dict[str, float] = {}
    for name, entry in one.manifest.parameters.items():
        if not entry.counts.output:
            continue
        half, whole = (
            merged_tensor_of(opened, name, parts).numpy().astype(np.float64)
            for opened, parts in ((one, leaves), (other, widened))
        )
        with np.errstate(all="ignore"):
            off = np.where(half == whole, 0.0, np.abs(half - whole) / np.abs(whole))
        if off.any():
            found[name] = float(min(off.max(), 1.0))
    return found


def _draw(draw: Draw) -> Draw:
    arrays: dict[str, Array] = {
        name: array.astype(np.float32) if is_half(array.dtype) else array for name, array in draw.arrays.items()
    }
    return replace(draw, arrays=arrays)
