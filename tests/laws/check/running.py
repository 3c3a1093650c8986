"""Networks in onnxruntime, and how far values may be from each other."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.laws.check.making import Array, Arrays, Case
from tests.networks.inputs import random_inputs


class Runner:
    """A network in onnxruntime, without optimisations and on one thread, that gives every value it computes."""

    def __init__(self, model: onnx.ModelProto | Path, only: Iterable[str] | None = None) -> None:
        runtime: Any = importlib.import_module("onnxruntime")
        proto = onnx.ModelProto()
        proto.CopyFrom(onnx.load(model) if isinstance(model, Path) else model)
        declared = {value.name for value in proto.graph.output}
        computed = {name for node in proto.graph.node for name in node.output if name}
        wanted = computed if only is None else computed & set(only)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - declared))
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, inputs: Arrays) -> Arrays:
        given = {value.name: inputs[value.name] for value in self.session.get_inputs()}
        values = zip(self.outputs, self.session.run(None, given), strict=True)
        return {name: value for name, value in values if isinstance(value, np.ndarray)}


def planned_inputs(case: Case, seed: int = 1) -> Arrays:
    """Random inputs of the sizes that the split was planned with."""
    return random_inputs(case.model, seed, **dict(case.split.manifest.options.sizes))


def off(value: Array, expected: Array) -> float:
    """The largest difference, relative to the largest element expected; infinite where the values can't be compared."""
    if value.shape != expected.shape:
        return float("inf")
    if value.dtype.kind not in "fc":
        return 0.0 if np.array_equal(value, expected) else float("inf")
    if not value.size:
        return 0.0
    value, expected = value.astype(np.float64), expected.astype(np.float64)
    if not np.isfinite(expected).all():
        return 0.0 if np.array_equal(value, expected, equal_nan=True) else float("inf")
    if not np.isfinite(value).all():
        return float("inf")
    return float(np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-6))
