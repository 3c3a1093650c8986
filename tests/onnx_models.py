"""Small ONNX models, written and read, and what it means that two graphs are the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphsplit.formats.onnx_file import load, load_weightless, save, save_weightless, structure_digest, weightless
from graphsplit.formats.tensors import raw_bytes
from graphsplit.graph import Graph, WeightlessTensor

F32 = np.dtype(np.float32)


def plain(graph: Graph) -> Graph:
    """A graph that `==` compares: no tensors, and arrays among the attributes spelled out with their types."""

    def spelled(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return (value.dtype.name, value.shape, value.tolist())
        return (
            type(value).__name__,
            tuple(type(item).__name__ for item in value) if isinstance(value, tuple) else "",
            value,
        )

    return graph.replace(
        tensors={},
        nodes=tuple(
            replace(node, attributes={name: spelled(value) for name, value in node.attributes.items()})
            for node in graph.nodes
        ),
    )


def elements(array: np.ndarray[Any, Any]) -> object:
    return array.tolist() if array.dtype == object else bytes(raw_bytes(array))


def assert_same(left: Graph, right: Graph) -> None:
    """Equal node by node, and tensors bit by bit."""
    assert plain(left) == plain(right)
    assert list(left.tensors) == list(right.tensors)
    for name, tensor in left.tensors.items():
        other = right.tensors[name]
        assert (tensor.shape, tensor.dtype, type(tensor) is WeightlessTensor) == (
            other.shape,
            other.dtype,
            type(other) is WeightlessTensor,
        )
        if not isinstance(tensor, WeightlessTensor):
            assert elements(tensor.numpy()) == elements(other.numpy()), name
    assert structure_digest(left) == structure_digest(right)


def model(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto] | None = None,
    *,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    **fields: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        inputs if inputs is not None else [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        outputs if outputs is not None else [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors or [],
    )
    return helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)], **fields)


def checkable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With a shape for the output, which onnx's checker asks for."""
    proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param="batch")
    proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=4)
    return proto


def dense(rows: int = 3, columns: int = 4) -> onnx.ModelProto:
    weight = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")], [numpy_helper.from_array(weight, "w")])


def written(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def round_trip(proto: onnx.ModelProto, folder: Path) -> Graph:
    """Load, after checking that saving and loading again changes nothing, with the data in the file and beside it."""
    graph = load(written(proto, folder / "source.onnx"))
    save(graph, folder / "inline.onnx")
    save(load(folder / "inline.onnx"), folder / "outside.onnx", external=True)
    save(load(folder / "outside.onnx"), folder / "again.onnx")
    for name in ("inline", "outside", "again"):
        assert_same(graph, load(folder / f"{name}.onnx"))
    assert (folder / "inline.onnx").read_bytes() == (folder / "again.onnx").read_bytes()
    save_weightless(graph, folder / "weightless.onnx")
    bare = load_weightless(folder / "weightless.onnx")
    assert_same(bare, weightless(graph))
    assert_same(bare, load(folder / "source.onnx", weights=False))
    assert structure_digest(bare) == structure_digest(graph)
    return graph
