"""Graph -> ONNX files, one tensor at a time.

The message is not built in memory: its length is known from shapes and types, so headers and elements are written one
after the other, as the wire format has them. Beyond protobuf's 2 GB the elements go to a file of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import Message

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.files import atomic_file
from graphsplit.formats.tensors import STUB_LOCATION, byte_size, onnx_type, raw_bytes
from graphsplit.formats.wire import bytes_tag, varint
from graphsplit.graph import Array, AttributeValue, Graph, Node, Tensor, Value, WeightlessTensor

INLINE_LIMIT = 2**31 - 2**24
EXTERNAL_THRESHOLD = 1024
_ALIGNMENT = 64


def save(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    external: bool | None = None,
    force: bool = False,
) -> None:
    """Write a graph as an ONNX file that appears complete or not at all.

    `metadata` is added to the graph's own. `external` puts large tensors into `<name>.data` beside the file; by default
    only where they would not fit into it, at 2 GB. The same graph and options give the same bytes. Tensors are read one
    at a time; a WeightlessTensor is written as a stub that only `load(path, weights=False)` understands.

    Raises UnsupportedError for a node with a sub-graph, which Graph does not hold, and OutputError when the file exists
    and `force` is not set.
    """
    with atomic_file(path, force=force) as staged:
        store = _Store.of(graph, staged, external)
        try:
            message = _model(graph, metadata or {}, store)
            with staged.open("wb") as file:
                message.write(file)
        finally:
            store.close()


@dataclass(slots=True)
class _Pieces:
    """A message as the pieces that it is made of: bytes, or a way to get them, with their number known before."""

    pieces: list[bytes | Callable[[], bytes | memoryview]] = field(default_factory=list)
    size: int = 0

    def add(self, message: Message | bytes) -> None:
        data = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
        self.pieces.append(data)
        self.size += len(data)

    def add_bytes_field(self, number: int, size: int, data: Callable[[], bytes | memoryview]) -> None:
        self.add(bytes_tag(number) + varint(size))
        self.pieces.append(data)
        self.size += size

    def nest(self, number: int, inner: _Pieces) -> None:
        self.add(bytes_tag(number) + varint(inner.size))
        self.pieces += inner.pieces
        self.size += inner.size

    def write(self, file: BinaryIO) -> None:
        for piece in self.pieces:
            file.write(piece if isinstance(piece, bytes) else piece())
        assert file.tell() == self.size, "a tensor has another size than its shape and type say"


@dataclass(slots=True)
class _Store:
    """Where elements go: into the message, or into a file beside it that grows tensor by tensor."""

    location: str = ""
    file: BinaryIO | None = None

    @classmethod
    def of(cls, graph: Graph, path: Path, external: bool | None) -> _Store:
        if external is None:
            total = sum(_nbytes(name, tensor) for name, tensor in graph.tensors.items())
            external = total > INLINE_LIMIT
        if not external:
            return cls()
        location = f"{path.name}.data"
        return cls(location, (path.parent / location).open("wb"))

    def message(self, name: str, tensor: Tensor) -> _Pieces:
        """The TensorProto of a tensor."""
        kind = onnx_type(tensor.dtype)
        pieces = _Pieces()
        proto = onnx.TensorProto(name=name, data_type=kind.value, dims=tensor.shape)
        if isinstance(tensor, WeightlessTensor):
            _add_external(proto, {"location": STUB_LOCATION})
        elif kind.name == "STRING":
            proto.string_data.extend(_encoded(item) for item in _checked(name, tensor).ravel().tolist())
        elif self.file is not None and _nbytes(name, tensor) >= EXTERNAL_THRESHOLD:
            offset, nbytes = self.append(name, tensor)
            _add_external(proto, {"location": self.location, "offset": str(offset), "length": str(nbytes)})
        else:
            pieces.add(proto)
            number = onnx.TensorProto.RAW_DATA_FIELD_NUMBER
            pieces.add_bytes_field(number, _nbytes(name, tensor), lambda: raw_bytes(_checked(name, tensor)))
            return pieces
        pieces.add(proto)
        return pieces

    def append(self, name: str, tensor: Tensor) -> tuple[int, int]:
        assert self.file is not None
        self.file.write(bytes(-self.file.tell() % _ALIGNMENT))
        offset = self.file.tell()
        self.file.write(raw_bytes(_checked(name, tensor)))
        return offset, self.file.tell() - offset

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _nbytes(name: str, tensor: Tensor) -> int:
    """Bytes that the elements take; strings go into the message's head and count there."""
    if isinstance(tensor, WeightlessTensor) or tensor.dtype.kind in "OSU":
        return 0
    return byte_size(tensor.shape, tensor.dtype)


def _checked(name: str, tensor: Tensor) -> Array:
    """The elements of a tensor, which must be what its shape and type promise."""
    array = tensor.numpy()
    if array.shape != tuple(tensor.shape) or (array.dtype != tensor.dtype and array.dtype.kind not in "OSU"):
        raise FormatError(
            f"tensor {name!r} should have shape {tuple(tensor.shape)} and type {tensor.dtype}, "
            f"and has {array.shape} and {array.dtype}"
        )
    return array


def _add_external(proto: onnx.TensorProto, entries: Mapping[str, str]) -> None:
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)


