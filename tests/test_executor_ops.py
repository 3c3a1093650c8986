"""Every op that the executor has, against onnx's own examples and against onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphsplit.executor import OnnxModule, implementation
from graphsplit.executor.table import table
from graphsplit.formats.onnx_file import load
from graphsplit.formats.torch_tensors import TORCH, to_numpy, to_torch
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
FURTHER: list[Example] = [
    ("GlobalLpPool", 7, {}, [(2, 4, 3, 3)], 1),
    ("MaxRoiPool", 7, {"pooled_shape": [2, 3]}, [(2, 4, 6, 6), BOXES], 1),
]
CASES = [case for case in (*onnx_cases(), *own_cases(), *cases_of(FURTHER)) if ours(case)]


def module(case: Case, folder: Path) -> OnnxModule:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value, array in zip(model.graph.output, [a for a in case.outputs if a is not None], strict=True):
        if not value.type.tensor_type.elem_type:  # onnx infers no types for onnxruntime's ops
            value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    onnx.save(model, folder / "case.onnx")
    return OnnxModule(load(folder / "case.onnx"), ())


def feeds(case: Case) -> dict[str, Array]:
    return {name: array for name, array in zip(case.node.input, case.inputs, strict=True) if name and array is not None}


def given(case: Case) -> dict[str, Any]:
    return {name: to_torch(np.asarray(array)) for name, array in feeds(case).items()}


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
    found = net(**given(case))
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


def test_every_op_has_an_example() -> None:
    tried = {(domain(case) + "::" if domain(case) else "") + case.node.op_type for case in CASES}
    assert {entry.partition("@")[0] for entry in table()} - tried == set()


def test_the_comparison_sees_a_wrong_result(tmp_path: Path) -> None:
    case = next(c for c in CASES if c.name == "test_relu")
    found = results(module(case, tmp_path), case)
    assert not complaint(found, wanted(case))
    assert complaint([found[0] + 1], wanted(case))
    assert complaint([found[0][:1]], wanted(case))
    assert complaint([found[0].astype(np.float64)], wanted(case))
