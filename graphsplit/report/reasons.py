"""Why a layer is private, a node is repeated, or something isn't divided, in a sentence."""

from __future__ import annotations

import numpy as np

from graphsplit.graph import Graph, Node
from graphsplit.labels import COMMON, OUTPUT, PRIVATE, Flowed
from graphsplit.labels.arrays import Ids
from graphsplit.planning import Plan
from graphsplit.report.content import Kind, Note
from graphsplit.report.modes import shown


def node_name(node: Node) -> str:
    """The name by which reports call a node: its own, else that of its first result."""
    return node.name or next((name for name in node.outputs if name), "")


def note(graph: Graph, index: int, reason: str) -> Note:
    """A node with a reason."""
    node = graph.nodes[index]
    return Note(node_name(node), node.title, reason)


def kind_of(core: Ids) -> Kind:
    """What labels say of a value as a whole."""
    if bool((core > 0).any()):
        return "divided"
    if bool((core == PRIVATE).any()):
        return "private"
    return "output" if bool((core == OUTPUT).any()) else "whole"


def result_labels(flowed: Flowed, index: int) -> Ids | None:
    """The labels of a node's first labelled result."""
    for name in flowed.graph.nodes[index].outputs:
        if name in flowed.labels:
            return flowed.labels[name].core
    return None


def why_private(flowed: Flowed, index: int) -> str:
    """Why a node's result isn't divided, but a value that each part has for itself."""
    node = flowed.graph.nodes[index]
    if index in flowed.last.keep:
        return "it is kept whole on request (--keep)"
    block = flowed.blocks.get(index)
    if block is not None and block.start in flowed.private:
        return flowed.private[block.start]
    data = [name for name in node.inputs if name in flowed.labels]
    if index in flowed.statistics:
        return "it takes statistics over the vertices of its part"
    reads = [name for name in data if bool((flowed.labels[name].core == PRIVATE).any())]
    width = _width(flowed, index)
    if width is not None and width < flowed.parts:
        return f"it has {width} {'vertex' if width == 1 else 'vertices'} for {flowed.parts} parts"
    if reads:
        return f"it reads {reads[0]!r}, of which each part has its own"
    if all(bool((flowed.labels[name].core == COMMON).all()) for name in data):
        return "its parameters meet data that every part has, element by element"
    return "its parameters meet several vertices at once"


def _width(flowed: Flowed, index: int) -> int | None:
    """How many vertices a contraction by a weight could have: the sizes of its result's axes that only weights have."""
    bound = flowed.last.bounds.get(index)
    if bound is None or not bound.rule.mix or not bound.results or bound.results[0] is None:
        return None
    node = flowed.graph.nodes[index]
    of_data = {
        f
        for name, axes in zip(node.inputs, bound.operands, strict=False)
        if name in flowed.labels and axes is not None
        for names in axes
        for f in names
    }
    weights = [
        axes for name, axes in zip(node.inputs, bound.operands, strict=False) if name in flowed.last.derived and axes
    ]
    if not weights:
        return None
    of_weights = {f for axes in weights for names in axes for f in names}
    own = {f for names in bound.results[0] for f in names} & of_weights - of_data
    return int(np.prod([bound.sizes[f] for f in own], dtype=np.int64))


def why_repeated(plan: Plan, index: int) -> str:
    """Why the merged network runs a node once for each part."""
    flowed = plan.flowed
    node = flowed.graph.nodes[index]
    if index in flowed.statistics:
        return "it takes statistics over the vertices of a part"
    copies = [name for name in node.inputs if name in plan.parameters and plan.parameters[name].role == "duplicated"]
    reads = [n for n in node.inputs if n in flowed.labels and bool((flowed.labels[n].core == PRIVATE).any())]
    if reads:
        return f"it reads {reads[0]!r}, of which each part has its own"
    if copies:
        return f"each part has its own {copies[0]!r}"
    return f"its result is private: {why_private(flowed, index)}"


def repeated_notes(plan: Plan) -> tuple[Note, ...]:
    """The nodes that the merged network runs once for each part."""
    return tuple(note(plan.graph, i, why_repeated(plan, i)) for i in shown(plan.graph, plan.part_nodes))


def private_notes(flowed: Flowed) -> tuple[Note, ...]:
    """The nodes with parameters whose result each part has for itself."""
    if flowed.parts == 1:
        return ()
    found = []
    for index in shown(flowed.graph, range(len(flowed.graph.nodes))):
        node = flowed.graph.nodes[index]
        core = result_labels(flowed, index)
        trains = any(name in flowed.last.derived for name in node.inputs)
        if core is not None and trains and kind_of(core) == "private":
            found.append(note(flowed.graph, index, why_private(flowed, index)))
    return tuple(found)
