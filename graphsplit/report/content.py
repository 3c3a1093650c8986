"""What the reports hold. Everything is frozen and made of plain values: `plain` turns it into what JSON holds.

Counts are whole numbers, shares are fractions of one. Tuples with one entry a part are in part order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

Kind = Literal["divided", "private", "output", "whole"]
"""divided: its vertices belong to parts; private: each part has its own value of all of it; output: every part has all
of it and the merge averages it; whole: the same in every part."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """An input or output: its shape as the file says it, and the sizes that were tried."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    probe: Shape | None


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The whole network. Multiply-adds are those of contractions, for the sizes in `inputs[].probe`."""

    name: str
    nodes: int
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A node that makes vertices or holds parameters.

    `vertices` are those of its result, `own` says whether it makes them (a batch norm passes them on). `families`
    numbers the families that they belong to; `reason` says why a private layer is.
    """

    node: str
    title: str
    op: str
    kind: Kind
    own: bool
    vertices: int
    atoms: int
    families: tuple[int, ...]
    vertices_of_parts: tuple[int, ...]
    parameters: tuple[str, ...]
    multiply_adds: int
    multiply_adds_of_parts: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """Interchangeable atoms: how many, of which layers, and how many each part has."""

    number: int
    atoms: int
    layers: tuple[str, ...]
    atoms_of_parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ElementCounts:
    """The elements of a parameter by what the merge does with them. They add up to its size."""

    owned: int
    output: int
    duplicated: int
    unused: int
    cut: int


@dataclass(frozen=True, slots=True)
class ParameterFacts:
    """A trained tensor: its role in the merge, its shape in each part, and its elements by what becomes of them."""

    name: str
    shape: Shape
    dtype: str
    role: Literal["owned", "output", "duplicated", "constant", "unused"]
    shapes_of_parts: tuple[Shape, ...]
    elements: ElementCounts


@dataclass(frozen=True, slots=True)
class ConstantFacts:
    """A tensor that isn't trained: every part has it, and the merge takes it back unchanged."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class Size:
    """An amount of the whole network and of each part."""

    full: int
    parts: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A node, and why it is listed."""

    node: str
    title: str
    reason: str


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """How the merged network makes an output of the parts': their mean, their slices side by side, or it is common."""

    name: str
    merge: Literal["mean", "concat", "common"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a split does to a network.

    Activations are all results of nodes that do more than move elements, for the sizes in `network.inputs[].probe`;
    stored are all tensors.
    """

    report: Literal["split"]
    network: NetworkFacts
    parts: int
    shares: tuple[float, ...]
    layers: tuple[LayerFacts, ...]
    families: tuple[FamilyFacts, ...]
    parameters: tuple[ParameterFacts, ...]
    constants: tuple[ConstantFacts, ...]
    outputs: tuple[OutputFacts, ...]
    repeated: tuple[Note, ...]
    private: tuple[Note, ...]
    parameter_sizes: Size
    multiply_add_sizes: Size
    activation_bytes: Size
    stored_bytes: Size


@dataclass(frozen=True, slots=True)
class GraphLayer:
    """A node that holds parameters or contracts, in a network that isn't split."""

    node: str
    title: str
    op: str
    parameters: tuple[str, ...]
    elements: int
    result: Shape | None
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class GraphParameter:
    """A trained tensor of a network that isn't split."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class DynamicAxis:
    """An axis whose size the file leaves open: its symbol, and the size that was tried."""

    input: str
    axis: int
    symbol: str | None
    probe: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node, or the network as a whole (`node` is empty), that can't be split: why, and what to do."""

    node: str
    title: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class GraphInspection:
    """What a network is made of, before any split."""

    report: Literal["graph"]
    network: NetworkFacts
    layers: tuple[GraphLayer, ...]
    parameters: tuple[GraphParameter, ...]
    constants: tuple[ConstantFacts, ...]
    dynamic: tuple[DynamicAxis, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class ComparedParts:
    """One K: the amounts of each part, or why it is refused."""

    parts: int
    parameters: Size | None
    multiply_adds: Size | None
    refused: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same network split into several numbers of parts."""

    report: Literal["comparison"]
    network: str
    rows: tuple[ComparedParts, ...]


@dataclass(frozen=True, slots=True)
class Vertex:
    """One neuron: the layer that makes it, and its number there."""

    node: str
    title: str
    index: int


@dataclass(frozen=True, slots=True)
class Step:
    """One link of a chain: the node at which two vertices meet, and what it does that keeps them together."""

    node: str
    title: str
    why: str
    left: Vertex
    right: Vertex


@dataclass(frozen=True, slots=True)
class Target:
    """What a name stands for: its vertices, how many atoms they belong to, and where it isn't divided, why.

    `axes` lists the axes that carry vertices.
    """

    asked: str
    what: Literal["node", "parameter", "value"]
    title: str
    kind: Kind
    vertices: int
    atoms: int
    axes: tuple[int, ...]
    reason: str
    repeated: str


@dataclass(frozen=True, slots=True)
class Coupled:
    """A layer with vertices that must stay with the target's: how many of how many, and the shortest chain to one.

    `chain` holds the last steps of `links` in all; ask for both names to have the whole of a longer one.
    """

    node: str
    title: str
    vertices: int
    of: int
    links: int
    chain: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What couples with a layer, parameter or value."""

    report: Literal["explanation"]
    parts: int
    target: Target
    inside: tuple[Step, ...]
    coupled: tuple[Coupled, ...]


@dataclass(frozen=True, slots=True)
class PairExplanation:
    """Whether two things must stay together: how many vertices of each are coupled, and the shortest chain."""

    report: Literal["pair"]
    parts: int
    first: Target
    second: Target
    coupled: bool
    coupled_vertices: tuple[int, int]
    start: Vertex | None
    chain: tuple[Step, ...]


Report = Inspection | GraphInspection | Comparison | Explanation | PairExplanation


def plain(content: object) -> object:
    """Dictionaries, lists and plain values of a report, for JSON."""
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: plain(getattr(content, field.name)) for field in fields(content)}
    if isinstance(content, tuple | list):
        return [plain(item) for item in content]
    return content


def split_summary(found: Inspection, folder: str, files: Sequence[str]) -> dict[str, object]:
    """What `split --json` prints: the files with their sizes, and what isn't simply divided."""
    parameters, work = found.parameter_sizes, found.multiply_add_sizes
    submodels = [
        {"file": file, "parameters": size, "share": share, "multiply_adds": adds}
        for file, size, share, adds in zip(files, parameters.parts, parameters.shares, work.parts, strict=True)
    ]
    return {
        "folder": folder,
        "parts": found.parts,
        "parameters": parameters.full,
        "multiply_adds": work.full,
        "submodels": submodels,
        "outputs": plain(found.outputs),
        "repeated": plain(found.repeated),
        "private": plain(found.private),
    }
