"""Arguments of torch ops that hold widths, by the tags that ONNX has operands for: target shapes, sizes of pieces, bounds.

In aten they are attributes under many names; some say the same in another way (a number of pieces, a length).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact
from graphsplit.formats.torch_nodes import SYM, size_names, tensor_inputs
from graphsplit.graph import Array, AttributeValue, Node

Known = Callable[[str], Fact | None]
Emit = Callable[[Node], None]

END = np.iinfo(np.int64).max

ATTRIBUTE: Mapping[tuple[str, str], str] = {
    ("view", "shape"): "size",
    ("view_copy", "shape"): "size",
    ("_unsafe_view", "shape"): "size",
    ("reshape", "shape"): "shape",
    ("expand", "shape"): "size",
    ("expand_copy", "shape"): "size",
    ("broadcast_to", "shape"): "size",
    ("split_with_sizes", "sizes"): "split_sizes",
    ("slice", "starts"): "start",
    ("slice", "ends"): "end",
    ("slice", "axes"): "dim",
    ("slice", "steps"): "step",
    ("slice_scatter", "starts"): "start",
    ("slice_scatter", "ends"): "end",
    ("slice_scatter", "axes"): "dim",
    ("slice_scatter", "steps"): "step",
    ("narrow", "starts"): "start",
    ("narrow", "axes"): "dim",
    ("select", "index"): "index",
}
VIEWS = ("view", "view_copy", "_unsafe_view")
EXPANDING = ("expand", "expand_copy", "broadcast_to")
"""Ops to which -1 says that a size stays as it is, not that it is what is left over."""

MISSING = {"starts": 0, "ends": END, "steps": 1}


def base(op: str) -> str:
    """The name of an op without its overload, and without the underscore that says it writes in place."""
    name = op.partition(".")[0]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def argument(node: Node, tag: str, known: Known) -> Array | None:
    """An argument that a node holds in its attributes, given what is known of values; None where it holds none."""
    name = base(node.op)
    if (name, tag) in COMPUTED:
        return COMPUTED[name, tag](node, known)
    attribute = ATTRIBUTE.get((name, tag))
    if attribute is None:
        return None
    value = node.attributes.get(attribute, MISSING.get(tag))
    found = numbers(value, known)
    if found is None:
        return None
    return found if tag == "index" else np.atleast_1d(found)


def numbers(value: Any, known: Known) -> npt.NDArray[np.int64] | None:
    """An attribute's numbers, with named sizes by what is known of them."""
    if value is None:
        return None
    found = [_number(item, known) for item in (value if isinstance(value, tuple) else (value,))]
    if any(item is None for item in found):
        return None
    return np.asarray(found if isinstance(value, tuple) else found[0], np.int64)


def _number(item: Any, known: Known) -> int | None:
    if not isinstance(item, str):
        return int(item)
    fact = known(item)
    return None if fact is None or fact.data is None else int(fact.data)


def with_argument(node: Node, tag: str, value: Array, known: Known, emit: Emit) -> Node:
    """The node with an argument replaced; what stays the same stays a named size, what is computed anew is emitted."""
    name, items = base(node.op), [int(v) for v in np.ravel(value)]
    if name == "unflatten":
        start, count = _unflattened(node, known)
        return _changed(node, "sizes", items[start : start + count], known, emit)
    if name in ("split", "chunk", "tensor_split") and tag == "sizes":
        return _pieces(node, items)
    if name == "narrow" and tag == "starts":
        ends = argument(node, "ends", known)
        assert ends is not None
        return replace(node, attributes={**node.attributes, "start": items[0], "length": int(ends[0]) - items[0]})
    if name == "narrow":
        first = numbers(node.attributes["start"], known)
        assert first is not None
        return replace(node, attributes={**node.attributes, "length": items[0] - int(first)})
    attribute = ATTRIBUTE[name, tag]
    if not isinstance(node.attributes.get(attribute), tuple):
        return _renamed(replace(node, attributes={**node.attributes, attribute: items[0]}), node)
    return _changed(node, attribute, items, known, emit)


