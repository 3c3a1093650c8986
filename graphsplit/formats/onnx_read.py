"""ONNX files -> Graph."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from graphsplit.errors import FormatError, GraphsplitError, UnsupportedError
from graphsplit.formats.structure import weightless
from graphsplit.formats.tensors import MappedFile, is_float, numpy_type, read_tensor
from graphsplit.formats.wire import IN_FILE, skeleton
from graphsplit.graph import (
    ArrayTensor,
    AttributeValue,
    Dim,
    Graph,
    Node,
    Tensor,
    Value,
    WeightlessTensor,
    topological,
)

OLDEST_OPSET = 7
OLDEST_IR = 3

_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def load(path: str | os.PathLike[str], *, weights: bool = True) -> Graph:
    """Read an ONNX file.

    Tensors are read when they are asked for; data outside the file is memory-mapped. Constant nodes become tensors,
    model-local functions are inlined, and nodes are put in topological order; the rest stays as the file has it, and
    left-out attributes stay left out. With `weights` False large float tensors come back as WeightlessTensor, from a
    weightless copy as from a whole model, whose data files are then not needed.

    Raises FormatError for a file that is missing, damaged or not ONNX, and UnsupportedError for ONNX that graphsplit
    does not handle: opsets below 7, sequence inputs, sparse tensors, training graphs, functions that do not inline.
    """
    graph = read(path, weights=weights)
    return graph if weights else weightless(graph)


def read(path: str | os.PathLike[str], *, weights: bool) -> Graph:
    """The graph as the file holds it: `weights` says whether a weightless copy's stubs are refused or stay stubs."""
    path = Path(path)
    try:
        file, proto = _parsed(path)
        return _Reader(_inlined(proto), path.parent.resolve(), file, weights=weights).graph()
    except GraphsplitError as error:
        raise type(error)(f"{str(path)!r}: {error.message}", hint=error.hint) from error


