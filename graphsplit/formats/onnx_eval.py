"""Shapes of an ONNX graph for chosen sizes of its dynamic axes, and ONNX ops run on integer label arrays.

Nothing here computes an activation: onnx's own per-op shape inference gives the shapes, and its reference implementation
evaluates the small integer arithmetic that shapes are made of.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference.ops import load_op

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact, Facts
from graphsplit.graph import Array, Graph, Node

NEWER = {("", "Scatter"): ("ScatterElements", 11)}
"""Ops that the reference implementation knows under a newer name alone, with the version that is the same."""

KNOWN_LIMIT = 1 << 20
"""Largest number of elements that is evaluated rather than only given a shape."""

# Attributes that hold the element a movement op fills up with: on labels that element is "common", which is 0.
_FILL_ATTRIBUTES = {("", "Pad"): {"value": 0.0}}


def attributes_with_defaults(node: Node) -> dict[str, Any]:
    """The node's attributes, and the operator's defaults for those that it leaves out."""
    return {**_defaults(node.domain, node.op, node.version), **node.attributes}


@lru_cache(maxsize=4096)
def _schema(domain: str, op: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def version_of(op: str, opset: int) -> int:
    """The version of an op of the default domain that holds at an opset."""
    schema = _schema("", op, opset)
    assert schema is not None
    return int(schema.since_version)


@lru_cache(maxsize=4096)
def _defaults(domain: str, op: str, version: int) -> Mapping[str, Any]:
    schema = _schema(domain, op, version)
    if schema is None:
        return {}
    found: dict[str, Any] = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            value = helper.get_attribute_value(attribute.default_value)
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def node_proto(node: Node, overrides: Mapping[str, Any] | None = None) -> onnx.NodeProto:
    """The node as a protobuf message, for onnx's own inference and reference implementation."""
    proto = helper.make_node(node.op, node.inputs, node.outputs, name=node.name, domain=node.domain)
    for name, value in {**node.attributes, **(overrides or {})}.items():
        if isinstance(value, np.ndarray):
            proto.attribute.append(helper.make_attribute(name, numpy_helper.from_array(value)))
        elif not (isinstance(value, tuple) and not value):
            proto.attribute.append(helper.make_attribute(name, value))
    return proto


def unfused(node: Node, op: str, opset: int = onnx.defs.onnx_opset_version()) -> Node:
    """The op of ONNX's own that a node does first, before what is fused behind it: with the operands and attributes of that."""
    schema = _schema("", op, opset)
    assert schema is not None, f"a rule says that {node.op} is a fused {op}"
    kept = {name: value for name, value in node.attributes.items() if name in schema.attributes}
    inputs, outputs = node.inputs[: schema.max_input], node.outputs[: schema.max_output]
    return Node(node.name, op, "", int(schema.since_version), inputs, outputs, kept)


Step = Callable[[Node, list[Fact | None]], list[Fact | None]]


def evaluate(graph: Graph, sizes: Mapping[str, int], parameters: frozenset[str], step: Step) -> Facts:
    """Shape, type and, where it is small and known, content of every value.

    `sizes` gives a size for each symbolic dim (an unnamed dim is called `input:axis`); `step` gives the facts of one node's
    results. The content of a parameter is never looked at. A shape that depends on data is None. Linear in the number of nodes.
    """
    facts: Facts = {}
    for value in graph.inputs:
        facts[value.name] = Fact(concrete(value.name, value.shape, sizes), value.dtype)
    for name, tensor in graph.tensors.items():
        small = name not in parameters and int(np.prod(tensor.shape, dtype=np.int64)) <= KNOWN_LIMIT
        facts[name] = Fact(tensor.shape, tensor.dtype, tensor.numpy() if small else None)
    for node in graph.nodes:
        results = step(node, [facts.get(name) for name in node.inputs])
        for name, result in zip(node.outputs, results, strict=False):
            if name:
                facts[name] = result if result is not None else _declared(graph, name, sizes)
        for name in node.outputs:
            if name and name not in facts:
                facts[name] = _declared(graph, name, sizes)
    return facts


