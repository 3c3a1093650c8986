"""graphsplit.formats.weights: trained tensors come back from each kind of file, and bad files are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, save_model

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.files import OutputError
from graphsplit.formats.tensors import FileTensor, raw_bytes
from graphsplit.formats.weights import read_trained, write_safetensors
from graphsplit.graph import ArrayTensor, Tensor

DTYPES = [
    *(np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]


def tensors(**arrays: Any) -> dict[str, Tensor]:
    return {name: ArrayTensor(np.asarray(array)) for name, array in arrays.items()}


def assert_equal(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name in left:
        mine, other = left[name].numpy(), right[name].numpy()
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape) == (right[name].dtype, right[name].shape), name
        assert bytes(raw_bytes(mine)) == bytes(raw_bytes(other)), name


def test_safetensors_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    source = tensors(
        **{
            f"{np.dtype(kind).name}{len(shape)}": rng.integers(0, 2, shape).astype(kind)
            for kind in DTYPES
            for shape in [(), (0, 2), (3, 5)]
        }
    )
    write_safetensors(source, tmp_path / "a.safetensors", metadata={"graphsplit.part": "1"})
    again, metadata = read_trained(tmp_path / "a.safetensors")
    assert_equal(source, again)
    assert metadata == {"graphsplit.part": "1"}
    assert all(isinstance(tensor, FileTensor) for tensor in again.values())


def test_the_library_reads_what_we_write_and_the_other_way_round(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2, 3], np.int8), "é": np.ones(())}
    write_safetensors(tensors(**arrays), tmp_path / "a.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "b.safetensors", metadata={"k": "v"})
    again, metadata = read_trained(tmp_path / "b.safetensors")
    assert_equal(tensors(**arrays), again)
    assert metadata == {"k": "v"}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    source = tensors(a=np.ones(3, np.float32), b=np.ones(2, np.int64), c=np.ones(5, np.int8))
    write_safetensors(source, tmp_path / "a.safetensors", metadata={"x": "1", "y": "2"})
    write_safetensors(dict(reversed(source.items())), tmp_path / "b.safetensors", metadata={"y": "2", "x": "1"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_safetensors_golden_bytes(tmp_path: Path) -> None:
    write_safetensors(tensors(w=np.array([1.0, -2.0], np.float32)), tmp_path / "a.safetensors", metadata={"k": "v"})
    header = b'{"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header += b" " * (-len(header) % 8)
    expected = len(header).to_bytes(8, "little") + header + bytes.fromhex("0000803f000000c0")
    assert (tmp_path / "a.safetensors").read_bytes() == expected


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    write_safetensors(tensors(a=1.0), tmp_path / "a.safetensors")
    with pytest.raises(OutputError, match="exists already"):
        write_safetensors(tensors(a=2.0), tmp_path / "a.safetensors")
    write_safetensors(tensors(a=2.0), tmp_path / "a.safetensors", force=True)
    assert read_trained(tmp_path / "a.safetensors")[0]["a"].numpy() == 2.0


def test_types_that_safetensors_lacks(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cannot hold the tensor 'a' of type int4"):
        write_safetensors(tensors(a=np.ones(2, ml_dtypes.int4)), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def header(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage that is long enough",
        (2**62).to_bytes(8, "little") + b"{}",
        header({"a": entry("F32", [2], 0, 8)}, b"1234"),
        header({"a": entry("F32", [3], 0, 8)}, b"12345678"),
        header({"a": entry("F32", [-2], 0, 8)}, b"12345678"),
        header({"a": entry("F32", [2], 4, 12)}, b"123456789012"),
        header({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, b"1234"),
        header({"a": entry("F32", [2**62, 2**62], 0, 8)}, b"12345678"),
        header({"a": entry("X", [2], 0, 8)}, b"12345678"),
        header({"a": 3}, b""),
        header([], b""),  # type: ignore[arg-type]
    ],
)
def test_attacks_on_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match="is not a safetensors file, or is damaged"):
        read_trained(tmp_path / "a.safetensors")


def test_onnx_gives_initializers_constants_and_metadata(tmp_path: Path) -> None:
    weight, constant = np.ones((2, 3), np.float32), np.array([1, 2])
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(constant)),
            helper.make_node("Relu", ["x"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(proto, {"graphsplit.part": "0"})
    save_model(proto, tmp_path / "a.onnx")
    found, metadata = read_trained(tmp_path / "a.onnx")
    assert_equal(tensors(w=weight, c=constant), found)
    assert metadata == {"graphsplit.part": "0"}


@pytest.mark.parametrize("name", ["missing.onnx", "missing.safetensors", "missing.pt", "missing"])
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no file"):
        read_trained(tmp_path / name)


def test_an_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(
        FormatError, match=r"are read from \.onnx, \.safetensors, \.pt2 and \.pt, .*\n  hint: save them in one of"
    ):
        read_trained(tmp_path / "a.h5")


def state(torch: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict())


def in_numpy(state: dict[str, Any]) -> dict[str, Tensor]:
    return tensors(**{name: tensor.numpy() for name, tensor in state.items()})


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_torch_state_dicts(suffix: str, legacy: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(state(torch), tmp_path / f"a{suffix}", _use_new_zipfile_serialization=not legacy)
    found, metadata = read_trained(tmp_path / f"a{suffix}")
    assert_equal(in_numpy(state(torch)), found)
    assert metadata == {}


@pytest.mark.parametrize("nest", [("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict"), ()])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_torch_checkpoints(nest: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved: Any = {prefix + name: tensor for name, tensor in state(torch).items()}
    for key in reversed(nest):
        saved = {key: saved, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}}
    torch.save(saved, tmp_path / "a.pt")
    assert_equal(in_numpy(state(torch)), read_trained(tmp_path / "a.pt")[0])


def test_a_prefix_that_not_every_name_has_is_part_of_the_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert read_trained(tmp_path / "a.pt")[0].keys() == {"module.a", "b"}


def test_torch_element_types(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kinds = ("float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "uint8", "bool", "complex64")
    saved = {name: torch.tensor([[0, 1, 1]]).to(getattr(torch, name)) for name in kinds}
    torch.save({**saved, "strided": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "a.pt")
    found = read_trained(tmp_path / "a.pt")[0]
    assert {name: tensor.dtype.name for name, tensor in found.items() if name != "strided"} == {
        name: name for name in kinds
    }
    assert all(found[name].numpy().astype(float).tolist() == [[0, 1, 1]] for name in kinds if name != "complex64")
    assert found["strided"].numpy().tolist() == [[0, 3], [1, 4], [2, 5]]


def test_torch_files_that_are_not_state_dicts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whole = tmp_path / "whole.pt"
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({}, tmp_path / "empty.pt")
    torch.save({"a": torch.ones(1), "lr": 0.1}, tmp_path / "mixed.pt")
    torch.save(state(torch), whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:500])
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "nothing.pt").write_bytes(b"")
    for name, message in {
        "module": r"torch's safe loader refuses it\n  hint: save the weights alone: torch\.save",
        "list": "holds no state dict",
        "empty": "holds no state dict",
        "mixed": "holds no state dict",
        "cut": "is not a torch file, or is damaged",
        "garbage": "refuses it",
        "nothing": "is not a torch file, or is damaged",
    }.items():
        with pytest.raises(FormatError, match=message):
            read_trained(tmp_path / f"{name}.pt")


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match="tensor 'a' is not a plain dense tensor"):
        read_trained(tmp_path / "a.pt")


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "a.pt").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR.")
    with pytest.raises(FormatError):
        read_trained(tmp_path / "a.pt")
    assert not (tmp_path / "pwned").exists()


def test_without_torch_a_torch_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"x")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from graphsplit.formats.weights import read_trained\n"
        "from graphsplit.errors import UnsupportedError\n"
        "try: read_trained(sys.argv[1])\n"
        "except UnsupportedError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pt")], capture_output=True, text=True, check=True
    )
    assert "torch is not installed\n  hint: pip install 'graphsplit[torch]', or save" in done.stdout


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_damage_to_safetensors_never_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damage.safetensors"
    path.write_bytes(len(junk).to_bytes(8, "little") + junk)
    try:
        for tensor in read_trained(path)[0].values():
            tensor.numpy()
    except (FormatError, UnsupportedError):
        pass
