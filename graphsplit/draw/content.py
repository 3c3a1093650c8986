"""What a drawing holds: the facts of a report, the graph with its folds, couplings as trees, and weight matrices.

Everything is frozen and made of plain values, as in `report.content`; boxes go by their place in `Drawing.boxes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphsplit.report.content import Comparison, GraphInspection, Inspection, Kind, Shape

FoldKind = Literal["scope", "alike", "stretch"]


@dataclass(frozen=True, slots=True)
class Fold:
    """Boxes that are drawn as one until it's opened: a module's scope, alike blocks in a row, or a stretch of many nodes.

    Children are boxes by number, and folds.
    """

    label: str
    kind: FoldKind
    children: tuple[int | Fold, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A node, an input or an output of the network.

    `bands` are the vertices that each part has of its first result, () where that isn't divided. `layer` is its place in
    `facts.layers`, None where it isn't there. `repeated`: the merged network runs it once for each part; `reason` says
    why, or why it is private or refused.
    """

    name: str
    label: str
    op: str
    kind: Kind
    bands: tuple[int, ...]
    shape: Shape | None
    shapes_of_parts: tuple[Shape | None, ...]
    layer: int | None
    repeated: bool
    refused: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A value on its way from one box to another, and what parts have of it.

    `cut`: the reader contracts it with a weight, whose connections from one part to another are gone.
    """

    source: int
    target: int
    value: str
    kind: Kind
    cut: bool


@dataclass(frozen=True, slots=True)
class Knot:
    """A vertex in the tree that couples one atom: it came to be with knot `before` at the node `via` (-1: the root).

    `box` is the layer that makes the vertex, `index` its number there.
    """

    box: int
    index: int
    before: int
    via: int


@dataclass(frozen=True, slots=True)
class CouplingTree:
    """Why the atoms of a family are what they are: the first of them, as a tree of couplings over the layers it touches."""

    family: int
    knots: tuple[Knot, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """What a node does that couples vertices, in words."""

    box: int
    text: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter as a matrix of two of its axes: how many rows and columns belong to each part; the last number is shared.

    Rows and columns of different parts are cut. `kept` is the share of the elements that some part has. `energy[r][c]` is
    the share of the sum of squares in such a block of all weights, None where no weights are at hand; `groups` says that
    columns are those of as many groups.
    """

    parameter: str
    axes: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    groups: int
    kept: float
    energy: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True, slots=True)
class Slices:
    """What each of the first parts has of a parameter, as one would index it: `[0:25, 0:10, :, :]`."""

    parameter: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses by epoch: of a sub-model, or of the merged network."""

    name: str
    epochs: tuple[int, ...]
    training: tuple[float | None, ...]
    validation: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """What a trainer left: curves, and for each part how sure it was of the right answer, sample by sample, before the merge."""

    curves: tuple[Curve, ...]
    confidence: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A report with its picture. `hidden` nodes only compute shapes or weights, or reach no output, and aren't drawn."""

    report: Literal["drawing"]
    version: str
    title: str
    facts: Inspection | GraphInspection
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    fold: Fold
    hidden: int
    trees: tuple[CouplingTree, ...]
    whys: tuple[Why, ...]
    matrices: tuple[Matrix, ...]
    slices: tuple[Slices, ...]
    comparison: Comparison | None
    training: Training | None
