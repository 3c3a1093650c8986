"""The model that ships: its bytes come from its builder, its figures are the paper's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphsplit
from models.build_lenet import FILE, build, parameters

ROOT = Path(__file__).parent.parent


def test_the_builder_gives_the_shipped_bytes(tmp_path: Path) -> None:
    script, made = ROOT / "models" / "build_lenet.py", tmp_path / "lenet.onnx"
    done = subprocess.run([sys.executable, script, made], capture_output=True, text=True, check=True)
    assert done.stdout == "lenet.onnx: 431,080 parameters\n"
    assert made.read_bytes() == FILE.read_bytes()


def test_another_seed_gives_other_weights() -> None:
    one, other = (numpy_helper.to_array(build(seed).graph.initializer[0]) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_it_is_the_lenet_of_the_paper() -> None:
    model = onnx.load(FILE)
    onnx.checker.check_model(model, full_check=True)
    assert parameters(model) == 431_080
    ops = " ".join(node.op_type for node in model.graph.node)
    assert ops == "Conv Relu MaxPool Conv Relu MaxPool Flatten Gemm Relu Gemm"
    for value, shape in ((model.graph.input[0], ("batch", 1, 28, 28)), (model.graph.output[0], ("batch", 10))):
        dims = value.type.tensor_type.shape.dim
        assert tuple(dim.dim_param or dim.dim_value for dim in dims) == shape


def test_signals_keep_their_size() -> None:
    """He: the squares of weights sum to about 2 over the fan-in."""
    for tensor in build().graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            fan_in = array[0].size
            assert float((array.astype(np.float64) ** 2).mean() * fan_in) == pytest.approx(2, rel=0.15)
        else:
            assert not array.any()


@pytest.mark.parametrize(("k", "size"), [(1, 431_080), (2, 109_295), (5, 18_224), (10, 4_867)])
def test_its_parts_have_the_sizes_of_the_paper(k: int, size: int, tmp_path: Path) -> None:
    split = graphsplit.split(FILE, k, out=tmp_path / "parts")
    assert {entry.elements for entry in split.manifest.submodels} == {size}
    assert {parameters(onnx.load(file)) for file in split.submodels} == {size}
