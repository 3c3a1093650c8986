"""Movement ops in one part: run again on the part's labels, and put in order where a part's order isn't the network's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact
from graphsplit.graph import Array, Node
from graphsplit.labels import Labels
from graphsplit.labels.arrays import Ids, move_labels, squeeze_constant_axes
from graphsplit.labels.couplings import resolve
from graphsplit.labels.operands import argument_value
from graphsplit.labels.trainable import operand_tag
from graphsplit.narrow.arguments import Arguments
from graphsplit.narrow.part import Part, restricted
from graphsplit.notation import Rule


class Movement:
    """Narrows the movement ops of one part."""

    def __init__(self, part: Part, arguments: Arguments) -> None:
        self.part, self.arguments = part, arguments

    def keep_order(self, node: Node) -> None:
        if node.inputs[0] in self.part.actual:
            for name in node.outputs:
                self.part.actual[name] = self.part.actual[node.inputs[0]]
                self.part.chosen[name] = self.part.chosen[node.inputs[0]]

    def move(self, index: int, node: Node, rule: Rule) -> None:
        candidate = self.arguments.narrowed(self._beside(index, node, rule), rule, index)
        for output in node.outputs:
            if output and output in self.part.flowed.last.derived:
                self.part.emit(candidate, index)
                return
        renamed = {o: o for o in node.outputs}
        found = self._run_on_labels(index, candidate, rule)
        fixes: list[tuple[str, Ids, int]] = []
        for output, labels in zip(node.outputs, found, strict=False):
            if not output:
                continue
            chosen = self.part.selected(output)
            if chosen.ragged or 0 in labels.shape:  # of nothing no label says how much a part has
                self.part.actual[output] = squeeze_constant_axes(labels)
                self.part.chosen[output] = replace(chosen, shape=tuple(labels.shape))
                continue
            expected = np.broadcast_to(restricted(self.part.flowed.labels[output], chosen), chosen.shape or ())
            order = _order(node, np.broadcast_to(labels, labels.shape), expected)
            if order is not None:
                renamed[output] = f"{output}.unordered"
                fixes.append((output, order[1], order[0]))
        self.part.emit(replace(candidate, outputs=tuple(renamed[o] for o in node.outputs)), index)
        for output, positions, axis in fixes:
            self._reorder(output, renamed[output], positions, axis, index)

    def _reorder(self, output: str, value: str, positions: Ids, axis: int, origin: int) -> None:
        name = self.part.constants.rewritten(f"{output}.order", positions)
        self.part.facts[name] = Fact((len(positions),), np.dtype(np.int64), positions)
        self.part.emit(self.part.dialect.pick(self.part.graph, f"{output}.reorder", value, name, output, axis), origin)

    def _beside(self, index: int, node: Node, rule: Rule) -> Node:
        """Whole values that are put beside a divided one, cut along the axis on which that one is divided."""
        out = self.part.selected(node.outputs[0])
        whole = self.part.flowed.facts[node.outputs[0]].shape or ()
        inputs = list(node.inputs)
        for position, name in enumerate(node.inputs):
            adopted = self.part.flowed.last.bare.get((index, position))
            if not name or adopted is None or not adopted.varying or self.part.is_labelled(name) or out.ragged:
                continue
            for axis, chosen in enumerate(out.axes):
                have = self.part.facts[name].shape or ()
                if chosen is not None and (adopted.shape or ())[axis] == whole[axis] == have[axis]:
                    inputs[position] = self.part.pick(node, inputs[position], chosen, axis, index)
        return replace(node, inputs=tuple(inputs))

    def _run_on_labels(self, index: int, node: Node, rule: Rule) -> list[Ids]:
        labels: list[Labels | None] = []
        arguments: list[Array | None] = []
        for position, name in enumerate(node.inputs):
            tag = operand_tag(rule, position)
            data = bool(name) and tag is None
            labels.append(self._data_labels(index, position, name) if data else None)
            arguments.append(argument_value(tag, self.part.facts[name]) if name and tag is not None else None)

        def run(arrays: Sequence[Ids | None]) -> list[Ids]:
            given = [a if a is not None else b for a, b in zip(arrays, arguments, strict=True)]
            return [np.asarray(r, np.int64) for r in self.part.dialect.move(node, given)]

        return [found.full() for found in move_labels(labels, run)]

    def _data_labels(self, index: int, position: int, name: str) -> Labels:
        adopted = self.part.flowed.last.bare.get((index, position))
        if adopted is not None:
            adopted = Labels(adopted.shape, resolve(adopted.core, self.part.flowed.classes))
            chosen = self.part.plan.select(adopted, self.part.number)
            return Labels(chosen.shape, restricted(adopted, chosen))
        labels, shape = self.part.labels(name), self.part.selected(name).shape
        if labels is None or shape is None:
            raise UnsupportedError(f"{name}: a part has different numbers of its elements in different rows")
        return Labels(shape, labels)


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
