"""ONNX networks as torch modules, their outputs and steps, which the tests of the executor share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from graphsplit.executor import OnnxModule
from graphsplit.formats.onnx_runtime import Session
from graphsplit.formats.torch_tensors import to_numpy, to_torch
from tests.networks.inputs import Arrays

ROOT = Path(__file__).parent.parent
LENET = ROOT / "models" / "lenet.onnx"


def affine(names: Sequence[str], folder: Path, **changes: Any) -> Path:
    """x times one tensor after the other, element by element: a file with any names."""
    rng = np.random.default_rng(1)
    nodes, value = [], "input"
    for i, name in enumerate(names):
        nodes.append(helper.make_node(changes.get("op", "Mul"), [value, name], [f"value{i}"], name=f"node{i}"))
        value = f"value{i}"
    tensors = [numpy_helper.from_array(rng.uniform(0.5, 1.5, 4).astype(np.float32), name) for name in names]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("input", value)]
    graph = helper.make_graph(nodes, "affine", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "odd.onnx")
    return folder / "odd.onnx"


def outputs(module: OnnxModule, inputs: Arrays) -> Arrays:
    with torch.no_grad():
        found = module(**{name: to_torch(np.asarray(array)) for name, array in inputs.items()})
    found = found if isinstance(found, tuple) else (found,)
    return dict(zip(module.output_names, map(to_numpy, found), strict=True))


def off(found: Arrays, expected: Arrays) -> float:
    """The largest difference, relative to the largest element; infinite for other shapes, types or whole numbers."""
    worst = 0.0
    for name, wanted in expected.items():
        mine = found[name]
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            return float("inf")
        one, two = mine.astype(np.float64), wanted.astype(np.float64)
        worst = max(worst, float(np.abs(one - two).max(initial=0.0) / max(np.abs(two).max(initial=0.0), 1e-6)))
    return worst


def step(module: OnnxModule, inputs: Arrays, rate: float = 0.05) -> float:
    """One step of SGD towards outputs of 1; the loss before it."""
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    found = module(**{name: to_torch(np.asarray(array)) for name, array in inputs.items()})
    found = found if isinstance(found, tuple) else (found,)
    loss = sum((f.float() - 1).square().mean() for f in found if f.requires_grad)
    assert isinstance(loss, torch.Tensor)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def in_runtime(path: Path, inputs: Arrays) -> Arrays:
    return {name: np.asarray(array) for name, array in Session(path).run(inputs).items()}
