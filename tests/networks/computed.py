"""Weights that are computed or shared in ways that a scale of 1/K could be put on the wrong factor."""

from __future__ import annotations

import onnx

from tests.networks.blocks import classifier, image
from tests.networks.builder import Net
from tests.networks.registry import exact_or_refused
from tests.networks.sequences import language_model


def weight_normed(net: Net, name: str, out: int, fan_in: int) -> str:
    """g * v / |v|, a length for each output."""
    v, g = net.param(f"{name}.weight_v", (out, fan_in)), net.param(f"{name}.weight_g", (out, 1), "scale")
    return net.mul(v, net.op("Div", g, net.axes_op("ReduceL2", v, [1], 18, keepdims=1)))


@exact_or_refused
def weight_norm() -> onnx.ModelProto:
    """The norm runs over inputs that a part has only some of: in a hidden layer and in the output layer."""
    net = Net("weight_norm")
    x = net.input("input", ("batch", 6))
    for i, (fan_in, out) in enumerate(((6, 16), (16, 12), (12, 4))):
        weight, bias = weight_normed(net, f"fc{i + 1}", out, fan_in), net.param(f"fc{i + 1}.bias", (out,), "bias")
        x = net.op("Gemm", x, weight, bias, name=f"fc{i + 1}", transB=1)
        x = net.op("Tanh", x) if i < 2 else x
    net.output(x, "output")
    return net.build()


@exact_or_refused
def weight_standardisation() -> onnx.ModelProto:
    """Each filter's weights centred and scaled, over the inputs as well."""
    net = Net("weight_standardisation")
    x = image(net, size=8)
    for i, width in enumerate((8, 12)):
        weight = net.param(f"conv{i + 1}.weight", (width, net.size(x), 3, 3))
        centred = net.op("Sub", weight, net.mean(weight, [1, 2, 3]))
        deviation = net.op("Sqrt", net.mean(net.mul(centred, centred), [1, 2, 3]))
        weight = net.op("Div", centred, net.add(deviation, net.constant(1e-2)))
        x = net.relu(net.op("Conv", x, weight, name=f"conv{i + 1}", pads=[1] * 4))
        x = net.mul(x, net.constant(0.2))
    classifier(net, x)
    return net.build()


@exact_or_refused
def weight_products() -> onnx.ModelProto:
    """A low-rank hidden layer whose factors the graph multiplies, and an output weight scaled by a learned gain."""
    net = Net("weight_products")
    x = net.relu(net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    factors = net.param("fc2.down", (12, 5), fan_in=12), net.param("fc2.up", (5, 10), fan_in=5)
    x = net.op("Tanh", net.op("MatMul", x, net.op("MatMul", *factors), name="fc2"))
    weight = net.mul(net.param("fc3.weight", (4, 10)), net.param("fc3.gain", (4, 1), "scale"))
    net.output(net.op("Gemm", x, weight, net.param("fc3.bias", (4,), "bias"), name="fc3", transB=1), "output")
    return net.build()


@exact_or_refused
def positive_weights() -> onnx.ModelProto:
    """Softplus of the output layer's parameter: 1/K in front of it would be wrong."""
    net = Net("positive_weights")
    x = net.op("Tanh", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    weight = net.op("Softplus", net.param("fc2.raw", (12, 4), "embedding"))
    net.output(net.op("MatMul", x, weight, name="fc2"), "output")
    return net.build()


@exact_or_refused
def tied_autoencoder() -> onnx.ModelProto:
    """The decoder's weight is the encoder's, transposed: an output weight that is also a hidden one."""
    net = Net("tied_autoencoder")
    weight = net.param("weight", (12, 6))
    x = net.input("input", ("batch", 6))
    x = net.op("Sigmoid", net.op("Gemm", x, weight, net.param("encoder.bias", (12,), "bias"), transB=1))
    x = net.op("Gemm", x, weight, net.param("decoder.bias", (6,), "bias"))
    net.output(x, "output")
    return net.build()


@exact_or_refused
def language_model_tied() -> onnx.ModelProto:
    """The output layer is the embedding, which must not be rescaled."""
    return language_model(tied=True)
