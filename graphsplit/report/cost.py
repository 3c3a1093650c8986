"""What a network costs and what each part of it would: multiply-adds, memory of activations, and bytes in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from graphsplit.facts import Facts
from graphsplit.graph import Graph
from graphsplit.labels import Dialect
from graphsplit.narrow import narrow
from graphsplit.planning import Plan
from graphsplit.report.content import Shape, Size
from graphsplit.report.count import ReportDialect, multiply_adds
from graphsplit.report.modes import twins


@dataclass(frozen=True)
class Cost:
    """The cost of one graph.

    `work`: multiply-adds of each node of the source; `activations`: bytes of all results of nodes that don't only move
    elements, as training keeps them; `stored`: bytes of all tensors; `shapes`: that of each value.
    """

    work: list[int]
    activations: int
    stored: int
    shapes: Mapping[str, Shape | None]


@dataclass(frozen=True)
class Costs:
    """The cost of the whole network, and of each part."""

    full: Cost
    parts: tuple[Cost, ...]

    @property
    def multiply_adds(self) -> Size:
        return _size(sum(self.full.work), [sum(part.work) for part in self.parts])

    @property
    def activations(self) -> Size:
        return _size(self.full.activations, [part.activations for part in self.parts])

    @property
    def stored(self) -> Size:
        return _size(self.full.stored, [part.stored for part in self.parts])


def cost(graph: Graph, dialect: Dialect, facts: Facts) -> Cost:
    """The cost of a graph for the sizes that its facts were made with. Linear in the graph; reads no weights."""
    return Cost(
        multiply_adds(graph, dialect, facts),
        _activations(graph, dialect, facts),
        sum(prod(tensor.shape) * tensor.dtype.itemsize for tensor in graph.tensors.values()),
        {name: fact.shape for name, fact in facts.items()},
    )


def costs(plan: Plan, dialect: ReportDialect) -> Costs:
    """The cost of a plan's network and parts; parts of one shape are counted once.

    Raises UnsupportedError where narrowing refuses.
    """
    flowed = plan.flowed
    full = cost(plan.graph, dialect, flowed.facts)
    if plan.parts == 1:
        return Costs(full, (full,))
    sizes = probe_sizes(plan.graph, flowed.facts)
    known: dict[tuple[Shape, ...], Cost] = {}
    parts = []
    for part, shapes in enumerate(part_shapes(plan)):
        key = tuple(shapes.values())
        if key not in known:
            known[key] = _part_cost(plan, dialect, part, sizes)
        parts.append(known[key])
    return Costs(full, tuple(parts))


def part_shapes(plan: Plan) -> list[dict[str, Shape]]:
    """The shape of every trained tensor in each part."""
    owner = plan.partition.owner
    return [
        {name: p.selection(owner, part).shape(p.shape) for name, p in plan.parameters.items()}
        for part in range(plan.parts)
    ]


def probe_sizes(graph: Graph, facts: Facts) -> dict[str, int]:
    """The sizes of the dynamic axes that these facts were computed with."""
    found: dict[str, int] = {}
    for value in graph.inputs:
        shape = facts[value.name].shape
        for axis, dim in enumerate(value.shape or ()):
            if shape is not None and not isinstance(dim, int):
                found[dim if isinstance(dim, str) else f"{value.name}:{axis}"] = shape[axis]
    return found


def _part_cost(plan: Plan, dialect: ReportDialect, part: int, sizes: Mapping[str, int]) -> Cost:
    sub = narrow(plan, dialect, part)
    mine = cost(sub.graph, dialect, dialect.evaluate(sub.graph, sizes, plan.flowed.trained))
    work = [0] * len(plan.graph.nodes)
    for index, number in zip(sub.origin, mine.work, strict=True):
        work[index] += number
    return Cost(work, mine.activations, mine.stored, mine.shapes)


def _activations(graph: Graph, dialect: Dialect, facts: Facts) -> int:
    hidden, found = twins(graph), 0
    for index, node in enumerate(graph.nodes):
        rules = dialect.lookup(node)
        if index in hidden or (rules and all(rule.move for rule in rules)):
            continue
        for name in node.outputs:
            fact = facts.get(name)
            if fact is not None and fact.shape is not None and fact.dtype is not None and fact.data is None:
                found += prod(fact.shape) * fact.dtype.itemsize
    return found


def _size(full: int, parts: list[int]) -> Size:
    return Size(full, tuple(parts), tuple(part / full if full else 0.0 for part in parts))
