"""Build `lenet.onnx`: the LeNet that the paper trains on MNIST, with its initial weights.

    python models/build_lenet.py [FILE]

conv 20@5x5, ReLU, max-pool 2, conv 50@5x5, ReLU, max-pool 2, dense 500, ReLU, dense 10: 431,080 parameters. (The paper
trains with dropout 0.5 behind the first dense layer; an inference graph has none.) Weights are He-uniform, biases zero.
The same bytes come out on every machine: uniform numbers are multiples of 2**-53, and the rest is IEEE arithmetic.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FILE = Path(__file__).with_name("lenet.onnx")
SEED = 1511_02954
LAYERS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("conv1", (20, 1, 5, 5)),
    ("conv2", (50, 20, 5, 5)),
    ("fc1", (500, 800)),
    ("fc2", (10, 500)),
)


def he_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Weights of variance 2 / fan-in, the fan-in being all axes but the first."""
    bound = math.sqrt(6 / math.prod(shape[1:]))
    return ((2 * rng.random(shape) - 1) * bound).astype(np.float32)


def initializers(seed: int = SEED) -> list[TensorProto]:
    """Weight and bias of every layer."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for name, shape in LAYERS:
        found.append(numpy_helper.from_array(he_uniform(shape, rng), f"{name}.weight"))
        found.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"))
    return found


def build(seed: int = SEED) -> onnx.ModelProto:
    """The network: `image` (batch, 1, 28, 28) in, `logits` (batch, 10) out."""
    window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    layers: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
        ("Conv", "conv1", ("conv1.weight", "conv1.bias"), {"kernel_shape": [5, 5]}),
        ("Relu", "relu1", (), {}),
        ("MaxPool", "pool1", (), window),
        ("Conv", "conv2", ("conv2.weight", "conv2.bias"), {"kernel_shape": [5, 5]}),
        ("Relu", "relu2", (), {}),
        ("MaxPool", "pool2", (), window),
        ("Flatten", "flatten", (), {"axis": 1}),
        ("Gemm", "fc1", ("fc1.weight", "fc1.bias"), {"transB": 1}),
        ("Relu", "relu3", (), {}),
        ("Gemm", "fc2", ("fc2.weight", "fc2.bias"), {"transB": 1}),
    ]
    nodes, value = [], "image"
    for op, name, weights, attributes in layers:
        result = "logits" if name == "fc2" else f"{name}_output"
        nodes.append(helper.make_node(op, [value, *weights], [result], name=name, **attributes))
        value = result
    graph = helper.make_graph(
        nodes,
        "lenet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        initializer=initializers(seed),
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=8, producer_name="graphsplit models/build_lenet.py"
    )


def parameters(model: onnx.ModelProto) -> int:
    """How many elements the tensors of a model have."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def main() -> None:
    """Check the network and write it."""
    parser = argparse.ArgumentParser(description="Build the MNIST LeNet that ships with graphsplit.")
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    file: Path = parser.parse_args().file
    model = build()
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{file.name}: {parameters(model):,} parameters")


if __name__ == "__main__":
    main()
