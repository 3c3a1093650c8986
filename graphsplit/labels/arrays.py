"""Label arrays: which neuron computed each element of an activation.

A label is a positive vertex id or one of four codes. A label array has the activation's shape, but is stored without the
axes on which nothing changes: 64 ids behind a 64-filter convolution, whatever the size of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

COMMON = 0
"""The same value in every part. It is 0 so that ops which fill up with zeros fill up with "common"."""
PRIVATE = -1
"""Each part has its own value of the whole thing."""
OUTPUT = -2
"""Behind an output layer: every part has it, the merge averages it."""
UNKNOWN = -3
"""Not decided yet: a statistic over labels whose classes aren't known."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one value: `core` broadcasts to `shape`; `shape` is None where it depends on data (then one code)."""

    shape: tuple[int, ...] | None
    core: Ids

    def full(self) -> Ids:
        """The whole array, as a view with stride 0 where nothing changes."""
        return np.broadcast_to(self.core, self.shape if self.shape is not None else ())

    @property
    def varying(self) -> tuple[int, ...]:
        """The axes along which labels differ."""
        return tuple(axis for axis, size in enumerate(self.core.shape) if size > 1)

    @property
    def code(self) -> int | None:
        """The one label of all elements, None where they differ."""
        return int(self.core.flat[0]) if self.core.size == 1 else None


def uniform(shape: tuple[int, ...] | None, code: int) -> Labels:
    """One label for every element."""
    return Labels(shape, np.full((1,) * len(shape) if shape is not None else (), code, np.int64))


def squeeze_constant_axes(array: Ids) -> Ids:
    """The array with size 1 along each axis on which nothing changes. O(size without the axes of stride 0)."""
    if 0 in array.strides:
        array = array[tuple([slice(0, 1) if step == 0 else slice(None) for step in array.strides])]
    for axis, size in enumerate(array.shape):
        if size > 1:
            first = array[(slice(None),) * axis + (slice(0, 1),)]
            if bool((array == first).all()):
                array = first
    return array


def compress(array: Ids) -> Labels:
    """Labels of a whole array, stored without its constant axes."""
    shape = tuple(array.shape)
    if 0 in shape:
        return uniform(shape, COMMON)
    core = squeeze_constant_axes(array)
    return Labels(shape, core.copy() if core.base is not None else core)


def meet(a: Ids, b: Ids) -> Ids:
    """What an element is that depends on both: an id wins, then unknown, private, output, common. Ids keep `a`'s."""
    if a.size == 1 and a.flat[0] == COMMON:
        return b
    if (a > 0).all() or (b.size == 1 and b.flat[0] == COMMON):
        return (
            a
            if a.shape == np.broadcast_shapes(a.shape, b.shape)
            else np.broadcast_to(a, np.broadcast_shapes(a.shape, b.shape))
        )
    codes = np.where((a == UNKNOWN) | (b == UNKNOWN), UNKNOWN, np.where(a == COMMON, b, np.where(b == COMMON, a, 0)))
    both_codes = np.where((a < 0) & (b < 0), _stronger(a, b), codes)
    return np.where(a > 0, a, np.where(b > 0, b, both_codes))


def _stronger(a: Ids, b: Ids) -> Ids:
    anything_unknown = (a == UNKNOWN) | (b == UNKNOWN)
    anything_private = (a == PRIVATE) | (b == PRIVATE)
    return np.where(anything_unknown, UNKNOWN, np.where(anything_private, PRIVATE, OUTPUT)).astype(np.int64)


