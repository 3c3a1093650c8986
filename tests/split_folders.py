"""Splits of ONNX networks in folders, changes to their files, and what verification says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphsplit.merging import merge
from graphsplit.splitting import split
from graphsplit.verification import Verification
from tests.networks import NETWORKS
from tests.networks.builder import Net


def network(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETWORKS[name](), path)
    return path


def split_of(name: str, folder: Path, k: int = 2, **options: Any) -> Path:
    split(network(name, folder), k, out=folder / "parts", **options)
    return folder / "parts"


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return split_of("mlp", tmp_path)


def edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t).copy() for t in onnx.load(path).graph.initializer}


def set_tensors(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))

    edit(path, change)


def failed(found: Verification) -> set[str]:
    assert found.passed == (not any(not c.passed for c in found.checks))
    return {check.name for check in found.checks if not check.passed}


def train(folder: Path) -> None:
    """Change every parameter of every sub-model, in each in its own way."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for number, path in enumerate(sorted(folder.glob("submodel_*.onnx"))):
        rng = np.random.default_rng(number)
        arrays = {n: a for n, a in tensors(path).items() if manifest["parameters"].get(n, {}).get("role") != "constant"}
        changed = {n: (a * rng.uniform(0.5, 1.5, a.shape)).astype(a.dtype) for n, a in arrays.items() if a.size > 1}
        set_tensors(path, {n: a for n, a in changed.items() if a.dtype.kind == "f"})


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A dense network with a cut layer, split in two and trained, and its merge beside it."""
    net = Net("deep")
    x = net.op("Relu", net.dense(net.input("input", ("batch", 6)), "fc1", 16))
    x = net.op("Relu", net.dense(x, "hidden", 16))
    net.output(net.op("Softmax", net.dense(x, "fc2", 5), axis=-1), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    train(tmp_path / "parts")
    merge(tmp_path / "parts", out=tmp_path / "merged.onnx")
    return tmp_path / "parts"
