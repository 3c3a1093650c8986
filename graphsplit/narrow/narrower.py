"""One part's sub-model, node by node: what each node reads is cut to fit, and every width that it holds is computed anew.

Narrowing checks itself: movement ops run again on the part's labels, and where the order of channels comes out differently
from the full network's (a shuffle over groups) a permutation is inserted, or the split is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact
from graphsplit.graph import Dim, Graph, Node, Tensor, Value
from graphsplit.labels.arrays import Ids
from graphsplit.labels.operands import stays
from graphsplit.labels.trainable import gives_sizes, operand_tag
from graphsplit.narrow.arguments import Arguments
from graphsplit.narrow.movement import Movement
from graphsplit.narrow.part import NarrowDialect, Part
from graphsplit.narrow.tensors import SlicedTensor
from graphsplit.notation import Bound
from graphsplit.planning import Plan
from graphsplit.selection import Selected


class NarrowError(UnsupportedError):
    """A node that can't be made narrower as the labels say; `node` is its index in the source."""

    def __init__(self, message: str, *, hint: str = "", node: int = -1) -> None:
        super().__init__(message, hint=hint)
        self.node = node


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

    Raises NarrowError where an op can't be made narrower exactly.
    """
    return Narrower(plan, dialect, part).run()


class Narrower:
    """Narrows the nodes of one part in order, and puts its graph together."""

    def __init__(self, plan: Plan, dialect: NarrowDialect, number: int) -> None:
        self.part = Part(plan, dialect, number)
        self.cut: dict[str, tuple[Ids | None, ...]] = {}
        self.arguments = Arguments(self.part)
        self.movement = Movement(self.part, self.arguments)

    # -- the walk ------------------------------------------------------------------------------------------------

    def run(self) -> SubModel:
        """Narrow every node, then put the graph together."""
        for value in self.part.graph.inputs:
            self.part.facts[value.name] = self.part.flowed.facts[value.name]
        for name in self.part.graph.tensors:
            self.part.facts[name] = self._tensor_fact(name)
        for index, node in enumerate(self.part.graph.nodes):
            if self.part.plan.parts == 1:
                self.part.emit(node, index)
            elif index in self.part.graph.alive:
                try:
                    self._visit(index, node)
                except UnsupportedError as error:
                    raise NarrowError(error.message, hint=error.hint, node=index) from error
        return self._assembled()

    def _tensor_fact(self, name: str) -> Fact:
        fact = self.part.flowed.facts[name]
        if name in self.part.plan.parameters:
            shape = self.part.plan.parameters[name].selection(self.part.owner, self.part.number).shape(fact.shape or ())
            return Fact(shape, fact.dtype)
        return fact

    def _visit(self, index: int, node: Node) -> None:
        self.part.visiting = index
        rules = self.part.dialect.lookup(node)
        if index not in self.part.plan.part_nodes and rules:
            node = self.arguments.unshrunk(node, rules[0])
        data = [name for p, name in enumerate(node.inputs) if not rules or operand_tag(rules[0], p) != "like"]
        labelled = any(self.part.is_labelled(name) for name in (*data, *node.outputs))
        if not labelled or gives_sizes(rules):
            if not gives_sizes(rules):
                node = self.arguments.unlabelled(node, rules[0])
            self.part.emit(node, index)
            return
        bound = self.part.flowed.last.bounds.get(index)
        if stays(rules[0]):
            self.part.emit(node, index)
            self.movement.keep_order(node)
        elif bound is None:
            self.movement.move(index, node, rules[0])
        else:
            self._compute(index, node, bound)

    # -- ops with axes -------------------------------------------------------------------------------------------

    def _compute(self, index: int, node: Node, bound: Bound) -> None:
        """An op that computes: operands cut to the vertices that meet in it, group counts recomputed."""
        wanted = self._wanted(node, bound)
        inputs = list(node.inputs)
        for position, (name, axes) in enumerate(zip(node.inputs, bound.operands, strict=False)):
            if name and axes is not None and bound.tags[position] is None:
                inputs[position] = self._cut_to(index, node, name, axes, self._served(node, bound, name, axes, wanted))
        attributes = dict(node.attributes)
        for attribute, factor in bound.rule.counts:
            attributes[attribute] = self._counted(bound, node, factor)
        if attributes != dict(node.attributes) and not any(
            attributes[a] != self.part.dialect.attributes(node).get(a) for a, _ in bound.rule.counts
        ):
            attributes = dict(node.attributes)
        node = replace(node, inputs=tuple(inputs), attributes=attributes)
        node = self.arguments.sized(node, bound.rule)
        self.part.emit(node, index)
        self._follow_ragged(node, bound)

    def _wanted(self, node: Node, bound: Bound) -> dict[tuple[str, ...], Ids]:
        """For each combination of factors that makes an axis, the indices that the part has: the fewest of any operand."""
        wanted: dict[tuple[str, ...], Ids] = {}
        values = [*zip(node.inputs, bound.operands, strict=False), *zip(node.outputs, bound.results, strict=False)]
        for name, axes in values:
            if not name or axes is None or not self.part.is_labelled(name) or self.part.selected(name).ragged:
                continue
            for factors, chosen in zip(axes, self.part.selected(name).axes, strict=True):
                if factors and chosen is not None:
                    known = wanted.get(factors)
                    wanted[factors] = chosen if known is None else np.intersect1d(known, chosen, assume_unique=True)
        return wanted

    def _served(
        self, node: Node, bound: Bound, name: str, axes: tuple[tuple[str, ...], ...], wanted: dict[tuple[str, ...], Ids]
    ) -> dict[tuple[str, ...], Ids]:
        """What is wanted; of a whole operand that serves groups (by the g of an axis (g r)), the groups that the part has."""
        others = [names for names in axes if names and names not in wanted]
        if not others or self.part.is_labelled(name) or name in self.part.flowed.last.derived:
            return wanted
        found = dict(wanted)
        for names in others:
            grid = np.arange(int(np.prod([bound.sizes[f] for f in names]))).reshape([bound.sizes[f] for f in names])
            for key, chosen in wanted.items():
                for factor in set(key) & set(names):
                    places = np.unravel_index(chosen, [bound.sizes[f] for f in key])[key.index(factor)]
                    kept, counts = np.unique(places, return_counts=True)
                    if len(set(counts.tolist())) > 1:
                        raise UnsupportedError(
                            f"{node.title}: a part has different numbers of its vertices in different groups",
                            hint="try another -k or --strategy",
                        )
                    if grid.shape[names.index(factor)] == bound.sizes[factor]:
                        grid = grid.take(kept, axis=names.index(factor))
            if grid.size < np.prod([bound.sizes[f] for f in names]):
                found[names] = grid.ravel()
        return found

    def _cut_to(
        self, index: int, node: Node, name: str, axes: tuple[tuple[str, ...], ...], wanted: dict[tuple[str, ...], Ids]
    ) -> str:
        chosen = self.part.selected(name)
        if chosen.ragged:
            return name
        result = name
        cuts: list[tuple[int, Ids]] = []
        for axis, (factors, have) in enumerate(zip(axes, chosen.axes, strict=True)):
            want = wanted.get(factors) if factors else None
            if want is None or (have is not None and len(have) == len(want)):
                continue
            cuts.append((axis, want if have is None else np.searchsorted(have, want)))
        if cuts and (name in self.part.graph.tensors or "\0" in name) and name not in self.part.plan.parameters:
            return self._cut_constant(name, cuts)
        for axis, positions in cuts:
            result = self.part.pick(node, result, positions, axis, index)
        return result

    def _cut_constant(self, name: str, cuts: list[tuple[int, Ids]]) -> str:
        known = self.part.facts[name].data
        array = known if known is not None else self.part.graph.tensors[name].numpy()
        axes: list[Ids | None] = [None] * array.ndim
        for axis, positions in cuts:
            axes[axis] = positions
            array = array.take(positions, axis=axis)
        placeholder = self.part.constants.rewritten(name.split("\0", maxsplit=1)[0], array)
        if name in self.part.graph.tensors:
            self.cut[placeholder] = tuple(axes)
        self.part.facts[placeholder] = Fact(tuple(array.shape), array.dtype, array)
        return placeholder

    def _counted(self, bound: Bound, node: Node, factor: str) -> int | tuple[int, ...]:
        """What an attribute that holds a factor's size, or the sizes of a bundle, is in the part."""
        if factor not in bound.rule.bundles:
            return self._size_of(bound, node, tuple(factor.split("*")))
        members = [f"{factor}.{i}" for i in range(len(bound.sizes)) if f"{factor}.{i}" in bound.sizes]
        return tuple(self._size_of(bound, node, (member,)) for member in members)

    def _size_of(self, bound: Bound, node: Node, product: tuple[str, ...]) -> int:
        """How many of the indices of a factor, or of a product of some, the part keeps: read off the operand that holds it."""
        held = [f for f in product if bound.sizes.get(f, 1) > 1]
        for name, axes in zip(node.inputs, bound.operands, strict=False):
            if not name or axes is None or not self.part.is_labelled(name) or self.part.selected(name).ragged:
                continue
            for factors, chosen in zip(axes, self.part.selected(name).axes, strict=True):
                if held and set(held) <= set(factors) and chosen is not None:
                    places = np.unravel_index(chosen, [bound.sizes[f] for f in factors])
                    return len(
                        {tuple(row) for row in zip(*(places[factors.index(f)].tolist() for f in held), strict=True)}
                    )
        return int(np.prod([bound.sizes.get(f, 1) for f in product]))

    def _follow_ragged(self, node: Node, bound: Bound) -> None:
        """A ragged value keeps its order through an op that leaves its shape alone."""
        ragged = [n for n in node.inputs if n in self.part.flowed.labels and self.part.selected(n).ragged]
        if not ragged:
            return
        orders = [self.part.labels(n) for n in ragged]
        first = orders[0]
        others = [n for n in node.inputs if n and n not in ragged and self.part.is_labelled(n)]
        if first is None or any(o is None or not np.array_equal(o, first) for o in orders) or others:
            raise UnsupportedError(
                f"{node.title}: the parts of its operands don't line up", hint="try another -k or --strategy"
            )
        for name in node.outputs:
            if name and self.part.selected(name).ragged:
                self.part.actual[name] = first

    # -- the result ----------------------------------------------------------------------------------------------

    def _assembled(self) -> SubModel:
        if self.part.plan.parts > 1:
            self._prune()
        used = {name for node in self.part.nodes for name in node.inputs} | {v.name for v in self.part.graph.outputs}
        taken = {*self.part.graph.values, *self.part.graph.tensors, *(o for n in self.part.nodes for o in n.outputs)}
        final = self.part.constants.names(used, taken)
        nodes = tuple(replace(n, inputs=tuple(final.get(i, i) for i in n.inputs)) for n in self.part.nodes)
        tensors: dict[str, Tensor] = {}
        replaced = {name.split("\0")[0] for name in final if final[name] == name.split("\0")[0]}
        for name, tensor in self.part.graph.tensors.items():
            if name in self.part.plan.parameters:
                selection = self.part.plan.parameters[name].selection(self.part.owner, self.part.number)
                tensors[name] = tensor if selection.everything else SlicedTensor(tensor, selection)
            elif name not in replaced:
                tensors[name] = tensor
            else:
                tensors[name] = self.part.constants.tensors(final)[name]
        tensors.update(self.part.constants.tensors(final))
        graph = self.part.graph.replace(
            nodes=nodes,
            tensors=tensors,
            values={name: self._value(value) for name, value in self.part.graph.values.items()},
            inputs=self.part.graph.inputs,
            outputs=tuple(self._value(value) for value in self.part.graph.outputs),
        )
        cut = {final[name]: axes for name, axes in self.cut.items() if name in final}
        differing = frozenset(
            name for name in self.part.flowed.facts if name in self.part.facts and self.part.differs(name)
        )
        for name in self.part.flowed.labels:
            self.part.selected(name)
        return SubModel(graph, self.part.number, tuple(self.part.origin), cut, dict(self.part.chosen), differing)

    def _prune(self) -> None:
        """Drop the nodes that nothing needs: with a width read off a shape they may not even run any more."""
        needed = {value.name for value in self.part.graph.outputs}
        kept: list[tuple[Node, int]] = []
        for node, origin in zip(reversed(self.part.nodes), reversed(self.part.origin), strict=True):
            if any(o in needed for o in node.outputs):
                needed.update(node.inputs)
                kept.append((node, origin))
        self.part.nodes = [node for node, _ in reversed(kept)]
        self.part.origin = [origin for _, origin in reversed(kept)]

    def _value(self, value: Value) -> Value:
        if value.shape is None or (
            value.name not in self.part.flowed.labels and value.name not in self.part.flowed.last.derived
        ):
            return value
        chosen = self.part.selected(value.name)
        if chosen.shape is None or len(chosen.shape) != len(value.shape):
            return value
        full = self.part.flowed.facts[value.name].shape
        dims: list[Dim] = [
            dim if full is None or size == full[axis] else size
            for axis, (dim, size) in enumerate(zip(value.shape, chosen.shape, strict=True))
        ]
        return replace(value, shape=tuple(dims))
