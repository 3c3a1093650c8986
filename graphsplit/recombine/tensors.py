"""Trained sub-models put back together: tensors and index sets alone, one tensor at a time.

    output tensor = sum over the leaves of weight * scatter(tensor of the leaf)

in float64, in the order of the leaves' paths, rounded once. What one part owns is copied bit for bit, what was cut is
zero. A *leaf* is a sub-model that was trained: a part of the split, or of a part's split; its path holds the numbers of
the parts on the way, its weight is the product of 1/K along it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from graphsplit.errors import MergeError
from graphsplit.graph import Array, Tensor, WeightlessTensor
from graphsplit.manifest import Group, Kind, Manifest, ParameterEntry
from graphsplit.manifest.content import DTYPES
from graphsplit.manifest.ranges import Ids
from graphsplit.selection import Selection

__all__ = ["LazyMerged", "Leaf", "leaves_of", "merge_momentum", "merged_tensor"]

CHUNK = 1 << 22
"""Elements that are summed at a time: what a merge holds in float64."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf's slice of a tensor. `selection` is in the source's indices; `label` is what messages call the leaf.

    A weight that is given as a float stands for the simple fraction next to it. `output_weight` replaces `weight` for
    output elements: 1 where all levels of the tree scale behind the op (left out, the tensor's entry decides).
    """

    path: tuple[int, ...]
    selection: Selection
    weight: Fraction | float
    tensor: Tensor
    label: str = ""
    output_weight: Fraction | float | None = None

    @property
    def fraction(self) -> Fraction:
        """The weight, exactly."""
        return _fraction(self.weight)

    @property
    def title(self) -> str:
        return self.label or "part " + ".".join(map(str, self.path))


def leaves_of(manifest: Manifest, name: str, parts: Sequence[tuple[str, Mapping[str, Tensor]]]) -> tuple[Leaf, ...]:
    """The leaves of a split whose parts were trained as they are: label and tensors of each, in part order."""
    weight = Fraction(1, manifest.parts)
    return tuple(
        Leaf((part,), manifest.selection(name, part), weight, tensors[name], label)
        for part, (label, tensors) in enumerate(parts)
    )


@dataclass(frozen=True, slots=True)
class LazyMerged:
    """A merged tensor that is computed when its elements are asked for."""

    entry: ParameterEntry
    groups: Sequence[Group]
    leaves: Sequence[Leaf]
    source: Tensor | None = None
    base: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return DTYPES[self.entry.dtype]

    def numpy(self) -> Array:
        return merged_tensor(self.entry, self.groups, self.leaves, source=self.source, base=self.base)


def merged_tensor(
    entry: ParameterEntry,
    groups: Sequence[Group],
    leaves: Sequence[Leaf],
    *,
    source: Tensor | None = None,
    base: Tensor | None = None,
) -> Array:
    """The source's tensor made of the leaves' slices, shape `entry.shape`, in the source's type.

    - owned: copied bit for bit;
    - output: the sum of weight * element over the leaves that have it (weight 1 where the entry scales the activation);
    - unused and duplicated: the leaves' value where they agree bit for bit, else their weighted mean (of integers the
      maximum);
    - constant: the leaves' value, which must be that of `source` (or, without it, of one another) bit for bit;
    - cut: zero, or what `base` has there.

    The order in which leaves are given changes nothing. Memory: the tensor, its slices, and CHUNK elements in float64.

    Raises MergeError for a slice of another shape or type, a constant that changed, and sums that overflow the type.
    """
    leaves = sorted(leaves, key=lambda leaf: leaf.path)
    assert len({leaf.path for leaf in leaves}) == len(leaves), "two leaves have one path"
    assert sum(leaf.fraction for leaf in leaves) == 1, "the weights of the leaves don't add up to 1"
    held = [_Held(entry, leaf) for leaf in leaves]
    if entry.role == "constant":
        return _constant(entry, held, source)
    out = np.zeros(entry.shape, DTYPES[entry.dtype]) if base is None else np.array(base.numpy(), DTYPES[entry.dtype])
    for region in entry.regions(groups):
        mine = [h for h in held if region.owner in (-1, h.leaf.path[0])]
        for axes in _chunks(tuple(ranges.indices() for ranges in region.axes)):
            pieces = [piece for h in mine for piece in h.pieces(axes)]
            if pieces:
                with np.errstate(all="ignore"):  # what isn't finite is looked for, and may be allowed
                    out[_index(axes)] = _combined(entry, region.kind, tuple(len(a) for a in axes), pieces)
    return out


def merge_momentum(entry: ParameterEntry, groups: Sequence[Group], leaves: Sequence[Leaf]) -> Array:
    """The momentum of a merged parameter from the leaves' momenta: the pending update merges like its weight.

    The momenta may have another type than the parameter, one for all. Raises MergeError as `merged_tensor` does, and
    for a constant, which has none.
    """
    if entry.role == "constant":
        raise MergeError(f"{entry.name!r} is a constant of the network: it has no momentum")
    dtype = min(leaves, key=lambda leaf: leaf.path).tensor.dtype.name
    if dtype not in DTYPES:
        raise MergeError(f"the momentum of {entry.name!r} has the type {dtype}, which cannot be merged")
    return merged_tensor(replace(entry, dtype=dtype), groups, leaves)


# -- slices -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements of a leaf in a region: where they stand there, along each axis."""

    leaf: Leaf
    positions: tuple[Ids, ...]
    array: Array

    def covers(self, shape: tuple[int, ...]) -> bool:
        return self.array.shape == shape


