"""graphsplit.formats.onnx_file: what is read is what is written, and every bad file is refused in one line."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphsplit.errors import FormatError, GraphsplitError, UnsupportedError
from graphsplit.files import OutputError
from graphsplit.formats import onnx_write
from graphsplit.formats.onnx_file import (
    is_weight,
    load,
    load_weightless,
    save,
    save_weightless,
    structure_digest,
    weightless,
)
from graphsplit.formats.tensors import FileTensor, ProtoTensor, raw_bytes
from graphsplit.graph import ArrayTensor, Graph, Node, Value, WeightlessTensor
from tests.networks import NETWORKS
from tests.networks.generate import networks

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


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_round_trip_of_the_test_networks(name: str, tmp_path: Path) -> None:
    proto = NETWORKS[name]()
    graph = round_trip(proto, tmp_path)
    onnx.checker.check_model(tmp_path / "inline.onnx")
    if any(isinstance(tensor, FileTensor) for tensor in load(tmp_path / "outside.onnx").tensors.values()):
        onnx.checker.check_model(tmp_path / "outside.onnx")
    assert [value.name for value in graph.outputs] == [value.name for value in proto.graph.output]


@given(networks())
@settings(max_examples=25)
def test_round_trip_of_random_networks(tmp_path_factory: pytest.TempPathFactory, proto: onnx.ModelProto) -> None:
    round_trip(proto, tmp_path_factory.mktemp("random"))


def test_a_saved_network_computes_the_same(tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((5, 40)).astype(np.float32)
    weight = numpy_helper.from_array(np.random.default_rng(1).standard_normal((40, 50)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Constant", [], ["w"], name="stored", value=weight),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="dense"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 40])]
    round_trip(model(nodes, inputs=inputs), tmp_path)
    assert (tmp_path / "outside.onnx.data").stat().st_size == 40 * 50 * 4  # data of Constant nodes moves out too
    results = [
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"x": x})[0]
        for name in ("source", "inline", "outside")
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


ELEMENT_TYPES = [
    *(np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4),
]


@pytest.mark.parametrize("kind", ELEMENT_TYPES, ids=lambda kind: np.dtype(kind).name)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3, 5), (2, 3, 200)], ids=str)
def test_round_trip_of_element_types(kind: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    dtype = np.dtype(kind)
    if dtype.name in ("int4", "uint4"):
        array = rng.integers(-8 if dtype.name == "int4" else 0, 7, shape).astype(dtype)
    else:
        array = (
            rng.integers(0, 2 if kind is np.bool_ else 256, (*shape, dtype.itemsize), np.uint8)
            .view(dtype)
            .reshape(shape)
        )
    value = Value("x", F32, ())
    graph = Graph("net", (value,), (value,), (), {"w": ArrayTensor(array), "c": ArrayTensor(array)}, opsets={"": 21})
    graph = graph.replace(constant_nodes={"c": "constant"})
    save(graph, tmp_path / "a.onnx")
    save(graph, tmp_path / "b.onnx", external=True)
    assert_same(graph, load(tmp_path / "a.onnx"))
    assert_same(graph, load(tmp_path / "b.onnx"))


@pytest.mark.parametrize("kind", ELEMENT_TYPES, ids=lambda kind: np.dtype(kind).name)
def test_elements_in_typed_fields(kind: type, tmp_path: Path) -> None:
    """Not raw bytes, but `float_data`, `int32_data` and so on."""
    array = np.array([[0, 1, 3], [1, 0, 2]]).astype(kind)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    stored = array.view(np.uint16) if kind is np.float16 else array.ravel().tolist()
    tensor = helper.make_tensor("w", code, array.shape, array.ravel() if kind is np.float16 else stored)
    assert not tensor.raw_data
    graph = round_trip(model([helper.make_node("Identity", ["x"], ["y"])], [tensor], opset=21, ir_version=10), tmp_path)
    assert elements(graph.tensors["w"].numpy()) == elements(array)


def test_strings(tmp_path: Path) -> None:
    tensor = helper.make_tensor("s", TensorProto.STRING, [2], [b"caf\xc3\xa9", b"\xff"])
    graph = round_trip(model([helper.make_node("Identity", ["x"], ["y"])], [tensor]), tmp_path)
    assert graph.tensors["s"].numpy().tolist() == [b"caf\xc3\xa9", b"\xff"]


@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(width=32, allow_nan=False),
        st.text(),
        st.binary().filter(lambda raw: not _is_text(raw)),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1).map(tuple),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1).map(tuple),
        st.lists(st.text(), min_size=1).map(tuple),
        st.lists(st.integers(-128, 127)).map(lambda items: np.array(items, np.int8)),
    )
)
@settings(max_examples=200)
def test_round_trip_of_attributes(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "attributes"
    folder.mkdir(exist_ok=True)
    node = Node("n", "Op", "my.domain", 3, ("x",), ("y",), {"a": value})
    graph = Graph("net", (Value("x", F32, ()),), (Value("y", F32, ()),), (node,), {}, opsets={"": 17, "my.domain": 3})
    save(graph, folder / "a.onnx", force=True)
    assert_same(graph, load(folder / "a.onnx"))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_an_empty_list_keeps_the_type_that_the_schema_gives(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], axes=[1]),
        helper.make_node("TfIdfVectorizer", ["s"], ["y"], mode="TF", ngram_indexes=[0], min_gram_length=1),
    ]
    nodes[0].attribute[0].ints[:] = []
    nodes[1].attribute.append(onnx.AttributeProto(name="weights", type=onnx.AttributeProto.FLOATS))
    nodes[1].attribute.append(onnx.AttributeProto(name="pool_strings", type=onnx.AttributeProto.STRINGS))
    round_trip(model(nodes, opset=11), tmp_path)
    saved = {a.name: a.type for node in onnx.load(tmp_path / "inline.onnx").graph.node for a in node.attribute}
    kinds = onnx.AttributeProto
    assert (saved["axes"], saved["weights"], saved["pool_strings"]) == (kinds.INTS, kinds.FLOATS, kinds.STRINGS)


def test_left_out_attributes_stay_left_out(tmp_path: Path) -> None:
    graph = round_trip(model([helper.make_node("LeakyRelu", ["x"], ["y"])]), tmp_path)
    assert dict(graph.nodes[0].attributes) == {}


def test_what_a_graph_keeps_of_a_file(tmp_path: Path) -> None:
    proto = dense()
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT16, [None, "n", 7]))
    proto.metadata_props.add(key="author", value="me")
    proto.opset_import.add(domain="com.microsoft", version=1)
    graph = round_trip(proto, tmp_path)
    assert graph.inputs == (Value("x", F32, ("batch", 3)),)
    assert graph.outputs == (Value("y", F32, None),)
    assert graph.values == {"h": Value("h", np.dtype(np.float16), (None, "n", 7))}
    assert graph.metadata == {"author": "me"}
    assert graph.opsets == {"": 17, "com.microsoft": 1}
    assert (graph.name, graph.ir_version) == ("net", 8)
    assert graph.nodes == (Node("dense", "MatMul", "", 13, ("x", "w"), ("y",)),)
    save(graph, tmp_path / "more.onnx", metadata={"graphsplit.part": "1"})
    assert load(tmp_path / "more.onnx").metadata == {"author": "me", "graphsplit.part": "1"}


@pytest.mark.parametrize(("opset", "version"), [(7, 7), (8, 7), (9, 9), (13, 9), (14, 14), (15, 15), (21, 15)])
def test_a_node_has_the_version_of_its_op(opset: int, version: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("BatchNormalization", ["x", *"cccc"], ["y"]), helper.make_node("Mine", ["y"], ["z"])]
    nodes[1].domain = "mine"
    proto = model(nodes, [numpy_helper.from_array(np.ones(3, np.float32), "c")], opset=opset)
    proto.opset_import.add(domain="mine", version=5)
    graph = round_trip(proto, tmp_path)
    assert [node.version for node in graph.nodes] == [version, 5]


def test_the_domain_ai_onnx_is_the_empty_one(tmp_path: Path) -> None:
    proto = dense()
    proto.opset_import[0].domain = proto.graph.node[0].domain = "ai.onnx"
    graph = round_trip(proto, tmp_path)
    assert (graph.opsets, graph.nodes[0].domain) == ({"": 17}, "")


def test_tensors_that_are_also_inputs(tmp_path: Path) -> None:
    proto = checkable(dense())
    proto.ir_version, proto.opset_import[0].version = 3, 8
    proto.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    graph = round_trip(proto, tmp_path)
    assert [value.name for value in graph.inputs] == ["x"]
    assert (graph.tensor_inputs, graph.ir_version) == (("w",), 3)
    onnx.checker.check_model(tmp_path / "inline.onnx")


def test_an_old_file_whose_tensors_are_no_inputs_gets_the_version_that_allows_it(tmp_path: Path) -> None:
    proto = checkable(dense())
    proto.ir_version, proto.opset_import[0].version = 3, 9
    assert round_trip(proto, tmp_path).ir_version == 4
    onnx.checker.check_model(tmp_path / "inline.onnx")


CONSTANTS: list[tuple[dict[str, Any], Any]] = [
    ({"value": numpy_helper.from_array(np.ones((2, 3), np.float16))}, np.ones((2, 3), np.float16)),
    ({"value_float": 0.1}, np.array(0.1, np.float32)),
    ({"value_floats": [0.5, 2.0]}, np.array([0.5, 2.0], np.float32)),
    ({"value_int": -3}, np.array(-3)),
    ({"value_ints": [2**40, 0]}, np.array([2**40, 0])),
    ({"value_string": "a"}, np.array(b"a", object)),
    ({"value_strings": ["a", "b"]}, np.array([b"a", b"b"], object)),
]


@pytest.mark.parametrize(
    ("attributes", "expected"), CONSTANTS, ids=lambda item: next(iter(item), "") if isinstance(item, dict) else ""
)
def test_constant_nodes_become_tensors_and_stay_nodes(
    attributes: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("Constant", [], ["c"], name="constant", **attributes),
    ]
    graph = round_trip(model(nodes), tmp_path)
    assert [node.name for node in graph.nodes] == ["relu"]
    assert graph.constant_nodes == {"c": "constant"}
    array = graph.tensors["c"].numpy()
    assert (array.dtype, array.shape, array.tolist()) == (expected.dtype, expected.shape, expected.tolist())
    saved = onnx.load(tmp_path / "inline.onnx").graph
    assert [(node.op_type, node.name, list(node.output)) for node in saved.node if node.op_type == "Constant"] == [
        ("Constant", "constant", ["c"])
    ]
    assert not saved.initializer


def test_a_constant_may_be_an_output(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones(3, np.float32))
    nodes = [helper.make_node("Constant", [], ["y"], name="c", value=value)]
    assert round_trip(model(nodes), tmp_path).tensors.keys() == {"y"}


def test_nodes_are_put_in_order_and_otherwise_left_in_theirs(tmp_path: Path) -> None:
    def node(name: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node("Sum", list(inputs), [name], name=name)

    nodes = [node("b", "x"), node("a", "x"), node("y", "late", "a"), node("c", "b"), node("late", "c")]
    graph = round_trip(model(nodes), tmp_path)
    assert [node.name for node in graph.nodes] == ["b", "a", "c", "late", "y"]


def test_functions_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["h"], name="r"), helper.make_node("Mul", ["h", "h"], ["b"], name="m")]
    function = helper.make_function("local", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    proto = model([helper.make_node("Square", ["x"], ["y"], domain="local")], functions=[function])
    proto.opset_import.add(domain="local", version=1)
    assert [node.op for node in round_trip(proto, tmp_path).nodes] == ["Relu", "Mul"]


def test_a_sub_graph_is_marked_and_never_written(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "body", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    proto = model([helper.make_node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body)], [condition])
    graph = load(written(proto, tmp_path / "a.onnx"))
    assert graph.nodes[0].has_body
    assert dict(graph.nodes[0].attributes) == {}
    with pytest.raises(UnsupportedError, match="If 'if' holds a sub-graph"):
        save(graph, tmp_path / "b.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_tensors_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    small, large = (load(written(dense(30, n), tmp_path / f"{n}.onnx")) for n in (30, 40))
    assert isinstance(small.tensors["w"], ProtoTensor)
    assert isinstance(large.tensors["w"], FileTensor)
    assert large.tensors["w"].numpy().flags.aligned
    save(large, tmp_path / "b.onnx", external=True)
    tensor = load(tmp_path / "b.onnx").tensors["w"]
    assert isinstance(tensor, FileTensor)
    assert not tensor.numpy().flags.owndata
    assert not tensor.numpy().flags.writeable
    assert tensor.file.bytes() is tensor.file.bytes()


def test_large_tensors_in_the_file_are_those_that_the_parser_sees(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    arrays = {name: rng.standard_normal((40, 30 + i)) for i, name in enumerate(("a", "c", "w"))}
    arrays["half"] = rng.standard_normal((50, 50)).astype(np.float16)
    nodes = [
        helper.make_node("Constant", [], ["c"], name="constant", value=numpy_helper.from_array(arrays["c"])),
        helper.make_node("Op", ["x"], ["y"], domain="mine", a=numpy_helper.from_array(arrays["a"], "a")),
    ]
    proto = model(nodes, [numpy_helper.from_array(arrays[name], name) for name in ("w", "half")])
    proto.opset_import.add(domain="mine", version=1)
    graph = round_trip(proto, tmp_path)
    assert all(isinstance(tensor, FileTensor) for tensor in graph.tensors.values())
    found = {name: tensor.numpy() for name, tensor in graph.tensors.items()} | {"a": graph.nodes[0].attributes["a"]}
    for name, array in arrays.items():
        assert np.array_equal(np.asarray(found[name]), array), name


@pytest.mark.parametrize("external", [False, True])
def test_a_file_that_changes_while_it_is_in_use(external: bool, tmp_path: Path) -> None:
    path = tmp_path / ("b.onnx.data" if external else "b.onnx")
    save(load(written(dense(30, 40), tmp_path / "a.onnx")), tmp_path / "b.onnx", external=external)
    graph = load(tmp_path / "b.onnx")
    before = graph.tensors["w"].numpy().copy()
    whole = path.read_bytes()
    path.rename(tmp_path / "old")
    path.write_bytes(bytes(len(whole)))  # another file in its place: the tensor is still that of the old one
    assert np.array_equal(graph.tensors["w"].numpy(), before)
    (tmp_path / "old").write_bytes(whole[:100])
    with pytest.raises(FormatError, match="was changed while it was in use"):
        graph.tensors["w"].numpy()


def test_large_files_keep_their_data_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(written(dense(30, 40), tmp_path / "a.onnx"))
    monkeypatch.setattr(onnx_write, "INLINE_LIMIT", 30 * 40 * 4 - 1)
    save(graph, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").stat().st_size == 30 * 40 * 4
    assert_same(graph, load(tmp_path / "b.onnx"))


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    graph = load(written(dense(), tmp_path / "a.onnx"))
    before = (tmp_path / "a.onnx").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save(graph, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == before
    save(graph, tmp_path / "a.onnx", force=True)
    assert_same(graph, load(tmp_path / "a.onnx"))


def test_a_file_may_be_replaced_by_what_is_read_from_it(tmp_path: Path) -> None:
    save(load(written(dense(30, 40), tmp_path / "a.onnx")), tmp_path / "b.onnx", external=True)
    before = (tmp_path / "b.onnx").read_bytes(), (tmp_path / "b.onnx.data").read_bytes()
    save(load(tmp_path / "b.onnx"), tmp_path / "b.onnx", external=True, force=True)
    assert ((tmp_path / "b.onnx").read_bytes(), (tmp_path / "b.onnx.data").read_bytes()) == before


def test_a_tensor_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    class Wrong:
        shape, dtype = (2, 2), F32

        def numpy(self) -> Any:
            return np.zeros((2, 3), np.float32)

    graph = load(written(dense(), tmp_path / "a.onnx")).replace(tensors={"w": Wrong()})
    with pytest.raises(FormatError, match=r"tensor 'w' should have shape \(2, 2\) and type float32, and has \(2, 3\)"):
        save(graph, tmp_path / "b.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_weightless_copy_is_tiny_and_says_so(tmp_path: Path) -> None:
    graph = load(written(dense(3, 100_000), tmp_path / "a.onnx"))
    save_weightless(graph, tmp_path / "w.onnx")
    assert (tmp_path / "w.onnx").stat().st_size < 400
    with pytest.raises(
        FormatError, match=r"weightless copy of a network: tensor 'w' has no elements\n  hint: load it with"
    ):
        load(tmp_path / "w.onnx")
    assert load_weightless(tmp_path / "w.onnx").tensors["w"] == WeightlessTensor((3, 100_000), F32)


def test_a_whole_model_loads_without_its_data_file(tmp_path: Path) -> None:
    save(load(written(dense(30, 40), tmp_path / "a.onnx")), tmp_path / "b.onnx", external=True)
    (tmp_path / "b.onnx.data").unlink()
    assert load_weightless(tmp_path / "b.onnx").tensors["w"] == WeightlessTensor((30, 40), F32)


def test_weightless_keeps_what_shapes_are_made_of() -> None:
    tensors = {
        "weight": np.zeros((9, 9), np.float32),
        "half": np.zeros(65, ml_dtypes.bfloat16),
        "scales": np.ones(4, np.float32),
        "index": np.zeros(1000, np.int64),
        "bound": np.array(6.0, np.float32),
    }
    graph = Graph("g", (), (), (), {name: ArrayTensor(array) for name, array in tensors.items()})
    bare = weightless(graph)
    assert {name for name, tensor in bare.tensors.items() if isinstance(tensor, WeightlessTensor)} == {"weight", "half"}
    assert {name for name, tensor in graph.tensors.items() if is_weight(tensor)} == {"weight", "half", "scales"}
    named = weightless(graph, {"index"})
    assert [name for name, tensor in named.tensors.items() if isinstance(tensor, WeightlessTensor)] == ["index"]


def digest_base() -> Graph:
    nodes = (
        Node("a", "Relu", "", 14, ("x",), ("h",)),
        Node("b", "Gemm", "", 13, ("h", "w"), ("y",), {"alpha": 1.0, "transB": 1}),
    )
    tensors = {"w": ArrayTensor(np.ones((2, 3), np.float32)), "n": ArrayTensor(np.array([1, 2]))}
    return Graph("g", (Value("x", F32, (1, 3)),), (Value("y", F32, (1, 2)),), nodes, tensors, opsets={"": 17})


def with_tensor(name: str, array: Any) -> Callable[[Graph], Graph]:
    return lambda graph: graph.replace(tensors={**graph.tensors, name: ArrayTensor(array)})


def with_node(**changes: Any) -> Callable[[Graph], Graph]:
    return lambda graph: graph.replace(nodes=(graph.nodes[0], replace(graph.nodes[1], **changes)))


@pytest.mark.parametrize(
    "change",
    [
        with_tensor("n", np.array([1, 3])),
        with_tensor("n", np.array([1, 2], np.int32)),
        with_tensor("w", np.ones((3, 2), np.float32)),
        with_tensor("w", np.ones((2, 3), np.float16)),
        with_tensor("w2", np.ones((3, 2), np.float32)),
        with_node(attributes={"alpha": 1, "transB": 1}),
        with_node(attributes={"alpha": 1.0}),
        with_node(name="c"),
        with_node(op="MatMul"),
        with_node(domain="d"),
        with_node(inputs=("w", "h")),
        with_node(outputs=("z",)),
        lambda graph: graph.replace(nodes=graph.nodes[:1]),
        lambda graph: graph.replace(opsets={"": 18}),
        lambda graph: graph.replace(inputs=(Value("x", F32, ("n", 3)),)),
        lambda graph: graph.replace(outputs=(Value("y", F32, None),)),
    ],
)
def test_the_digest_sees_a_change_of_structure(change: Callable[[Graph], Graph]) -> None:
    assert structure_digest(change(digest_base())) != structure_digest(digest_base())


@pytest.mark.parametrize(
    "change",
    [
        with_tensor("w", np.zeros((2, 3), np.float32)),
        lambda graph: graph.replace(metadata={"a": "b"}),
        lambda graph: graph.replace(constant_nodes={"w": "constant"}),
        lambda graph: graph.replace(ir_version=4, name="other"),
        lambda graph: graph.replace(tensors=dict(reversed(graph.tensors.items()))),
        weightless,
        with_node(attributes={"transB": 1, "alpha": 1.0}),
    ],
)
def test_the_digest_does_not_see_training(change: Callable[[Graph], Graph]) -> None:
    assert structure_digest(change(digest_base())) == structure_digest(digest_base())


def test_the_digest_leaves_out_what_is_named_trainable() -> None:
    base, other = with_tensor("t", np.float32(1.0))(digest_base()), with_tensor("t", np.float32(2.0))(digest_base())
    assert structure_digest(base) != structure_digest(other)
    assert structure_digest(base, {"t"}) == structure_digest(other, {"t"})


def damaged(**fields: Any) -> onnx.ModelProto:
    """The dense network with a weight whose fields disagree."""
    proto = dense()
    for name, value in fields.items():
        if name == "dims":
            proto.graph.initializer[0].dims[:] = value
        else:
            setattr(proto.graph.initializer[0], name, value)
    return proto


def outside(**entries: str) -> onnx.ModelProto:
    """The dense network with a weight that lies in another file."""
    proto = dense()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return proto


def edited(edit: Callable[[onnx.ModelProto], object], base: Callable[[], onnx.ModelProto] = dense) -> onnx.ModelProto:
    proto = base()
    edit(proto)
    return proto


def relu(source: str, target: str, name: str = "r") -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target], name=name)


SEQUENCE = helper.make_tensor_sequence_value_info("seq", TensorProto.FLOAT, None)
OPTIONAL = helper.make_value_info("opt", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, None)))
MAP = onnx.ValueInfoProto(name="map")
MAP.type.map_type.key_type = TensorProto.INT64
UNTYPED = onnx.ValueInfoProto(name="y")
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.ones(1, np.float32), "sparse"), numpy_helper.from_array(np.array([1])), [4]
)
FORMAT: dict[str, tuple[onnx.ModelProto, str]] = {
    "short data": (
        damaged(raw_data=b"1234"),
        r"tensor 'w' of shape \(3, 4\) and type FLOAT should have 48 bytes and has 4",
    ),
    "no data": (edited(lambda p: p.graph.initializer[0].ClearField("raw_data")), "should have 12 elements and has 0"),
    "other data": (damaged(dims=[2, 2]), "should have 16 bytes and has 48"),
    "negative dim": (damaged(dims=[-1, 4]), r"tensor 'w' has the impossible shape \(-1, 4\)"),
    "huge dims": (damaged(dims=[2**40, 2**40]), "should have 4835703278458516698824704 bytes and has 48"),
    "no element type": (damaged(data_type=0), "0 is not an ONNX element type"),
    "unknown element type": (damaged(data_type=99), "99 is not an ONNX element type"),
    "raw strings": (damaged(data_type=8), "raw data, which strings cannot have"),
    "nameless tensor": (damaged(name=""), "a tensor has no name"),
    "missing data file": (
        outside(location="w.bin"),
        r"'w' with data outside the file: the data file '.*w.bin' is missing",
    ),
    "escaping data file": (outside(location="../w.bin"), r"the path '../w.bin' leaves its folder"),
    "absolute data file": (outside(location="/etc/passwd"), "the path '/etc/passwd' leaves its folder"),
    "no data file": (outside(), "the path '' leaves its folder"),
    "short data file": (
        outside(location="short"),
        "needs 48 bytes and should lie in 'short' at byte 0 with length 48; that",
    ),
    "wrong length": (outside(location="short", length="4"), "with length 4; that file has 5 bytes"),
    "negative offset": (outside(location="short", offset="-8"), "at byte -8"),
    "no number": (outside(location="short", offset="x"), "its offset or length is not a number"),
    "tensor twice": (edited(lambda p: p.graph.initializer.append(p.graph.initializer[0])), "two tensors are named 'w'"),
    "value twice": (edited(lambda p: p.graph.node.append(relu("x", "y"))), "two things make the value 'y'"),
    "value and tensor": (edited(lambda p: p.graph.node.append(relu("x", "w"))), "two things make the value 'w'"),
    "value and input": (edited(lambda p: p.graph.node.append(relu("y", "x"))), "two things make the value 'x'"),
    "input twice": (edited(lambda p: p.graph.input.append(p.graph.input[0])), "two things make the value 'x'"),
    "dangling": (edited(lambda p: p.graph.node.append(relu("no", "z"))), "Relu 'r' reads 'no', which nothing computes"),
    "cycle": (model([relu("z", "y", "r1"), relu("y", "z", "r2")]), "the nodes form a cycle through Relu 'r1'"),
    "no outputs": (edited(lambda p: p.graph.ClearField("output")), "the graph has no outputs"),
    "uncomputed output": (model([relu("x", "z")]), "nothing computes the output 'y'"),
    "untyped output": (
        model([relu("x", "y")], outputs=[UNTYPED]),
        "the output 'y' has no element type\n  hint: add the types",
    ),
    "no opset": (edited(lambda p: p.ClearField("opset_import")), "it names no opset"),
    "no IR version": (edited(lambda p: p.ClearField("ir_version")), "it has no graph or no IR version"),
    "no graph": (edited(lambda p: p.ClearField("graph")), "it has no graph or no IR version"),
    "no op": (edited(lambda p: p.graph.node.append(onnx.NodeProto(name="n", output=["z"]))), "node 'n' has no op"),
    "unknown domain": (edited(lambda p: setattr(p.graph.node[0], "domain", "d")), "imports no opset of the domain 'd'"),
    "attribute twice": (
        model([helper.make_node("Elu", ["x"], ["y"], name="e", alpha=1.0)] * 1).__class__.FromString(
            edited(
                lambda p: p.graph.node[0].attribute.append(p.graph.node[0].attribute[0]),
                lambda: model([helper.make_node("Elu", ["x"], ["y"], name="e", alpha=1.0)]),
            ).SerializeToString()
        ),
        "Elu 'e' has the attribute 'alpha' twice",
    ),
    "untyped attribute": (
        model(
            [onnx.NodeProto(op_type="Elu", input=["x"], output=["y"], attribute=[onnx.AttributeProto(name="alpha")])]
        ),
        "attribute 'alpha' has no type of its own",
    ),
    "empty constant": (
        model([onnx.NodeProto(op_type="Constant", output=["y"])]),
        "Constant 'y' should have one output and one value",
    ),
}
UNSUPPORTED: dict[str, tuple[onnx.ModelProto, str]] = {
    "old opset": (model([relu("x", "y")], opset=6), "its opset is 6; .* reads 7 to .*\n  hint: convert it"),
    "new opset": (model([relu("x", "y")], opset=999), "its opset is 999; .*\n  hint: install a newer onnx"),
    "old IR": (model([relu("x", "y")], ir_version=2), "its IR version is 2"),
    "new IR": (model([relu("x", "y")], ir_version=999), "its IR version is 999"),
    "sequence input": (model([relu("x", "y")], inputs=[SEQUENCE]), "the input 'seq' is a sequence, not a tensor"),
    "optional input": (model([relu("x", "y")], inputs=[OPTIONAL]), "the input 'opt' is a optional, not a tensor"),
    "map input": (model([relu("x", "y")], inputs=[MAP]), "the input 'map' is a map, not a tensor"),
    "sequence output": (model([relu("x", "y")], outputs=[SEQUENCE]), "the output 'seq' is a sequence, not a tensor"),
    "sparse tensor": (edited(lambda p: p.graph.sparse_initializer.append(SPARSE)), "tensor 'sparse' is sparse"),
    "sparse constant": (
        model([helper.make_node("Constant", [], ["y"], name="c", sparse_value=SPARSE)]),
        "Constant 'c' is sparse",
    ),
    "training": (edited(lambda p: p.training_info.add()), r"it holds a training graph \(training_info\)"),
    "tensor list": (
        model([helper.make_node("Op", ["x"], ["y"], name="o", list=[numpy_helper.from_array(np.ones(1))])]),
        "Op 'o': attribute 'list' is of the kind tensors",
    ),
    "recursive function": (
        edited(
            lambda p: p.functions.append(
                helper.make_function(
                    "l",
                    "F",
                    ["a"],
                    ["b"],
                    [helper.make_node("F", ["a"], ["b"], domain="l")],
                    [helper.make_opsetid("l", 1)],
                )
            )
        ),
        "its function 'F' cannot be inlined",
    ),
}


@pytest.mark.parametrize(
    ("case", "kind"), [*((case, FormatError) for case in FORMAT), *((case, UnsupportedError) for case in UNSUPPORTED)]
)
def test_refusals(case: str, kind: type[GraphsplitError], tmp_path: Path) -> None:
    proto, message = {**FORMAT, **UNSUPPORTED}[case]
    (tmp_path / "short").write_bytes(b"12345")
    with pytest.raises(GraphsplitError, match=message) as caught:
        load(written(proto, tmp_path / "a.onnx"))
    assert type(caught.value) is kind
    assert caught.value.message.startswith(repr(str(tmp_path / "a.onnx")))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", b"{}", b"PK\x03\x04", b"\x00" * 100])
def test_files_that_are_not_onnx(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.onnx': (not an ONNX model|the file is empty)"):
        load(tmp_path / "a.onnx")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"a\.onnx': there is no such file"):
        load(tmp_path / "a.onnx")
    with pytest.raises(FormatError, match="it is a folder, not a file"):
        load(tmp_path)


def test_a_data_file_behind_a_link_that_leaves(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(48))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").symlink_to("../elsewhere")
    with pytest.raises(FormatError, match="leaves its folder"):
        load(written(outside(location="w.bin"), tmp_path / "model" / "a.onnx"))


def test_a_model_in_the_working_folder_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(outside(location="../w.bin"), tmp_path / "a.onnx")
    with pytest.raises(FormatError, match="leaves its folder"):
        load("a.onnx")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save(load(written(dense(), tmp_path / "a.onnx")), tmp_path / "b.onnx")
    whole = (tmp_path / "b.onnx").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.onnx").write_bytes(whole[:size])
        with pytest.raises(FormatError):
            load(tmp_path / "cut.onnx")


@given(st.data())
@settings(max_examples=300)
def test_damage_never_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    raw = bytearray(NETWORKS[sorted(NETWORKS)[0]]().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.onnx").write_bytes(raw)
    try:
        graph = load(folder / "a.onnx")
        for tensor in graph.tensors.values():
            tensor.numpy()
        structure_digest(graph)
        save(graph, folder / "b.onnx", force=True)
    except GraphsplitError:
        return
    assert_same(graph, load(folder / "b.onnx"))


HUGE = """
import sys
import numpy as np
from graphsplit.formats.onnx_file import load, save
from graphsplit.graph import Graph, Node, Value

