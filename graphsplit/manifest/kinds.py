"""What becomes of every element of a parameter in the merge, from whose its index is along each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from graphsplit.manifest.ranges import COMMON, OUTPUT, PRIVATE, Group, Ranges

__all__ = ["Counts", "Kind", "Region", "count", "kind_of", "regions"]

Kind = Literal["owned", "output", "duplicated", "unused", "cut", "constant"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many elements of a parameter there are of each kind; they add up to its size."""

    owned: int = 0
    output: int = 0
    duplicated: int = 0
    unused: int = 0
    cut: int = 0
    constant: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of elements of one kind: its indices along each axis. `owner` is the one part that has it, or -1."""

    kind: Kind
    owner: int
    axes: tuple[Ranges, ...]

    @property
    def elements(self) -> int:
        return math.prod(axis.size for axis in self.axes)


@dataclass(frozen=True, slots=True)
class _State:
    """What the axes seen so far say: the part that owns the element, and whether a code came up."""

    owner: int = -1
    output: bool = False
    private: bool = False

    def meets(self, who: int) -> _State | None:
        """The state after another axis, None where two parts meet: the element is cut."""
        if who >= 0:
            return _State(who, self.output, self.private) if self.owner in (-1, who) else None
        return _State(self.owner, self.output or who == OUTPUT, self.private or who == PRIVATE)

    @property
    def kind(self) -> Kind:
        if self.output and (self.owner >= 0 or not self.private):
            return "output"
        if self.owner >= 0:
            return "owned"
        return "duplicated" if self.private else "unused"


def kind_of(owners: Sequence[int]) -> Kind:
    """The kind of an element from whose its index is along each axis."""
    state: _State | None = _State()
    for who in owners:
        state = state.meets(who) if state is not None else None
    return state.kind if state is not None else "cut"


Axis = Sequence[tuple[int, Ranges]]


def _axis(group: Group | None, size: int) -> Axis:
    return tuple(group.owners()) if group is not None else ((COMMON, Ranges([[0, size]] if size else [])),)


def _slabs(
    shape: tuple[int, ...], axes: Sequence[Group | None], blocked: tuple[int, int, Sequence[Group]] | None
) -> Iterator[list[Axis]]:
    """The axes' owners, for each block of a blocked parameter (one slab for any other)."""
    plain = [_axis(group, size) for group, size in zip(axes, shape, strict=True)]
    if blocked is None:
        yield plain
        return
    axis, along, groups = blocked
    height = shape[along] // len(groups)
    for number, group in enumerate(groups):
        slab = list(plain)
        slab[axis] = _axis(group, shape[axis])
        clipped = ((who, found.clip(number * height, (number + 1) * height)) for who, found in plain[along])
        slab[along] = tuple((who, found) for who, found in clipped if len(found.pairs))
        yield slab


def count(
    shape: tuple[int, ...], axes: Sequence[Group | None], blocked: tuple[int, int, Sequence[Group]] | None
) -> Counts:
    """The elements of each kind. O(axes · parts) for each block, whatever the sizes."""
    found: dict[str, int] = {}
    for slab in _slabs(shape, axes, blocked):
        states = {_State(): 1}
        for owners in slab:
            sizes = {who: ranges.size for who, ranges in owners}
            after: dict[_State, int] = {}
            for state, number in states.items():
                here = sizes if state.owner < 0 else [w for w in (state.owner, COMMON, PRIVATE, OUTPUT) if w in sizes]
                for who in here:
                    met = state.meets(who)
                    assert met is not None
                    after[met] = after.get(met, 0) + number * sizes[who]
            states = after
        for state, number in states.items():
            found[state.kind] = found.get(state.kind, 0) + number
    return Counts(**found, cut=math.prod(shape) - sum(found.values()))


def regions(
    shape: tuple[int, ...], axes: Sequence[Group | None], blocked: tuple[int, int, Sequence[Group]] | None
) -> Iterator[Region]:
    """Disjoint rectangles of everything that isn't cut, block by block."""
    for slab in _slabs(shape, axes, blocked):
        states: list[tuple[_State, tuple[Ranges, ...]]] = [(_State(), ())]
        for owners in slab:
            states = [
                (met, (*chosen, ranges))
                for state, chosen in states
                for who, ranges in owners
                if (met := state.meets(who)) is not None
            ]
        for state, chosen in states:
            yield Region(state.kind, state.owner, chosen)
