"""Weights that were trained as torch modules: written back into their files, and merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import graphsplit
from graphsplit.errors import FormatError
from graphsplit.files import OutputError
from graphsplit.formats.onnx_file import load
from graphsplit.merging import merge
from graphsplit.splitting import split
from tests.executor_nets import LENET, affine, in_runtime, off, outputs, step
from tests.laws.check import Case, Part, exact_merge, write
from tests.networks import NETWORKS
from tests.networks.inputs import random_inputs

# -- the way back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet", "resnet_basic", "inception_v2"])
def test_weights_written_back_give_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    path = write(model, tmp_path)
    inputs = random_inputs(model)
    before = in_runtime(path, inputs)
    module = graphsplit.trainable(path).train()
    for _ in range(3):
        step(module, inputs)
    module.eval()
    assert graphsplit.write_weights(module, path) == path
    after = in_runtime(path, inputs)
    assert off(outputs(module, inputs), after) < 1e-4
    assert off(before, after) > 1e-3  # training has changed something
    again = graphsplit.trainable(path)
    assert all(torch.equal(tensor, again.state_dict()[n]) for n, tensor in module.state_dict().items())


def test_data_beside_the_file_stays_there(tmp_path: Path) -> None:
    model, path = onnx.load(LENET), tmp_path / "lenet.onnx"
    onnx.save(model, path, save_as_external_data=True, location="lenet.onnx.data")
    module = graphsplit.trainable(path)
    with torch.no_grad():
        next(p for n, p in module.named_parameters() if n == "fc1.weight").fill_(0.25)
    graphsplit.write_weights(module, path)
    assert path.stat().st_size < 1e4
    assert (tmp_path / "lenet.onnx.data").stat().st_size > 1e6
    held = {
        t.name: numpy_helper.to_array(t, str(tmp_path))
        for t in onnx.load(path, load_external_data=False).graph.initializer
        if t.name == "fc1.weight"
    }
    assert (held["fc1.weight"] == 0.25).all()


def test_another_type_is_rounded_to_the_files(tmp_path: Path) -> None:
    path = affine(["w"], tmp_path)
    module = graphsplit.trainable(path).double()
    with torch.no_grad():
        next(module.parameters()).fill_(1 / 3)
    graphsplit.write_weights(module, path)
    held = load(path).tensors["w"].numpy()
    assert held.dtype == np.float32
    assert (held == np.float32(1 / 3)).all()


def test_what_write_weights_refuses(tmp_path: Path) -> None:
    path = affine(["w", "v"], tmp_path)
    module = graphsplit.trainable(path)
    before = path.read_bytes()
    (tmp_path / "other").mkdir()
    for other in (affine(["w"], tmp_path / "other"), affine(["w", "v"], tmp_path / "other", op="Add")):
        kept = other.read_bytes()
        with pytest.raises(FormatError, match=r"another network|not the file"):
            graphsplit.write_weights(module, other)
        assert other.read_bytes() == kept
    with pytest.raises(OutputError, match="exists already"):
        graphsplit.write_weights(module, path, out=tmp_path / "other" / "odd.onnx")
    written = graphsplit.write_weights(module, path, out=tmp_path / "new.onnx")
    assert written.exists()
    assert path.read_bytes() == before


def test_metadata_stays(tmp_path: Path) -> None:
    done = split(LENET, 2, out=tmp_path / "parts")
    file = done.submodels[0]
    before = load(file).metadata
    assert before
    graphsplit.write_weights(graphsplit.trainable(file), file)
    assert load(file).metadata == before


# -- law 1, with training in between ---------------------------------------------------------------------------------------

TRAINED = ["lenet", "resnet_basic", "layer_norm_mlp", "inception_v2"]


def trained_case(model: onnx.ModelProto, folder: Path, k: int = 2) -> Case:
    """A network that is split, whose parts are trained as torch modules, and merged."""
    done = split(write(model, folder), k, out=folder / "split")
    for number, file in enumerate(done.submodels):
        module = graphsplit.trainable(file).train()
        for seed in range(3):
            step(module, random_inputs(model, 10 * number + seed, batch=4))
        graphsplit.write_weights(module, file)
    merge(done.folder, out=folder / "merged.onnx")
    parts = tuple(Part(file, 1 / k, ((done, number),)) for number, file in enumerate(done.submodels))
    return Case(model, done, parts, folder / "merged.onnx")


@pytest.mark.parametrize("name", TRAINED)
def test_parts_that_were_trained_merge_to_their_mean(name: str, tmp_path: Path) -> None:
    case = trained_case(NETWORKS[name](), tmp_path)
    found = exact_merge(case)
    assert found.looked_at
    assert found.complaints == []


def test_the_shipped_model_split_trained_and_merged_is_the_mean(tmp_path: Path) -> None:
    case = trained_case(onnx.load(LENET), tmp_path)
    inputs = random_inputs(case.model, 7)
    parts = [in_runtime(part.file, inputs)["logits"].astype(np.float64) for part in case.parts]
    merged = in_runtime(case.merged, inputs)["logits"]
    assert np.abs(merged - np.mean(parts, axis=0)).max() < 1e-5
    assert np.abs(parts[0] - parts[1]).max() > 1e-2  # they did learn different things
    assert graphsplit.verify(case.split.folder, case.merged).passed


def test_state_dicts_merge_as_files_do(tmp_path: Path) -> None:
    case = trained_case(NETWORKS["lenet"](), tmp_path)
    saved = [tmp_path / f"{number}.pt" for number in range(2)]
    for part, path in zip(case.parts, saved, strict=True):
        torch.save(graphsplit.trainable(part.file).state_dict(), path)
    merge(case.split.folder, saved, out=tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == case.merged.read_bytes()


def test_the_check_sees_a_part_that_trained_on_after_the_merge(tmp_path: Path) -> None:
    case = trained_case(NETWORKS["lenet"](), tmp_path)
    module = graphsplit.trainable(case.parts[1].file).train()
    step(module, random_inputs(case.model, 5), rate=0.5)
    graphsplit.write_weights(module, case.parts[1].file)
    assert exact_merge(case).complaints