def to_factors(core: Ids, axes: Sequence[tuple[str, ...]], sizes: dict[str, int], order: Sequence[str]) -> Ids:
    """The labels with one axis a factor, in `order` (size 1 for factors that the value lacks or that change nothing).

    `axes` names the factors of each axis of the value, outer first; () for an axis that carries nothing.
    """
    split: list[int] = []
    names: list[str] = []
    for size, factors in zip(core.shape, axes, strict=True):
        if not factors:
            core = core if size == 1 else core.take([0], axis=len(split))
            split.append(1)
            names.append("")
            continue
        names.extend(factors)
        split.extend((sizes[f] for f in factors) if size > 1 else (1 for _ in factors))
    array = core.reshape(split)
    keep = [i for i, name in enumerate(names) if name]
    array = array.reshape([array.shape[i] for i in keep])
    present = [names[i] for i in keep]
    positions = {name: i for i, name in enumerate(present)}
    array = array.transpose([positions[f] for f in order if f in positions])
    found = iter(array.shape)
    array = array.reshape([next(found) if f in positions else 1 for f in order])
    return squeeze_constant_axes(array)


def from_factors(array: Ids, axes: Sequence[tuple[str, ...]], sizes: dict[str, int], order: Sequence[str]) -> Ids:
    """The inverse of `to_factors`: the core over the axes of a value. Factors that the value lacks must change nothing."""
    index = {f: i for i, f in enumerate(order)}
    wanted = [f for factors in axes for f in factors]
    array = array.transpose([index[f] for f in wanted] + [i for f, i in index.items() if f not in wanted])
    array = array.reshape(array.shape[: len(wanted)])
    shape: list[int] = []
    target: list[int] = []
    for factors in axes:
        dims = [array.shape[wanted.index(f)] for f in factors]
        if max(dims, default=1) > 1:
            target.extend(sizes[f] for f in factors)
            shape.append(int(np.prod([sizes[f] for f in factors])))
        else:
            target.extend(1 for _ in factors)
            shape.append(1)
    return np.broadcast_to(array, target).reshape(shape)


def matrix_of(array: Ids, rows: tuple[int, ...]) -> Ids:
    """The array as a matrix: one row for each position on the axes `rows`."""
    rest = tuple(a for a in range(array.ndim) if a not in rows)
    turned = array.transpose(rows + rest)
    return turned.reshape(int(np.prod([array.shape[a] for a in rows])), -1)


def lowest(array: Ids, axes: tuple[int, ...]) -> Ids:
    """The smallest label along some axes, which stay with size 1."""
    found: Ids = array.min(axis=axes, keepdims=True)
    return found


def highest(array: Ids, axes: tuple[int, ...]) -> Ids:
    """The largest label along some axes, which stay with size 1: an id before any code."""
    found: Ids = array.max(axis=axes, keepdims=True)
    return found


def resolve_code(ids: Ids, private: dict[int, str]) -> Ids:
    """Ids with those that each part has for itself replaced by the code."""
    if not private:
        return ids
    mask = np.isin(ids, np.fromiter(private, np.int64, len(private)))
    return np.where(mask, PRIVATE, ids)


def move_labels(operands: Sequence[Labels | None], run: Callable[[list[Ids | None]], list[Ids]]) -> list[Labels]:
    """Run a movement op on labels. Elements that the op makes up (the border of a Pad) go with their row.

    Along an axis on which no operand changes, a made-up element belongs to the neuron that the row belongs to; where there is
    none it is common.
    """
    shifted = [None if o is None else np.broadcast_to(o.core + SHIFT, o.shape or ()) for o in operands]
    given = [o for o in operands if o is not None]
    found = []
    for result in run(list(shifted)):
        if 0 in result.shape:
            found.append(uniform(tuple(result.shape), COMMON))
            continue
        labels = compress(result)
        core = labels.core
        if (core == 0).any():
            still = [
                a for a in range(core.ndim) if all(o.core.ndim == core.ndim and o.core.shape[a] == 1 for o in given)
            ]
            core = np.where(core == 0, core.max(axis=tuple(still), keepdims=True), core) if still else core
            core = squeeze_constant_axes(np.where(core == 0, COMMON + SHIFT, core))
        found.append(Labels(labels.shape, core - SHIFT))
    return found


SHIFT = 16
"""Added to labels before they're moved, so that 0 marks an element that the op made up."""