class _Held:
    """A leaf's slice in memory, checked, as rectangles of the source's tensor."""

    def __init__(self, entry: ParameterEntry, leaf: Leaf) -> None:
        self.leaf = leaf
        wanted = leaf.selection.shape(entry.shape)
        if tuple(leaf.tensor.shape) != wanted:
            raise MergeError(
                f"{leaf.title}: tensor {entry.name!r} has shape {list(leaf.tensor.shape)}, "
                f"and shape {list(wanted)} is wanted"
            )
        if leaf.tensor.dtype != DTYPES[entry.dtype]:
            raise MergeError(
                f"{leaf.title}: tensor {entry.name!r} has type {leaf.tensor.dtype}, and {entry.dtype} is wanted"
            )
        self.array = leaf.tensor.numpy()
        self.blocks = tuple(leaf.selection.blocks(entry.shape))
        self.along = leaf.selection.blocked[1] if leaf.selection.blocked is not None else None
        if self.along is not None:
            self.first = np.array([index[self.along][0] for index, _ in self.blocks], np.int64)
            self.last = np.array([index[self.along][-1] for index, _ in self.blocks], np.int64)

    def pieces(self, axes: tuple[Ids, ...]) -> Iterator[_Piece]:
        """What the leaf has of a rectangle."""
        blocks = self.blocks
        if self.along is not None:
            rows = axes[self.along]
            low = int(np.searchsorted(self.last, rows[0]))
            blocks = blocks[low : int(np.searchsorted(self.first, rows[-1], side="right"))]
        for index, place in blocks:
            met = [_meet(have, want) for have, want in zip(index, axes, strict=True)]
            if all(len(there) for there, _ in met):
                taken = np.asarray(self.array[place])[_index(tuple(here for _, here in met))]
                yield _Piece(self.leaf, tuple(there for there, _ in met), taken)


def _meet(have: Ids, want: Ids) -> tuple[Ids, Ids]:
    """The common indices of two sorted sets: their positions in `want`, and in `have`."""
    at = np.searchsorted(have, want)
    hit = at < len(have)
    hit[hit] = have[at[hit]] == want[hit]
    return np.flatnonzero(hit), at[hit]


def _index(axes: tuple[Ids, ...]) -> tuple[Ids | slice, ...]:
    """What indexes a rectangle: slices where the indices follow one another."""
    found: list[Ids | slice] = [
        slice(int(a[0]), int(a[-1]) + 1) if len(a) and int(a[-1]) - int(a[0]) + 1 == len(a) else a for a in axes
    ]
    return tuple(found) if sum(not isinstance(f, slice) for f in found) < 2 else np.ix_(*axes)


