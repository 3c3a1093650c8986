"""Random inputs for a network, and its values on them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

Arrays = dict[str, npt.NDArray[Any]]
SYMBOLS: Mapping[str, int] = {"batch": 2, "height": 16, "width": 16, "length": 12}
# Whole-number inputs are token ids; each vocabulary here has at least this many.
TOKENS = 10


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that must be fed: those that aren't initializers too."""
    initializers = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in initializers]


def symbols(model: onnx.ModelProto) -> list[str]:
    """Names of the dynamic axes, in the order of their first appearance."""
    dims = (d.dim_param for v in graph_inputs(model) for d in v.type.tensor_type.shape.dim if d.dim_param)
    return list(dict.fromkeys(dims))


def parameters(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers that the builder made as parameters: float tensors that aren't written-out constants."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return [t for t in model.graph.initializer if t.data_type in floats and not t.name.startswith("/")]


def describe(model: onnx.ModelProto) -> str:
    """One line a node, with the shapes of initializers: what to look at when a generated network fails."""
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    lines = [helper.printable_value_info(v) for v in graph_inputs(model)]
    for node in model.graph.node:
        operands = ", ".join(f"{name}{shapes.get(name, '')}" for name in node.input)
        attributes = " ".join(str(helper.printable_attribute(a)) for a in node.attribute)
        lines.append(f"{', '.join(node.output)} = {node.op_type}({operands}) {attributes}".rstrip())
    return "\n".join([*lines, "return " + ", ".join(v.name for v in model.graph.output)])


def random_inputs(model: onnx.ModelProto, seed: int = 0, **sizes: int) -> Arrays:
    """Standard normal inputs (token ids where the type is a whole number); sizes are those of the dynamic axes."""
    rng = np.random.default_rng(seed)
    known = {**SYMBOLS, **sizes}
    arrays: Arrays = {}
    for value in graph_inputs(model):
        tensor = value.type.tensor_type
        shape = tuple(known[d.dim_param] if d.dim_param else d.dim_value for d in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            arrays[value.name] = rng.normal(size=shape).astype(dtype)
        else:
            arrays[value.name] = rng.integers(0, TOKENS if dtype.kind in "iu" else 2, size=shape).astype(dtype)
    return arrays


def evaluate(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """Outputs by name, computed by onnxruntime on one thread."""
    # Not at import time: building networks must not need a runtime. It has no type stubs.
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [v.name for v in model.graph.output]
    return dict(zip(names, session.run(names, inputs), strict=True))
