"""Every op that the executor has, against onnx's own examples and against onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from graphsplit.executor import OnnxModule, implementation
from graphsplit.executor.ops import Op
from graphsplit.executor.table import table
from graphsplit.formats.onnx_file import load
from graphsplit.formats.torch_tensors import TORCH, to_numpy, to_torch
from graphsplit.graph import Graph, Node, Value
from tests.onnx_cases import Array, Case, Example, cases_of, onnx_cases, own_cases

SHORT = {"float16": 1e-2, "bfloat16": 3e-2}
TOLERANCE = 2e-4
OLDEST = 7
DRAWN = ("Dropout", "RandomNormal", "RandomUniform", "Bernoulli")
UNSIGNED = {"uint16", "uint32", "uint64"}
"""Whole numbers that torch stores, and computes hardly anything with."""


def domain(case: Case) -> str:
    return "" if case.node.domain == "ai.onnx" else case.node.domain


def ours(case: Case) -> bool:
    """Whether a case is about an op that the executor has, with elements that torch has."""
    if implementation(domain(case), case.node.op_type, case.version) is None:
        return False
    opset = next((o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx")), OLDEST)
    arrays = [a for a in (*case.inputs, *case.outputs) if a is not None]
    types = {a.dtype.name for a in arrays}
    named = [name for name in (*case.node.input, *case.node.output) if name]
    tensors = len(arrays) == len(named) and bool(arrays)
    tensors = tensors and {v.name for v in case.model.graph.input} <= set(case.node.input)
    short = case.node.op_type in ("Cast", "CastLike") and any(name.startswith("float8") for name in types)
    return tensors and opset >= OLDEST and all(a.dtype in TORCH for a in arrays) and not types & UNSIGNED and not short


RNG = np.random.default_rng(5)
BOXES = np.array([[0, 0, 0, 5, 5], [1, 1, 2, 4, 5]], np.float32)
TINY = np.random.default_rng(6).standard_normal((2, 3, 4)).astype(np.float32) / 1000
FURTHER: list[Example] = [
    ("Resize", 13, {"mode": "linear"}, [(1, 2, 10, 5), None, np.array([1, 1, 1.8, 0.6], np.float32)], 1),
    ("Resize", 13, {}, [(1, 2, 10, 7), None, np.array([1, 1, 1.8, 1.3], np.float32)], 1),
    ("Resize", 13, {"mode": "cubic"}, [(1, 2, 6, 7), None, np.array([1, 1, 1.7, 0.7], np.float32)], 1),
    ("Conv", 11, {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, [(2, 4, 6, 7), (6, 4, 3, 2), (6,)], 1),
    ("Conv", 11, {"pads": [1, 0, 2, 1], "dilations": [2, 1], "group": 2}, [(2, 4, 7, 6), (6, 2, 3, 3), (6,)], 1),
    ("ConvTranspose", 11, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, [(2, 4, 5, 4), (4, 6, 3, 4), (6,)], 1),
    ("ConvTranspose", 11, {"pads": [1, 0, 2, 1], "strides": [2, 2], "output_padding": [1, 1]},
     [(2, 4, 5, 4), (4, 6, 3, 4), (6,)], 1),
    ("ConvTranspose", 11, {"output_shape": [11, 9], "strides": [2, 2]}, [(2, 4, 5, 4), (4, 6, 3, 3), (6,)], 1),
    ("AveragePool", 19, {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 2], "ceil_mode": 1},
     [(2, 4, 7, 6)], 1),
    ("AveragePool", 19, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1,
     "count_include_pad": 1}, [(2, 4, 8, 6)], 1),
    ("AveragePool", 19, {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "dilations": [2, 1], "count_include_pad": 1},
     [(2, 4, 8, 6)], 1),
    ("MaxPool", 12, {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 2], "ceil_mode": 1}, [(2, 4, 7, 6)], 2),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}, [(2, 4, 7, 6)], 1),
    ("LpPool", 18, {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 2], "p": 3}, [(2, 4, 7, 6)], 1),
    ("LRN", 13, {"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 2.0}, [(2, 7, 3, 3)], 1),
    ("GRU", 14, {"hidden_size": 4, "direction": "bidirectional"}, [(3, 2, 5), (2, 12, 5), (2, 12, 4), (2, 24)], 2),
    ("GRU", 14, {"hidden_size": 4, "linear_before_reset": 1, "direction": "reverse"},
     [(3, 2, 5), (1, 12, 5), (1, 12, 4), (1, 24), None, (1, 2, 4)], 2),
    ("GRU", 14, {"hidden_size": 4, "activations": ["HardSigmoid", "Softsign"], "clip": 0.7},
     [(3, 2, 5), (1, 12, 5), (1, 12, 4), (1, 24)], 2),
    ("LSTM", 14, {"hidden_size": 4, "direction": "bidirectional"},
     [(3, 2, 5), (2, 16, 5), (2, 16, 4), (2, 32), np.array([3, 1], np.int32), (2, 2, 4), (2, 2, 4)], 3),
    ("LSTM", 14, {"hidden_size": 4, "input_forget": 1, "direction": "reverse"},
     [(3, 2, 5), (1, 16, 5), (1, 16, 4), (1, 32), None, None, None, (1, 12)], 3),
    ("RNN", 14, {"hidden_size": 4, "activations": ["Relu", "Relu"], "direction": "bidirectional"},
     [(3, 2, 5), (2, 4, 5), (2, 4, 4), (2, 8)], 2),
    ("GridSample", 20, {"mode": "cubic", "padding_mode": "reflection", "align_corners": 1},
     [(2, 3, 5, 6), np.random.default_rng(2).uniform(-1.3, 1.3, (2, 4, 4, 2)).astype(np.float32)], 1),
    ("Pad", 18, {"mode": "reflect"}, [(2, 4, 5), [0, 1, 2, 0, 2, 3]], 1),
    ("Pad", 19, {"mode": "wrap"}, [(2, 4, 5), [0, 1, 2, 0, 2, 3]], 1),
    ("Pad", 18, {}, [(2, 4, 5), [0, -1, 2, 0, 2, -3], np.array(1.5, np.float32)], 1),
    ("TopK", 11, {"axis": 1, "largest": 0}, [np.array([[3, 1, 1, 2, 1]], np.float32), [3]], 2),
    ("InstanceNormalization", 7, {"epsilon": 1e-2}, [(2, 4, 5), (4,), (4,)], 1),
    ("com.microsoft::Attention", 1, {"num_heads": 2, "unidirectional": 1}, [(2, 3, 6), (6, 24), (24,)], 1),
    ("com.microsoft::Attention", 1, {"num_heads": 2},
     [(2, 3, 6), (6, 24), (24,), np.array([[1, 1, 0], [1, 1, 1]], np.int32)], 1),
    ("com.microsoft::MultiHeadAttention", 1, {"num_heads": 4, "scale": 0.3},
     [(2, 3, 8), (2, 5, 8), (2, 5, 12), None, np.array([[1, 1, 0, 1, 0]] * 2, np.int32), (2, 4, 3, 5)], 1),
    ("com.microsoft::GroupQueryAttention", 1, {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "local_window_size": 2},
     [(2, 3, 64), (2, 3, 32), (2, 3, 32), None, None, np.array([2, 2], np.int32), np.array(3, np.int32), (3, 8), (3, 8)], 3),
    ("com.microsoft::SkipLayerNormalization", 1, {}, [TINY, 2 * TINY, (4,), (4,)], 1),
    ("com.microsoft::SkipSimplifiedLayerNormalization", 1, {}, [TINY, 2 * TINY, (4,)], 1),
    ("LayerNormalization", 17, {}, [TINY, (4,), (4,)], 1),
    ("GlobalLpPool", 7, {}, [(2, 4, 3, 3)], 1),
    ("Not", 7, {}, [np.array([True, False, True])], 1),
    ("MaxRoiPool", 7, {"pooled_shape": [2, 3]}, [(2, 4, 6, 6), BOXES], 1),
]  # fmt: skip
CASES = [case for case in (*onnx_cases(), *own_cases(), *cases_of(FURTHER, reference=False)) if ours(case)]


def module(case: Case, folder: Path, *, stored: bool = False) -> OnnxModule:
    """The example as a module; `stored`: all operands but the first are initializers, and float ones train."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    trained = []
    if stored:
        held = dict(list(feeds(case).items())[1:])
        kept = [value for value in model.graph.input if value.name not in held]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in held.items())
        arguments = {case.node.input[i] for i in (*op_of(case).host, *op_of(case).numbers) if i < len(case.node.input)}
        trained = [n for n, a in held.items() if a.dtype == np.float32 and a.size > 1 and n not in arguments]
    for value, array in zip(model.graph.output, [a for a in case.outputs if a is not None], strict=True):
        if not value.type.tensor_type.elem_type:  # onnx infers no types for onnxruntime's ops
            value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    onnx.save(model, folder / "case.onnx")
    return OnnxModule(load(folder / "case.onnx"), trained)


