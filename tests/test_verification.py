"""Verification: it passes what is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphsplit.errors import ManifestError, MergeError
from graphsplit.formats import onnx_runtime
from graphsplit.formats.onnx_file import load
from graphsplit.formats.weights import write_safetensors
from graphsplit.graph import ArrayTensor
from graphsplit.merging import merge
from graphsplit.splitting import split
from graphsplit.verification import verify
from tests.networks.builder import Net
from tests.split_folders import edit, failed, mlp, set_tensors, split_of, tensors, train

__all__ = ["mlp"]  # fixtures

FILE_CHECKS = ("merged file", "merged structure", "merged tensors", "merged values")
LAWS = ("valid parts", "coverage", "narrowness", "identity", "order", "exact merge")


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "lenet",
        "alexnet",
        "resnet_basic",
        "densenet",
        "shufflenet_v2",
        "float16",
        "float64",
        "transformer_post_norm",
    ],
)
@pytest.mark.parametrize("k", [2, 3])
def test_passes(name: str, k: int, tmp_path: Path) -> None:
    parts = split_of(name, tmp_path, k)
    train(parts)
    done = merge(parts, out=tmp_path / "merged.onnx")
    found = verify(parts, done.path)
    assert failed(found) == set()
    assert [check.name for check in found.checks] == [*LAWS, *FILE_CHECKS]
    assert found.runtime.startswith("onnxruntime ")
    for check in (found["exact merge"], found["merged values"]):
        assert check.worst is not None
        assert check.tolerance is not None
        assert 0 < check.worst < check.tolerance < (0.1 if name == "float16" else 1e-3)


def with_active_dropout(folder: Path, switch: str) -> Path:
    """A split of a network that was exported for training: its dropout is on, by a constant or by an input."""
    net = Net("dropping")
    x = net.op("Relu", net.dense(net.input("input", ("batch", 6)), "fc1", 16))
    on = net.constant(True, "bool") if switch == "constant" else net.input("training", (), "bool")
    x = net.op("Dropout", x, net.constant(0.5, "float32"), on)
    net.output(net.dense(x, "fc2", 5), "output")
    onnx.save(net.build(), folder / "m.onnx")
    split(folder / "m.onnx", 2, out=folder / "parts")
    train(folder / "parts")
    return folder / "parts"


@pytest.mark.parametrize("switch", ["constant", "input"])
def test_dropout_that_a_file_has_on_is_switched_off(switch: str, tmp_path: Path) -> None:
    """The laws are about evaluation mode, and no runtime drops the same values twice."""
    parts = with_active_dropout(tmp_path, switch)
    done = merge(parts, out=tmp_path / "merged.onnx")
    found = verify(parts, done.path)
    assert failed(found) == set()
    assert "dropout is switched off, which the file has on in 1 node" in found["exact merge"].detail
    assert found["exact merge"].worst is not None


def test_dropout_that_is_on_would_hide_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: as the file has it, nothing is proved; and a wrong merge is found in spite of it."""
    parts = with_active_dropout(tmp_path, "constant")
    done = merge(parts, out=tmp_path / "merged.onnx")
    assert done.path is not None
    set_tensors(done.path, {"fc1.weight": 2 * tensors(done.path)["fc1.weight"]})
    assert "merged values" in failed(verify(parts, done.path))
    monkeypatch.setattr("graphsplit.verification.runtime.without_dropout", lambda graph: graph)
    assert "exact merge" in failed(verify(parts, done.path))


def test_one_part_passes(tmp_path: Path) -> None:
    parts = split_of("lenet", tmp_path, 1)
    done = merge(parts, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path)) == set()


@pytest.mark.parametrize("name", ["backbone", "features_too"])
def test_concatenated_outputs_are_compared(name: str, tmp_path: Path) -> None:
    parts = split_of(name, tmp_path, 3)
    manifest = json.loads((parts / "manifest.json").read_text())
    assert "concat" in [output["merge"] for output in manifest["outputs"]]
    done = merge(parts, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path)) == set()
    output = next(output for output in manifest["outputs"] if output["merge"] == "concat")
    graph = load(tmp_path / "merged.onnx")
    node = graph.nodes[graph.producers[output["name"]]]

    def change(model: onnx.ModelProto) -> None:
        """The output's first two channels change places."""
        size = next(group["size"] for i, group in enumerate(manifest["groups"]) if i == output["group"])
        order = numpy_helper.from_array(np.array([1, 0, *range(2, size)]), "swapped")
        model.graph.initializer.append(order)
        next(n for n in model.graph.node if n.output and n.output[0] == node.outputs[0]).output[0] = "before"
        swap = onnx.helper.make_node("Gather", ["before", "swapped"], [node.outputs[0]], axis=output["axis"])
        model.graph.node.append(swap)

    edit(tmp_path / "merged.onnx", change)
    assert "merged values" in failed(verify(parts, tmp_path / "merged.onnx"))


