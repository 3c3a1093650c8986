"""Give weightless ONNX topologies random, well-scaled weights.

    python tools/randomise_light.py SOURCE TARGET [--seed N]

The `light_*.onnx` models inside the onnx package keep the topology of known networks but
store almost every weight as a `ConstantOfShape` node that yields the value 0.02 everywhere.
This program replaces each float weight (an initializer, or the result of a `Constant` or
`ConstantOfShape` node) by an initializer of random values whose scale follows from how the
weight is used, so that activations neither vanish nor blow up on the way to the output:

* kernels of Conv, ConvTranspose, Gemm and MatMul: normal, He-scaled (variance 2 / fan-in);
* scales (BatchNormalization scale, an operand of Mul or Div) and BatchNormalization variances:
  uniform in [0.8, 1.18), whose mean square and mean inverse are close to 1; PRelu slopes: a
  quarter of that; biases and means: normal, small;
* the layer in front of a residual sum is damped, so that deep residual nets keep their scale,
  and so is the layer in front of a Softmax, so that the largest class does not take it all.

Every tensor has its own generator, seeded from `(seed, model name, tensor name)`: the result
depends neither on the order of the tensors nor on the other tensors. The topologies are in the onnx package, at
onnx/backend/test/data/light.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FLOAT_TYPES = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
    }
)
# Operators that hand their first input on, at most reshaped or permuted.
PASS_THROUGH = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
KERNEL_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SUM_OPS = frozenset({"Add", "Sum"})
HEAD_GAIN = 0.5  # factor on the layer in front of a Softmax
MAX_TRACE_DEPTH = 16


class Role(Enum):
    """What a weight does in the operator that finally consumes it."""

    KERNEL = "kernel"
    SCALE = "scale"
    SLOPE = "slope"
    BIAS = "bias"
    MEAN = "mean"
    VARIANCE = "variance"


# (operator, input position) -> role; kernels are handled apart, for they need a fan-in.
ROLES: dict[tuple[str, int], Role] = {
    ("Conv", 2): Role.BIAS,
    ("ConvTranspose", 2): Role.BIAS,
    ("Gemm", 2): Role.BIAS,
    ("Add", 0): Role.BIAS,
    ("Add", 1): Role.BIAS,
    ("Sub", 1): Role.BIAS,
    ("Mul", 0): Role.SCALE,
    ("Mul", 1): Role.SCALE,
    ("Div", 1): Role.SCALE,
    ("PRelu", 1): Role.SLOPE,
    ("BatchNormalization", 1): Role.SCALE,
    ("BatchNormalization", 2): Role.BIAS,
    ("BatchNormalization", 3): Role.MEAN,
    ("BatchNormalization", 4): Role.VARIANCE,
    ("InstanceNormalization", 1): Role.SCALE,
    ("InstanceNormalization", 2): Role.BIAS,
    ("LayerNormalization", 1): Role.SCALE,
    ("LayerNormalization", 2): Role.BIAS,
}


@dataclass(frozen=True)
class Use:
    """How a weight is used: its role, the fan-in of a kernel, and a factor on its values."""

    role: Role
    fan_in: int = 1
    gain: float = 1.0


@dataclass(frozen=True)
class Weight:
    """A constant float tensor of the graph."""

    name: str
    shape: tuple[int, ...]
    elem_type: int


def attribute_int(node: onnx.NodeProto, name: str, default: int) -> int:
    """Value of an integer attribute, or its default where the node does not give it."""
    for attribute in node.attribute:
        if attribute.name == name:
            return int(attribute.i)
    return default


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The `value` tensor of a Constant or ConstantOfShape node, where it has one."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
    return None


def find_weights(graph: onnx.GraphProto) -> dict[str, Weight]:
    """Constant float tensors of the graph, by name, in whichever way they are stored."""
    integers: dict[str, np.ndarray] = {}
    weights: dict[str, Weight] = {}
    for tensor in graph.initializer:
        if tensor.data_type in FLOAT_TYPES:
            weights[tensor.name] = Weight(tensor.name, tuple(tensor.dims), tensor.data_type)
        elif tensor.data_type == onnx.TensorProto.INT64:
            integers[tensor.name] = numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type not in ("Constant", "ConstantOfShape"):
            continue
        name = node.output[0]
        value = constant_tensor(node)
        if node.op_type == "Constant":
            if value is None:
                continue
            if value.data_type in FLOAT_TYPES and math.prod(value.dims) > 1:
                weights[name] = Weight(name, tuple(value.dims), value.data_type)
            elif value.data_type == onnx.TensorProto.INT64:
                integers[name] = numpy_helper.to_array(value)
        elif node.input[0] in integers:
            elem_type = onnx.TensorProto.FLOAT if value is None else value.data_type
            if elem_type in FLOAT_TYPES:
                shape = tuple(int(size) for size in integers[node.input[0]])
                weights[name] = Weight(name, shape, elem_type)
    return weights


def kernel_fan_in(node: onnx.NodeProto, position: int, shape: Sequence[int]) -> int:
    """Number of input values that each output value of a kernel operator sums over."""
    if node.op_type == "Conv":
        return max(1, math.prod(shape[1:]))
    if node.op_type == "ConvTranspose":
        return max(1, shape[0] // attribute_int(node, "group", 1) * math.prod(shape[2:]))
    if len(shape) < 2:
        return max(1, math.prod(shape))
    transposed = attribute_int(node, "transB" if position == 1 else "transA", 0) != 0
    last = (position == 1) == transposed
    return max(1, shape[-1] if last else shape[-2])


def layer_gains(graph: onnx.GraphProto, weights: Iterable[str]) -> dict[str, float]:
    """Factors for the outputs of weighted layers in front of a residual sum or a Softmax."""
    constant = set(weights)
    for node in graph.node:
        if node.op_type in PASS_THROUGH and node.input[0] in constant:
            constant.add(node.output[0])
    layers = {
        node.output[0] for node in graph.node if node.op_type in KERNEL_OPS or node.op_type == "BatchNormalization"
    }
    sums: list[list[str]] = []
    for node in graph.node:
        operands = list(node.input)
        if node.op_type in SUM_OPS and len(operands) > 1 and constant.isdisjoint(operands):
            sums.append(operands)
    gains: dict[str, float] = {}
    for operands in sums:
        damped = [name for name in operands if name in layers]
        variance = len(operands) if len(damped) == len(operands) else len(sums)
        for name in damped:
            gains[name] = 1.0 / math.sqrt(variance)
    for node in graph.node:
        if node.op_type == "Softmax" and node.input[0] in layers:
            gains[node.input[0]] = HEAD_GAIN
    return gains


def find_uses(graph: onnx.GraphProto, weights: dict[str, Weight]) -> dict[str, Use]:
    """How each weight is used, looking through operators that only reshape it."""
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name:
                consumers[name].append((node, position))
    gains = layer_gains(graph, weights)

    def trace(weight: Weight, name: str, depth: int) -> Use | None:
        for node, position in consumers[name]:
            gain = gains.get(node.output[0], 1.0)
            if node.op_type in KERNEL_OPS and position < 2:
                return Use(Role.KERNEL, kernel_fan_in(node, position, weight.shape), gain)
            role = ROLES.get((node.op_type, position))
            if role is not None:
                is_affine = role in (Role.SCALE, Role.BIAS)
                return Use(role, gain=gain if is_affine else 1.0)
            if node.op_type in PASS_THROUGH and position == 0 and depth < MAX_TRACE_DEPTH:
                use = trace(weight, node.output[0], depth + 1)
                if use is not None:
                    return use
        return None

    uses: dict[str, Use] = {}
    for weight in weights.values():
        use = trace(weight, weight.name, 0)
        if use is not None:
            uses[weight.name] = use
    return uses


def random_values(weight: Weight, use: Use, seed: int, model_name: str) -> np.ndarray:
    """Random values for a weight, from a generator of its own."""
    digest = hashlib.sha256(f"{seed}\0{model_name}\0{weight.name}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    if use.role in (Role.SCALE, Role.VARIANCE, Role.SLOPE):
        values = generator.uniform(0.8, 1.18, weight.shape).astype(np.float32)
        values *= np.float32(0.25 if use.role is Role.SLOPE else use.gain)
    else:
        deviation = math.sqrt(2.0 / use.fan_in) if use.role is Role.KERNEL else 0.05
        values = generator.standard_normal(weight.shape, dtype=np.float32)
        values *= np.float32(deviation * use.gain)
    return values.astype(onnx.helper.tensor_dtype_to_np_dtype(weight.elem_type))


def drop_unused(graph: onnx.GraphProto, candidates: set[str]) -> None:
    """Remove those initializers (and their graph inputs) of the given names that nothing uses."""
    used = {name for node in graph.node for name in node.input}
    used.update(output.name for output in graph.output)
    unused = candidates - used
    for field in (graph.initializer, graph.input):
        kept = [entry for entry in field if entry.name not in unused]
        del field[:]
        field.extend(kept)


def randomise(model: onnx.ModelProto, model_name: str, seed: int = 0) -> onnx.ModelProto:
    """Copy of a model with random values in each float weight, all stored as initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = find_weights(graph)
    uses = find_uses(graph, weights)
    shape_inputs: set[str] = set()

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in ("Constant", "ConstantOfShape") and node.output[0] in uses:
            shape_inputs.update(node.input)
        else:
            nodes.append(node)
    initializers = [tensor for tensor in graph.initializer if tensor.name not in uses]
    for name, use in uses.items():
        values = random_values(weights[name], use, seed, model_name)
        initializers.append(numpy_helper.from_array(values, name))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    drop_unused(graph, shape_inputs)

    if result.ir_version < 4:  # there, each initializer has to be a graph input as well
        inputs = {value.name for value in graph.input}
        for tensor in graph.initializer:
            if tensor.name not in inputs:
                info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                graph.input.append(info)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Randomise every `*.onnx` file of a folder into another folder."""
    parser = argparse.ArgumentParser(description="Give weightless ONNX models random weights.")
    parser.add_argument("source", type=Path, help="folder with the weightless *.onnx files")
    parser.add_argument("target", type=Path, help="folder to write the models into")
    parser.add_argument("--seed", type=int, default=0, help="seed shared by all tensors")
    options = parser.parse_args(arguments)
    options.target.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.source.glob("*.onnx")):
        model = randomise(onnx.load(path), path.stem, options.seed)
        onnx.checker.check_model(model, full_check=False)
        onnx.save(model, options.target / path.name)
        print(f"{path.name}: {len(model.graph.initializer)} initializers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