def op_of(case: Case) -> Op:
    found = implementation(domain(case), case.node.op_type, case.version)
    assert found is not None
    return found


def feeds(case: Case) -> dict[str, Array]:
    return {name: array for name, array in zip(case.node.input, case.inputs, strict=True) if name and array is not None}


def given(case: Case, names: Sequence[str]) -> dict[str, Any]:
    return {name: to_torch(np.asarray(array)) for name, array in feeds(case).items() if name in names}


def complaint(found: Sequence[Array], expected: Sequence[Array | None]) -> str:
    """What is wrong with results; "" where nothing is."""
    for mine, wanted in zip(found, expected, strict=False):
        if wanted is None:
            continue
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            return f"{mine.dtype}{mine.shape} instead of {wanted.dtype}{wanted.shape}"
        if wanted.dtype.kind not in "fcV":
            if not np.array_equal(mine, wanted):
                return "other elements"
            continue
        wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
        bound = SHORT.get(wanted.dtype.name, TOLERANCE)
        one, two = mine.astype(wide), wanted.astype(wide)
        scale = float(np.abs(two[np.isfinite(two)]).max(initial=0.0))
        if not np.allclose(one, two, rtol=bound, atol=bound * min(scale, 1.0) + 1e-6 * scale, equal_nan=True):
            return f"off by {np.nanmax(np.abs(one - two))} of {scale}"
    return ""


