"""One node as a transfer sees it, and what a transfer asks of the flow that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from graphsplit.graph import Node
from graphsplit.labels.arrays import Ids, Labels
from graphsplit.labels.couplings import Couplings
from graphsplit.labels.parameters import Claim, Derived
from graphsplit.notation import Bound


class Flow(Protocol):
    """What a transfer needs of the flow that runs it."""

    couplings: Couplings
    classes: Ids | None
    parts: int

    def mode(self, node: int, kind: str, vertices: Ids) -> str:
        """How an ambiguous place is to be read: the kind's first choice, until that left a layer too narrow."""

    def fresh(self, node: int, shape: tuple[int, ...], output: bool) -> Ids:
        """New vertices for a layer: ids, or the code of a layer that isn't divided."""

    def grouping(self, node: int, factors: set[str]) -> set[str]:
        """Factors along which the layer's inputs are different vertices, also where they have been coupled since."""

    def claim(self, derived: Derived, claimed: Claim) -> None:
        """Say what labels a use gives to the elements of a parameter, or of a tensor made of parameters."""

    def statistic(self, node: int) -> None:
        """Mark a node that takes statistics over labelled axes: the merged network repeats it."""

    def undivided(self, node: int, vertices: Ids) -> None:
        """Ask that these vertices aren't divided: this node needs all of them in each part."""

    def shared(self, node: int, vertices: Ids) -> None:
        """Note that these vertices share a weight of this node, which each part then has whole."""

    def equal_counts(self, node: int, rows: Ids) -> None:
        """Ask that each part takes as many vertices out of each row."""


@dataclass(frozen=True, slots=True)
class Site:
    """One node as the transfer sees it. `tail`: behind the output layers; `frontier`: its results are read there only."""

    index: int
    node: Node
    bound: Bound
    operands: tuple[Labels | Derived | None, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    tail: bool
    frontier: bool
