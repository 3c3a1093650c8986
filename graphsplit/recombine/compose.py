"""Selections of selections, for a sub-model that was split again."""

from __future__ import annotations

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.manifest.ranges import Ids
from graphsplit.selection import Selection

__all__ = ["compose"]


def compose(outer: Selection, inner: Selection, shape: tuple[int, ...]) -> Selection:
    """What `inner` takes of what `outer` takes of a tensor of this shape: `take` of the result is `take` after `take`.

    Raises UnsupportedError where the two are blocked along different axes, or blocks come out with different sizes:
    no selection expresses that. O(rows · columns) where one of them is blocked.
    """
    axes = tuple(_picked(a, b) for a, b in zip(outer.axes, inner.axes, strict=True))
    if outer.blocked is None and inner.blocked is None:
        return Selection(axes)
    blocked = outer.blocked or inner.blocked
    assert blocked is not None
    axis, along, _ = blocked
    if outer.blocked is not None and inner.blocked is not None and inner.blocked[:2] != (axis, along):
        raise UnsupportedError(
            f"a tensor is cut in blocks along axis {along} by one split and along axis {inner.blocked[1]} by the next",
            hint="split the whole network into more parts at once, instead of a sub-model again",
        )
    rows = np.arange(shape[along]) if axes[along] is None else axes[along]
    assert rows is not None
    sets, which = _columns(outer, inner, shape, axis, along)
    if len({len(columns) for columns in sets}) > 1:
        raise UnsupportedError(
            f"split again, a tensor of shape {list(shape)} has different numbers of columns in different rows",
            hint="split the whole network into more parts at once, instead of a sub-model again",
        )
    plain = tuple(None if a == axis else v for a, v in enumerate(axes))
    if len(sets) == 1:
        whole = np.array_equal(sets[0], np.arange(shape[axis]))
        return Selection(tuple((None if whole else sets[0]) if a == axis else v for a, v in enumerate(plain)))
    wanted = np.full(shape[along], -1, np.int64)
    wanted[rows] = which
    blocks = _fewest_blocks(wanted)
    return Selection(
        plain, (axis, along, tuple(sets[max(int(block.max()), 0)] for block in wanted.reshape(blocks, -1)))
    )


def _picked(outer: Ids | None, inner: Ids | None) -> Ids | None:
    if inner is None:
        return outer
    return inner if outer is None else outer[inner]


def _columns(
    outer: Selection, inner: Selection, shape: tuple[int, ...], axis: int, along: int
) -> tuple[list[Ids], Ids]:
    """The different sets of columns that rows of the result have, and which one each row has."""
    between = outer.shape(shape)
    kept = np.arange(shape[along]) if outer.axes[along] is None else outer.axes[along]
    mine = np.arange(between[along]) if inner.axes[along] is None else inner.axes[along]
    assert kept is not None
    assert mine is not None
    outer_block = kept[mine] // _height(outer, shape[along])
    inner_block = mine // _height(inner, between[along])
    pairs, which = np.unique(np.stack([outer_block, inner_block], axis=1), axis=0, return_inverse=True)
    found: dict[bytes, int] = {}
    sets: list[Ids] = []
    place = np.zeros(len(pairs), np.int64)
    for i, (first, second) in enumerate(pairs.tolist()):
        columns = _row(outer, first, shape[axis], axis)[_row(inner, second, between[axis], axis)]
        place[i] = found.setdefault(columns.tobytes(), len(sets))
        if place[i] == len(sets):
            sets.append(columns)
    return sets, place[which.reshape(-1)]


def _height(selection: Selection, size: int) -> int:
    """How many rows a block of a selection has; all of them where it isn't blocked."""
    return size // len(selection.blocked[2]) if selection.blocked is not None else max(size, 1)


def _row(selection: Selection, block: int, size: int, axis: int) -> Ids:
    """The columns that a selection takes in a block."""
    if selection.blocked is not None:
        return selection.blocked[2][block]
    indices = selection.axes[axis]
    return np.arange(size) if indices is None else indices


def _fewest_blocks(wanted: Ids) -> int:
    """Into how many even blocks rows fall so that no block wants two column sets (-1: the row wants none)."""
    for blocks in range(1, len(wanted) + 1):
        if len(wanted) % blocks:
            continue
        rows = wanted.reshape(blocks, -1)
        low = np.where(rows < 0, np.iinfo(np.int64).max, rows).min(axis=1)
        if bool(((rows < 0) | (rows == low[:, None])).all()):
            return blocks
    raise AssertionError("blocks of one row want one column set each")
