"""One part of a network while it is narrowed: what it has of each value, and the nodes that it has so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact, Facts, same_numbers
from graphsplit.graph import Array, Graph, Node
from graphsplit.labels import Dialect, Labels
from graphsplit.labels.arrays import Ids
from graphsplit.narrow.tensors import Constants
from graphsplit.planning import Plan, derived_selection
from graphsplit.selection import Selected

Known = Callable[[str], Fact | None]
Emit = Callable[[Node], None]


class NarrowDialect(Dialect, Protocol):
    """What narrowing needs of a front end besides the flow's needs.

    `argument` and `with_argument` read and write what a node holds in an attribute where others have a tagged operand; what has
    to be computed for that in front of the node is emitted.
    """

    def argument(self, node: Node, tag: str, known: Known) -> Array | None: ...

    def with_argument(self, node: Node, tag: str, value: Array, known: Known, emit: Emit) -> Node: ...

    def infer(self, graph: Graph, node: Node, inputs: Sequence[Fact | None]) -> list[Fact | None]: ...

    def pick(self, graph: Graph, name: str, value: str, index: str, result: str, axis: int) -> Node: ...

    def pick_in_turn(
        self, graph: Graph, name: str, value: str, index: str, result: str, axis: int, period: int
    ) -> tuple[Node, ...]: ...

    def join(self, graph: Graph, name: str, values: Sequence[str], result: str, axis: int) -> Node: ...

    def same(self, graph: Graph, name: str, value: str, result: str) -> Node: ...

    def add(self, graph: Graph, name: str, values: Sequence[str], result: str) -> Node: ...

    def plus(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node: ...

    def divide(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node: ...

    def multiply(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node: ...


class Part:
    """The state of narrowing one part.

    `facts` are those of the part's values, `actual` the label arrays of ragged values, whose order only running tells.
    """

    def __init__(self, plan: Plan, dialect: NarrowDialect, number: int) -> None:
        self.plan, self.dialect, self.number = plan, dialect, number
        self.graph, self.flowed = plan.graph, plan.flowed
        self._sizes = plan.flowed.facts, plan.flowed.others
        self.owner = plan.partition.owner
        self.nodes: list[Node] = []
        self.origin: list[int] = []
        self.facts: Facts = {}
        self.actual: dict[str, Ids] = {}
        self.chosen: dict[str, Selected] = {}
        self.constants = Constants(self.graph.tensors)
        self.picked: dict[tuple[str, int], dict[bytes, str]] = {}
        self.cut_from: dict[str, str] = {}
        self.visiting = 0

    def selected(self, name: str) -> Selected:
        """What the part has of a value."""
        if name not in self.chosen:
            if name in self.flowed.labels:
                self.chosen[name] = self.plan.select(self.flowed.labels[name], self.number)
            elif name not in self.flowed.last.derived:  # narrowing itself made it
                shape = self.facts[name].shape
                self.chosen[name] = Selected((None,) * len(shape or ()), shape)
            else:
                derived = self.flowed.last.derived[name]
                self.chosen[name] = derived_selection(derived, self.plan.parameters, self.owner, self.number)
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
        return not same_numbers(here.data, there.data)

    def emit_here(self, node: Node) -> None:
        """Add a node that belongs to the source node at which narrowing is."""
        self.emit(node, self.visiting)

    def emit(self, node: Node, origin: int) -> None:
        """Add a node to the sub-model, and learn the shapes of its results."""
        inferred = self.dialect.infer(self.graph, node, [self.facts.get(name) for name in node.inputs])
        for name, fact in zip(node.outputs, inferred, strict=False):
            if name:
                self.facts[name] = fact or Fact(None, None)
        self.nodes.append(node)
        self.origin.append(origin)

    def pick(self, node: Node, value: str, positions: Ids, axis: int, origin: int) -> str:
        """Insert a node that takes these positions of a value along an axis; gives the name of its result."""
        base = f"{node.name or node.outputs[0]}.{value}"
        known = self.picked.setdefault((base, axis), {})
        if positions.tobytes() in known:
            return known[positions.tobytes()]
        period = self._period(node, value, positions, axis, origin)
        chosen = positions.astype(np.int64)[: len(positions) if not period else int((positions < period).sum())]
        index = self.constants.rewritten(f"{base}.index{axis}", chosen)
        self.facts[index] = Fact((len(chosen),), np.dtype(np.int64), chosen)
        result = known[positions.tobytes()] = f"{base}.part{axis}" + (f".{len(known)}" if known else "")
        self.cut_from[result] = self.cut_from.get(value, value)
        if period:
            for made in self.dialect.pick_in_turn(self.graph, result, value, index, result, axis, period):
                self.emit(made, origin)
        else:
            self.emit(self.dialect.pick(self.graph, result, value, index, result, axis), origin)
        return result

    def _period(self, node: Node, value: str, positions: Ids, axis: int, origin: int) -> int:
        """After how many elements positions along an axis of dynamic size repeat (heads behind a batch); 0 where it is fixed."""
        value = self.cut_from.get(value, value)
        known = [facts[value].shape if value in facts else () for facts in (self.flowed.facts, self.flowed.others)]
        here, there = (None if shape is None else shape[axis : axis + 1] for shape in known)
        if here == there or self._met(value, axis, origin):
            return 0
        period = math.gcd(*here, *there) if here and there and self.facts[value].shape == known[0] else 1
        first = positions[positions < period]
        steps = np.arange(0, here[0] if here else 1, period)
        if period == 1 or not np.array_equal((steps[:, None] + first).ravel(), positions):
            raise UnsupportedError(
                f"{node.title}: a part has some elements of {value!r} along an axis whose size is only known at run time",
                hint="export the network with fixed sizes",
            )
        return period

    def _met(self, value: str, axis: int, origin: int) -> bool:
        """Whether another operand has the same factors with a fixed size: the node runs at no other size of this one."""
        bound, inputs = self.flowed.last.bounds.get(origin), self.graph.nodes[origin].inputs
        mine = bound.operands[inputs.index(value)] if bound is not None and value in inputs else None
        if bound is None or mine is None or not mine[axis]:
            return False
        for name, axes in zip(inputs, bound.operands, strict=False):
            here, there = (facts[name].shape if axes else None for facts in (self.flowed.facts, self.flowed.others))
            met = [i for i, factors in enumerate(axes or ()) if factors == mine[axis] and name != value]
            if any(here and there and here[i] == there[i] for i in met):
                return True
        return False


def restricted(labels: Labels, chosen: Selected) -> Ids:
    """The labels of what a part has of a value, without the axes on which nothing changes."""
    core = labels.core
    for axis, indices in enumerate(chosen.axes):
        if indices is not None and core.shape[axis] > 1:
            core = core.take(indices, axis=axis)
    return core
