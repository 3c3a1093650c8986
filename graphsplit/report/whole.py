"""What a network is made of before any split, and the same network split into several numbers of parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod

from graphsplit.errors import GraphsplitError
from graphsplit.facts import Facts
from graphsplit.graph import Graph
from graphsplit.labels import refuse_unknown
from graphsplit.labels.trainable import operand_tag
from graphsplit.planning import Plan
from graphsplit.report.content import (
    ComparedParts,
    Comparison,
    DynamicAxis,
    GraphInspection,
    GraphLayer,
    GraphParameter,
    Refusal,
    Size,
)
from graphsplit.report.count import ReportDialect, fitting, multiply_adds
from graphsplit.report.facts import constant_facts, inspect, network_facts
from graphsplit.report.modes import shown, without_twins
from graphsplit.report.reasons import node_name


def inspect_graph(
    graph: Graph, dialect: ReportDialect, trained: frozenset[str], facts: Facts, sizes: Mapping[str, int]
) -> GraphInspection:
    """Layers, parameters, multiply-adds and dynamic axes of a network, and every node that would be refused.

    `facts` are those for the `sizes` of the dynamic axes. Nothing is planned: that a network has no refused node
    doesn't say that it can be split.
    """
    work = multiply_adds(graph, dialect, facts)
    return GraphInspection(
        report="graph",
        network=network_facts(graph, facts, trained, sum(work)),
        layers=_layers(graph, dialect, trained, facts, work),
        parameters=tuple(
            GraphParameter(n, tuple(graph.tensors[n].shape), graph.tensors[n].dtype.name) for n in sorted(trained)
        ),
        constants=constant_facts(graph, trained),
        dynamic=_dynamic(graph, sizes),
        refused=tuple(refused_nodes(graph, dialect, facts)),
    )


def refused_nodes(graph: Graph, dialect: ReportDialect, facts: Facts | None = None) -> list[Refusal]:
    """Every node without a rule, with one that says no (to its shapes, where `facts` tell them), or with a sub-graph."""
    found = []
    for node in (graph.nodes[i] for i in shown(graph, range(len(graph.nodes)))):
        try:
            refuse_unknown(node, dialect.lookup(node))
        except GraphsplitError as error:
            found.append(Refusal(node_name(node), node.title, error.message, error.hint))
            continue
        rules = dialect.lookup(node)
        bound = fitting(node, rules, dialect, facts) if facts and any(rule.refuse for rule in rules) else None
        if bound is not None and bound.rule.refuse:
            found.append(Refusal(node_name(node), node.title, f"{node.title}: {bound.rule.refuse}", ""))
    return found


def _layers(
    graph: Graph, dialect: ReportDialect, trained: frozenset[str], facts: Facts, work: list[int]
) -> tuple[GraphLayer, ...]:
    made_of = _made_of(graph, dialect, trained)
    found = []
    for node, adds in ((graph.nodes[i], work[i]) for i in shown(graph, range(len(graph.nodes)))):
        rules = dialect.lookup(node)
        data = [n for p, n in enumerate(node.inputs) if n and not (rules and operand_tag(rules[0], p) is not None)]
        names = tuple(dict.fromkeys(leaf for name in data for leaf in made_of.get(name, ())))
        if adds or (names and not all(name in made_of for name in data)):
            fact = facts.get(next((name for name in node.outputs if name), ""))
            elements = sum(prod(graph.tensors[name].shape) for name in names)
            shape = fact.shape if fact is not None else None
            found.append(GraphLayer(node_name(node), node.title, node.qualified_op, names, elements, shape, adds))
    return tuple(found)


def _made_of(graph: Graph, dialect: ReportDialect, trained: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """The parameters behind each value that is made of parameters and constants alone."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in trained}
    for node in graph.nodes:
        rules = dialect.lookup(node)
        data = [n for p, n in enumerate(node.inputs) if n and not (rules and operand_tag(rules[0], p) is not None)]
        if any(n in found for n in data) and all(n in found or n in graph.tensors for n in data):
            leaves = tuple(dict.fromkeys(leaf for name in data for leaf in found.get(name, ())))
            found.update((name, leaves) for name in node.outputs if name)
    return found


def _dynamic(graph: Graph, sizes: Mapping[str, int]) -> tuple[DynamicAxis, ...]:
    return tuple(
        DynamicAxis(value.name, axis, dim, sizes.get(dim if dim is not None else f"{value.name}:{axis}"))
        for value in without_twins(graph.inputs)
        for axis, dim in enumerate(value.shape or ())
        if not isinstance(dim, int)
    )


def compare(name: str, make: Callable[[int], Plan], numbers: Iterable[int], dialect: ReportDialect) -> Comparison:
    """Sizes of the parts for several numbers of parts; `make` plans each. A refusal becomes a row."""
    rows = []
    for k in numbers:
        try:
            found = inspect(make(k), dialect)
            rows.append(ComparedParts(k, found.parameter_sizes, found.multiply_add_sizes, ""))
        except GraphsplitError as error:
            rows.append(ComparedParts(k, None, None, error.message))
    return Comparison("comparison", name, tuple(rows))


def largest(amount: Size) -> tuple[int, float]:
    """The largest part: its amount and its share."""
    return max(amount.parts), max(amount.shares)