def _changed(node: Node, attribute: str, items: list[int], known: Known, emit: Emit) -> Node:
    old = node.attributes[attribute]
    assert isinstance(old, tuple)
    mixed: list[Any] = [o if _number(o, known) == new else new for o, new in zip(old, items, strict=True)]
    computed = [i for i, (o, new) in enumerate(zip(old, mixed, strict=True)) if isinstance(o, str) and o != new]
    leftover = (base(node.op), "shape") in ATTRIBUTE and base(node.op) not in EXPANDING and -1 not in old
    if len(computed) == 1 and leftover:  # a width has gone into a size that is only known when the program runs
        mixed[computed[0]] = -1
    else:
        for i in computed:
            mixed[i] = _in_proportion(node, str(old[i]), items[i], known, emit)
    changed: Any = tuple(mixed)
    return _renamed(replace(node, attributes={**node.attributes, attribute: changed}), node)


def _in_proportion(node: Node, size: str, wanted: int, known: Known, emit: Emit) -> str:
    """A named size times what a part has of the width that went into it."""
    have = _number(size, known)
    if have is None or have <= 0 or wanted <= 0:
        raise UnsupportedError(
            f"{node.title}: the size {size!r} can't be computed for a part",
            hint="write -1 in its place, or export the module with fixed sizes",
        )
    shared, result = math.gcd(have, wanted), size
    for step, op, number in (("times", "mul", wanted // shared), ("over", "floordiv", have // shared)):
        if number > 1:
            source, result = result, f"{node.name}.{size}.{step}"
            emit(Node(result, op, SYM, 1, (source, ""), (result,), {"arg1": number}))
    return result


def _renamed(node: Node, before: Node) -> Node:
    """The node with the sizes that its attributes still name behind its tensors."""
    return replace(node, inputs=(*tensor_inputs(before), *size_names(node)))


def _pieces(node: Node, sizes: list[int]) -> Node:
    """A split into equal pieces as it is, else with the sizes written out."""
    attributes: dict[str, AttributeValue] = {"dim": node.attributes.get("dim", 0)}
    if base(node.op) == "split" and len({*sizes[:-1]}) <= 1 and sizes[-1] <= sizes[0]:
        return _renamed(replace(node, attributes={**attributes, "split_size": sizes[0]}), node)
    attributes["split_sizes"] = tuple(sizes)
    return replace(node, op="split_with_sizes.default", inputs=tensor_inputs(node), attributes=attributes)


def _narrow_end(node: Node, known: Known) -> Array | None:
    start, length = numbers(node.attributes["start"], known), numbers(node.attributes["length"], known)
    return None if start is None or length is None else np.atleast_1d(start + length)


def _unflattened(node: Node, known: Known) -> tuple[int, int]:
    """Where the sizes of an unflatten stand in the result's shape."""
    fact = known(node.inputs[0])
    rank = len(fact.shape) if fact is not None and fact.shape is not None else 0
    dim, sizes = node.attributes["dim"], node.attributes["sizes"]
    assert isinstance(dim, int)
    assert isinstance(sizes, tuple)
    return dim % max(rank, 1), len(sizes)


def _unflatten_shape(node: Node, known: Known) -> Array | None:
    fact, sizes = known(node.inputs[0]), numbers(node.attributes["sizes"], known)
    if fact is None or fact.shape is None or sizes is None:
        return None
    start, _ = _unflattened(node, known)
    return np.asarray([*fact.shape[:start], *sizes, *fact.shape[start + 1 :]], np.int64)


def _along(node: Node, known: Known) -> int | None:
    """The size of the axis along which a node splits its operand."""
    fact, dim = known(node.inputs[0]), node.attributes.get("dim", 0)
    if fact is None or fact.shape is None:
        return None
    assert isinstance(dim, int)
    return fact.shape[dim]


def _split_sizes(node: Node, known: Known) -> Array | None:
    full, held = _along(node, known), node.attributes.get("split_size", node.attributes.get("split_sizes"))
    piece = numbers(held, known)
    if full is None or piece is None or piece.ndim:
        return piece
    return _equal(full, int(piece))


def _chunk_sizes(node: Node, known: Known) -> Array | None:
    full, count = _along(node, known), node.attributes["chunks"]
    assert isinstance(count, int)
    return None if full is None else _equal(full, -(-full // count))


def _equal(full: int, piece: int) -> Array:
    return np.asarray([min(piece, full - start) for start in range(0, full, max(piece, 1))], np.int64)


COMPUTED: Mapping[tuple[str, str], Callable[[Node, Known], Array | None]] = {
    ("narrow", "ends"): _narrow_end,
    ("unflatten", "shape"): _unflatten_shape,
    ("split", "sizes"): _split_sizes,
    ("chunk", "sizes"): _chunk_sizes,
}
