"""What a part has of a tensor or of a value: indices along each axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphsplit.graph import Array
from graphsplit.labels import Labels
from graphsplit.labels.arrays import Ids


@dataclass(frozen=True)
class Selection:
    """What a part takes of a tensor: indices along each axis (None: all), and for a blocked axis one set a block."""

    axes: tuple[Ids | None, ...]
    blocked: tuple[int, int, tuple[Ids, ...]] | None = None

    @property
    def everything(self) -> bool:
        """Whether the part takes the whole tensor."""
        return self.blocked is None and all(a is None for a in self.axes)

    def blocks(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[Ids, ...], tuple[slice, ...]]]:
        """Rectangles that make up the slice: indices in the whole tensor, and where they stand in the slice."""
        full = [np.arange(n) if a is None else a for a, n in zip(self.axes, shape, strict=True)]
        if self.blocked is None:
            yield tuple(full), tuple(slice(0, len(a)) for a in full)
            return
        axis, along, columns = self.blocked
        height = shape[along] // len(columns)
        start = 0
        for number, chosen in enumerate(columns):
            rows = full[along][full[along] // height == number]
            if not len(rows):
                continue
            index, place = list(full), [slice(0, len(a)) for a in full]
            index[along], index[axis] = rows, chosen
            place[along], place[axis] = slice(start, start + len(rows)), slice(0, len(chosen))
            start += len(rows)
            yield tuple(index), tuple(place)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the slice of a tensor of this shape."""
        sizes = [n if a is None else len(a) for a, n in zip(self.axes, shape, strict=True)]
        if self.blocked is not None:
            axis, along, columns = self.blocked
            height = shape[along] // len(columns)
            rows = np.arange(shape[along]) if self.axes[along] is None else self.axes[along]
            assert rows is not None
            sizes[axis] = len(columns[int(rows[0]) // height])
        return tuple(sizes)

    def take(self, array: Array) -> Array:
        """The slice of a tensor."""
        if self.everything:
            return array
        out = np.empty(self.shape(tuple(array.shape)), array.dtype)
        for index, place in self.blocks(tuple(array.shape)):
            out[place] = array[np.ix_(*index)]
        return out


def keeps(labels: Ids, owner: Ids, part: int) -> npt.NDArray[np.bool_]:
    """Which labels a part has: its own vertices, and everything that isn't a vertex."""
    found: npt.NDArray[np.bool_] = (labels <= 0) | (owner[np.maximum(labels, 0)] == part)
    return found


@dataclass(frozen=True)
class Selected:
    """What a part has of a value: indices along each axis, or (`ragged`) different ones in each row; and its shape there."""

    axes: tuple[Ids | None, ...]
    shape: tuple[int, ...] | None
    ragged: bool = False


def select(labels: Labels, owner: Ids, part: int) -> Selected:
    """The elements of a value that a part has. Where they're no rectangle, rows must have equally many."""
    if labels.shape is None or not labels.varying:
        shape = labels.shape
        rank = 0 if shape is None else len(shape)
        return Selected((None,) * rank, shape)
    mask = keeps(labels.core, owner, part)
    rank = len(labels.shape)
    axes: list[Ids | None] = []
    outer = np.ones((1,) * rank, bool)
    for axis in range(rank):
        if mask.shape[axis] == 1:
            axes.append(None)
            continue
        hit = mask.any(axis=tuple(a for a in range(rank) if a != axis))
        outer = outer & hit.reshape([-1 if a == axis else 1 for a in range(rank)])
        axes.append(None if hit.all() else np.flatnonzero(hit))
    if bool((outer == mask).all()):
        shape = tuple(n if a is None else len(a) for a, n in zip(axes, labels.shape, strict=True))
        return Selected(tuple(axes), shape)
    for axis in sorted(labels.varying, reverse=True):
        number = mask.sum(axis=axis)
        if (number == number.flat[0]).all() and number.flat[0] > 0:
            shape = tuple(int(number.flat[0]) if a == axis else n for a, n in enumerate(labels.shape))
            return Selected((None,) * rank, shape, ragged=True)
    return Selected((None,) * rank, None, ragged=True)
