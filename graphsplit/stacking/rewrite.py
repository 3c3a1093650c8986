"""A part's nodes brought into the forms that stack: the same values, up to rounding, by other ops."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from graphsplit.facts import Facts
from graphsplit.formats.torch_arguments import base
from graphsplit.formats.torch_code import functional
from graphsplit.formats.torch_nodes import signature, size_names, tensor_inputs
from graphsplit.graph import Node
from graphsplit.stacking.table import AFFINE, IN_PLACE_ONLY, RISING, SELECTING


def rewritten(nodes: Sequence[Node], kept: frozenset[str], stored: Collection[str], facts: Facts) -> list[Node]:
    """The nodes of one mode, `kept` being the values that its results read, `stored` its tensors' names.

    What is written into a value becomes a value of its own (buffers are still written into), a norm's gain and bias are
    multiplied and added behind it, and a function that never falls runs behind the pool that selects.
    """

    def one_type(node: Node) -> bool:
        """Whether an op's other form can't promote to another type than this one gives."""
        return len({facts[name].dtype for name in tensor_inputs(node) if name}) == 1

    def by_value(node: Node) -> bool:
        return one_type(node) and base(node.op) not in IN_PLACE_ONLY and not set(stored).intersection(written(node))

    found = [functional(node) if by_value(node) else node for node in nodes]
    return [piece for node in _exchanged(found, kept) for piece in (_apart(node) if one_type(node) else [node])]


def written(node: Node) -> tuple[str, ...]:
    """The values that a node writes into, among the tensors in front of its lists."""
    if node.domain in ("sym", "graphsplit"):
        return ()
    tensors = [a for a in signature(node.domain, node.op) if a.kind in ("tensor", "tensors")]
    return tuple(
        name
        for name, argument in zip(node.inputs, tensors, strict=False)
        if argument.written and argument.kind == "tensor"
    )


def _exchanged(nodes: Sequence[Node], kept: frozenset[str]) -> list[Node]:
    """The nodes, with pools in front of the functions that they ran behind: these then run on what is left."""
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(i)
    found = list(nodes)
    for i, node in enumerate(nodes):
        behind = readers.get(node.outputs[0], []) if node.outputs else []
        if not _is(node, RISING) or len(behind) != 1 or node.outputs[0] in kept:
            continue
        pool = nodes[behind[0]]
        if _is(pool, SELECTING) and len(pool.outputs) == 1 and found[behind[0]] is pool:
            first, second = node.inputs[:1], node.outputs
            found[i] = replace(pool, inputs=first + pool.inputs[1:], outputs=second)
            found[behind[0]] = replace(node, inputs=second + node.inputs[1:], outputs=pool.outputs)
    return found


def _is(node: Node, names: Sequence[str]) -> bool:
    return node.domain == "aten" and base(node.op) in names and not size_names(node) and len(node.inputs) == 1


def _apart(node: Node) -> list[Node]:
    """A norm's statistics, and behind them its gain and bias."""
    if node.domain != "aten" or base(node.op) not in AFFINE or len(node.inputs) < 2 or size_names(node):
        return [node]
    x, weight, bias = (*node.inputs, "")[:3]
    plain, (result,) = f"{node.outputs[0]}.normed", node.outputs
    pieces = [replace(node, inputs=(x,), outputs=(plain,))]

    def then(op: str, operands: tuple[str, ...]) -> list[Node]:
        return [*pieces, Node(f"{node.name}.affine", op, "aten", 1, operands, (result,))]

    if weight and bias:
        return then("addcmul.default", (bias, plain, weight))
    return then("mul.Tensor", (plain, weight)) if weight else then("add.Tensor", (plain, bias)) if bias else [node]


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """A node with other names for its values, in attributes too."""
    sizes = set(size_names(node))

    def new(item: object) -> object:
        if isinstance(item, tuple):
            return tuple(new(one) for one in item)
        return names.get(item, item) if isinstance(item, str) and item in sizes else item

    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
        attributes={key: new(item) for key, item in node.attributes.items()} if sizes else node.attributes,  # type: ignore[misc]
    )
