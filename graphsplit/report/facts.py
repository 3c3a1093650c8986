"""`inspect`: what a plan does to a network, in numbers."""

from __future__ import annotations

from math import prod
from typing import Literal, cast

import numpy as np

from graphsplit.facts import Facts
from graphsplit.graph import Graph, Value
from graphsplit.labels import OUTPUT, PRIVATE, Flowed
from graphsplit.labels.arrays import Ids
from graphsplit.labels.trainable import operand_tag
from graphsplit.planning import Plan
from graphsplit.report.content import (
    ConstantFacts,
    ElementCounts,
    FamilyFacts,
    Inspection,
    LayerFacts,
    NetworkFacts,
    OutputFacts,
    ParameterFacts,
    Size,
    ValueFacts,
)
from graphsplit.report.cost import Costs, costs, part_shapes
from graphsplit.report.count import ReportDialect
from graphsplit.report.modes import shown, twins, without_twins
from graphsplit.report.reasons import kind_of, node_name, private_notes, repeated_notes, result_labels, why_private


def inspect(plan: Plan, dialect: ReportDialect | None = None, known: Costs | None = None) -> Inspection:
    """What a plan does: layers, families, parameters, sizes, and everything that isn't divided with its reason.

    `dialect` is the one that the plan was made with unless another is given; `known` its costs where they have been
    counted. Reads no weights; parts of one shape are counted once. Raises UnsupportedError where narrowing refuses.
    """
    flowed = plan.flowed
    dialect = dialect if dialect is not None else cast(ReportDialect, flowed.last.dialect)
    found = known if known is not None else costs(plan, dialect)
    return Inspection(
        report="split",
        network=network_facts(plan.graph, flowed.facts, flowed.trained, sum(found.full.work)),
        parts=plan.parts,
        shares=plan.partition.shares,
        layers=_layers(plan, found, dialect),
        families=_families(plan),
        parameters=_parameters(plan),
        constants=constant_facts(plan.graph, flowed.trained),
        outputs=tuple(OutputFacts(v.name, _merge_of(flowed, v.name)) for v in without_twins(plan.graph.outputs)),
        repeated=repeated_notes(plan),
        private=private_notes(flowed),
        parameter_sizes=parameter_sizes(plan),
        multiply_add_sizes=found.multiply_adds,
        activation_bytes=found.activations,
        stored_bytes=found.stored,
    )


def parameter_sizes(plan: Plan) -> Size:
    """Trained elements, full and in each part."""
    full = sum(prod(p.shape) for p in plan.parameters.values())
    return size(full, [sum(prod(shape) for shape in part.values()) for part in part_shapes(plan)])


def size(full: int, parts: list[int]) -> Size:
    """An amount with the parts' shares."""
    return Size(full, tuple(parts), tuple(part / full if full else 0.0 for part in parts))


def network_facts(graph: Graph, facts: Facts, trained: frozenset[str], work: int) -> NetworkFacts:
    """The network as a whole."""
    return NetworkFacts(
        name=graph.name,
        nodes=len(graph.nodes) - len(twins(graph)),
        inputs=tuple(_value(v, facts) for v in without_twins(graph.inputs)),
        outputs=tuple(_value(v, facts) for v in without_twins(graph.outputs)),
        parameters=sum(prod(graph.tensors[name].shape) for name in trained),
        multiply_adds=work,
    )


def _value(value: Value, facts: Facts) -> ValueFacts:
    fact = facts.get(value.name)
    return ValueFacts(value.name, value.dtype.name, value.shape, fact.shape if fact is not None else None)


def constant_facts(graph: Graph, trained: frozenset[str]) -> tuple[ConstantFacts, ...]:
    """Tensors that aren't trained, by name."""
    names = sorted(graph.tensors.keys() - trained)
    return tuple(ConstantFacts(n, tuple(graph.tensors[n].shape), graph.tensors[n].dtype.name) for n in names)


