"""Verification of torch splits in folders: their files, their merged file, and state dicts in their place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import graphsplit  # noqa: E402
from graphsplit.errors import FormatError  # noqa: E402
from graphsplit.formats.weights import read_trained, write_safetensors  # noqa: E402
from graphsplit.graph import ArrayTensor, Graph  # noqa: E402
from graphsplit.verification import verify  # noqa: E402
from tests.torch_splits import LAWS, broken, made  # noqa: E402

FILE_CHECKS = ("merged file", "merged structure", "merged tensors", "merged values")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "parts"
    made("transformer", out=folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "parts")
    return tmp_path / "parts"


def change(folder: Path, part: int, changes: Mapping[str, Callable[[Any], Any]]) -> None:
    """Change weights of a sub-model in a folder."""
    path = folder / f"submodel_{part}.safetensors"
    tensors, metadata = read_trained(path)
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    arrays.update((name, function(arrays[name]).astype(arrays[name].dtype)) for name, function in changes.items())
    write_safetensors({n: ArrayTensor(a) for n, a in arrays.items()}, path, metadata=metadata, force=True)


def test_a_folder_passes_with_its_merged_file(folder: Path) -> None:
    change(folder, 1, {"norm.weight": lambda a: a * 2, "head.weight": lambda a: a + 0.1})
    merged = graphsplit.merge(folder, out=folder.parent / "merged.pt2").path
    found = verify(folder, merged)
    assert broken(found) == set()
    assert [check.name for check in found.checks] == [*LAWS, *FILE_CHECKS]
    change(folder, 1, {"norm.weight": lambda a: a * 2})
    assert broken(verify(folder, merged)) == {"merged tensors", "merged values"}


def test_trained_counters_in_a_folder_pass(tmp_path: Path) -> None:
    made("residual", out=tmp_path / "parts")
    change(tmp_path / "parts", 1, {"bn0.num_batches_tracked": lambda a: a + 3, "bn0.running_mean": lambda a: a + 1})
    merged = graphsplit.merge(tmp_path / "parts", out=tmp_path / "merged.pt2").path
    assert broken(verify(tmp_path / "parts", merged)) == set()
    change(tmp_path / "parts", 1, {"bn0.num_batches_tracked": lambda a: a + 1})
    assert broken(verify(tmp_path / "parts", merged)) == {"merged tensors"}


def test_another_op_in_a_sub_models_file_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.formats import torch_runtime

    right = torch_runtime.load

    def changed(path: Path) -> Graph:
        graph = right(path)
        return graph.replace(nodes=tuple(replace(n, op=n.op.replace("gelu.", "silu.")) for n in graph.nodes))

    monkeypatch.setattr(torch_runtime, "load", changed)
    found = verify(folder)
    assert "valid parts" in broken(found)
    assert found["valid parts"].detail.startswith("submodel_0.pt2: its structure is not the one that the split wrote")


def test_original_layers_in_a_file_give_up_law_1(folder: Path) -> None:
    change(folder, 1, {"blocks.0.norm1.weight": lambda a: a * 2})
    merged = graphsplit.merge(folder, out=folder.parent / "merged.pt2", layers="original").path
    found = verify(folder, merged)
    assert found.passed
    assert "law 1 is given up" in found["merged values"].detail


def test_a_folder_that_cannot_be_read_fails(folder: Path) -> None:
    (folder / "submodel_0.safetensors").write_bytes(b"damaged")
    assert broken(verify(folder)) == {"coverage"}


def test_a_missing_merged_file_is_an_error(folder: Path) -> None:
    with pytest.raises(FormatError):
        verify(folder, folder / "no.pt2")


def test_trained_state_dicts_take_the_place_of_the_folder(folder: Path) -> None:
    files = [folder.parent / f"part_{part}.pt" for part in range(2)]
    for part, file in enumerate(files):
        tensors, _ = read_trained(folder / f"submodel_{part}.safetensors")
        torch.save({n: torch.from_numpy(t.numpy() * np.float32(1 + part)) for n, t in tensors.items()}, file)
    merged = graphsplit.merge(folder, files, out=folder.parent / "merged.pt2").path
    assert broken(verify(folder, merged, trained=files)) == set()
    assert broken(verify(folder, merged)) == {"merged tensors", "merged values"}