def _chunks(axes: tuple[Ids, ...]) -> Iterator[tuple[Ids, ...]]:
    """The rectangle in pieces of at most CHUNK elements, as far as one axis allows."""
    if not axes:
        yield axes
        return
    long = max(range(len(axes)), key=lambda axis: len(axes[axis]))
    rest = int(np.prod([len(a) for i, a in enumerate(axes) if i != long], dtype=np.int64))
    step = max(1, CHUNK // max(1, rest))
    for start in range(0, len(axes[long]), step):
        yield (*axes[:long], axes[long][start : start + step], *axes[long + 1 :])


# -- elements ---------------------------------------------------------------------------------------------------


def _combined(entry: ParameterEntry, kind: Kind, shape: tuple[int, ...], pieces: Sequence[_Piece]) -> Array:
    """The merged elements of a rectangle of one kind."""
    if kind == "output":
        return _sum(entry, shape, pieces)
    if len(pieces) == 1 and pieces[0].covers(shape):
        return pieces[0].array
    first, differ = _agreed(shape, pieces)
    if not differ.any():
        return first
    if not _is_real(first.dtype):
        if kind != "unused":
            raise MergeError(
                f"{entry.name!r} has type {entry.dtype}, and the parts' elements differ: they have no mean"
            )
        for piece in pieces:
            place = _index(piece.positions)
            first[place] = np.maximum(first[place], piece.array)
        return first
    total, weight = np.full(shape, -0.0), np.zeros(shape)
    common = lcm(*(piece.leaf.fraction.denominator for piece in pieces))
    for piece in pieces:
        place, factor = _index(piece.positions), int(piece.leaf.fraction * common)
        total[place] += piece.array.astype(np.float64) * factor
        weight[place] += factor
    mean = _rounded(entry, np.divide(total, weight, out=np.zeros(shape), where=differ), first.dtype, pieces)
    return np.where(differ, mean, first)


def _sum(entry: ParameterEntry, shape: tuple[int, ...], pieces: Sequence[_Piece]) -> Array:
    """Eq. 1. The weights go over one denominator, so that K equal weights are one division by K."""
    weights = [_output_weight(entry, piece.leaf) for piece in pieces]
    if len(pieces) == 1 and weights[0] == 1 and pieces[0].covers(shape):
        return pieces[0].array
    dtype = pieces[0].array.dtype
    if not _is_real(dtype):
        raise MergeError(f"{entry.name!r} has type {entry.dtype}, and an output weight of that type has no mean")
    common = lcm(*(weight.denominator for weight in weights))
    total, covered = np.full(shape, -0.0), np.zeros(shape, bool)  # -0.0 + x is x, also for -0.0
    for piece, weight in zip(pieces, weights, strict=True):
        place = _index(piece.positions)
        total[place] += piece.array.astype(np.float64) * int(weight * common)
        covered[place] = True
    total /= common
    total[~covered] = 0.0
    return _rounded(entry, total, dtype, pieces)


def _output_weight(entry: ParameterEntry, leaf: Leaf) -> Fraction:
    if leaf.output_weight is not None:
        return _fraction(leaf.output_weight)
    return Fraction(1) if entry.scale == "activation" else leaf.fraction


def _fraction(weight: Fraction | float) -> Fraction:
    return weight if isinstance(weight, Fraction) else Fraction(weight).limit_denominator(1 << 20)


def _agreed(shape: tuple[int, ...], pieces: Sequence[_Piece]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The first leaf's value of every element, and where a later one has other bits."""
    first = np.zeros(shape, pieces[0].array.dtype)
    known, differ = np.zeros(shape, bool), np.zeros(shape, bool)
    for piece in pieces:
        place = _index(piece.positions)
        before = known[place]
        differ[place] |= before & (_bits(first[place]) != _bits(piece.array))
        first[place] = np.where(before, first[place], piece.array)
        known[place] = True
    return first, differ


def _constant(entry: ParameterEntry, held: Sequence[_Held], source: Tensor | None) -> Array:
    """A constant, after a look at every leaf's copy."""
    if source is not None and not isinstance(source, WeightlessTensor):
        whole = source.numpy()
    else:
        whole = np.zeros(entry.shape, DTYPES[entry.dtype])
        known = np.zeros(entry.shape, bool)
        for h in held:
            for index, place in h.blocks:
                spot = _index(index)
                whole[spot] = np.where(known[spot], whole[spot], h.array[place])
                known[spot] = True
        if not known.all():
            raise MergeError(
                f"constant {entry.name!r}: {int((~known).sum())} of its elements are in no part, "
                "and the source's are not at hand"
            )
    for h in held:
        for index, place in h.blocks:
            if (_bits(whole[_index(index)]) != _bits(h.array[place])).any():
                raise MergeError(
                    f"{h.leaf.title}: tensor {entry.name!r} is a constant of the network, and it was changed",
                    hint="train the parameters alone, or split with --trainable to make it one",
                )
    return whole


def _bits(array: Array) -> npt.NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)


def _is_real(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind in "fV"


def _rounded(entry: ParameterEntry, values: Floats, dtype: np.dtype[np.generic], pieces: Sequence[_Piece]) -> Array:
    """Float64 rounded once to a type."""
    found = (_to_odd(values) if dtype.kind == "V" else values).astype(dtype)
    if not np.isfinite(found).all() and all(np.isfinite(piece.array).all() for piece in pieces):
        raise MergeError(f"{entry.name!r}: the merged elements are too large for {entry.dtype}")
    return found


def _to_odd(values: Floats) -> npt.NDArray[np.float32]:
    """Float64 as float32, rounded to odd: the short types, which are made by way of float32, are then rounded once."""
    near = values.astype(np.float32)
    exact = (near == values) | ~np.isfinite(near)
    cut = np.where(np.abs(near.astype(np.float64)) > np.abs(values), np.nextafter(near, np.float32(0)), near)
    odd = (cut.view(np.uint32) | np.uint32(1)).view(np.float32)
    return np.where(exact, near, odd)
