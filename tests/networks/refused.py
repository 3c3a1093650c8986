"""Networks that must be refused by name: nothing to divide, control flow, quantised weights, unknown operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.networks.builder import TYPES, Net
from tests.networks.registry import refused


def features(net: Net) -> str:
    """A hidden layer, so that what follows meets features of parts."""
    return net.relu(net.dense(net.input("input", ("batch", 6)), "fc1", 12))


def finish(net: Net, x: str) -> onnx.ModelProto:
    net.declare(x, ("batch", 12))
    net.output(net.dense(x, "fc2", 4), "output")
    return net.build()


def value(name: str, *shape: int | str, dtype: str = "float32") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[dtype], list(shape))


def quantised(net: Net, name: str, rows: int, columns: int) -> tuple[str, str, str]:
    """A weight of 8 bits, with its scale and zero point."""
    codes = np.random.default_rng(1).integers(-100, 100, (rows, columns)).astype(np.int8)
    scale, zero = (net.tensor(f"{name}.{n}", v) for n, v in (("scale", np.float32(0.01)), ("zero", np.int8(0))))
    return net.tensor(f"{name}.weight_q", codes), scale, zero


@refused("nothing")
def linear_model() -> onnx.ModelProto:
    """One dense layer from the inputs to the outputs: there is no hidden neuron to divide."""
    net = Net("linear_model")
    net.output(net.dense(net.input("input", ("batch", 6)), "fc", 4), "output")
    return net.build()


@refused("If")
def branch() -> onnx.ModelProto:
    net = Net("branch")
    x = features(net)
    branches = {
        f"{op.lower()}_branch": helper.make_graph(
            [helper.make_node(node, [x], [f"y_{op}"])], op, [], [value(f"y_{op}", "batch", 12)]
        )
        for op, node in (("Then", "Tanh"), ("Else", "Sigmoid"))
    }
    return finish(net, net.op("If", net.input("flag", (), "bool"), name="branch", **branches))


@refused("Loop")
def loop() -> onnx.ModelProto:
    """A dense layer applied three times."""
    net = Net("loop")
    x = features(net)
    weight = net.param("loop.weight", (12, 12))
    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("MatMul", ["state", weight], ["product"]),
        helper.make_node("Tanh", ["product"], ["next"]),
    ]
    inputs = [value("i", dtype="int64"), value("go", dtype="bool"), value("state", "batch", 12)]
    body = helper.make_graph(nodes, "body", inputs, [value("go_on", dtype="bool"), value("next", "batch", 12)])
    count = net.constant(np.asarray(3, np.int64), name="count")
    return finish(net, net.op("Loop", count, net.constant(True, "bool", "condition"), x, name="loop", body=body))


@refused("Scan")
def scan() -> onnx.ModelProto:
    """A running sum over time."""
    net = Net("scan")
    x = net.relu(net.dense(net.input("input", ("length", "batch", 6)), "fc1", 12))
    start = net.mul(net.op("Gather", x, net.constant(np.asarray(0, np.int64)), axis=0), net.constant(0.0))
    nodes = [
        helper.make_node("Add", ["sum", "element"], ["next"]),
        helper.make_node("Identity", ["next"], ["scanned"]),
    ]
    shapes = {n: value(n, "batch", 12) for n in ("sum", "element", "next", "scanned")}
    body = helper.make_graph(nodes, "body", [shapes["sum"], shapes["element"]], [shapes["next"], shapes["scanned"]])
    last, _ = net.ops("Scan", start, x, outputs=2, name="scan", body=body, num_scan_inputs=1)
    return finish(net, last)


@refused("QuantizeLinear")
def quantise_dequantise() -> onnx.ModelProto:
    """QDQ: activations and weights through eight bits and back."""
    net = Net("quantise_dequantise")
    x = features(net)
    scale, zero = net.constant(0.05, name="x_scale"), net.tensor("x_zero", np.uint8(10))
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero, name="quant"), scale, zero)
    weight = net.op("DequantizeLinear", *quantised(net, "fc", 12, 12))
    return finish(net, net.relu(net.op("MatMul", x, weight, name="fc")))


@refused("DequantizeLinear")
def dequantised_weight() -> onnx.ModelProto:
    """Only the weight is quantised."""
    net = Net("dequantised_weight")
    x = features(net)
    return finish(net, net.op("MatMul", x, net.op("DequantizeLinear", *quantised(net, "fc", 12, 12), name="fc")))


@refused("QLinearConv")
def quantised_convolution() -> onnx.ModelProto:
    net = Net("quantised_convolution")
    x = net.input("input", ("batch", 12, 4, 4), "uint8")
    scale, zero = net.constant(0.05, name="x_scale"), net.tensor("x_zero", np.uint8(10))
    codes, w_scale, w_zero = quantised(net, "conv1", 12, 12)
    kernel = net.op("Reshape", codes, net.constant([12, 12, 1, 1]))
    q = net.op("QLinearConv", x, scale, zero, kernel, w_scale, w_zero, scale, zero, name="conv1")
    y = net.op("GlobalAveragePool", net.relu(net.op("DequantizeLinear", q, scale, zero)))
    return finish(net, net.flatten(y))


@refused("MatMulInteger")
def integer_product() -> onnx.ModelProto:
    """The first layer already: refused even where only the raw input meets it."""
    net = Net("integer_product")
    codes, w_scale, w_zero = quantised(net, "fc1", 6, 12)
    zero = net.tensor("x_zero", np.uint8(5))
    product = net.op("MatMulInteger", net.input("input", ("batch", 6), "uint8"), codes, zero, w_zero, name="fc1")
    return finish(net, net.relu(net.mul(net.op("Cast", product, to=TYPES["float32"]), w_scale)))


@refused("DynamicQuantizeLinear")
def dynamic_quantisation() -> onnx.ModelProto:
    """As onnxruntime's tool writes it: the activation's scale is computed for each input."""
    net = Net("dynamic_quantisation")
    q, scale, zero = net.ops("DynamicQuantizeLinear", features(net), outputs=3, name="quant")
    codes, w_scale, w_zero = quantised(net, "fc", 12, 12)
    product = net.op("Cast", net.op("MatMulInteger", q, codes, zero, w_zero, name="fc"), to=TYPES["float32"])
    return finish(net, net.relu(net.mul(product, net.mul(scale, w_scale))))


@refused("Mystery")
def custom_operator() -> onnx.ModelProto:
    net = Net("custom_operator")
    x = features(net)
    return finish(net, net.op("Mystery", x, name="mystery", domain="com.example"))
