"""The label flow: vertex ids run through the network like a second set of activations.

Several passes, or order decides: first only the certain couplings, then everything that depends on which vertices are
already together, until nothing changes. What turns out too narrow, or is an output that hidden layers read, is decided
between the passes (`decide`), and the flow starts again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from graphsplit.errors import RuleError, UnsupportedError
from graphsplit.facts import Facts
from graphsplit.graph import Array, Graph, Node
from graphsplit.labels.arrays import (
    COMMON,
    OUTPUT,
    PRIVATE,
    UNKNOWN,
    Ids,
    Labels,
    move_labels,
    resolve_code,
    squeeze_constant_axes,
    uniform,
)
from graphsplit.labels.computing import combined, made_of_weights, picks_matrices
from graphsplit.labels.couplings import Couplings, resolve
from graphsplit.labels.decisions import MODES, Block, Decisions
from graphsplit.labels.operands import (
    argument_value,
    beside,
    moves_with_sizes,
    refuse_unknown,
    stays,
    unplaced,
    unrelated,
)
from graphsplit.labels.parameters import Claim, Derived, claim, moved, parameter, whole_use
from graphsplit.labels.site import Site
from graphsplit.labels.trainable import Structure, gives_sizes, operand_tag
from graphsplit.labels.transfer import Transfer
from graphsplit.notation import Bound, Rule, bind


class Dialect(Protocol):
    """What the flow needs of a front end: the rules of its ops, and its movement ops run on integers."""

    def lookup(self, node: Node) -> tuple[Rule, ...]: ...

    def attributes(self, node: Node) -> Mapping[str, object]: ...

    def move(self, node: Node, arrays: Sequence[Array | None]) -> list[Array]: ...


class Pass:
    """One run of all nodes, in order. `classes` is None in the first pass, which takes certain couplings only."""

    def __init__(
        self,
        graph: Graph,
        dialect: Dialect,
        facts: tuple[Facts, Facts],
        layout: Structure,
        trained: frozenset[str],
        parts: int,
        keep: frozenset[int],
        decisions: Decisions,
        couplings: Couplings,
        classes: Ids | None,
        whole: frozenset[int] = frozenset(),
    ) -> None:
        self.graph, self.dialect, self.layout, self.whole = graph, dialect, layout, whole
        self.facts, self.others = facts
        self.trained, self.parts, self.keep, self.decisions = trained, parts, keep, decisions
        self.couplings, self.classes = couplings, classes
        self.shapes = {name: tuple(tensor.shape) for name, tensor in graph.tensors.items()}
        self.labels: dict[str, Labels] = {}
        self.derived: dict[str, Derived] = {name: parameter(name, self.shapes[name]) for name in sorted(trained)}
        self.claims: dict[str, list[Claim]] = {}
        self.statistics: set[int] = set()
        self.blocks: dict[int, Block] = {}
        self.sites = couplings.sites
        self.rows: list[tuple[int, Ids]] = []
        self.averaged: dict[str, Ids] = {}
        self.bounds: dict[int, Bound] = {}
        self.narrow: dict[int, str] = {}
        self.needed: list[tuple[int, Ids]] = []
        self.sharing: list[tuple[int, Ids]] = []
        self.bare: dict[tuple[int, int], Labels] = {}
        for value in graph.inputs:
            self.labels[value.name] = uniform(self.facts[value.name].shape, COMMON)
        self.outputs = {value.name for value in graph.outputs}
        self.read = {*graph.consumers, *self.outputs}
        for name in graph.tensors.keys() - trained:
            self.labels[name] = uniform(self.shapes[name], COMMON)

    def run(self) -> Pass:
        """Visit every node, then the graph's outputs."""
        for index in sorted(self.graph.alive):
            node = self.graph.nodes[index]
            for name, found in zip(node.outputs, self._visit(index, node), strict=False):
                if name and isinstance(found, Derived):
                    self.derived[name] = found
                elif name and isinstance(found, Labels):
                    self.labels[name] = found
        for value in self.graph.outputs:  # one that stays divided is put together along one axis
            core, maker = self._behind_outputs(value.name).core, self.graph.producers.get(value.name, -1)
            self.couplings.align(core, maker)
            if self.classes is not None and (core > 0).any() and (core == PRIVATE).any():
                self.undivided(maker, core)  # a mean has no place beside slices
        return self

    # -- what a transfer asks for (labels.transfer.Flow) ---------------------------------------------------------

    def mode(self, node: int, kind: str, vertices: Ids) -> str:
        ids = np.unique(vertices[vertices > 0])
        if len(ids):
            self.sites.setdefault((node, kind), ids)
        return MODES[kind][self.decisions.modes.get((node, kind), 0)]

    def fresh(self, node: int, shape: tuple[int, ...], output: bool) -> Ids:
        size = int(np.prod(shape, dtype=np.int64))
        if output and not self.decisions.divided:
            return np.full((1,) * len(shape), OUTPUT, np.int64)
        if size < self.parts or node in self.keep:
            few = "only one vertex" if size == 1 else f"only {size} vertices"
            self.narrow[node] = "it was asked to be kept" if node in self.keep else f"it has {few}"
            return np.full((1,) * len(shape), PRIVATE, np.int64)
        block = self.decisions.block(node, shape)
        self.blocks[node] = block
        ids = np.arange(block.start, block.start + size, dtype=np.int64).reshape(shape)
        return resolve_code(ids, self.decisions.private)

    def grouping(self, node: int, factors: set[str]) -> set[str]:
        known = self.couplings.groupings.setdefault(node, set())
        known.update(factors)
        return known

    def claim(self, derived: Derived, claimed: Claim) -> None:
        several = UNKNOWN if self.classes is None else PRIVATE
        if self.classes is not None:  # one atom's vertices are one label, also where the parameter lacks their axis
            claimed = replace(claimed, core=resolve(claimed.core, self.classes))
        for name, found in claim(derived, self.shapes, claimed, several):
            self.claims.setdefault(name, []).append(found)

    def statistic(self, node: int) -> None:
        self.statistics.add(node)

    def equal_counts(self, node: int, rows: Ids) -> None:
        self.rows.append((node, rows))

    def undivided(self, node: int, vertices: Ids) -> None:
        self.needed.append((node, vertices))

    def shared(self, node: int, vertices: Ids) -> None:
        self.sharing.append((node, vertices))

    # -- one node ------------------------------------------------------------------------------------------------

    def _visit(self, index: int, node: Node) -> list[Labels | Derived | None]:
        rules = self._lines(node)
        refuse_unknown(node, rules)
        shapes = [self.facts[name].shape if name else None for name in node.outputs]
        if gives_sizes(rules):
            return [uniform(shape, COMMON) for shape in shapes]
        operands = [self._operand(index, node, rules[0], p, name) for p, name in enumerate(node.inputs)]
        labels = [o for o in operands if isinstance(o, Labels)]
        weights = [o for o in operands if isinstance(o, Derived)]
        steering = self._steering(index, node, rules[0])
        if not weights and all(o.code is not None and o.code <= 0 for o in (*labels, *steering)):
            labels = [*labels, *steering]
            return [uniform(shape, min((o.code or 0 for o in labels), default=COMMON)) for shape in shapes]
        unshaped = any(name and self.facts[name].shape is None for name in (*node.inputs, *node.outputs))
        if rules[0].opaque or index in self.whole or (unshaped and not any((o.core > 0).any() for o in labels)):
            return self._opaque(index, [*labels, *steering], weights, shapes)
        if stays(rules[0]):
            return [operands[0] for _ in shapes]
        if rules[0].move and self._arguments_known(node, rules[0]):
            if labels and moves_with_sizes(node, rules[0], operands, self.facts, self.others, self.dialect.move):
                return self._opaque(index, labels, weights, shapes)
            return self._move(index, node, rules[0], operands, shapes)
        site = self._site(index, node, rules, operands, shapes)
        if site.bound.rule.opaque or unplaced(site) or unrelated(site, self.read):
            return self._opaque(index, [*labels, *steering], weights, shapes)
        if steering:
            self._steered(site, steering)
        if weights and made_of_weights(site, self.graph.tensors):
            found = combined(self, site)
            if found is not None:
                return found
        made = Transfer(self, site).run()
        if picks_matrices(site):
            self.mode(index, "lookup", made[0].core)
        return list(made)

    def _lines(self, node: Node) -> tuple[Rule, ...]:
        """The rule lines of a node; those that follow one which only moves, where only running tells where it moves what."""
        rules = self.dialect.lookup(node)
        blind = len(rules) > 1 and rules[0].move and rules[0].operands[0].axes is None
        return rules[1:] if blind and not self._arguments_known(node, rules[0]) else rules

    def _operand(self, index: int, node: Node, rule: Rule, position: int, name: str) -> Labels | Derived | None:
        if not name or operand_tag(rule, position) is not None:
            return None
        if name in self.derived:
            return self.derived[name]
        labels = self.labels[name]
        return self._behind_outputs(name) if index in self.layout.tail else labels

    def _behind_outputs(self, name: str) -> Labels:
        """A value as the nodes behind the output layers see it: what parts have of their own is averaged."""
        if name in self.derived:
            return uniform(self.derived[name].shape, OUTPUT)
        labels = self.labels[name]
        if self.decisions.concatenate and bool((labels.core > 0).any()):
            return labels
        core = np.where(labels.core == COMMON, COMMON, OUTPUT)
        if (labels.core > 0).any() or (labels.core == PRIVATE).any():
            dtype = self.facts[name].dtype
            if self.classes is not None and dtype is not None and dtype.kind in "iub":
                raise UnsupportedError(
                    f"{name!r} holds whole numbers that every part computes for itself, and reaches an output: they have no mean",
                    hint="export the network without the step that feeds its outputs back into it (an argmax, a decoding loop)",
                )
            self.averaged[name] = labels.core
        return Labels(labels.shape, core)

    def _steering(self, index: int, node: Node, rule: Rule) -> list[Labels]:
        """Labels of a node's arguments (indices, sizes) that are computed from more than constants and shapes."""
        found = []
        for position, name in enumerate(node.inputs):
            tag = operand_tag(rule, position)
            if name in self.labels and tag not in (None, "like") and self.labels[name].code != COMMON:
                found.append(self._behind_outputs(name) if index in self.layout.tail else self.labels[name])
        return found

    def _steered(self, site: Site, steering: Sequence[Labels]) -> None:
        """An argument that each part computes for itself: the node is repeated, and the argument is whole in each part."""
        for labels in steering:
            if (labels.core > 0).any():
                self.undivided(site.index, labels.core)
            if (labels.core == PRIVATE).any():
                self.statistic(site.index)

    def _opaque(
        self, index: int, labels: list[Labels], weights: list[Derived], shapes: Sequence[tuple[int, ...] | None]
    ) -> list[Labels | Derived | None]:
        if self.classes is None:
            return [uniform(shape, UNKNOWN) for shape in shapes]
        for found in labels:
            if (found.core > 0).any():
                self.undivided(index, found.core)
        for derived in weights:
            self.claim(derived, whole_use(index, derived, self._own(index)))
        return [uniform(shape, self._own(index)) for shape in shapes]

    def _own(self, index: int) -> int:
        """What is not divided at a node: behind the output layers the merge averages it."""
        return OUTPUT if index in self.layout.tail else PRIVATE

    def _arguments_known(self, node: Node, rule: Rule) -> bool:
        tags = [operand_tag(rule, p) for p in range(len(node.inputs))]
        return all(
            not name or tag is None or tag == "fill" or self.facts[name].data is not None
            for name, tag in zip(node.inputs, tags, strict=True)
        )

    def _move(
        self,
        index: int,
        node: Node,
        rule: Rule,
        operands: Sequence[Labels | Derived | None],
        shapes: Sequence[tuple[int, ...] | None],
    ) -> list[Labels | Derived | None]:
        tagged = [(operand_tag(rule, p), name) for p, name in enumerate(node.inputs)]
        arguments = [None if not n or t is None else argument_value(t, self.facts[n]) for t, n in tagged]

        def run(arrays: Sequence[Ids | None]) -> list[Ids]:
            merged = [a if a is not None else b for a, b in zip(arrays, arguments, strict=True)]
            return [np.asarray(r, np.int64) for r in self.dialect.move(node, merged)]

        if all(not isinstance(o, Labels) for o in operands):
            weights = [o if isinstance(o, Derived) else None for o in operands]
            return list(moved(weights, run, len(node.outputs)))
        labels = [self._as_data(index, p, o, operands, shapes[0]) for p, o in enumerate(operands)]
        return list(move_labels(labels, run))

    def _as_data(
        self,
        index: int,
        position: int,
        operand: Labels | Derived | None,
        others: Sequence[Labels | Derived | None],
        result: tuple[int, ...] | None,
    ) -> Labels | None:
        """What a movement op sees: a bare parameter or unlabelled data put beside labelled data takes the labels of that."""
        if operand is None or (isinstance(operand, Labels) and operand.code == UNKNOWN):
            return operand
        if isinstance(operand, Labels) and operand.code is None:
            return self._settled(operand)
        shape = operand.shape or ()
        core = operand.core if isinstance(operand, Labels) else uniform(shape, self._own(index)).core
        for other in others:
            if isinstance(other, Labels) and (other.core > 0).any() and beside(shape, other, result):
                core = other.core
                break
        if self.classes is not None:
            core = resolve(core, self.classes)
        if isinstance(operand, Derived):
            self.claim(operand, Claim(index, tuple(range(core.ndim)), core))
        self.bare[index, position] = Labels(shape, core)
        return self.bare[index, position]

    def _settled(self, labels: Labels) -> Labels:
        """Labels by their classes: what a movement op makes up goes with its row, and one atom's row is of one label."""
        if self.classes is None:
            return labels
        return Labels(labels.shape, squeeze_constant_axes(resolve(labels.core, self.classes)))

    def _site(
        self,
        index: int,
        node: Node,
        rules: tuple[Rule, ...],
        operands: Sequence[Labels | Derived | None],
        shapes: Sequence[tuple[int, ...] | None],
    ) -> Site:
        bound = self._bind(node, rules, shapes)
        self.bounds[index] = bound
        tail = index in self.layout.tail
        frontier = index in self.layout.frontier and not bound.rule.fused  # no mean passes an activation
        return Site(index, node, bound, tuple(operands), tuple(shapes), tail, frontier)

    def _bind(self, node: Node, rules: tuple[Rule, ...], shapes: Sequence[tuple[int, ...] | None]) -> Bound:
        inputs = [self.facts[name].shape if name else None for name in node.inputs]
        if any(name and shape is None for name, shape in zip(node.inputs, inputs, strict=True)) and None in shapes:
            raise UnsupportedError(
                f"{node.title}: the shape of its operands depends on data, in front of an output layer",
                hint="export the network without the step that picks elements by their values",
            )
        attributes = dict(self.dialect.attributes(node))
        for position, name in enumerate(node.inputs):
            if name and operand_tag(rules[0], position) == "axes" and self.facts[name].data is not None:
                attributes["axes"] = tuple(int(a) for a in np.ravel(self.facts[name].data))  # type: ignore[arg-type]
        reasons = []
        for rule in rules:
            try:
                return bind(rule, inputs, list(shapes), attributes)
            except RuleError as error:
                reasons.append(str(error))
        raise UnsupportedError(
            f"{node.title}: operands of shapes {inputs} fit none of its rules ({reasons[-1]})",
            hint="add a rule line for it with --rules FILE",
        )
