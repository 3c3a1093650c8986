"""The networks that other tests split are valid, run, and have outputs that depend on their inputs and parameters."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import numpy_helper

from tests.networks import EXACT_OR_REFUSED, NETWORKS, REFUSED
from tests.networks.generate import networks, random_network
from tests.networks.inputs import Arrays, evaluate, parameters, random_inputs, symbols

Build = Callable[[], onnx.ModelProto]
# The checker wants sorted nodes; runtimes don't, and this one exists because real files come like this.
UNSORTED = "nodes_out_of_order"
ALL = {**NETWORKS, **EXACT_OR_REFUSED}


def assert_alive(model: onnx.ModelProto, batch: int) -> None:
    """Outputs are finite, have the declared shape, and differ between random inputs."""
    first, second = (evaluate(model, random_inputs(model, seed, batch=batch)) for seed in (1, 2))
    for value in model.graph.output:
        a, b = first[value.name], second[value.name]
        assert np.isfinite([a.sum(), b.sum()]).all(), value.name
        declared = value.type.tensor_type.shape.dim
        assert a.ndim == len(declared)
        for length, dim in zip(a.shape, declared, strict=True):
            assert not dim.HasField("dim_value") or dim.dim_value == length, value.name
        # Detections differ in number: then they are different anyway.
        assert a.shape != b.shape or np.abs(a.astype(np.float64) - b).max() > 1e-4, f"{value.name} is constant"


@pytest.mark.parametrize("build", [pytest.param(f, id=n) for n, f in ALL.items() if n != UNSORTED])
def test_checker_accepts(build: Build) -> None:
    onnx.checker.check_model(build(), full_check=True)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("build", [pytest.param(f, id=n) for n, f in ALL.items()])
def test_runs(build: Build, batch: int) -> None:
    model = build()
    if batch == 1 or "batch" in symbols(model):
        assert_alive(model, batch)


@pytest.mark.parametrize("name", [n for n, f in ALL.items() if set(symbols(f())) - {"batch"}])
def test_dynamic_axes_are_dynamic(name: str) -> None:
    model = ALL[name]()
    sizes = {"height": 8, "width": 12, "length": 5}
    values = evaluate(model, random_inputs(model, batch=3, **sizes))
    assert all(np.isfinite(v).all() for v in values.values())


@pytest.mark.parametrize("name", ALL)
def test_channels_differ(name: str) -> None:
    """No weight or bias has two equal channels: a permuted part would go unnoticed."""
    for tensor in ALL[name]().graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and tensor.name.endswith((".weight", ".bias")) and array.shape[0] > 1:
            assert len(np.unique(array.reshape(array.shape[0], -1), axis=0)) == array.shape[0], tensor.name


def test_building_twice_gives_the_same_bytes() -> None:
    for name, build in {**ALL, **{n: f for n, (f, _) in REFUSED.items()}}.items():
        assert build().SerializeToString() == build().SerializeToString(), name


def test_lenet_has_the_papers_size() -> None:
    weights = [t for t in NETWORKS["lenet"]().graph.initializer if t.name.endswith((".weight", ".bias"))]
    assert sum(math.prod(t.dims) for t in weights) == 431_080


def test_unsorted_nodes_are_unsorted() -> None:
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(NETWORKS[UNSORTED]())


@pytest.mark.parametrize("name", REFUSED)
def test_refused_are_valid(name: str) -> None:
    build, word = REFUSED[name]
    model = build()
    onnx.checker.check_model(model)
    assert word


def dead_parameters(model: onnx.ModelProto, inputs: Arrays) -> list[str]:
    """Float parameters that may be changed by a third without any change of an output."""
    expected = evaluate(model, inputs)
    dead = []
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for i, tensor in enumerate(parameters(changed)):
        original = onnx.TensorProto()
        original.CopyFrom(tensor)
        array = numpy_helper.to_array(tensor)
        array = (array * np.random.default_rng(i).uniform(0.7, 1.3, array.shape)).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        values = evaluate(changed, inputs)
        tensor.CopyFrom(original)
        if all(v.shape == expected[n].shape and np.allclose(v, expected[n], 0, 1e-6) for n, v in values.items()):
            dead.append(tensor.name)
    return dead


@pytest.mark.parametrize("name", ALL)
def test_outputs_depend_on_each_parameter(name: str) -> None:
    model = ALL[name]()
    # In the mixer it adds the same to all channels of a token, which the norms behind it take away.
    expected = {
        "unused_parts": ["old.weight", "dead_head.weight", "dead_head.bias"],
        "mixer": ["blocks.0.tokens.fc2.bias", "blocks.1.tokens.fc2.bias"],
    }
    assert dead_parameters(model, random_inputs(model, batch=4)) == expected.get(name, [])


@settings(max_examples=50)
@given(networks())
def test_generated_networks_are_valid(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    values = evaluate(model, random_inputs(model))
    assert all(np.isfinite(v).all() for v in values.values())


@pytest.mark.parametrize("seed", range(25))
def test_random_networks_run(seed: int) -> None:
    assert_alive(random_network(seed), 4)


DIGEST = """
import hashlib
from tests.networks.generate import random_network
for seed in range(8):
    print(hashlib.sha256(random_network(seed).SerializeToString()).hexdigest())
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_random_networks_are_the_same_under_any_hash_seed(hash_seed: str) -> None:
    expected = [hashlib.sha256(random_network(s).SerializeToString()).hexdigest() for s in range(8)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == expected