def _parsed(path: Path) -> tuple[MappedFile, onnx.ModelProto]:
    """A file and the skeleton of the message in it, checked to be a model that the reader understands."""
    if not path.is_file():
        raise FormatError("it is a folder, not a file" if path.is_dir() else "there is no such file")
    file = MappedFile(path)
    if not file.size:
        raise FormatError("the file is empty")
    proto = onnx.ModelProto()
    try:
        with memoryview(file.bytes()) as content:
            proto.ParseFromString(skeleton(content))
    except DecodeError as error:
        raise FormatError("not an ONNX model, or a truncated one") from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise FormatError("not an ONNX model, or a truncated one: it has no graph or no IR version")
    if not OLDEST_IR <= proto.ir_version <= onnx.IR_VERSION:
        raise UnsupportedError(
            f"its IR version is {proto.ir_version}; this graphsplit reads {OLDEST_IR} to {onnx.IR_VERSION}",
            hint="newer files need a newer onnx package; older ones a conversion with onnx.version_converter",
        )
    if proto.training_info:
        raise UnsupportedError("it holds a training graph (training_info)", hint="export the network for inference")
    return file, proto


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own."""
    if not proto.functions:
        return proto
    try:
        inlined = onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedError(f"its function {proto.functions[0].name!r} cannot be inlined: {reason}") from error
    if inlined.functions:
        raise UnsupportedError(f"its function {inlined.functions[0].name!r} cannot be inlined")
    return inlined


class _Reader:
    """The parts of a model, read one after the other."""

    def __init__(self, proto: onnx.ModelProto, folder: Path, file: MappedFile, *, weights: bool) -> None:
        self.proto = proto
        self.folder = folder
        self.weights = weights
        self.files: dict[str, MappedFile] = {IN_FILE: file}
        self.tensors: dict[str, Tensor] = {}
        self.constant_nodes: dict[str, str] = {}
        self.opsets: dict[str, int] = {}

    def graph(self) -> Graph:
        source = self.proto.graph
        _check_text(source.name, *(text for entry in self.proto.metadata_props for text in (entry.key, entry.value)))
        self.read_opsets()
        self.read_initializers()
        unordered = self.read_nodes()
        inputs, tensor_inputs = self.read_inputs()
        self.check_names(inputs, unordered)
        nodes = topological(unordered, [*(value.name for value in inputs), *self.tensors])
        values = {info.name: value for info in source.value_info if (value := tensor_value(info)) is not None}
        ir_version = self.proto.ir_version
        if ir_version < 4 and self.tensors.keys() - self.constant_nodes.keys() - set(tensor_inputs):
            ir_version = 4  # before, every initializer had to be an input
        return Graph(
            name=source.name or "graph",
            inputs=inputs,
            outputs=self.read_outputs(inputs, nodes, values),
            nodes=nodes,
            tensors=self.tensors,
            values=values,
            opsets=self.opsets,
            constant_nodes=self.constant_nodes,
            tensor_inputs=tensor_inputs,
            metadata={entry.key: entry.value for entry in self.proto.metadata_props},
            ir_version=ir_version,
        )

    def read_opsets(self) -> None:
        for entry in self.proto.opset_import:
            _check_text(entry.domain)
            self.opsets[_domain(entry.domain)] = entry.version
        if not self.opsets:
            raise FormatError("it names no opset: not an ONNX model, or a truncated one")
        opset, newest = self.opsets.get("", OLDEST_OPSET), onnx.defs.onnx_opset_version()
        if not OLDEST_OPSET <= opset <= newest:
            raise UnsupportedError(
                f"its opset is {opset}; this graphsplit reads {OLDEST_OPSET} to {newest}",
                hint="convert it: onnx.version_converter.convert_version(onnx.load(path), 13)"
                if opset < OLDEST_OPSET
                else "install a newer onnx package, or export with an older opset",
            )

    def read_initializers(self) -> None:
        if self.proto.graph.sparse_initializer:
            name = self.proto.graph.sparse_initializer[0].values.name
            raise UnsupportedError(f"tensor {name!r} is sparse", hint="store it as a dense tensor")
        for tensor in self.proto.graph.initializer:
            if not tensor.name:
                raise FormatError("a tensor has no name")
            _check_text(tensor.name)
            self.add_tensor(tensor.name, self.tensor(tensor))

    def add_tensor(self, name: str, tensor: Tensor) -> None:
        if name in self.tensors:
            raise FormatError(f"two tensors are named {name!r}")
        self.tensors[name] = tensor

    def tensor(self, proto: onnx.TensorProto) -> Tensor:
        if not self.weights and proto.data_location == onnx.TensorProto.EXTERNAL:
            stub = WeightlessTensor(tuple(proto.dims), numpy_type(proto.data_type))
            if is_float(stub.dtype):
                return stub
        tensor = read_tensor(proto, self.folder, self.files)
        if self.weights and isinstance(tensor, WeightlessTensor):
            raise FormatError(
                f"this is a weightless copy of a network: tensor {proto.name!r} has no elements",
                hint="load it with weights=False, or name the model itself",
            )
        return tensor

    def read_nodes(self) -> list[Node]:
        nodes = []
        for proto in self.proto.graph.node:
            _check_text(proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
            if proto.op_type == "Constant" and not _domain(proto.domain):
                self.lift(proto)
            else:
                nodes.append(self.node(proto))
        return nodes

    def lift(self, proto: onnx.NodeProto) -> None:
        """Read a Constant node as a tensor."""
        title = f"Constant {proto.name or (proto.output and proto.output[0])!r}"
        if len(proto.output) != 1 or not proto.output[0] or len(proto.attribute) != 1:
            raise FormatError(f"{title} should have one output and one value")
        attribute = proto.attribute[0]
        kinds = onnx.AttributeProto
        if attribute.type == kinds.SPARSE_TENSOR:
            raise UnsupportedError(f"{title} is sparse", hint="store it as a dense tensor")
        value: Tensor
        if attribute.name == "value" and attribute.type == kinds.TENSOR:
            named = onnx.TensorProto()
            named.CopyFrom(attribute.t)
            named.name = proto.output[0]
            value = self.tensor(named)
        elif attribute.name in ("value_float", "value_floats"):
            value = ArrayTensor(
                np.array(attribute.f if attribute.type == kinds.FLOAT else list(attribute.floats), np.float32)
            )
        elif attribute.name in ("value_int", "value_ints"):
            value = ArrayTensor(
                np.array(attribute.i if attribute.type == kinds.INT else list(attribute.ints), np.int64)
            )
        elif attribute.name in ("value_string", "value_strings"):
            value = ArrayTensor(
                np.array(attribute.s if attribute.type == kinds.STRING else list(attribute.strings), object)
            )
        else:
            raise FormatError(f"{title} has no value that graphsplit knows, but {attribute.name!r}")
        self.add_tensor(proto.output[0], value)
        self.constant_nodes[proto.output[0]] = proto.name

    def node(self, proto: onnx.NodeProto) -> Node:
        domain = _domain(proto.domain)
        node = Node(proto.name, proto.op_type, domain, 0, tuple(proto.input), tuple(proto.output))
        if not proto.op_type:
            raise FormatError(f"node {proto.name!r} has no op")
        if domain not in self.opsets:
            raise FormatError(f"{node.title}: the file imports no opset of the domain {domain!r}")
        attributes: dict[str, AttributeValue] = {}
        has_body = False
        for attribute in proto.attribute:
            _check_text(attribute.name)
            if attribute.name in attributes:
                raise FormatError(f"{node.title} has the attribute {attribute.name!r} twice")
            if attribute.type in _BODIES or attribute.HasField("g"):
                has_body = True
            else:
                attributes[attribute.name] = self.attribute(attribute, node)
        version = _since_version(proto.op_type, domain, self.opsets[domain])
        return Node(node.name, node.op, domain, version, node.inputs, node.outputs, attributes, has_body)

    def attribute(self, proto: onnx.AttributeProto, node: Node) -> AttributeValue:
        kinds = onnx.AttributeProto
        if proto.type == kinds.INT:
            return proto.i
        if proto.type == kinds.FLOAT:
            return proto.f
        if proto.type == kinds.STRING:
            return _text(proto.s)
        if proto.type == kinds.INTS:
            return tuple(proto.ints)
        if proto.type == kinds.FLOATS:
            return tuple(proto.floats)
        if proto.type == kinds.STRINGS:
            return _texts(proto.strings, proto.name, node)
        if proto.type == kinds.TENSOR:
            return read_tensor(proto.t, self.folder, self.files).numpy()
        if proto.ref_attr_name or proto.type == kinds.UNDEFINED:
            raise FormatError(f"{node.title}: attribute {proto.name!r} has no type of its own")
        kind = kinds.AttributeType.Name(proto.type).lower()
        raise UnsupportedError(f"{node.title}: attribute {proto.name!r} is of the kind {kind}")

    def read_inputs(self) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        inputs: list[Value] = []
        tensor_inputs: list[str] = []
        for info in self.proto.graph.input:
            if info.name in self.tensors:
                tensor_inputs.append(info.name)
                continue
            value = tensor_value(info)
            if value is None:
                raise _untyped("input", info)
            inputs.append(value)
        return tuple(inputs), tuple(tensor_inputs)

    def read_outputs(
        self, inputs: Iterable[Value], nodes: Iterable[Node], values: dict[str, Value]
    ) -> tuple[Value, ...]:
        outputs = []
        computed = {*self.tensors, *(value.name for value in inputs), *(out for node in nodes for out in node.outputs)}
        for info in self.proto.graph.output:
            value = tensor_value(info) or values.get(info.name)
            if value is None:
                raise _untyped("output", info)
            if info.name not in computed:
                raise FormatError(f"nothing computes the output {info.name!r}")
            outputs.append(value)
        if not outputs:
            raise FormatError("the graph has no outputs")
        return tuple(outputs)

    def check_names(self, inputs: Iterable[Value], nodes: Iterable[Node]) -> None:
        """Every value is made once: by an input, a tensor or a node."""
        made = set(self.tensors)
        names = [value.name for value in inputs]
        for name in [*names, *(out for node in nodes for out in node.outputs if out)]:
            if name in made:
                raise FormatError(f"two things make the value {name!r}: names of values must differ")
            made.add(name)
        if "" in names:
            raise FormatError("an input has no name")


def tensor_value(info: onnx.ValueInfoProto) -> Value | None:
    """Name, type and shape of a value; None where it is no tensor or has no element type."""
    _check_text(info.name)
    kind = info.type
    if kind.WhichOneof("value") != "tensor_type" or not kind.tensor_type.elem_type:
        return None
    shape: tuple[Dim, ...] | None = None
    if kind.tensor_type.HasField("shape"):
        shape = tuple(_dim(dim) for dim in kind.tensor_type.shape.dim)
    return Value(info.name, numpy_type(kind.tensor_type.elem_type), shape)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    _check_text(dim.dim_param)
    return dim.dim_param or None


def _untyped(role: str, info: onnx.ValueInfoProto) -> GraphsplitError:
    kind = info.type.WhichOneof("value")
    if kind in (None, "tensor_type"):
        return FormatError(
            f"the {role} {info.name!r} has no element type",
            hint="add the types: onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), new_path)",
        )
    return UnsupportedError(f"the {role} {info.name!r} is a {kind.removesuffix('_type')}, not a tensor")


def _check_text(*texts: object) -> None:
    """Protobuf gives a string that is not UTF-8 as bytes."""
    for text in texts:
        if not isinstance(text, str):
            raise FormatError(f"the name {text!r} is not UTF-8: the file is damaged")


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _texts(values: Iterable[bytes], name: str, node: Node) -> tuple[str, ...]:
    try:
        return tuple(value.decode() for value in values)
    except UnicodeDecodeError as error:
        raise UnsupportedError(f"{node.title}: attribute {name!r} holds strings that are not UTF-8") from error


@cache
def _since_version(op: str, domain: str, opset: int) -> int:
    """The opset that last changed an op; the opset itself where the op is unknown."""
    try:
        return onnx.defs.get_schema(op, opset, domain).since_version
    except onnx.defs.SchemaError:
        return opset
