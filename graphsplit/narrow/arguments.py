"""What a node holds of widths besides its weights: target shapes, sizes of pieces, bounds of slices, indices.

Each is computed from what the part has of the node's operands and results, and left alone where the source's still fits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact
from graphsplit.graph import Array, Node
from graphsplit.labels.arrays import Ids
from graphsplit.labels.trainable import operand_tag
from graphsplit.narrow.part import Part
from graphsplit.notation import Rule
from graphsplit.selection import Selected


class Arguments:
    """Rewrites the arguments of one node at a time of a part."""

    def __init__(self, part: Part) -> None:
        self.part = part

    # -- reading and writing -------------------------------------------------------------------------------------

    def read(self, node: Node, rule: Rule, tag: str) -> Array | None:
        """An argument's value in the part: of the operand with this tag, or of the attribute; None where it has neither."""
        position = self._position(node, rule, tag)
        if position is not None:
            fact = self.part.facts.get(node.inputs[position])
            return None if fact is None else fact.data
        return self.part.dialect.argument(node, tag, self.part.facts.get)

    def _position(self, node: Node, rule: Rule, tag: str) -> int | None:
        for position, name in enumerate(node.inputs):
            if name and operand_tag(rule, position) == tag:
                return position
        return None

    def write(self, node: Node, rule: Rule, tag: str, value: Array) -> Node:
        """The node with an argument replaced: a constant gets another form, a computed one is corrected behind."""
        position = self._position(node, rule, tag)
        if position is None:
            return self.part.dialect.with_argument(node, tag, value, self.part.facts.get, self.part.emit_here)
        name = node.inputs[position]
        if name in self.part.graph.tensors or "\0" in name:
            changed = self._constant(name.split("\0")[0], value)
        else:
            changed = self._corrected(node, name, value)
        inputs = tuple(changed if i == position else n for i, n in enumerate(node.inputs))
        return replace(node, inputs=inputs)

    def _constant(self, name: str, value: Array) -> str:
        source = self.part.graph.tensors.get(name)
        array = np.asarray(value, source.dtype if source is not None else None)
        placeholder = self.part.constants.rewritten(name, array)
        self.part.facts[placeholder] = Fact(tuple(array.shape), array.dtype, array)
        return placeholder

    def _corrected(self, node: Node, name: str, value: Array) -> str:
        """A computed vector with some elements replaced: times a mask, plus what is wanted there.

        An element that changes with a dynamic axis must go on doing so: it is multiplied and divided by whole numbers instead.
        """
        have = self.part.facts[name].data
        if have is None or have.shape != value.shape:
            raise UnsupportedError(f"{node.title}: the size that {name!r} holds can't be computed for a part")
        wrong, moving = have != value, self._moving(name, have)
        scaled, replaced = wrong & moving, wrong & ~moving
        if (scaled & ((have == 0) | (have.dtype.kind not in "iu"))).any():
            raise UnsupportedError(
                f"{node.title}: {name!r} depends on a dynamic axis, and can't be computed for a part"
            )
        shared = np.gcd(have, value) if scaled.any() else np.ones_like(have)
        factor = np.where(scaled, value // np.maximum(shared, 1) if scaled.any() else 1, np.where(replaced, 0, 1))
        divisor = np.where(scaled, have // np.maximum(shared, 1), 1) if scaled.any() else np.ones_like(have)
        steps = [("masked", self.part.dialect.multiply, factor)]
        if scaled.any():
            steps.append(("divided", self.part.dialect.divide, divisor))
        steps.append(("narrow", self.part.dialect.plus, np.where(replaced, value, 0)))
        source, base = name, f"{node.name or node.outputs[0]}.{name}"
        for step, make, operand in steps:
            constant = self._constant(f"{name}.{step}", operand.astype(have.dtype))
            result = f"{base}.{step}"
            self.part.emit_here(make(self.part.graph, result, (source, constant), result))
            source = result
        self.part.facts[source] = Fact(tuple(value.shape), value.dtype, np.asarray(value))
        return source

    def _moving(self, name: str, have: Array) -> npt.NDArray[np.bool_]:
        """Which elements of a computed vector change with the sizes of the dynamic axes."""
        here, there = self.part.flowed.facts[name].data, self.part.flowed.others[name].data
        if here is None or there is None or not here.shape == there.shape == have.shape:
            return np.ones(have.shape, bool)
        moving: npt.NDArray[np.bool_] = here != there
        return moving

    def unshrunk(self, node: Node, rule: Rule) -> Node:
        """Numbers that a width has gone into, where they are computed with (a scale 1/sqrt(d) read off a shape): the source's."""
        if not gives_numbers(rule) or all(self._computes_sizes(o) for o in node.outputs if o):
            return node
        inputs = list(node.inputs)
        for position, name in enumerate(node.inputs):
            if not name or operand_tag(rule, position) is not None or not self.part.differs(name):
                continue
            there = self.part.flowed.facts[name].data
            if there is not None and self.part.flowed.fixed(name):
                inputs[position] = self._constant(name, there)
            elif there is not None:
                inputs[position] = self._corrected(node, name, there)
        return node if tuple(inputs) == node.inputs else replace(node, inputs=tuple(inputs))

    def _computes_sizes(self, name: str) -> bool:
        """Whether a value is known before anything runs: then what it's made of is still about sizes."""
        return self.part.flowed.facts[name].data is not None

    # -- the cases -----------------------------------------------------------------------------------------------

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
            data = [p for p, name in enumerate(node.inputs) if name and operand_tag(rule, p) is None]
            return self._sliced(node, rule, origin) if len(data) == 1 else self._placed(node, rule)
        return self._indexed(node, rule)

    def _shaped(self, node: Node, rule: Rule) -> Node:
        given = self.read(node, rule, "shape")
        full = self._full(node, rule, "shape")
        shape = self.part.selected(node.outputs[0]).shape
        if given is None or full is None or shape is None:
            return node
        whole = self.part.flowed.facts[node.outputs[0]].shape
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
        shape = self.part.facts[node.inputs[0]].shape
        return shape[axis] if shape is not None and axis < len(shape) else -1

    def _full(self, node: Node, rule: Rule, tag: str) -> Array | None:
        """An argument's value in the source."""
        position = self._position(node, rule, tag)
        if position is None:
            return self.part.dialect.argument(node, tag, self.part.flowed.facts.get)
        name = node.inputs[position]
        fact = self.part.flowed.facts.get(name)
        return None if fact is None else fact.data

    def _pieces(self, node: Node, rule: Rule) -> Node:
        """The sizes of the pieces that a split makes."""
        if not any(o.repeated for o in rule.results):
            return node
        attributes = self.part.dialect.attributes(node)
        axis = int(str(attributes.get("axis", 0)))
        shapes = [self.part.selected(o).shape for o in node.outputs if o]
        rank = len(self.part.flowed.facts[node.inputs[0]].shape or ())
        if any(s is None or len(s) != rank for s in shapes):  # unbind takes the axis away
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
            return self.part.dialect.with_argument(node, "sizes", sizes, self.part.facts.get, self.part.emit_here)
        placeholder = self._constant(f"{node.name or node.outputs[0]}.split", sizes)
        kept = {k: v for k, v in node.attributes.items() if k != "num_outputs"}
        inputs = (*node.inputs[:position], *("",) * (position - len(node.inputs)), placeholder)
        return replace(node, inputs=inputs, attributes=kept)

    def _sliced(self, node: Node, rule: Rule, origin: int) -> Node:
        """The bounds of a slice; where the part's elements aren't as evenly spaced, they are picked one by one."""
        starts, ends, axes, steps = (np.array(b, np.int64) for b in self._bounds(node, rule))
        before = starts.copy(), ends.copy()
        for k, number in enumerate(axes):
            axis, step = int(number), int(steps[k])
            positions = self._wanted_positions(node, axis, slice_of(int(starts[k]), int(ends[k]), step))
            if positions is None:
                continue
            if step > 0 and len(positions) and (np.diff(positions) == step).all():
                starts[k], ends[k] = positions[0], positions[-1] + 1
            else:
                node = self._picked(node, positions, axis, origin)
                starts[k], ends[k] = (0, len(positions)) if step > 0 else (-1, -len(positions) - 1)
        for tag, value, given in (("starts", starts, before[0]), ("ends", ends, before[1])):
            if not np.array_equal(value, given):
                node = self.write(node, rule, tag, value)
        return node

    def _placed(self, node: Node, rule: Rule) -> Node:
        """The bounds between which a second operand is put into the first."""
        starts, ends, axes, steps = (np.array(b, np.int64) for b in self._bounds(node, rule))
        whole = self.part.flowed.facts[node.outputs[0]].shape or ()
        for k, axis in enumerate(axes):
            chosen = self.part.selected(node.outputs[0]).axes[axis]
            if chosen is None:
                continue
            first, last, step = slice_of(int(starts[k]), int(ends[k]), int(steps[k])).indices(whole[axis])
            if step != 1:
                raise UnsupportedError(f"{node.title}: it writes to every {step}. vertex of a divided layer")
            bounds = np.searchsorted(chosen, [first, last])
            node = self.write(node, rule, "starts", bounds[:1])
            node = self.write(node, rule, "ends", bounds[1:])
        return node

    def _wanted_positions(self, node: Node, axis: int, bounds: slice) -> Ids | None:
        """Where a part's elements of a slice stand in what it has of the operand; None where its own bounds give them."""
        source, result = node.inputs[0], node.outputs[0]
        chosen = self.part.selected(source).axes[axis]
        whole = self.part.flowed.facts[source].shape
        if chosen is None or whole is None:
            return None
        positions = _positions(node, np.arange(whole[axis])[bounds], chosen, self.part.selected(result), axis)
        return None if np.array_equal(positions, np.arange(len(chosen))[bounds]) else positions

    def _picked(self, node: Node, positions: Ids, axis: int, origin: int) -> Node:
        """The slice, reading elements that are picked out first (back to front where it runs backwards)."""
        source = node.inputs[0]
        bounds = positions if len(positions) < 2 or positions[0] < positions[-1] else positions[::-1]
        picked = self.part.pick(node, source, bounds, axis, origin)
        labels, have = self.part.labels(source), self.part.selected(source)
        if labels is not None:
            self.part.actual[picked] = labels.take(bounds, axis=axis) if labels.shape[axis] > 1 else labels
        shape = tuple(len(bounds) if a == axis else size for a, size in enumerate(have.shape or ()))
        self.part.chosen[picked] = Selected(have.axes, shape)
        return replace(node, inputs=(picked, *node.inputs[1:]))

    def _bounds(self, node: Node, rule: Rule) -> tuple[Ids, Ids, Ids, Ids]:
        """Starts, ends, axes (counted from the front) and steps of a slice in the source."""
        starts, ends = self._integers(node, rule, "starts"), self._integers(node, rule, "ends")
        assert starts is not None, f"{node.title}: a slice without starts"
        assert ends is not None, f"{node.title}: a slice without ends"
        axes, steps = self._integers(node, rule, "axes"), self._integers(node, rule, "steps")
        rank = len(self.part.flowed.facts[node.inputs[0]].shape or ())
        numbers = np.arange(len(starts)) if axes is None else np.where(axes < 0, axes + rank, axes)
        return starts, ends, numbers, np.ones(len(starts), np.int64) if steps is None else steps

    def _integers(self, node: Node, rule: Rule, tag: str) -> Ids | None:
        found = self._full(node, rule, tag)
        return None if found is None else np.asarray(found, np.int64)

    def _indexed(self, node: Node, rule: Rule) -> Node:
        """Indices into an axis of which the part has only some positions."""
        given = self._integers(node, rule, "index")
        if given is None:
            return node
        attributes = self.part.dialect.attributes(node)
        have, want = self.part.selected(node.inputs[0]), self.part.selected(node.outputs[0])
        axis = int(str(attributes.get("axis", 0))) % max(1, len(have.axes))
        chosen = have.axes[axis]
        if chosen is None:
            return node
        size = (self.part.flowed.facts[node.inputs[0]].shape or ())[axis]
        index = np.where(given < 0, given + size, given)
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


def slice_of(start: int, end: int, step: int) -> slice:
    """ONNX bounds as a Python slice: backwards, an end far below zero means through the first element."""
    return slice(start, None if step < 0 and end < -(1 << 30) else end, step)


def _positions(node: Node, taken: Ids, chosen: Ids, want: Selected, axis: int) -> Ids:
    """Where the elements that a part wants of a result stand in what it has of the operand."""
    kept = taken if want.axes[axis] is None else taken[want.axes[axis]]
    if not np.isin(kept, chosen).all():
        raise UnsupportedError(
            f"{node.title} picks vertices of a divided layer, and not every part has some of them",
            hint="--keep the layer in front of it",
        )
    return np.searchsorted(chosen, kept)
