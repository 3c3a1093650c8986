"""The nodes of one part turned into nodes that run all parts at once.

Node by node, in order: of the layouts in which it can run (`forms`), the one for which the least data has to be moved. An op
that has none runs once for each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Facts
from graphsplit.formats.torch_arguments import base
from graphsplit.formats.torch_dialect import TorchDialect
from graphsplit.formats.torch_nodes import SYM, overload, size_names
from graphsplit.graph import AttributeValue, Node, fresh_names
from graphsplit.stacking.forms import LEAD, Asked, Form, moving, ruled
from graphsplit.stacking.rewrite import written
from graphsplit.stacking.table import CONTRACTS, DRAWS_EACH

VIEW, UNKNOWN = 1, 1 << 20
"""What it costs to look at a value in another layout without moving it, and the size of a value of unknown shape."""
LAST = "channels_last"


class Stacker:
    """One mode's nodes for `parts` parts. `stacked` names the tensors and inputs that differ between them.

    `layout` says how images lie in memory while the parts are folded into their channels.
    """

    def __init__(
        self, dialect: TorchDialect, facts: Facts, stored: frozenset[str], parts: int, layout: str, taken: set[str]
    ) -> None:
        self.dialect, self.facts, self.stored, self.parts, self.layout = dialect, facts, stored, parts, layout
        self.nodes: list[Node] = []
        self.have: dict[str, dict[int, str]] = {}
        self._fresh = fresh_names(taken)
        next(self._fresh)

    def add(self, name: str) -> None:
        """A tensor or input that has the parts' axis in front."""
        self.have[name] = {LEAD: name}

    def run(self, node: Node) -> list[Node]:
        """Stack a node; gives the nodes that this took."""
        before = len(self.nodes)
        if node.domain == SYM:
            self._size(node)
        elif not self._contracted(node):
            self._any(node)
        return self.nodes[before:]

    def result(self, name: str) -> str:
        """The name of a value with the parts' axis in front."""
        return self.value(name, LEAD)

    # -- values in layouts ---------------------------------------------------------------------------------------

    def value(self, name: str, layout: int | None, pads: int = 0) -> str:
        """A value in a layout, moved there if need be; None: in whatever layout there is."""
        if layout is None:
            found = self.have.get(name)
            return name if found is None else found.get(LEAD) or next(iter(found.values()))
        known = self.have.get(name) or {LEAD: self._repeated(name)}
        if LEAD not in known:
            known[LEAD] = self._unfolded(name, *next(iter(known.items())))
        if layout not in known:
            fold = self._in_channels_last if self._image(name, layout) else self._folded
            known[layout] = fold(name, known[LEAD], layout)
        found_name = known[layout]
        for _ in range(pads):
            found_name = self._op("unsqueeze.default", f"{name}.wide", (found_name,), dim=1)
        return found_name

    def _repeated(self, name: str) -> str:
        """What all parts share, once for each."""
        shape = self.facts[name].shape
        if shape is None:
            raise UnsupportedError(f"the shape of {name!r} depends on data, and every part needs it")
        one = self._op("unsqueeze.default", f"{name}.one", (name,), dim=0)
        return self._op("expand.default", f"{name}.each", (one,), size=(self.parts, *[-1] * len(shape)))

    def _unfolded(self, name: str, layout: int, known: str) -> str:
        apart = self._op("unflatten.int", f"{name}.apart", (known,), dim=layout, sizes=(self.parts, -1))
        if not layout:
            return apart
        return self._op("movedim.int", f"{name}.parts", (apart,), source=layout, destination=0)

    def _folded(self, name: str, lead: str, layout: int) -> str:
        if layout:
            lead = self._op("movedim.int", f"{name}.inside", (lead,), source=0, destination=layout)
        return self._op("flatten.using_ints", f"{name}.folded", (lead,), start_dim=layout, end_dim=layout + 1)

    def _image(self, name: str, layout: int) -> bool:
        return (
            self.layout == LAST
            and layout == 1
            and name not in self.stored
            and len(self.facts[name].shape or ()) in (4, 5)
        )

    def _in_channels_last(self, name: str, lead: str, _: int) -> str:
        """Folded into the channels, and these the fastest in memory: one copy."""
        rank = len(self.facts[name].shape or ())
        behind = (1, *range(3, rank + 1), 0, 2)
        last = self._op("permute.default", f"{name}.last", (lead,), dims=behind)
        last = self._op("flatten.using_ints", f"{name}.flat", (last,), start_dim=rank - 1, end_dim=rank)
        last = self._op("contiguous.default", f"{name}.near", (last,))  # one channel a part is flattened without a copy
        return self._op("permute.default", f"{name}.folded", (last,), dims=(0, rank - 1, *range(1, rank - 1)))

    def _op(self, op: str, name: str, inputs: tuple[str, ...], **attributes: AttributeValue) -> str:
        name = self._fresh.send(name)
        self.nodes.append(Node(name, op, "aten", 1, inputs, (name,), attributes))
        return name

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _any(self, node: Node) -> None:
        tensors = node.inputs[: len(node.inputs) - len(size_names(node))]
        stacked = tuple(name in self.have for name in tensors)
        draws = _draws(node)
        if not any(stacked) and not draws:
            self.nodes.append(node)
            return
        if draws and (base(node.op) not in DRAWS_EACH or not any(stacked)):
            self._each(node, tensors, stacked)
            return
        if self._made_like(node, tensors):
            return
        if self._promotes(tensors, stacked):
            self._each(node, tensors, stacked)
            return
        asked = self._asked(node, tensors, stacked)
        known = asked is not None and (moving(asked, base(node.op)) or ruled(asked, self.dialect.lookup(node)))
        forms = [form for form in known or () if self._allowed(node, form)]
        if not forms:
            self._each(node, tensors, stacked)
            return
        self._run(node, tensors, min(forms, key=lambda form: self._cost(form, tensors)))

    def _asked(self, node: Node, tensors: Sequence[str], stacked: tuple[bool, ...]) -> Asked | None:
        shapes = tuple(self.facts[name].shape if name else None for name in tensors)
        results = tuple(self.facts[name].shape if name else None for name in node.outputs)
        if any(shape is None for shape, name in zip(shapes + results, (*tensors, *node.outputs), strict=True) if name):
            return None
        return Asked(node, shapes, results, stacked, self.dialect.attributes(node), self.parts)

    def _promotes(self, tensors: Sequence[str], stacked: Sequence[bool]) -> bool:
        """Whether a part's single number would, side by side with the others', decide the type of the result."""
        known = [self.facts[name] for name in tensors if name]
        numbers = any(differs and self.facts[name].shape == () for name, differs in zip(tensors, stacked, strict=True))
        return numbers and len({fact.dtype for fact in known}) > 1

    def _allowed(self, node: Node, form: Form) -> bool:
        """Whether what an op writes into is the buffer itself in this form, and no copy of it."""
        into = written(node)
        return not any(
            name in self.stored and name in into and (layout is None or layout > 0)
            for name, layout in zip(node.inputs, form.operands, strict=False)
        )

    def _cost(self, form: Form, tensors: Sequence[str]) -> int:
        """How many elements a form moves before it runs."""
        cost = 0
        for name, layout in zip(tensors, form.operands, strict=True):
            if layout is None or layout in self.have.get(name, ()):
                continue
            view = name not in self.have or (layout <= 0 and (LEAD in self.have[name] or 0 in self.have[name]))
            shape = self.facts[name].shape
            cost += VIEW if view else UNKNOWN if shape is None else prod(shape)
        return cost

    def _run(self, node: Node, tensors: Sequence[str], form: Form) -> None:
        into = written(node)
        operands = []
        for name, layout, pads in zip(tensors, form.operands, form.pads, strict=True):
            operand = self.value(name, layout, pads) if name else ""
            if name in into and name not in self.stored:
                operand = self._op("clone.default", f"{name}.own", (operand,))
            operands.append(operand)
        outputs = tuple(self._named(name, layout) for name, layout in zip(node.outputs, form.results, strict=True))
        made = replace(
            node,
            op=form.op or node.op,
            inputs=(*operands, *node.inputs[len(tensors) :]),
            outputs=outputs,
            attributes=form.attributes or node.attributes,
        )
        self.nodes.append(made)
        for name, layout, own in zip(node.outputs, form.results, outputs, strict=True):
            if name:
                self.have[name] = {layout: own}

    def _named(self, name: str, layout: int) -> str:
        return self._fresh.send(name if layout == LEAD else f"{name}.folded") if name else ""

    def _made_like(self, node: Node, tensors: Sequence[str]) -> bool:
        """A value made of nothing, of an operand's type: all parts share it."""
        rules = self.dialect.lookup(node)
        if not rules or any(operand.tag is None for operand in rules[0].operands[: len(tensors)]):
            return False
        inputs = (*(self.value(name, None) for name in tensors), *node.inputs[len(tensors) :])
        self.nodes.append(replace(node, inputs=inputs))
        return True

    def _each(self, node: Node, tensors: Sequence[str], stacked: Sequence[bool]) -> None:
        """A node once for each part, and the results side by side."""
        if any("Tensor" not in str(result.type) for result in overload(node.domain, node.op)._schema.returns):
            raise UnsupportedError(
                f"{node.title} gives a number that is data, and each of the parts has its own",
                hint="train the parts one after another",
            )
        into = written(node)
        given: list[list[str]] = []
        for name, differs in zip(tensors, stacked, strict=True):
            own = self._unbound(name) if differs else [name] * self.parts
            if name in into and name not in self.stored:
                own = [self._op("clone.default", f"{name}.own", (one,)) for one in own]
            given.append(own)
        sizes = node.inputs[len(tensors) :]
        made: list[tuple[str, ...]] = []
        for part in range(self.parts):
            outputs = tuple(self._fresh.send(f"{name}.{part}") if name else "" for name in node.outputs)
            inputs = (*(own[part] for own in given), *sizes)
            self.nodes.append(replace(node, name=f"{node.name}.{part}", inputs=inputs, outputs=outputs))
            made.append(outputs)
        for i, name in enumerate(node.outputs):
            if name:
                found = self._op("stack.default", name, tuple(outputs[i] for outputs in made), dim=0)
                self.have[name] = {LEAD: found}

    def _unbound(self, name: str) -> list[str]:
        lead = self.value(name, LEAD)
        outputs = tuple(self._fresh.send(f"{name}.part_{part}") for part in range(self.parts))
        self.nodes.append(
            Node(self._fresh.send(f"{name}.unbound"), "unbind.int", "aten", 1, (lead,), outputs, {"dim": 0})
        )
        return list(outputs)

    # -- sizes, and weights that all rows meet --------------------------------------------------------------------

    def _size(self, node: Node) -> None:
        """Arithmetic on sizes is the same for all parts; what it reads off a value is the size of one part."""
        name = node.inputs[0]
        if name not in self.have:
            self.nodes.append(node)
            return
        lead = self.value(name, LEAD)
        if node.op == "size":
            axis = node.attributes["arg1"]
            assert isinstance(axis, int)
            shifted = axis + 1 if axis >= 0 else axis
            self.nodes.append(
                replace(node, inputs=(lead, *node.inputs[1:]), attributes={**node.attributes, "arg1": shifted})
            )
            return
        assert node.op == "numel", node.title
        whole = self._fresh.send(f"{node.outputs[0]}.whole")
        self.nodes.append(replace(node, name=whole, inputs=(lead,), outputs=(whole,)))
        self.nodes.append(Node(node.name, "floordiv", SYM, 1, (whole, ""), node.outputs, {"arg1": self.parts}))

    def _contracted(self, node: Node) -> bool:
        """A matrix of each part times whatever rows it has, as a batch of products. False if the node isn't that."""
        name = base(node.op)
        if node.domain != "aten" or name not in CONTRACTS or node.inputs[1] not in self.have:
            return False
        x, weight, bias = (*node.inputs, "")[:3]
        shape, matrix = self.facts[x].shape, self.facts[weight].shape
        if (
            shape is None
            or matrix is None
            or len(matrix) != 2
            or len(shape) < 2
            or (not CONTRACTS[name] and len(shape) == 2)
        ):
            return False
        rows, columns = self.value(x, LEAD), self.value(weight, LEAD)
        if CONTRACTS[name]:
            columns = self._op("transpose.int", f"{weight}.t", (columns,), dim0=1, dim1=2)
        flat = rows
        if len(shape) > 2:
            flat = self._op("flatten.using_ints", f"{x}.rows", (rows,), start_dim=1, end_dim=len(shape) - 1)
        own = self._fresh.send(node.outputs[0])
        result = own if len(shape) == 2 else f"{own}.rows"
        if bias:
            operands = (self.value(bias, LEAD, 1), flat, columns)
            self.nodes.append(replace(node, op="baddbmm.default", inputs=operands, outputs=(result,), attributes={}))
        else:
            self.nodes.append(replace(node, op="bmm.default", inputs=(flat, columns), outputs=(result,), attributes={}))
        if len(shape) > 2:
            sizes = [self._op_size(rows, axis) for axis in range(1, len(shape))]
            made = Node(own, "unflatten.int", "aten", 1, (result, *sizes), (own,), {"dim": 1, "sizes": tuple(sizes)})
            self.nodes.append(made)
        self.have[node.outputs[0]] = {LEAD: own}
        return True

    def _op_size(self, name: str, axis: int) -> str:
        own = self._fresh.send(f"{name}.size_{axis}")
        self.nodes.append(Node(own, "size", SYM, 1, (name, ""), (own,), {"arg1": axis}))
        return own


def _draws(node: Node) -> bool:
    """Whether an op draws random numbers."""
    if node.domain == SYM or node.domain == "graphsplit" or node.attributes.get("train", True) is False:
        return False
    if node.attributes.get("p") == 0 or node.attributes.get("dropout_p", None) == 0:
        return False
    found: Any = overload(node.domain, node.op)
    return torch.Tag.nondeterministic_seeded in found.tags
