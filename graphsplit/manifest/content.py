"""What a manifest holds, piece by piece. Everything is frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import ml_dtypes
import numpy as np

from graphsplit.manifest.kinds import Counts, Region, count, regions
from graphsplit.manifest.ranges import Group, Ids
from graphsplit.planning import Role
from graphsplit.selection import Selection

__all__ = [
    "DTYPES",
    "BlockedAxis",
    "Note",
    "Options",
    "OutputEntry",
    "ParameterEntry",
    "Scale",
    "Source",
    "SubModelFile",
    "role_of",
]

Scale = Literal["weights", "activation"]

_SHORT = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
_PLAIN = (
    "bool",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    **{name: np.dtype(name) for name in _PLAIN},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _SHORT},
}
"""Element types by the names that a manifest gives them."""


@dataclass(frozen=True)
class Options:
    """What the split was asked for. `keep`, `trainable` and `constant` are sets: they are kept sorted."""

    shares: tuple[float, ...]
    strategy: str = "contiguous"
    seed: int = 0
    init: str = "keep"
    keep: tuple[str, ...] = ()
    trainable: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    outputs: str = "auto"
    rules: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("keep", "trainable", "constant"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))
        object.__setattr__(self, "rules", tuple(self.rules))


@dataclass(frozen=True, slots=True)
class Source:
    """The weightless copy of the source's graph, and its structure's digest."""

    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class SubModelFile:
    """A sub-model: its file, its structure's digest, and how many elements of it train."""

    file: str
    digest: str
    elements: int


@dataclass(frozen=True, slots=True)
class BlockedAxis:
    """An axis whose group changes with the block along another axis: one group for each block."""

    axis: int
    along: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A node, and why it is listed."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class OutputEntry:
    """How an output of the network is merged; `axis` and `group` say where a concatenation puts each part's slice."""

    name: str
    merge: Literal["mean", "concat", "common"]
    axis: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class ParameterEntry:
    """One tensor of the source: its layout over vertex groups, and its role in the merge.

    `axes` gives for each axis the number of its group, None where the axis carries no vertices. `scale` says how output
    elements are averaged: each part's weight ("weights"), or by 1/K behind the op that uses them ("activation").
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    axes: tuple[int | None, ...]
    blocked: BlockedAxis | None
    scale: Scale
    counts: Counts

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def layout(
        self, groups: Sequence[Group]
    ) -> tuple[tuple[int, ...], tuple[Group | None, ...], tuple[int, int, tuple[Group, ...]] | None]:
        """Shape, group of each axis, and the blocked axis with its groups."""
        axes = tuple(None if index is None else groups[index] for index in self.axes)
        if self.blocked is None:
            return self.shape, axes, None
        blocked = self.blocked
        return self.shape, axes, (blocked.axis, blocked.along, tuple(groups[i] for i in blocked.groups))

    def recount(self, groups: Sequence[Group]) -> Counts:
        """The counts as the layout gives them."""
        if self.role == "constant":
            return Counts(constant=self.elements)
        return count(*self.layout(groups))

    def regions(self, groups: Sequence[Group]) -> tuple[Region, ...]:
        """Disjoint rectangles of everything that isn't cut."""
        return tuple(regions(*self.layout(groups)))

    def selection(self, groups: Sequence[Group], part: int) -> Selection:
        """What one part takes of the tensor."""
        shape, layout, blocked = self.layout(groups)
        axes = tuple(
            None if group is None or group.width(part) == size else group.kept(part).indices()
            for group, size in zip(layout, shape, strict=True)
        )
        if blocked is None:
            return Selection(axes)
        axis, along, columns = blocked
        laid_out: dict[int, Ids] = {}
        for group in columns:
            if id(group) not in laid_out:
                laid_out[id(group)] = group.kept(part).indices()
        return Selection(axes, (axis, along, tuple(laid_out[id(group)] for group in columns)))

    def widths(self, groups: Sequence[Group], part: int) -> tuple[set[int], ...]:
        """Along each axis the sizes of one part's slice: several where a blocked axis is ragged. O(ranges)."""
        shape, layout, blocked = self.layout(groups)
        found = [{size if group is None else group.width(part)} for group, size in zip(layout, shape, strict=True)]
        if blocked is not None:
            axis, along, columns = blocked
            rows = layout[along]
            here = np.ones(len(columns), bool)
            if rows is not None:
                here = rows.kept(part).touches(shape[along] // len(columns), len(columns))
            found[axis] = {column.width(part) for column, present in zip(columns, here, strict=True) if present}
        return tuple(found)

    def part_shape(self, groups: Sequence[Group], part: int) -> tuple[int, ...]:
        """The shape of one part's slice."""
        return tuple(min(sizes, default=0) for sizes in self.widths(groups, part))


def role_of(counts: Counts) -> Role:
    """The role that the elements of a tensor give it, when it isn't constant."""
    if counts.duplicated:
        return "duplicated"
    if counts.output:
        return "output"
    return "owned" if counts.owned or counts.cut else "unused"
