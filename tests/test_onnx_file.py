"""graphsplit.formats.onnx_file: what is read is what is written."""

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

from graphsplit.errors import UnsupportedError
from graphsplit.formats.onnx_file import load, save
from graphsplit.formats.tensors import FileTensor
from graphsplit.graph import ArrayTensor, Graph, Node, Value
from tests.networks import NETWORKS
from tests.networks.generate import networks
from tests.onnx_models import F32, assert_same, checkable, dense, elements, model, round_trip, written


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
