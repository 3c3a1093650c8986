"""One part's sub-model, node by node: what each node reads is cut to fit, and every width that it holds is computed anew.

Narrowing checks itself: movement ops run again on the part's labels, and where the order of channels comes out differently
from the full network's (a shuffle over groups) a permutation is inserted, or the split is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact, Facts
from graphsplit.graph import Array, Dim, Graph, Node, Tensor, Value
from graphsplit.labels import Dialect, Labels
from graphsplit.labels.arrays import Ids, move_labels, squeeze_constant_axes
from graphsplit.labels.couplings import resolve
from graphsplit.labels.flow import argument_value, stays
from graphsplit.labels.trainable import gives_sizes, operand_tag
from graphsplit.narrow.arguments import Arguments
from graphsplit.narrow.tensors import Constants, SlicedTensor
from graphsplit.notation import Bound, Rule
from graphsplit.plan import Plan, Selected, Selection, derived_selection


class NarrowDialect(Dialect, Protocol):
    """What narrowing needs of a front end besides the flow's needs."""

    def infer(self, graph: Graph, node: Node, inputs: Sequence[Fact | None]) -> list[Fact | None]: ...

    def pick(self, graph: Graph, name: str, value: str, index: str, result: str, axis: int) -> Node: ...

    def join(self, graph: Graph, name: str, values: Sequence[str], result: str, axis: int) -> Node: ...

    def same(self, graph: Graph, name: str, value: str, result: str) -> Node: ...

    def add(self, graph: Graph, name: str, values: Sequence[str], result: str) -> Node: ...

    def multiply(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node: ...


@dataclass(frozen=True)
class SubModel:
    """A part's graph, and how its pieces stand in the source.

    `origin[i]` is the source node that node `i` comes from. `constants` gives the index sets of constants that were cut,
    `differing` the values without labels that a width has gone into all the same (the shape of a divided value).
    """

    graph: Graph
    part: int
    origin: tuple[int, ...]
    constants: Mapping[str, tuple[Ids | None, ...]]
    selected: Mapping[str, Selected]
    differing: frozenset[str]


def narrow(plan: Plan, dialect: NarrowDialect, part: int) -> SubModel:
    """The sub-model of one part. Tensors are read only when the result is written.

    Raises UnsupportedError where an op can't be made narrower exactly.
    """
    return Narrower(plan, dialect, part).run()


class Narrower:
    """The state of narrowing one part. `actual` holds label arrays of ragged values, whose order only running tells."""

    def __init__(self, plan: Plan, dialect: NarrowDialect, part: int) -> None:
        self.plan, self.dialect, self.part = plan, dialect, part
        self.graph, self.flowed = plan.graph, plan.flowed
        self.owner = plan.partition.owner
        self.nodes: list[Node] = []
        self.origin: list[int] = []
        self.facts: Facts = {}
        self.actual: dict[str, Ids] = {}
        self.chosen: dict[str, Selected] = {}
        self.constants = Constants(self.graph.tensors)
        self.cut: dict[str, tuple[Ids | None, ...]] = {}
        self.arguments = Arguments(self)

    # -- values -------------------------------------------------------------------------------------------------------

    def selected(self, name: str) -> Selected:
        """What the part has of a value."""
        if name not in self.chosen:
            if name in self.flowed.labels:
                self.chosen[name] = self.plan.select(self.flowed.labels[name], self.part)
            elif name not in self.flowed.last.derived:  # narrowing itself made it
                shape = self.facts[name].shape
                self.chosen[name] = Selected((None,) * len(shape or ()), shape)
            else:
                derived = self.flowed.last.derived[name]
                self.chosen[name] = derived_selection(derived, self.plan.parameters, self.owner, self.part)
        return self.chosen[name]

    def labels(self, name: str) -> Ids | None:
        """The part's labels of a value as they should come out, None for a ragged value that nothing has computed yet."""
        if name in self.actual:
            return self.actual[name]
        found, chosen = self.flowed.labels[name], self.selected(name)
        return None if chosen.ragged else restricted(found, chosen)

    def is_labelled(self, name: str) -> bool:
        """Whether the part has less than all of a value."""
        if not name or (name not in self.flowed.labels and name not in self.flowed.last.derived):
            return False
        chosen = self.selected(name)
        return chosen.ragged or any(a is not None for a in chosen.axes)

    # -- the walk ---------------------------------------------------------------------------------------------------------

    def run(self) -> SubModel:
        """Narrow every node, then put the graph together."""
        for value in self.graph.inputs:
            self.facts[value.name] = self.flowed.facts[value.name]
        for name in self.graph.tensors:
            self.facts[name] = self._tensor_fact(name)
        for index, node in enumerate(self.graph.nodes):
            if self.plan.parts == 1:
                self.emit(node, index)
            elif index in self.graph.alive:
                self._visit(index, node)
        return self._assembled()

    def _tensor_fact(self, name: str) -> Fact:
        fact = self.flowed.facts[name]
        if name in self.plan.parameters:
            shape = self.plan.parameters[name].selection(self.owner, self.part).shape(fact.shape or ())
            return Fact(shape, fact.dtype)
        return fact

    def _visit(self, index: int, node: Node) -> None:
        rules = self.dialect.lookup(node)
        if index not in self.plan.part_nodes and rules:
            node = self.arguments.unshrunk(node, rules[0])
        labelled = any(self.is_labelled(name) for name in (*node.inputs, *node.outputs))
        if not labelled or gives_sizes(rules):
            if not gives_sizes(rules):
                node = self.arguments.unlabelled(node, rules[0])
            self.emit(node, index)
            return
        bound = self.flowed.last.bounds.get(index)
        if stays(rules[0]):
            self.emit(node, index)
            self._keep_order(node)
        elif bound is None:
            self._move(index, node, rules[0])
        else:
            self._compute(index, node, bound)

    def differs(self, name: str) -> bool:
        """Whether a value is known to come out differently in the part though no label says so."""
        here, there = self.facts.get(name), self.flowed.facts.get(name)
        if here is None or there is None or name in self.plan.parameters:
            return False
        if here.data is None or there.data is None:
            if there.data is not None and self.flowed.fixed(name):
                return True
            unlabelled = name in self.flowed.labels and not self.is_labelled(name)
            return unlabelled and here.shape != there.shape and here.shape is not None
        return not np.array_equal(here.data, there.data)

    def emit(self, node: Node, origin: int) -> None:
        """Add a node to the sub-model, and learn the shapes of its results."""
        inferred = self.dialect.infer(self.graph, node, [self.facts.get(name) for name in node.inputs])
        for name, fact in zip(node.outputs, inferred, strict=False):
            if name:
                self.facts[name] = fact or Fact(None, None)
        self.nodes.append(node)
        self.origin.append(origin)

    # -- ops with axes ------------------------------------------------------------------------------------------------------

    def _compute(self, index: int, node: Node, bound: Bound) -> None:
        """An op that computes: operands cut to the vertices that meet in it, group counts recomputed."""
        wanted = self._wanted(node, bound)
        inputs = list(node.inputs)
        for position, (name, axes) in enumerate(zip(node.inputs, bound.operands, strict=False)):
            if name and axes is not None and bound.tags[position] is None:
                inputs[position] = self._cut_to(index, node, name, axes, wanted)
        attributes = dict(node.attributes)
        for attribute, factor in bound.rule.counts:
            attributes[attribute] = self._size_of(bound, node, factor, int(bound.sizes.get(factor, 1)))
        if attributes != dict(node.attributes) and not any(
            attributes[a] != self.dialect.attributes(node).get(a) for a, _ in bound.rule.counts
        ):
            attributes = dict(node.attributes)
        node = replace(node, inputs=tuple(inputs), attributes=attributes)
        node = self.arguments.sized(node, bound.rule)
        self.emit(node, index)
        self._follow_ragged(node, bound)

    def _wanted(self, node: Node, bound: Bound) -> dict[tuple[str, ...], Ids]:
        """For each combination of factors that makes an axis, the indices that the part has: the fewest of any operand."""
        wanted: dict[tuple[str, ...], Ids] = {}
        values = [*zip(node.inputs, bound.operands, strict=False), *zip(node.outputs, bound.results, strict=False)]
        for name, axes in values:
            if not name or axes is None or not self.is_labelled(name) or self.selected(name).ragged:
                continue
            for factors, chosen in zip(axes, self.selected(name).axes, strict=True):
                if factors and chosen is not None:
                    known = wanted.get(factors)
                    wanted[factors] = chosen if known is None else np.intersect1d(known, chosen, assume_unique=True)
        return wanted

    def _cut_to(
        self, index: int, node: Node, name: str, axes: tuple[tuple[str, ...], ...], wanted: dict[tuple[str, ...], Ids]
    ) -> str:
        chosen = self.selected(name)
        if chosen.ragged:
            return name
        result = name
        cuts: list[tuple[int, Ids]] = []
        for axis, (factors, have) in enumerate(zip(axes, chosen.axes, strict=True)):
            want = wanted.get(factors) if factors else None
            if want is None or (have is not None and len(have) == len(want)):
                continue
            cuts.append((axis, want if have is None else np.searchsorted(have, want)))
        if cuts and (name in self.graph.tensors or "\0" in name) and name not in self.plan.parameters:
            return self._cut_constant(name, cuts)
        for axis, positions in cuts:
            result = self.pick(node, result, positions, axis, index)
        return result

    def _cut_constant(self, name: str, cuts: list[tuple[int, Ids]]) -> str:
        known = self.facts[name].data
        array = known if known is not None else self.graph.tensors[name].numpy()
        axes: list[Ids | None] = [None] * array.ndim
        for axis, positions in cuts:
            axes[axis] = positions
            array = array.take(positions, axis=axis)
        placeholder = self.constants.rewritten(name.split("\0")[0], array)
        if name in self.graph.tensors:
            self.cut[placeholder] = tuple(axes)
        self.facts[placeholder] = Fact(tuple(array.shape), array.dtype, array)
        return placeholder

    def pick(self, node: Node, value: str, positions: Ids, axis: int, origin: int) -> str:
        """Insert a node that takes these positions of a value along an axis; gives the name of its result."""
        base = f"{node.name or node.outputs[0]}.{value}"
        index = self.constants.rewritten(f"{base}.index{axis}", positions.astype(np.int64))
        self.facts[index] = Fact((len(positions),), np.dtype(np.int64), positions.astype(np.int64))
        result = f"{base}.part{axis}"
        self.emit(self.dialect.pick(self.graph, result, value, index, result, axis), origin)
        return result

    def _size_of(self, bound: Bound, node: Node, factor: str, full: int) -> int:
        """How many of a factor's indices the part keeps, read off the operand that holds it."""
        for name, axes in zip(node.inputs, bound.operands, strict=False):
            if not name or axes is None or not self.is_labelled(name) or self.selected(name).ragged:
                continue
            for factors, chosen in zip(axes, self.selected(name).axes, strict=True):
                if factor in factors and chosen is not None:
                    inner = int(np.prod([bound.sizes[f] for f in factors[factors.index(factor) + 1 :]]))
                    return len(np.unique(chosen // inner % bound.sizes[factor]))
        return full

    def _follow_ragged(self, node: Node, bound: Bound) -> None:
        """A ragged value keeps its order through an op that leaves its shape alone."""
        ragged = [n for n in node.inputs if n in self.flowed.labels and self.selected(n).ragged]
        if not ragged:
            return
        orders = [self.labels(n) for n in ragged]
        first = orders[0]
        others = [n for n in node.inputs if n and n not in ragged and self.is_labelled(n)]
        if first is None or any(o is None or not np.array_equal(o, first) for o in orders) or others:
            raise UnsupportedError(
                f"{node.title}: the parts of its operands don't line up", hint="try another -k or --strategy"
            )
        for name in node.outputs:
            if name and self.selected(name).ragged:
                self.actual[name] = first

    def _keep_order(self, node: Node) -> None:
        if node.inputs[0] in self.actual:
            for name in node.outputs:
                self.actual[name] = self.actual[node.inputs[0]]
                self.chosen[name] = self.chosen[node.inputs[0]]

    # -- movement -------------------------------------------------------------------------------------------------------------

    def _move(self, index: int, node: Node, rule: Rule) -> None:
        candidate = self.arguments.narrowed(self._beside(index, node, rule), rule, index)
        for output in node.outputs:
            if output and output in self.flowed.last.derived:
                self.emit(candidate, index)
                return
        renamed = {o: o for o in node.outputs}
        found = self._run_on_labels(index, candidate, rule)
        fixes: list[tuple[str, Ids, int]] = []
        for output, labels in zip(node.outputs, found, strict=False):
            if not output:
                continue
            chosen = self.selected(output)
            if chosen.ragged:
                self.actual[output] = squeeze_constant_axes(labels)
                self.chosen[output] = replace(chosen, shape=tuple(labels.shape))
                continue
            expected = np.broadcast_to(restricted(self.flowed.labels[output], chosen), chosen.shape or ())
            order = _order(node, np.broadcast_to(labels, labels.shape), expected)
            if order is not None:
                renamed[output] = f"{output}.unordered"
                fixes.append((output, order[1], order[0]))
        self.emit(replace(candidate, outputs=tuple(renamed[o] for o in node.outputs)), index)
        for output, positions, axis in fixes:
            self._reorder(output, renamed[output], positions, axis, index)

    def _reorder(self, output: str, value: str, positions: Ids, axis: int, origin: int) -> None:
        name = self.constants.rewritten(f"{output}.order", positions)
        self.facts[name] = Fact((len(positions),), np.dtype(np.int64), positions)
        self.emit(self.dialect.pick(self.graph, f"{output}.reorder", value, name, output, axis), origin)

    def _beside(self, index: int, node: Node, rule: Rule) -> Node:
        """Whole values that are put beside a divided one, cut along the axis on which that one is divided."""
        out = self.selected(node.outputs[0])
        whole = self.flowed.facts[node.outputs[0]].shape or ()
        inputs = list(node.inputs)
        for position, name in enumerate(node.inputs):
            adopted = self.flowed.last.bare.get((index, position))
            if not name or adopted is None or not adopted.varying or self.is_labelled(name) or out.ragged:
                continue
            for axis, chosen in enumerate(out.axes):
                if chosen is not None and (adopted.shape or ())[axis] == whole[axis]:
                    inputs[position] = self.pick(node, inputs[position], chosen, axis, index)
        return replace(node, inputs=tuple(inputs))

    def _run_on_labels(self, index: int, node: Node, rule: Rule) -> list[Ids]:
        labels: list[Labels | None] = []
        arguments: list[Array | None] = []
        for position, name in enumerate(node.inputs):
            tag = operand_tag(rule, position)
            data = bool(name) and tag is None
            labels.append(self._data_labels(index, position, name) if data else None)
            arguments.append(argument_value(tag, self.facts[name]) if name and tag is not None else None)

        def run(arrays: Sequence[Ids | None]) -> list[Ids]:
            given = [a if a is not None else b for a, b in zip(arrays, arguments, strict=True)]
            return [np.asarray(r, np.int64) for r in self.dialect.move(node, given)]

        return [found.full() for found in move_labels(labels, run)]

    def _data_labels(self, index: int, position: int, name: str) -> Labels:
        adopted = self.flowed.last.bare.get((index, position))
        if adopted is not None:
            adopted = Labels(adopted.shape, resolve(adopted.core, self.flowed.classes))
            chosen = self.plan.select(adopted, self.part)
            return Labels(chosen.shape, restricted(adopted, chosen))
        labels, shape = self.labels(name), self.selected(name).shape
        if labels is None or shape is None:
            raise UnsupportedError(f"{name}: a part has different numbers of its elements in different rows")
        return Labels(shape, labels)

    # -- the result -----------------------------------------------------------------------------------------------------------

    def _assembled(self) -> SubModel:
        if self.plan.parts > 1:
            self._prune()
        used = {name for node in self.nodes for name in node.inputs} | {v.name for v in self.graph.outputs}
        taken = {*self.graph.values, *self.graph.tensors, *(o for n in self.nodes for o in n.outputs)}
        final = self.constants.names(used, taken)
        nodes = tuple(replace(n, inputs=tuple(final.get(i, i) for i in n.inputs)) for n in self.nodes)
        tensors: dict[str, Tensor] = {}
        replaced = {name.split("\0")[0] for name in final if final[name] == name.split("\0")[0]}
        for name, tensor in self.graph.tensors.items():
            if name in self.plan.parameters:
                selection = self.plan.parameters[name].selection(self.owner, self.part)
                tensors[name] = tensor if selection.everything else SlicedTensor(tensor, selection)
            elif name not in replaced:
                tensors[name] = tensor
            else:
                tensors[name] = self.constants.tensors(final)[name]
        tensors.update(self.constants.tensors(final))
        graph = self.graph.replace(
            nodes=nodes,
            tensors=tensors,
            values={name: self._value(value) for name, value in self.graph.values.items()},
            inputs=self.graph.inputs,
            outputs=tuple(self._value(value) for value in self.graph.outputs),
        )
        cut = {final[name]: axes for name, axes in self.cut.items() if name in final}
        differing = frozenset(name for name in self.flowed.facts if name in self.facts and self.differs(name))
        for name in self.flowed.labels:
            self.selected(name)
        return SubModel(graph, self.part, tuple(self.origin), cut, dict(self.chosen), differing)

    def _prune(self) -> None:
        """Drop the nodes that nothing needs: with a width read off a shape they may not even run any more."""
        needed = {value.name for value in self.graph.outputs}
        kept: list[tuple[Node, int]] = []
        for node, origin in zip(reversed(self.nodes), reversed(self.origin), strict=True):
            if any(o in needed for o in node.outputs):
                needed.update(node.inputs)
                kept.append((node, origin))
        self.nodes = [node for node, _ in reversed(kept)]
        self.origin = [origin for _, origin in reversed(kept)]

    def _value(self, value: Value) -> Value:
        if value.shape is None or (value.name not in self.flowed.labels and value.name not in self.flowed.last.derived):
            return value
        chosen = self.selected(value.name)
        if chosen.shape is None or len(chosen.shape) != len(value.shape):
            return value
        full = self.flowed.facts[value.name].shape
        dims: list[Dim] = [
            dim if full is None or size == full[axis] else size
            for axis, (dim, size) in enumerate(zip(value.shape, chosen.shape, strict=True))
        ]
        return replace(value, shape=tuple(dims))


def restricted(labels: Labels, chosen: Selected) -> Ids:
    """The labels of what a part has of a value, without the axes on which nothing changes."""
    core = labels.core
    for axis, indices in enumerate(chosen.axes):
        if indices is not None and core.shape[axis] > 1:
            core = core.take(indices, axis=axis)
    return core


def _order(node: Node, found: Ids, expected: Ids) -> tuple[int, Ids] | None:
    """The axis and permutation that turn what a movement op gives into what it should; None where nothing is to do."""
    if found.shape != expected.shape:
        raise UnsupportedError(
            f"{node.title}: a part's result has shape {tuple(found.shape)} where {tuple(expected.shape)} is wanted",
            hint="try another -k or --strategy, or --keep a layer in front of it",
        )
    if (found == expected).all():
        return None
    found, expected = squeeze_constant_axes(found), squeeze_constant_axes(expected)
    varying = [a for a, size in enumerate(expected.shape) if size > 1]
    if found.shape == expected.shape and len(varying) == 1:
        have, want = found.ravel(), expected.ravel()
        order = np.empty(len(want), np.int64)
        order[np.argsort(want, kind="stable")] = np.argsort(have, kind="stable")
        if (have[order] == want).all():
            return varying[0], order
    raise UnsupportedError(
        f"{node.title}: the channels of a part come out in an order that no permutation of one axis mends",
        hint="try another -k or --strategy",
    )
