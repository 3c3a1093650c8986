"""Checkpoints that hold more than tensors, and those that are folders."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402 - it imports torch

from graphsplit.errors import FormatError, GraphsplitError  # noqa: E402
from graphsplit.formats.weights import read_trained  # noqa: E402
from graphsplit.modules import ModuleSplit  # noqa: E402
from tests.torch_checkpoints import lightning, same, split  # noqa: E402

__all__ = ["split"]  # fixtures

# -- files that hold more than tensors --------------------------------------------------------------------------


def test_a_lightning_file_with_hyperparameters_is_never_unpickled(split: ModuleSplit, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(lightning(split.submodels[0].state_dict(), hyper_parameters=argparse.Namespace(lr=0.1)), path)
    with pytest.raises(FormatError, match=r"\(argparse\.Namespace\), and torch's safe loader refuses it") as error:
        read_trained(path)
    hint = str(error.value).partition("hint: ")[2]
    assert "Lightning keeps hyperparameters" in hint
    assert "['state_dict'], 'weights.pt')" in hint
    assert "that you trust" in hint
    # what the hint says works
    torch.save(torch.load(path, weights_only=False)["state_dict"], tmp_path / "weights.pt")
    assert same(split.merge([tmp_path / "weights.pt", split.submodels[1]]), split.merge())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_trainers_file_with_arguments(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    checkpoint = {"model_state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match=r"Namespace.*\n  hint: save the weights alone.*\['model_state_dict'\]"):
        read_trained(path)


def test_a_whole_sub_model_in_a_file_is_refused(split: ModuleSplit, tmp_path: Path) -> None:
    torch.save(split.submodels[0], tmp_path / "whole.pt")
    with pytest.raises(
        FormatError, match=r"SplitModule\), and torch's safe loader refuses it\n.*state_dict\(\), path\)$"
    ):
        split.merge([tmp_path / "whole.pt", split.submodels[1]])


# -- folders ----------------------------------------------------------------------------------------------------


def shards(folder: Path, state: dict[str, Any], kind: str) -> None:
    names = list(state)
    files = [f"model-0000{i}-of-00002.{kind}" for i in (1, 2)]
    held = [{n: state[n].contiguous() for n in half} for half in (names[: len(names) // 2], names[len(names) // 2 :])]
    for file, tensors in zip(files, held, strict=True):
        (safetensors.torch.save_file if kind == "safetensors" else torch.save)(tensors, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, h in zip(files, held, strict=True) for n in h}}
    name = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    (folder / f"{name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin", "shards safetensors", "shards bin"])
@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.module."])
def test_folders_of_trainers(split: ModuleSplit, kind: str, prefix: str, tmp_path: Path) -> None:
    folders = []
    for part, module in enumerate(split.submodels):
        folders.append(tmp_path / f"part-{part}" / "checkpoint-500")
        folders[-1].mkdir(parents=True)
        state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
        (folders[-1] / "trainer_state.json").write_text("{}")
        torch.save({"state": {}}, folders[-1] / "optimizer.pt")
        if kind.startswith("shards"):
            shards(folders[-1], state, kind.split()[1])
        elif kind.endswith("bin"):
            torch.save(state, folders[-1] / kind)
        else:
            safetensors.torch.save_file(state, folders[-1] / kind, metadata={"format": "pt"})
    assert same(split.merge(folders), split.merge())


def test_folders_without_weights(split: ModuleSplit, tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=r"a folder without manifest\.json .*without weights of a trainer \(model\.safe"
    ):
        read_trained(tmp_path)
    for step in (500, 1000, 60):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(FormatError, match=r"hint: give the checkpoint in it: '.*checkpoint-1000'"):
        read_trained(tmp_path)
    other = tmp_path / "lightning_logs"
    other.mkdir()
    for name in ("last.ckpt", "epoch=1.ckpt"):
        torch.save({}, other / name)
    with pytest.raises(GraphsplitError, match=r"hint: give one of the files in it: epoch=1\.ckpt, last\.ckpt"):
        split.merge([other, other])


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', '{"weight_map": 3}', "{}"])
def test_a_damaged_index(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(FormatError, match="no index of weights"):
        read_trained(tmp_path)


def test_an_index_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    for file in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
        with pytest.raises(FormatError, match="leaves its folder"):
            read_trained(folder)
    safetensors.torch.save_file({"a": torch.ones(1)}, folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"b": "x.safetensors"}}))
    with pytest.raises(FormatError, match="lacks 'b'"):
        read_trained(folder)
    (folder / "loop").symlink_to(folder)
    for file, message in ((".", "leaves"), ("loop", "no file of weights"), ("a.onnx", "no file of weights")):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"b": file}}))
        with pytest.raises(FormatError, match=message):
            read_trained(folder)