def test_uneven_shares_and_other_strategies_pass(tmp_path: Path) -> None:
    parts = split_of("resnet_basic", tmp_path, 2, shares=(2, 1), strategy="random", seed=3)
    assert failed(verify(parts)) == set()


def test_sizes_that_the_source_does_not_take_are_left_out_and_said(tmp_path: Path) -> None:
    """A batch of two is written into a Reshape: no other one runs."""
    net = Net("baked")
    x = net.op("Relu", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    x = net.op("Reshape", x, net.constant([2, 12], name="shape"))
    net.output(net.dense(x, "fc2", 3), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    found = verify(tmp_path / "parts")
    assert failed(found) == set()
    assert "batch=3" in found["exact merge"].detail


def test_token_ids_stay_within_their_table(tmp_path: Path) -> None:
    net = Net("ids")
    ids = net.input("ids", ("batch", "length"), "int64")
    x = net.op("Gather", net.param("table", (3, 8), "embedding"), ids)
    net.output(net.dense(net.op("Tanh", net.dense(x, "fc1", 12)), "fc2", 4), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    found = verify(tmp_path / "parts")
    assert failed(found) == set()
    assert "on 3 inputs" in found["exact merge"].detail


def test_trained_files_take_the_place_of_the_folder(tmp_path: Path) -> None:
    parts = split_of("mlp", tmp_path)
    files = []
    for number in (1, 0):
        arrays = {
            n: ArrayTensor(a * np.float32(1 + number)) for n, a in tensors(parts / f"submodel_{number}.onnx").items()
        }
        files.append(tmp_path / f"part_{number}.safetensors")
        metadata = dict(load(parts / f"submodel_{number}.onnx").metadata)
        write_safetensors(arrays, files[-1], metadata=metadata)
    done = merge(parts, files, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path, trained=files)) == set()
    assert failed(verify(parts, done.path)) == {"merged tensors", "merged values"}
    with pytest.raises(MergeError, match="has 2 parts"):
        verify(parts, trained=files[:1])


def test_trained_files_that_go_by_position_pass(tmp_path: Path) -> None:
    """Nothing says which part they are: in reversed order they would be other parts, which is no fault of the merge."""
    parts = split_of("mlp", tmp_path)
    files = []
    for number in (0, 1):
        arrays = tensors(parts / f"submodel_{number}.onnx")
        files.append(tmp_path / f"part_{number}.safetensors")
        write_safetensors({n: ArrayTensor(a * np.float32(1 + number)) for n, a in arrays.items()}, files[-1])
    assert failed(verify(parts, trained=files)) == set()


def test_a_nested_split_passes(tmp_path: Path) -> None:
    parts = split_of("lenet", tmp_path)
    split(parts / "submodel_0.onnx", 2, out=tmp_path / "inner")
    train(tmp_path / "inner")
    trained = [tmp_path / "inner", parts / "submodel_1.onnx"]
    done = merge(parts, trained, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path, trained=trained)) == set()


def test_without_onnxruntime_the_reference_evaluator_runs(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "find_spec", lambda _: None)
    found = verify(mlp)
    assert failed(found) == set()
    assert found.runtime == f"the reference evaluator of onnx {onnx.__version__}"


def test_progress_is_told(mlp: Path) -> None:
    told: list[tuple[str, int, int]] = []
    verify(mlp, progress=lambda *step: told.append(step))
    assert told[0] == ("planning", 0, 1)
    assert told[-1] == ("done", len(LAWS), len(LAWS))


def test_nothing_is_left_behind(mlp: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    before = {path: path.read_bytes() for path in mlp.iterdir()}
    verify(mlp)
    assert list(work.iterdir()) == []
    assert {path: path.read_bytes() for path in mlp.iterdir()} == before


def test_the_package_alone_imports_no_runtime() -> None:
    code = "import sys, graphsplit.verification; assert not {'onnxruntime', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_without_a_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        verify(tmp_path)