SHAPE, F32 = (200, 250_000), np.dtype(np.float32)

class Made:
    shape, dtype = SHAPE, F32
    def __init__(self, seed):
        self.seed = seed
    def numpy(self):
        return np.full(SHAPE, self.seed, F32)

nodes = tuple(Node(f"n{i}", "Add", "", 14, (f"h{i}", f"w{i}"), (f"h{i + 1}",)) for i in range(11))
inputs, outputs = (Value("h0", F32, SHAPE),), (Value("h11", F32, SHAPE),)
tensors = {f"w{i}": Made(i) for i in range(11)}
path = sys.argv[1] + "/big.onnx"
save(Graph("big", inputs, outputs, nodes, tensors, opsets={"": 17}), path)
for i, tensor in enumerate(load(path).tensors.values()):
    array = tensor.numpy()
    assert array.shape == SHAPE and array[0, 0] == array[-1, -1] == i
    del array
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])  # the most memory that this program ever held, in kilobytes
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux reports it")
def test_beyond_two_gigabytes(tmp_path: Path) -> None:
    """2.2 GB in eleven tensors that are made one at a time: data goes outside, memory stays near one tensor."""
    done = subprocess.run([sys.executable, "-c", HUGE, str(tmp_path)], check=True, capture_output=True, text=True)
    assert (tmp_path / "big.onnx.data").stat().st_size == 11 * 200_000_000
    assert (tmp_path / "big.onnx").stat().st_size < 4000
    assert int(done.stdout) < 600_000, "the interpreter, one tensor of 200 MB and few pages of the file"
    onnx.checker.check_model(str(tmp_path / "big.onnx"))