def _parameters(plan: Plan) -> tuple[ParameterFacts, ...]:
    owner, found, shapes = plan.partition.owner, [], part_shapes(plan)
    for name, p in plan.parameters.items():
        counts = p.counts(owner, plan.parts)
        elements = ElementCounts(**{k: counts[k] for k in ("owned", "output", "duplicated", "unused", "cut")})
        dtype = plan.graph.tensors[name].dtype.name
        found.append(ParameterFacts(name, p.shape, dtype, p.role, tuple(part[name] for part in shapes), elements))
    return tuple(found)


# -- layers and families --------------------------------------------------------------------------


def family_numbers(plan: Plan) -> Ids:
    """The family of each class, -1 for ids of none."""
    found = np.full(len(plan.flowed.classes), -1, np.int64)
    for number, family in enumerate(plan.partition.structure.families):
        found[family.atoms] = number
    return found


def _layers(plan: Plan, known: Costs, dialect: ReportDialect) -> tuple[LayerFacts, ...]:
    flowed, numbers = plan.flowed, family_numbers(plan)
    found = []
    for index, names in layer_nodes(flowed, dialect).items():
        node, core = plan.graph.nodes[index], result_labels(flowed, index)
        assert core is not None, "a layer's result has labels"
        labels = core[core > 0]
        owners = plan.partition.owner[labels]
        kind = kind_of(core)
        found.append(
            LayerFacts(
                node=node_name(node),
                title=node.title,
                op=node.qualified_op,
                kind=kind,
                own=index in flowed.blocks or bool(known.full.work[index]),
                vertices=int(labels.size),
                atoms=int(np.unique(labels).size),
                families=tuple(int(f) for f in np.unique(numbers[labels]) if f >= 0),
                vertices_of_parts=tuple(int(n) for n in np.bincount(owners[owners >= 0], minlength=plan.parts)),
                parameters=names,
                multiply_adds=known.full.work[index],
                multiply_adds_of_parts=tuple(part.work[index] for part in known.parts),
                reason=why_private(flowed, index) if kind == "private" else "",
            )
        )
    return tuple(found)


def layer_nodes(flowed: Flowed, dialect: ReportDialect) -> dict[int, tuple[str, ...]]:
    """The nodes that reports list as layers, in order, each with the parameters that it reads. Names needn't tell them apart."""
    found = {}
    for index in shown(flowed.graph, range(len(flowed.graph.nodes))):
        names = _trained_operands(flowed, index, dialect)
        if result_labels(flowed, index) is not None and (names or index in flowed.blocks):
            found[index] = names
    return found


def _trained_operands(flowed: Flowed, index: int, dialect: ReportDialect) -> tuple[str, ...]:
    """The parameters that a node reads, directly or as something made of them."""
    node = flowed.graph.nodes[index]
    rules = dialect.lookup(node)
    found: dict[str, None] = {}
    for position, name in enumerate(node.inputs):
        if name in flowed.last.derived and operand_tag(rules[0], position) is None:
            found.update(dict.fromkeys(leaf.name for leaf in flowed.last.derived[name].leaves))
    return tuple(found)


def _families(plan: Plan) -> tuple[FamilyFacts, ...]:
    flowed, numbers = plan.flowed, family_numbers(plan)
    families = plan.partition.structure.families
    layers: list[list[str]] = [[] for _ in families]
    for index in shown(plan.graph, flowed.blocks):
        found = np.unique(numbers[flowed.classes[flowed.blocks[index].ids]])
        for family in found[found >= 0]:
            layers[family].append(node_name(plan.graph.nodes[index]))
    return tuple(
        FamilyFacts(
            number, len(family.atoms), tuple(layers[number]), tuple(int(n) for n in plan.partition.counts[number])
        )
        for number, family in enumerate(families)
    )


def _merge_of(flowed: Flowed, name: str) -> Literal["mean", "concat", "common"]:
    labels = flowed.labels.get(name)
    if labels is None:
        return "mean"
    if bool((labels.core > 0).any()):
        return "concat"
    return "mean" if bool(np.isin(labels.core, (OUTPUT, PRIVATE)).any()) else "common"
