"""Checks of the merge: exact on perturbed sub-models, an inverse of the split, and independent of order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphsplit.errors import RunError
from graphsplit.formats.structure import structure_digest
from graphsplit.graph import Array, Graph, Tensor
from graphsplit.merging import LeafModel, Opened, merged_graph
from graphsplit.verification.compare import Comparison
from graphsplit.verification.perturb import limits, perturbed
from graphsplit.verification.result import NOTHING_PROVED, Check
from graphsplit.verification.running import Bench, Subject, original
from graphsplit.verification.runtime import runtime_of
from graphsplit.verification.statics import DUPLICATED, OUTPUTS, OWNED, UNUSED, kinds

__all__ = ["compared_values", "exact_merge", "identity", "order", "same_bits", "verdict"]

STRENGTHS = (1.0, 0.3, 0.1, 3.0)
"""How strongly sub-models are perturbed: less, then more, where the first makes values that don't tell anything."""
ORDER_BYTES = 200_000_000
"""Up to this size a merged network is written out twice; beyond it, as many of its smallest tensors are compared."""


# -- exact merge (law 1) ----------------------------------------------------------------------------------------


def compared_values(opened: Opened) -> list[str]:
    """The values at which law 1 says what the merged network computes: taps, and outputs that aren't behind one.

    The law is about evaluation mode: what only training has isn't among them.
    """
    outputs = [entry.name for entry in opened.manifest.outputs if entry.merge in ("concat", "common")]
    evaluates = runtime_of(opened.network).evaluates
    return [name for name in dict.fromkeys([*opened.manifest.taps, *outputs]) if evaluates(name)]


def exact_merge(bench: Bench, parts: Sequence[Subject]) -> Check:
    """Perturb the sub-models, merge them, and compare the merged network with their mean on every input."""
    name = "exact merge"
    names = compared_values(bench.opened)
    if not names:
        return Check(name, False, "the manifest names no tap and no output to compare")
    best: Check | None = None
    for strength in STRENGTHS:
        changed = [
            part.with_tensors(
                perturbed(part.leaf.tensors, bench.opened.network.trained, part.leaf.path, strength=strength)
            )
            for part in parts
        ]
        try:
            references = bench.references(changed, names)
            graph, repeated = merged_graph(bench.opened, [part.leaf for part in changed])
            found = bench.compared(references, bench.session(graph, names), graph)
        except RunError as error:
            return Check(name, False, error.message)
        best = verdict(name, bench, found, f"perturbed sub-models, {repeated} nodes repeated", names)
        if best.passed or any(c.compared and not c.holds for c in found):
            return best
    assert best is not None
    return best


def verdict(name: str, bench: Bench, found: Sequence[Comparison], what: str, names: Sequence[str]) -> Check:
    """A check made of comparisons: all hold, and enough of them tell something."""
    compared = [c for c in found if c.compared]
    blind = {c.name: c.problem for c in found if not c.compared}
    common = {entry.name for entry in bench.opened.manifest.outputs if entry.merge == "common"}
    averaged = [c for c in compared if c.name not in common]
    seen = {c.name for c in compared}
    remarks = [f"{n} was not compared: {why}" for n, why in blind.items() if n not in seen]
    if not compared:
        return Check(name, False, "nothing could be compared: " + "; ".join(remarks or ["there are no values"]))
    worst = max(compared, key=lambda c: c.ratio)
    if not worst.holds:
        wrong = list(dict.fromkeys(c.name for c in compared if not c.holds))
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        detail = f"{wrong[0]!r}{more} of the merged network is not the mean of the parts' ({what})"
        return Check(name, False, detail, worst.worst, worst.tolerance)
    dull = {c.name for c in averaged} - {c.name for c in averaged if c.telling}
    if bench.opened.manifest.parts > 1 and averaged and len(dull) == len({c.name for c in averaged}):
        return Check(name, False, NOTHING_PROVED, worst.worst, worst.tolerance)
    telling = len(seen) - len(dull)
    remarks += (
        [f"{sorted(dull)[0]!r}{f' and {len(dull) - 1} more' if len(dull) > 1 else ''} told nothing"] if dull else []
    )
    summary = f"{telling} of {len(names)} values on {len(bench.draws)} inputs ({what})"
    return Check(name, True, "; ".join([summary, *remarks, *bench.remarks]), worst.worst, worst.tolerance)


# -- identity (law 3) -------------------------------------------------------------------------------------------


def identity(opened: Opened, leaves: Sequence[LeafModel]) -> Check:
    """Merge the sub-models as they stand: owned elements come back bit for bit, output ones by Eq. 1, cut ones zero."""
    whole = original(opened, leaves)
    copies, _ = merged_graph(opened, leaves)
    problems: list[str] = []
    counted = 0
    for name in sorted(opened.network.trained & opened.manifest.parameters.keys()):
        found = _tensor_problem(opened, leaves, name, whole.tensors[name].numpy(), copies)
        problems += [f"{name!r}: {found}"] if found else []
        counted += opened.manifest.parameters[name].elements
    if opened.manifest.parts == 1 and len(leaves) == 1:
        problems += _unchanged(opened, copies)
    if not counted:
        problems.append("there is nothing that trains")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Check("identity", False, problems[0] + more)
    return Check("identity", True, f"{counted:,} merged elements are the parts' own, their mean by Eq. 1, or zero")