def _encoded(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _model(graph: Graph, metadata: Mapping[str, str], store: _Store) -> _Pieces:
    """The ModelProto."""
    ir_version = graph.ir_version
    if graph.tensors.keys() - graph.constant_nodes.keys() - set(graph.tensor_inputs):
        ir_version = max(ir_version, 4)
    head = onnx.ModelProto(ir_version=ir_version, producer_name="graphsplit")
    for domain, version in sorted(graph.opsets.items()):
        head.opset_import.add(domain=domain, version=version)
    for key, value in sorted({**graph.metadata, **metadata}.items()):
        head.metadata_props.add(key=key, value=value)
    pieces = _Pieces()
    pieces.add(head)
    pieces.nest(onnx.ModelProto.GRAPH_FIELD_NUMBER, _graph(graph, store))
    return pieces


def _graph(graph: Graph, store: _Store) -> _Pieces:
    """The GraphProto: constants first among the nodes, initializers last."""
    pieces = _Pieces()
    for name, tensor in graph.tensors.items():
        if name in graph.constant_nodes:
            constant = _constant(graph.constant_nodes[name], name, store.message(name, tensor))
            pieces.nest(onnx.GraphProto.NODE_FIELD_NUMBER, constant)
    head = onnx.GraphProto(name=graph.name or "graph")
    head.node.extend(_node(node) for node in graph.nodes)
    head.input.extend(_value(value) for value in graph.inputs)
    for name in graph.tensor_inputs:
        tensor = graph.tensors[name]
        head.input.append(_value(Value(name, tensor.dtype, tuple(tensor.shape))))
    head.output.extend(_value(value) for value in graph.outputs)
    head.value_info.extend(_value(graph.values[name]) for name in _ordered_values(graph))
    pieces.add(head)
    for name, tensor in graph.tensors.items():
        if name not in graph.constant_nodes:
            pieces.nest(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, store.message(name, tensor))
    return pieces


def _ordered_values(graph: Graph) -> list[str]:
    """The names of the recorded values in the order in which nodes compute them, then the others."""
    known = [name for node in graph.nodes for name in node.outputs if name in graph.values]
    return [*known, *sorted(graph.values.keys() - set(known))]


def _constant(node: str, name: str, tensor: _Pieces) -> _Pieces:
    """The NodeProto of a Constant."""
    attribute = _Pieces()
    attribute.add(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR))
    attribute.nest(onnx.AttributeProto.T_FIELD_NUMBER, tensor)
    pieces = _Pieces()
    pieces.add(onnx.NodeProto(name=node, op_type="Constant", output=[name]))
    pieces.nest(onnx.NodeProto.ATTRIBUTE_FIELD_NUMBER, attribute)
    return pieces


def _node(node: Node) -> onnx.NodeProto:
    if node.has_body:
        raise UnsupportedError(f"{node.title} holds a sub-graph, which graphsplit does not write")
    proto = onnx.NodeProto(name=node.name, op_type=node.op, domain=node.domain, input=node.inputs, output=node.outputs)
    for name, value in sorted(node.attributes.items()):
        proto.attribute.append(_attribute(name, value, node))
    return proto


def _attribute(name: str, value: AttributeValue, node: Node) -> onnx.AttributeProto:
    proto = onnx.AttributeProto(name=name)
    if isinstance(value, np.ndarray):
        proto.type = onnx.AttributeProto.TENSOR
        proto.t.CopyFrom(_small_tensor(value))
    elif isinstance(value, (bytes, str)):
        proto.type, proto.s = onnx.AttributeProto.STRING, _encoded(value)
    elif isinstance(value, (int, np.integer)):
        proto.type, proto.i = onnx.AttributeProto.INT, int(value)
    elif isinstance(value, (float, np.floating)):
        proto.type, proto.f = onnx.AttributeProto.FLOAT, float(value)
    elif all(isinstance(item, (bytes, str)) for item in value) and (value or _kind(node, name) == "STRINGS"):
        proto.type = onnx.AttributeProto.STRINGS
        proto.strings.extend(_encoded(item) for item in value)
    elif all(isinstance(item, (int, np.integer)) for item in value) and (value or _kind(node, name) != "FLOATS"):
        proto.type = onnx.AttributeProto.INTS
        proto.ints.extend(int(item) for item in value)
    elif all(isinstance(item, (int, float, np.number)) for item in value):
        proto.type = onnx.AttributeProto.FLOATS
        proto.floats.extend(float(item) for item in value)
    else:
        raise UnsupportedError(f"{node.title}: attribute {name!r} mixes kinds: {value!r}")
    return proto


def _kind(node: Node, attribute: str) -> str:
    """The type that an op's schema gives to an attribute, for lists whose elements do not tell; "" if unknown."""
    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
    except onnx.defs.SchemaError:
        return ""
    found = schema.attributes.get(attribute)
    return str(found.type).rpartition(".")[2] if found is not None else ""


def _small_tensor(array: Array) -> onnx.TensorProto:
    proto = onnx.TensorProto(data_type=onnx_type(array.dtype).value, dims=array.shape)
    if array.dtype.kind in "OSU":
        proto.string_data.extend(_encoded(item) for item in array.ravel().tolist())
    else:
        proto.raw_data = bytes(raw_bytes(array))
    return proto


def _value(value: Value) -> onnx.ValueInfoProto:
    proto = onnx.ValueInfoProto(name=value.name)
    kind = proto.type.tensor_type
    kind.elem_type = onnx_type(value.dtype).value
    if value.shape is not None:
        kind.shape.SetInParent()
        for size in value.shape:
            dim = kind.shape.dim.add()
            if isinstance(size, str):
                dim.dim_param = size
            elif size is not None:
                dim.dim_value = int(size)
    return proto
