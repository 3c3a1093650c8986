"""The boxes and edges of a drawing: every node that does more than compute shapes, the network's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from graphsplit.draw.content import Box, Edge, Fold
from graphsplit.draw.folds import Item, fold, places
from graphsplit.facts import Facts
from graphsplit.graph import Graph
from graphsplit.labels import Flowed
from graphsplit.planning import Plan
from graphsplit.report.content import GraphInspection, Kind, Shape
from graphsplit.report.cost import Costs
from graphsplit.report.modes import shown, without_twins
from graphsplit.report.reasons import kind_of, node_name, result_labels, why_private, why_repeated
from graphsplit.report.words import contracts_weights

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Drawn:
    """Boxes and edges; `box_of` gives the box of a node of the graph, where it has one."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    fold: Fold
    hidden: int
    box_of: Mapping[int, int]


class _Values(Protocol):
    """What is known of the graph's values and nodes, split or not."""

    def box(self, index: int) -> Box: ...
    def terminal(self, name: str, op: str) -> Box: ...
    def kind(self, name: str) -> Kind: ...
    def cuts(self, index: int, name: str) -> bool: ...
    def of_weights(self, names: Sequence[str]) -> bool: ...


def drawn(graph: Graph, facts: Facts, values: _Values, parameters: Mapping[str, Sequence[str]]) -> Drawn:
    """Boxes, edges and folds. `parameters` gives those that a node reads, by its name."""
    inputs, outputs = without_twins(graph.inputs), without_twins(graph.outputs)
    reached = graph.replace(outputs=outputs).alive
    nodes = [
        i
        for i in shown(graph, reached)
        if not _computes_shapes(graph, facts, i) and not values.of_weights(graph.nodes[i].outputs)
    ]
    boxes = [values.terminal(value.name, INPUT) for value in inputs]
    maker = {value.name: i for i, value in enumerate(inputs)}
    box_of: dict[int, int] = {}
    edges: list[Edge] = []
    for index in nodes:
        box_of[index] = len(boxes)
        node = graph.nodes[index]
        edges.extend(
            Edge(maker[name], len(boxes), name, values.kind(name), values.cuts(index, name))
            for name in dict.fromkeys(node.inputs)
            if name in maker
        )
        maker.update(dict.fromkeys((name for name in node.outputs if name), len(boxes)))
        boxes.append(values.box(index))
    for value in outputs:
        if value.name in maker:
            edges.append(Edge(maker[value.name], len(boxes), value.name, values.kind(value.name), False))
        boxes.append(values.terminal(value.name, OUTPUT))
    tree, labels = _folds(boxes, edges, parameters)
    boxes = [replace(box, label=label) for box, label in zip(boxes, labels, strict=True)]
    hidden = len(shown(graph, range(len(graph.nodes)))) - len(nodes)
    return Drawn(tuple(boxes), tuple(edges), tree, hidden, box_of)


def _computes_shapes(graph: Graph, facts: Facts, index: int) -> bool:
    """Whether all results of a node are numbers that are known before anything runs."""
    known = [facts[name].data is not None for name in graph.nodes[index].outputs if name in facts]
    return bool(known) and all(known)


def _folds(
    boxes: Sequence[Box], edges: Sequence[Edge], parameters: Mapping[str, Sequence[str]]
) -> tuple[Fold, list[str]]:
    before: list[list[int]] = [[] for _ in boxes]
    for edge in edges:
        before[edge.target].append(edge.source)
    found = places([box.name for box in boxes], [parameters.get(box.name, ()) for box in boxes], before)
    items = [
        Item(() if box.op in (INPUT, OUTPUT) else path, box.name if box.op in (INPUT, OUTPUT) else label, box.op)
        for box, (path, label) in zip(boxes, found, strict=True)
    ]
    return fold(items, [(edge.source, edge.target) for edge in edges])


