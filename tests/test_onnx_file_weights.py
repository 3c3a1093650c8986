"""graphsplit.formats.onnx_file: where weights lie, when they are read, and files and digests without them."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphsplit.errors import FormatError
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
from graphsplit.formats.tensors import FileTensor, ProtoTensor
from graphsplit.graph import ArrayTensor, Graph, Node, Value, WeightlessTensor
from tests.onnx_models import F32, assert_same, dense, model, round_trip, written

# -- where they lie ---------------------------------------------------------------------------------------------------


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


# -- without them -----------------------------------------------------------------------------------------------------


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


# -- the digest of a structure ----------------------------------------------------------------------------------------


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
