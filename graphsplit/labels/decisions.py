"""What is settled between the passes of the label flow, and the vertices of layers, which are the same in every pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MODES = {
    "group": ("atomic", "keep", "alike"),
    "columns": ("columns", "rows"),
    "lookup": ("vertices", "weights"),
}
"""Ambiguous places, and their readings in the order in which they are tried; "alike" only where no slice says "keep"."""


@dataclass(frozen=True, slots=True)
class Block:
    """The vertices of one layer: ids `start`, `start + 1`, … over `shape`."""

    node: int
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ids(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass
class Decisions:
    """What was settled between passes. `private` holds ids and the reason; it only grows.

    `concatenate`: outputs that hidden layers read stay divided; `divided`: those of output layers, too. `undivided` are nodes
    whose weight is applied to several vertices and isn't to be copied for them.
    """

    private: dict[int, str] = field(default_factory=dict)
    modes: dict[tuple[int, str], int] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    concatenate: bool = False
    divided: bool = False
    undivided: frozenset[int] = frozenset()
    blocks: dict[tuple[int, tuple[int, ...]], Block] = field(default_factory=dict)
    next_id: int = 1

    def block(self, node: int, shape: tuple[int, ...]) -> Block:
        """The vertices of a node's layer: the same ids in every pass."""
        key = (node, shape)
        if key not in self.blocks:
            self.blocks[key] = Block(node, self.next_id, shape)
            self.next_id += self.blocks[key].size
        return self.blocks[key]
