"""Index sets as half-open ranges, and vertex groups made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["COMMON", "OUTPUT", "PRIVATE", "Group", "Ids", "Ranges"]

Ids = npt.NDArray[np.int64]

COMMON = -1
"""Whose an index is when it isn't a part's: all parts have it, with one value."""
PRIVATE = -2
"""All parts have it, each with a value of its own."""
OUTPUT = -3
"""All parts have it, and the merge averages it."""


class Ranges:
    """A set of indices as sorted, disjoint, merged half-open ranges: `pairs` has shape (ranges, 2)."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: npt.ArrayLike = ()) -> None:
        self.pairs: Ids = np.array(pairs, np.int64).reshape(-1, 2)
        self.pairs.setflags(write=False)

    @classmethod
    def of(cls, indices: Ids) -> Ranges:
        """The ranges of sorted indices. O(indices)."""
        indices = np.asarray(indices, np.int64)
        if not indices.size:
            return cls()
        breaks = np.flatnonzero(np.diff(indices) != 1)
        return cls(np.stack([indices[np.r_[0, breaks + 1]], indices[np.r_[breaks, -1]] + 1], axis=1))

    @property
    def size(self) -> int:
        """How many indices there are."""
        return int((self.pairs[:, 1] - self.pairs[:, 0]).sum())

    def indices(self) -> Ids:
        """The indices, in order."""
        starts, ends = self.pairs[:, 0], self.pairs[:, 1]
        lengths = ends - starts
        before = np.cumsum(lengths) - lengths
        return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))

    def clip(self, low: int, high: int) -> Ranges:
        """The indices in [low, high)."""
        pairs = np.clip(self.pairs, low, high)
        return Ranges(pairs[pairs[:, 0] < pairs[:, 1]])

    def touches(self, height: int, blocks: int) -> npt.NDArray[np.bool_]:
        """Which blocks of `height` indices hold one of these."""
        first, last = self.pairs[:, 0] // height, (self.pairs[:, 1] - 1) // height
        change = np.zeros(blocks + 1, np.int64)
        np.add.at(change, first, 1)
        np.add.at(change, last + 1, -1)
        return np.cumsum(change[:-1]) > 0

    def __or__(self, other: Ranges) -> Ranges:
        """The union of two disjoint sets."""
        pairs = np.concatenate([self.pairs, other.pairs])
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        if len(pairs) < 2:
            return Ranges(pairs)
        joins = pairs[1:, 0] == pairs[:-1, 1]
        first, last = np.r_[True, ~joins], np.r_[~joins, True]
        return Ranges(np.stack([pairs[first, 0], pairs[last, 1]], axis=1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and bool(np.array_equal(self.pairs, other.pairs))

    def __hash__(self) -> int:
        return hash(self.pairs.tobytes())

    def __repr__(self) -> str:
        shown = ", ".join(f"{a}:{b}" for a, b in self.pairs[:4].tolist())
        return f"Ranges({shown}{', …' if len(self.pairs) > 4 else ''})"


_EMPTY = Ranges()


@dataclass(frozen=True)
class Group:
    """Whose each index of an axis of `size` vertices is: a part's, or one of COMMON, PRIVATE and OUTPUT.

    The sets are disjoint, and cover 0 … size.
    """

    size: int
    parts: tuple[Ranges, ...]
    common: Ranges = _EMPTY
    private: Ranges = _EMPTY
    output: Ranges = _EMPTY

    @classmethod
    def of(cls, who: Ids, parts: int) -> Group:
        """The group of a vector that says for every index whose it is: a part's number, or a code. O(indices)."""
        who = np.asarray(who, np.int64)
        cuts = np.flatnonzero(np.diff(who)) + 1
        starts = np.r_[0, cuts] if who.size else cuts
        pairs = np.stack([starts, np.r_[cuts, who.size] if who.size else cuts], axis=1)
        values = who[starts]
        order = np.argsort(values, kind="stable")
        values, pairs = values[order], pairs[order]
        assert not values.size or (values[0] >= OUTPUT and values[-1] < parts), "an index belongs to no part"

        def chosen(value: int) -> Ranges:
            low, high = np.searchsorted(values, [value, value + 1])
            return Ranges(pairs[low:high])

        owned = tuple(chosen(part) for part in range(parts))
        return cls(int(who.size), owned, chosen(COMMON), chosen(PRIVATE), chosen(OUTPUT))

    def owners(self) -> Iterator[tuple[int, Ranges]]:
        """Everyone who has an index here: parts first, by number, then the codes."""
        for part, ranges in enumerate(self.parts):
            if len(ranges.pairs):
                yield part, ranges
        for code, ranges in ((COMMON, self.common), (PRIVATE, self.private), (OUTPUT, self.output)):
            if len(ranges.pairs):
                yield code, ranges

    @cached_property
    def shared(self) -> Ranges:
        """The indices that every part has."""
        return self.common | self.private | self.output

    def kept(self, part: int) -> Ranges:
        """What one part has: its own indices and those that all have."""
        return self.parts[part] | self.shared

    def width(self, part: int) -> int:
        """How many indices one part has. O(ranges)."""
        return self.parts[part].size + self.shared.size

    def who(self) -> Ids:
        """The inverse of `of`."""
        found = np.full(self.size, COMMON, np.int64)
        for owner, ranges in self.owners():
            found[ranges.indices()] = owner
        return found