def results(net: OnnxModule, case: Case) -> list[Array]:
    found = net(**given(case, net.input_names))
    return [to_numpy(t) for t in (found if isinstance(found, tuple) else (found,))]


def wanted(case: Case) -> list[Array | None]:
    return [array for name, array in zip(case.node.output, case.outputs, strict=True) if name]


def in_onnxruntime(case: Case) -> list[Array] | None:
    """What onnxruntime gives; None where it doesn't run the case."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = runtime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found: list[Array] = session.run(None, feeds(case))
    except Exception:  # noqa: BLE001 - it has no implementation for this type, version or spelling
        return None
    return found


LOWEST = "it gives the lowest number where onnx says -inf"
APART = {
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": LOWEST,
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": LOWEST,
}
"""Where onnxruntime departs from onnx's examples, and the executor doesn't."""
AS_ONNXRUNTIME = {
    "test_maxunpool_export_with_output_shape": "indices into the wanted shape",
    "test_resize_downsample_scales_linear_align_corners": "corners of a whole number of elements",
    "test_resize_downsample_scales_cubic_align_corners": "corners of a whole number of elements",
}
"""Where it departs from them, and the executor does as well."""


def drawn(case: Case) -> bool:
    return any(case.node.op_type.startswith(name) for name in DRAWN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_example(case: Case, tmp_path: Path) -> None:
    found, runs = results(module(case, tmp_path), case), in_onnxruntime(case)
    if drawn(case):
        assert [a.shape for a in found] == [a.shape for a in wanted(case) if a is not None]
        return
    assert bool(complaint(found, wanted(case))) == (case.name in AS_ONNXRUNTIME), complaint(found, wanted(case))
    if runs is not None:
        assert bool(complaint(found, runs)) == (case.name in APART), complaint(found, runs)


@pytest.mark.parametrize("case", [c for c in CASES if len(feeds(c)) > 1 and not drawn(c)], ids=lambda case: case.name)
def test_an_example_with_stored_operands(case: Case, tmp_path: Path) -> None:
    found = results(module(case, tmp_path, stored=True), case)
    plain = results(module(case, tmp_path), case)
    assert not complaint(found, plain)


WITHOUT = ("Hardmax", "MelWeightMatrix", "Range")
"""Ops that give floats which change in steps, or of which only sizes are asked."""
EDGES = ("test_acosh_example",)
"""Examples at a place where the slope is infinite."""


def differentiable(case: Case) -> bool:
    arrays = [a for a in (*case.inputs, *case.outputs) if a is not None]
    real = [a.dtype == np.float32 and a.size > 0 for a in arrays]
    held = sum(a is not None for a in case.inputs)
    finite = all(np.isfinite(a).all() for a in arrays if a.dtype.kind == "f")
    return any(real[:held]) and any(real[held:]) and finite and not op_of(case).statistics and case.name not in EDGES


@pytest.mark.parametrize("case", [case for case in CASES if differentiable(case)], ids=lambda case: case.name)
def test_an_example_has_gradients(case: Case, tmp_path: Path) -> None:
    net = module(case, tmp_path)
    inputs = given(case, net.input_names)
    for tensor in inputs.values():
        tensor.requires_grad_(tensor.dtype == torch.float32)
    found = net(**inputs)
    real = [
        t for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, torch.Tensor) and t.requires_grad
    ]
    assert bool(real) == (case.node.op_type not in WITHOUT)
    if real:
        sum(t.double().sum() for t in real).backward()  # type: ignore[union-attr]
        grads = [t.grad for t in inputs.values() if t.grad is not None]
        assert grads
        assert all(torch.isfinite(grad).all() for grad in grads)


def test_every_op_has_an_example() -> None:
    tried = {(domain(case) + "::" if domain(case) else "") + case.node.op_type for case in CASES}
    assert {entry.partition("@")[0] for entry in table()} - tried == set(BY_HAND)


ROWS = np.random.default_rng(8).standard_normal((2, 3, 4)).astype(np.float32)
SCALE = np.array([0.5, 1.5, -1.0, 2.0], np.float32)
RMS = ROWS / np.sqrt((ROWS**2).mean(-1, keepdims=True) + 1e-3) * SCALE
BY_HAND: dict[str, tuple[dict[str, Any], list[Array], Array | None]] = {
    "SimplifiedLayerNormalization": ({"epsilon": 1e-3}, [ROWS, SCALE], RMS),
    "com.microsoft::SimplifiedLayerNormalization": ({"epsilon": 1e-3}, [ROWS, SCALE], RMS),
    "com.microsoft::BiasAdd": ({}, [ROWS, SCALE, 2 * ROWS], 3 * ROWS + SCALE),
    "RandomNormal": ({"shape": [2, 500], "mean": 3.0}, [], None),
    "RandomNormalLike": ({"mean": 3.0}, [np.zeros((2, 500), np.float32)], None),
    "RandomUniform": ({"shape": [2, 500], "low": 2.0, "high": 4.0}, [], None),
    "RandomUniformLike": ({"low": 2.0, "high": 4.0}, [np.zeros((2, 500), np.float32)], None),
}
"""Ops that neither onnx nor onnxruntime runs here, and random ones, whose mean is 3."""


@pytest.mark.parametrize("name", BY_HAND)
def test_an_op_by_hand(name: str) -> None:
    attributes, arrays, expected = BY_HAND[name]
    title, _, op = name.rpartition("::")
    node = Node("node", op, title, 1, tuple(f"in{i}" for i in range(len(arrays))), ("y",), attributes)
    dtype = np.dtype(np.float32)
    inputs = tuple(Value(f"in{i}", dtype, a.shape) for i, a in enumerate(arrays))
    net = OnnxModule(Graph("g", inputs, (Value("y", dtype, None),), (node,), {}, opsets={"": 17}), ())
    found = to_numpy(net(*map(to_torch, arrays)))
    if expected is not None:
        assert not complaint([found], [expected])
    else:
        assert found.shape == (2, 500)
        assert abs(float(found.mean()) - 3) < 0.2
        assert float(found.std()) > 0.3


def test_the_comparison_sees_a_wrong_result(tmp_path: Path) -> None:
    case = next(c for c in CASES if c.name == "test_relu")
    found = results(module(case, tmp_path), case)
    assert not complaint(found, wanted(case))
    assert complaint([found[0] + 1], wanted(case))
    assert complaint([found[0][:1]], wanted(case))
    assert complaint([found[0].astype(np.float64)], wanted(case))