def opset_ids(graph: Graph) -> list[onnx.OperatorSetIdProto]:
    """The operator sets that a graph imports."""
    return [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]


def concrete(name: str, shape: Sequence[int | str | None] | None, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The shape with its symbols replaced by sizes; None where one has no size."""
    if shape is None:
        return None
    found = [
        dim if isinstance(dim, int) else sizes.get(dim if isinstance(dim, str) else f"{name}:{axis}")
        for axis, dim in enumerate(shape)
    ]
    return None if any(dim is None for dim in found) else tuple(dim for dim in found if dim is not None)


def _declared(graph: Graph, name: str, sizes: Mapping[str, int]) -> Fact:
    """What the file itself says of a value of which inference says nothing."""
    value = graph.values.get(name) or next((out for out in graph.outputs if out.name == name), None)
    if value is None:
        return Fact(None, None)
    return Fact(concrete(name, value.shape, sizes), value.dtype)


def evaluate_node(node: Node, inputs: list[Fact | None], opsets: list[onnx.OperatorSetIdProto]) -> list[Fact | None]:
    """Facts of one node's results from those of its inputs; None for a result of which nothing is known."""
    if node.op in ("Shape", "Size") and not node.domain and inputs[0] is not None and inputs[0].shape is not None:
        return [_shape_fact(node, inputs[0].shape)]
    if all(fact is None or fact.data is not None for fact in inputs) and any(fact is not None for fact in inputs):
        results = _run_known(node, [fact.data if fact is not None else None for fact in inputs])
        if results is not None:
            return results
    return _infer(node, inputs, opsets)


def _shape_fact(node: Node, shape: tuple[int, ...]) -> Fact:
    if node.op == "Size":
        data = np.asarray(int(np.prod(shape, dtype=np.int64)), np.int64)
    else:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        bounds = slice(start if isinstance(start, int) else 0, end if isinstance(end, int) else None)
        data = np.asarray(shape[bounds], np.int64)
    return Fact(tuple(data.shape), data.dtype, data)


def _run_known(node: Node, arrays: list[Array | None]) -> list[Fact | None] | None:
    if sum(a.size for a in arrays if a is not None) > KNOWN_LIMIT:
        return None
    try:
        results = run(node, arrays)
    except Exception:  # noqa: BLE001 - the reference has gaps; without a value, inference still gives the shape
        return None
    if any(not isinstance(r, np.ndarray) or r.size > KNOWN_LIMIT for r in results):
        return None
    return [Fact(tuple(r.shape), r.dtype, r) for r in results]


def _infer(node: Node, inputs: list[Fact | None], opsets: list[onnx.OperatorSetIdProto]) -> list[Fact | None]:
    opset = next((o.version for o in opsets if o.domain in (node.domain, node.domain or "ai.onnx")), 1)
    schema = _schema(node.domain, node.op, opset)
    if schema is None:
        return [None] * len(node.outputs)
    types, data = {}, {}
    for name, fact in zip(node.inputs, inputs, strict=True):
        if not name or fact is None or fact.dtype is None:
            continue
        types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(fact.dtype), fact.shape)
        if fact.data is not None and fact.data.size <= 4096:
            data[name] = numpy_helper.from_array(np.asarray(fact.data))
    if any(name and name not in types for name in node.inputs):
        return [None] * len(node.outputs)
    try:
        inferred = shape_inference.infer_node_outputs(schema, node_proto(node), types, data, opset_imports=opsets)
    except (shape_inference.InferenceError, RuntimeError, ValueError, onnx.checker.ValidationError):
        return [Fact(None, None)] * len(
            node.outputs
        )  # shapes that contradict each other: whatever the file declares is wrong
    if not inferred:
        return _infer_function(node, types, opsets)
    found = [_fact_of(inferred.get(name)) for name in node.outputs]
    return [Fact(None, f.dtype) if f is not None and not _consistent(node, inputs, f) else f for f in found]