def _unchanged(opened: Opened, merged: Graph) -> list[str]:
    same = structure_digest(merged, opened.network.changing) == opened.manifest.source.digest
    return [] if same else ["the merge of one part has another structure than the source"]


def _tensor_problem(opened: Opened, leaves: Sequence[LeafModel], name: str, merged: Array, copies: Graph) -> str | None:
    entry = opened.entries[name]
    which = kinds(entry, opened.manifest.groups)
    if merged.shape != entry.shape:
        return f"it has shape {list(merged.shape)}, the source's has {list(entry.shape)}"
    held = np.zeros(entry.shape, bool)
    outputs = bool((which == OUTPUTS).any())
    total = np.full(entry.shape, -0.0) if outputs else None
    common = math.lcm(*(leaf.weight.denominator for leaf in leaves))
    for leaf in sorted(leaves, key=lambda leaf: leaf.path):
        mine = leaf.tensors[name].numpy()
        weight = Fraction(1) if entry.scale == "activation" else leaf.weight
        for index, place in leaf.graph.slices[name].blocks(entry.shape):
            spot = np.ix_(*index) if index else ()
            kind, piece = which[spot], mine[place]
            held[spot] = True
            if total is not None:
                total[spot] += np.where(kind == OUTPUTS, piece.astype(np.float64) * int(weight * common), 0.0)
            if not same_bits(merged[spot], piece)[kind == OWNED].all():
                return f"owned elements of {Path(leaf.label).name} don't come back bit for bit"
        copied = copies.tensors.get(f"{name}.{leaf.graph.suffix}")
        if copied is not None and not (copied.shape == mine.shape and same_bits(copied.numpy(), mine).all()):
            return f"the copy that belongs to {Path(leaf.label).name} isn't its tensor"
        if copied is None and name not in copies.tensors and (which == DUPLICATED).any():
            return f"the merged network lacks the copy that belongs to {Path(leaf.label).name}"
    if total is not None:
        expected = (total / common).astype(merged.dtype)
        if not _near(merged, expected)[(which == OUTPUTS) & held].all():
            return "output elements don't follow Eq. 1"
    if (merged[~held & (which != UNUSED)] != 0).any():
        return "elements that no part has aren't zero"
    return None


def same_bits(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Where two arrays of one type and shape have the same bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return np.zeros(a.shape, bool)
    if a.dtype.kind in "OSU":
        return np.asarray(a == b)
    kind = f"u{a.dtype.itemsize}"
    bits = [np.ascontiguousarray(x).view(kind).reshape(x.shape) for x in (a, b)]
    return np.asarray(bits[0] == bits[1])


def _near(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Where two arrays are equal, or for types of eight or sixteen bits, which may be rounded twice, one step apart."""
    if a.dtype.itemsize > 2:
        return np.asarray((a == b) | ((a != a) & (b != b)))
    unit = limits(a.dtype)[0] if a.dtype.kind in "fV" else 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    tiny = float(np.finfo(np.float16).tiny)
    return np.asarray((np.abs(x - y) <= unit * np.maximum(np.abs(y), tiny)) | (x == y) | (np.isnan(x) & np.isnan(y)))


# -- order (law 6) ----------------------------------------------------------------------------------------------


def order(bench: Bench, leaves: Sequence[LeafModel], again: Sequence[LeafModel]) -> Check:
    """Merge the sub-models given in reversed order: the same bytes."""
    opened = bench.opened
    one, _ = merged_graph(opened, leaves)
    other, _ = merged_graph(opened, list(again))
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in one.tensors.values())
    if structure_digest(one) != structure_digest(other):
        return Check("order", False, "given in reversed order, the sub-models merge into another graph")
    if size > ORDER_BYTES:
        return _some_tensors(one.tensors, other.tensors)
    digests = [bench.runtime.digest(graph, bench.folder) for graph in (one, other)]
    if digests[0] != digests[1]:
        return Check("order", False, "given in reversed order, the sub-models merge into other bytes")
    return Check("order", True, f"the same {size:,} bytes of weights in reversed order (sha256 {digests[0][:12]})")


def _some_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Check:
    """The smallest tensors of a large network, as many as a check may take time for; never none."""
    taken: list[str] = []
    size = 0
    for name, tensor in sorted(one.items(), key=lambda item: (math.prod(item[1].shape), item[0])):
        size += math.prod(tensor.shape) * tensor.dtype.itemsize
        if taken and size > ORDER_BYTES:
            break
        taken.append(name)
    different = [name for name in taken if not same_bits(one[name].numpy(), other[name].numpy()).all()]
    if different:
        return Check("order", False, f"given in reversed order, the sub-models merge into another {different[0]!r}")
    return Check(
        "order", True, f"the same in reversed order ({len(taken)} of {len(one)} tensors, for the network is large)"
    )
