"""What a node holds of widths besides its weights: target shapes, sizes of pieces, bounds of slices, indices.

Each is computed from what the part has of the node's operands and results, and left alone where the source's still fits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact
from graphsplit.graph import Array, Node
from graphsplit.labels.arrays import Ids
from graphsplit.labels.trainable import operand_tag
from graphsplit.notation import Rule
from graphsplit.plan import Selected

if TYPE_CHECKING:
    from graphsplit.narrow.narrower import Narrower

ATTRIBUTE = {"shape": "shape", "sizes": "split", "starts": "starts", "ends": "ends", "axes": "axes", "steps": "steps"}
"""Where an older version of an op keeps an argument: the attribute's name for each tag."""


class Arguments:
    """Rewrites the arguments of one node at a time for a `Narrower`."""

    def __init__(self, narrower: Narrower) -> None:
        self.narrower = narrower

    # -- reading and writing ----------------------------------------------------------------------------------------------

    def read(self, node: Node, rule: Rule, tag: str) -> Array | None:
        """An argument's value in the part: of the operand with this tag, or of the attribute; None where it has neither."""
        position = self._position(node, rule, tag)
        if position is not None:
            fact = self.narrower.facts.get(node.inputs[position])
            return None if fact is None else fact.data
        value = node.attributes.get(ATTRIBUTE.get(tag, tag))
        return None if value is None else np.asarray(value)

    def _position(self, node: Node, rule: Rule, tag: str) -> int | None:
        for position, name in enumerate(node.inputs):
            if name and operand_tag(rule, position) == tag:
                return position
        return None

    def write(self, node: Node, rule: Rule, tag: str, value: Array) -> Node:
        """The node with an argument replaced: a constant gets another form, a computed one is corrected behind."""
        position = self._position(node, rule, tag)
        if position is None:
            attribute = ATTRIBUTE.get(tag, tag)
            return replace(node, attributes={**node.attributes, attribute: tuple(int(v) for v in np.ravel(value))})
        name = node.inputs[position]
        if name in self.narrower.graph.tensors or "\0" in name:
            changed = self._constant(name.split("\0")[0], value)
        else:
            changed = self._corrected(node, name, value)
        inputs = tuple(changed if i == position else n for i, n in enumerate(node.inputs))
        return replace(node, inputs=inputs)

    def _constant(self, name: str, value: Array) -> str:
        source = self.narrower.graph.tensors.get(name)
        array = np.asarray(value, source.dtype if source is not None else None)
        placeholder = self.narrower.constants.rewritten(name, array)
        self.narrower.facts[placeholder] = Fact(tuple(array.shape), array.dtype, array)
        return placeholder

    def _corrected(self, node: Node, name: str, value: Array) -> str:
        """A computed vector with some elements replaced: times a mask, plus what is wanted there."""
        have = self.narrower.facts[name].data
        if have is None or have.shape != value.shape:
            raise UnsupportedError(f"{node.title}: the size that {name!r} holds can't be computed for a part")
        wrong = have != value
        mask = self._constant(f"{name}.mask", np.where(wrong, 0, 1).astype(have.dtype))
        patch = self._constant(f"{name}.patch", np.where(wrong, value, 0).astype(have.dtype))
        dialect, graph = self.narrower.dialect, self.narrower.graph
        masked, result = (
            f"{node.name or node.outputs[0]}.{name}.masked",
            f"{node.name or node.outputs[0]}.{name}.narrow",
        )
        origin = len(self.narrower.origin) and self.narrower.origin[-1]
        self.narrower.emit(dialect.multiply(graph, masked, (name, mask), masked), origin)
        self.narrower.emit(dialect.add(graph, result, (masked, patch), result), origin)
        self.narrower.facts[result] = Fact(tuple(value.shape), value.dtype, np.asarray(value))
        return result

    def unshrunk(self, node: Node, rule: Rule) -> Node:
        """Numbers that a width has gone into, where they are computed with (a scale 1/sqrt(d) read off a shape): the source's."""
        if not gives_numbers(rule) or all(self._computes_sizes(o) for o in node.outputs if o):
            return node
        inputs = list(node.inputs)
        for position, name in enumerate(node.inputs):
            if not name or operand_tag(rule, position) is not None or not self.narrower.differs(name):
                continue
            there = self.narrower.flowed.facts[name].data
            if there is not None and self.narrower.flowed.fixed(name):
                inputs[position] = self._constant(name, there)
            elif there is not None:
                inputs[position] = self._corrected(node, name, there)
        return node if tuple(inputs) == node.inputs else replace(node, inputs=tuple(inputs))

    def _computes_sizes(self, name: str) -> bool:
        """Whether a value is known before anything runs: then what it's made of is still about sizes."""
        return self.narrower.flowed.facts[name].data is not None

    # -- the cases ------------------------------------------------------------------------------------------------------------

    def unlabelled(self, node: Node, rule: Rule) -> Node:
        """A node on values that the part has whole: its target shape must not have shrunk with some layer's width."""
        return self._shaped(node, rule) if self._position(node, rule, "shape") is not None else node

    def sized(self, node: Node, rule: Rule) -> Node:
        """An op that computes, with a target shape (Resize)."""
        return self._shaped(node, rule)

    def narrowed(self, node: Node, rule: Rule, origin: int) -> Node:
        """A movement op, with its arguments for the part."""
        node = self._shaped(node, rule)
        node = self._pieces(node, rule)
        if self.read(node, rule, "starts") is not None:
            return self._sliced(node, rule, origin)
        return self._indexed(node, rule)

    def _shaped(self, node: Node, rule: Rule) -> Node:
        given = self.read(node, rule, "shape")
        full = self._full(node, rule, "shape")
        shape = self.narrower.selected(node.outputs[0]).shape
        if given is None or full is None or shape is None:
            return node
        whole = self.narrower.flowed.facts[node.outputs[0]].shape
        assert whole is not None
        offset = len(shape) - len(full)
        value = np.array(given)
        for axis, size in enumerate(full):
            at = axis + offset
            if size > 0 and int(size) == whole[at] and int(value[axis]) not in (-1, shape[at]):
                value[axis] = shape[at]
            elif size == 0 and whole[at] != shape[at]:
                value[axis] = shape[at] if self._copied(node, axis) != shape[at] else 0
        return node if np.array_equal(value, given) else self.write(node, rule, "shape", value)

    def _copied(self, node: Node, axis: int) -> int:
        """The size that a 0 in a target shape stands for: the operand's on the same axis."""
        shape = self.narrower.facts[node.inputs[0]].shape
        return shape[axis] if shape is not None and axis < len(shape) else -1

    def _full(self, node: Node, rule: Rule, tag: str) -> Array | None:
        """An argument's value in the source."""
        position = self._position(node, rule, tag)
        if position is None:
            value = node.attributes.get(ATTRIBUTE.get(tag, tag))
            return None if value is None else np.asarray(value)
        name = node.inputs[position]
        fact = self.narrower.flowed.facts.get(name)
        return None if fact is None else fact.data

    def _pieces(self, node: Node, rule: Rule) -> Node:
        """The sizes of the pieces that a split makes."""
        tagged = any(o.tag == "sizes" for o in rule.operands) or "split" in node.attributes or node.op == "Split"
        if not tagged:
            return node
        attributes = self.narrower.dialect.attributes(node)
        axis = int(str(attributes.get("axis", 0)))
        shapes = [self.narrower.selected(o).shape for o in node.outputs if o]
        if any(s is None for s in shapes):
            return node
        sizes = np.array([s[axis] for s in shapes if s is not None], np.int64)
        given = self.read(node, rule, "sizes")
        if given is None:
            if (sizes == sizes[0]).all():
                return node
            return self._explicit_pieces(node, rule, sizes)
        return node if np.array_equal(given, sizes) else self.write(node, rule, "sizes", sizes)

    def _explicit_pieces(self, node: Node, rule: Rule, sizes: Ids) -> Node:
        """A split into equal pieces whose parts are unequal: the sizes are written out."""
        position = next((p for p, o in enumerate(rule.operands) if o.tag == "sizes"), None)
        if position is None:
            return replace(node, attributes={**node.attributes, "split": tuple(int(s) for s in sizes)})
        placeholder = self._constant(f"{node.name or node.outputs[0]}.split", sizes)
        kept = {k: v for k, v in node.attributes.items() if k != "num_outputs"}
        inputs = (*node.inputs[:position], *("",) * (position - len(node.inputs)), placeholder)
        return replace(node, inputs=inputs, attributes=kept)

    def _sliced(self, node: Node, rule: Rule, origin: int) -> Node:
        """The bounds of a slice; where the part's elements aren't evenly spaced, they are picked one by one."""
        source, result = node.inputs[0], node.outputs[0]
        bounds = self._bounds(node, rule)
        have, want = self.narrower.selected(source), self.narrower.selected(result)
        starts, ends, axes, steps = (np.array(b, np.int64) for b in bounds)
        changed = False
        picks: list[tuple[int, Ids]] = []
        for k, axis in enumerate(axes):
            axis = int(axis)
            chosen = have.axes[axis]
            if chosen is None:
                continue
            size = (self.narrower.flowed.facts[source].shape or ())[axis]
            taken = np.arange(size)[_slice(int(starts[k]), int(ends[k]), int(steps[k]), size)]
            positions = _positions(node, taken, chosen, want, axis)
            after = np.arange(len(chosen))[_slice(int(starts[k]), int(ends[k]), int(steps[k]), len(chosen))]
            if np.array_equal(positions, after):
                continue
            changed = True
            gaps = np.unique(np.diff(positions))
            if len(gaps) > 1 or len(positions) == 0 or (len(gaps) == 1 and gaps[0] <= 0):
                picks.append((axis, positions))
                starts[k], ends[k], steps[k] = 0, len(chosen), 1
            else:
                step = int(gaps[0]) if len(gaps) else 1
                starts[k], ends[k], steps[k] = positions[0], positions[-1] + 1, step
        if not changed:
            return node
        for axis, positions in picks:
            picked = self.narrower.pick(node, node.inputs[0], positions, axis, origin)
            node = replace(node, inputs=(picked, *node.inputs[1:]))
            for k in np.flatnonzero(axes == axis):
                starts[k], ends[k], steps[k] = 0, len(positions), 1
            source_labels = self.narrower.labels(source)
            if source_labels is not None:
                wide = source_labels.shape[axis] > 1
                self.narrower.actual[picked] = source_labels.take(positions, axis=axis) if wide else source_labels
            base = self.narrower.selected(source)
            shape = tuple(len(positions) if a == axis else s for a, s in enumerate(base.shape or ()))
            self.narrower.chosen[picked] = Selected(base.axes, shape)
            source = picked
        for tag, value, given in (
            ("starts", starts, bounds[0]),
            ("ends", ends, bounds[1]),
            ("steps", steps, bounds[3]),
        ):
            if not np.array_equal(value, given):
                node = self.write(node, rule, tag, value)
        return node

    def _bounds(self, node: Node, rule: Rule) -> tuple[Array, Array, Array, Array]:
        starts, ends = self._full(node, rule, "starts"), self._full(node, rule, "ends")
        assert starts is not None and ends is not None
        axes, steps = self._full(node, rule, "axes"), self._full(node, rule, "steps")
        rank = len(self.narrower.flowed.facts[node.inputs[0]].shape or ())
        numbers = (
            np.arange(len(starts)) if axes is None else np.where(np.asarray(axes) < 0, np.asarray(axes) + rank, axes)
        )
        return starts, ends, numbers, np.ones(len(starts), np.int64) if steps is None else steps

    def _indexed(self, node: Node, rule: Rule) -> Node:
        """Indices into an axis of which the part has only some positions."""
        given = self._full(node, rule, "index")
        if given is None:
            return node
        attributes = self.narrower.dialect.attributes(node)
        have, want = self.narrower.selected(node.inputs[0]), self.narrower.selected(node.outputs[0])
        axis = int(str(attributes.get("axis", 0))) % max(1, len(have.axes))
        chosen = have.axes[axis]
        if chosen is None:
            return node
        size = (self.narrower.flowed.facts[node.inputs[0]].shape or ())[axis]
        index = np.where(np.asarray(given) < 0, np.asarray(given) + size, given)
        if index.ndim != 1:
            return self._indexed_block(node, rule, index, chosen)
        positions = _positions(node, index, chosen, want, axis)
        return self.write(node, rule, "index", positions)

    def _indexed_block(self, node: Node, rule: Rule, index: Ids, chosen: Ids) -> Node:
        if not np.isin(index, chosen).all():
            raise UnsupportedError(
                f"{node.title} picks single vertices of a divided layer, and not every part has them",
                hint="--keep the layer in front of it",
            )
        return self.write(node, rule, "index", np.searchsorted(chosen, index))


def gives_numbers(rule: Rule) -> bool:
    """Whether an op computes with its operands, rather than looking at their shapes."""
    return any(r.tag is None for r in rule.results)


def _slice(start: int, end: int, step: int, size: int) -> slice:
    if step > 0:
        return slice(start, end, step)
    return slice(start, None if end < -size else end, step)


def _positions(node: Node, taken: Ids, chosen: Ids, want: Selected, axis: int) -> Ids:
    """Where the elements that a part wants of a result stand in what it has of the operand."""
    kept = taken if want.axes[axis] is None else taken[want.axes[axis]]
    if not np.isin(kept, chosen).all():
        raise UnsupportedError(
            f"{node.title} picks vertices of a divided layer, and not every part has some of them",
            hint="--keep the layer in front of it",
        )
    return np.searchsorted(chosen, kept)