def infers_shapes(node: Node, opset: int) -> bool:
    """Whether onnx can tell the shapes of an op's results: it knows the op, and doesn't call it deprecated."""
    schema = _schema(node.domain, node.op, opset)
    return schema is not None and not schema.deprecated and bool(schema.has_type_and_shape_inference_function)


def _consistent(node: Node, inputs: list[Fact | None], result: Fact) -> bool:
    """Whether a shape makes sense: inference checks neither for sizes below 1 nor that a Reshape keeps its elements."""
    if result.shape is None:
        return True
    if any(size < 0 for size in result.shape):
        return False
    source = inputs[0].shape if inputs and inputs[0] is not None else None
    if node.op == "Reshape" and source is not None:
        return int(np.prod(source, dtype=np.int64)) == int(np.prod(result.shape, dtype=np.int64))
    return True


def _infer_function(
    node: Node, types: Mapping[str, onnx.TypeProto], opsets: list[onnx.OperatorSetIdProto]
) -> list[Fact | None]:
    """Shapes of an op that onnx defines as a function of others: inferred through its body, in a graph of this node alone."""
    inputs = [helper.make_value_info(name, proto) for name, proto in types.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
    graph = helper.make_graph([node_proto(node)], "one", inputs, outputs)
    model = shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets))
    found = {value.name: value.type for value in model.graph.output}
    return [_fact_of(found.get(name)) for name in node.outputs]


def _fact_of(proto: onnx.TypeProto | None) -> Fact | None:
    if proto is None or not proto.HasField("tensor_type"):
        return None
    tensor = proto.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape") and dtype is None:
        return None
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return Fact(None, dtype)
    return Fact(tuple(d.dim_value for d in tensor.shape.dim), dtype)


@lru_cache(maxsize=1024)
def _implementation(domain: str, op: str, version: int) -> Any:
    return load_op(domain, op, version)


def run(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Run onnx's reference implementation of one node."""
    op, version = NEWER.get((node.domain, node.op), (node.op, node.version))
    node = replace(node, op=op, version=version)
    if (node.domain, node.op) == ("", "Pad"):
        node, arrays = _cropped(node, arrays)
    proto = node_proto(node)
    parameters = {"log": lambda *_: None, "opsets": {node.domain: node.version}, "verbose": 0, "new_ops": None}
    parameters |= {"existing_functions": {}, "evaluator_cls": None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return list(_implementation(node.domain, node.op, node.version)(proto, parameters).run(*arrays))


def _cropped(node: Node, arrays: Sequence[Array | None]) -> tuple[Node, Sequence[Array | None]]:
    """A padding whose negative widths are cut off in front of it: the reference implementation takes none."""
    array = arrays[0]
    held = node.attributes.get("pads")
    given = np.asarray(held if held is not None else arrays[1] if len(arrays) > 1 else ())
    if array is None or not (given < 0).any():
        return node, arrays
    axes = arrays[3] if len(arrays) > 3 and arrays[3] is not None else np.arange(array.ndim)
    widths = given.reshape(2, -1)
    pieces = [slice(None)] * array.ndim
    for axis, before, after in zip(axes.tolist(), *widths.tolist(), strict=True):
        pieces[axis] = slice(max(0, -before), array.shape[axis] - max(0, -after))
    left = np.maximum(given, 0)
    if held is not None:
        node = replace(node, attributes={**node.attributes, "pads": tuple(left.tolist())})
        return node, [array[tuple(pieces)], *arrays[1:]]
    return node, [array[tuple(pieces)], left, *arrays[2:]]


def move(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Run a movement op on integer label arrays: the same op, on ids instead of activations.

    Raises UnsupportedError when onnx's reference implementation cannot run it.
    """
    fill = _FILL_ATTRIBUTES.get((node.domain, node.op))
    if fill is not None and fill.keys() <= node.attributes.keys():
        node = Node(**{**{f: getattr(node, f) for f in Node.__slots__}, "attributes": {**node.attributes, **fill}})
    try:
        results = run(node, arrays)
    except Exception as error:
        raise UnsupportedError(f"{node.title}: its movement of elements cannot be followed ({error})") from error
    return [np.asarray(r, dtype=np.int64) for r in results]