class SplitValues:
    """Nodes and values of a network that is split."""

    def __init__(self, plan: Plan, layers: Iterable[int], known: Costs) -> None:
        self.plan, self.flowed, self.known = plan, plan.flowed, known
        self.layers = {index: at for at, index in enumerate(layers)}

    def box(self, index: int) -> Box:
        node = self.plan.graph.nodes[index]
        name = node_name(node)
        core = result_labels(self.flowed, index)
        value = next((n for n in node.outputs if n), "")
        return Box(
            name=name,
            label=name,
            op=node.qualified_op,
            kind="whole" if core is None else kind_of(core),
            bands=_bands(self.plan, core),
            shape=self.known.full.shapes.get(value),
            shapes_of_parts=self._shapes(value),
            layer=self.layers.get(index),
            repeated=index in self.plan.part_nodes,
            refused=False,
            reason=self._reason(index, "whole" if core is None else kind_of(core)),
        )

    def _reason(self, index: int, kind: Kind) -> str:
        if self.plan.parts > 1 and kind == "private" and index in self.layers:
            return why_private(self.flowed, index)
        return why_repeated(self.plan, index) if index in self.plan.part_nodes else ""

    def terminal(self, name: str, op: str) -> Box:
        labels = self.flowed.labels.get(name)
        core = None if labels is None else labels.core
        kind: Kind = "whole" if core is None else kind_of(core)
        return Box(
            name,
            name,
            op,
            "output" if op == OUTPUT and kind == "private" else kind,
            _bands(self.plan, core),
            self.known.full.shapes.get(name),
            self._shapes(name),
            None,
            False,
            False,
            "",
        )

    def kind(self, name: str) -> Kind:
        labels = self.flowed.labels.get(name)
        return "whole" if labels is None else kind_of(labels.core)

    def cuts(self, index: int, name: str) -> bool:
        return self.kind(name) == "divided" and contracts(self.flowed, index)

    def of_weights(self, names: Sequence[str]) -> bool:
        """Whether values are made of parameters alone."""
        return all(name in self.flowed.last.derived for name in names if name)

    def _shapes(self, value: str) -> tuple[Shape | None, ...]:
        return tuple(part.shapes.get(value) for part in self.known.parts)


class GraphValues:
    """Nodes and values of a network that isn't split."""

    def __init__(self, graph: Graph, facts: Facts, found: GraphInspection) -> None:
        self.graph, self.facts = graph, facts
        self.layers = {layer.node: at for at, layer in enumerate(found.layers)}
        self.refused = {refusal.node: refusal.reason for refusal in found.refused}

    def box(self, index: int) -> Box:
        node = self.graph.nodes[index]
        name = node_name(node)
        value = next((n for n in node.outputs if n), "")
        found = self.terminal(value, node.qualified_op)
        layer, refused = self.layers.get(name), name in self.refused
        return replace(found, name=name, label=name, layer=layer, refused=refused, reason=self.refused.get(name, ""))

    def terminal(self, name: str, op: str) -> Box:
        fact = self.facts.get(name)
        shape = None if fact is None else fact.shape
        return Box(name, name, op, "whole", (), shape, (), None, False, False, "")

    def kind(self, name: str) -> Kind:
        return "whole"

    def cuts(self, index: int, name: str) -> bool:
        return False

    def of_weights(self, names: Sequence[str]) -> bool:
        return False


def contracts(flowed: Flowed, index: int) -> bool:
    """Whether a node contracts what it reads with weights: then connections between parts are cut in front of it."""
    node, bound = flowed.graph.nodes[index], flowed.last.bounds.get(index)
    weights = [name for name in node.inputs if name in flowed.last.derived]
    return bound is not None and bool(bound.mix) and contracts_weights(bound, node.inputs, weights)


def _bands(plan: Plan, core: np.typing.NDArray[np.int64] | None) -> tuple[int, ...]:
    if core is None or not (core > 0).any():
        return ()
    owners = plan.partition.owner[core[core > 0]]
    return tuple(int(n) for n in np.bincount(owners[owners >= 0], minlength=plan.parts))
