"""graphsplit.formats.onnx_file: every bad file is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphsplit.errors import FormatError, GraphsplitError, UnsupportedError
from graphsplit.formats.onnx_file import load, save, structure_digest
from tests.networks import NETWORKS
from tests.onnx_models import assert_same, dense, model, written


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
