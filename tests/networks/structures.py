"""Unusual wiring: several inputs and outputs, raw data beside features, ties, narrow layers, no output layer."""

from __future__ import annotations

import onnx

from tests.networks.blocks import classifier, conv_bn, conv_relu, image, squeeze_excite
from tests.networks.builder import Net
from tests.networks.registry import network, variants


@network
def two_inputs_two_outputs() -> onnx.ModelProto:
    """An image and a vector; a class and a heat map."""
    net = Net("two_inputs_two_outputs")
    x = conv_bn(net, image(net, size=8, name="image"), "stem", 8)
    vector = net.relu(net.dense(net.input("vector", ("batch", 5)), "embed", 8))
    # The vector's features steer the image's, channel by channel (FiLM).
    x = net.add(x, net.unsqueeze(vector, [2, 3]))
    x = conv_bn(net, x, "trunk", 12)
    net.output(net.conv(conv_relu(net, x, "map.0", 8), "map.1", 1, 1), "heatmap")
    joined = net.concat(net.global_pool(x), vector)
    net.output(net.dense(joined, "fc", 10), "logits")
    return net.build()


@network
def concat_raw_input() -> onnx.ModelProto:
    """The raw input beside features, in front of a hidden layer and of the output layer."""
    net = Net("concat_raw_input")
    x = image(net, size=8)
    y = conv_relu(net, x, "conv1", 8)
    y = conv_relu(net, net.concat(x, y), "conv2", 12)
    net.output(net.conv(net.concat(y, x), "conv3", 4), "output")
    return net.build()


@network
def concat_raw_input_mlp() -> onnx.ModelProto:
    net = Net("concat_raw_input_mlp")
    x = net.input("input", ("batch", 5))
    y = net.relu(net.dense(x, "fc1", 16))
    y = net.op("Sigmoid", net.dense(net.concat(y, x), "fc2", 12))
    net.output(net.dense(net.concat(x, y), "fc3", 4), "output")
    return net.build()


@network
def input_residual() -> onnx.ModelProto:
    """x + f(x) on an input that is as wide as the features: a part takes its slice of it."""
    net = Net("input_residual")
    x = net.input("input", ("batch", 12))
    y = net.add(x, net.dense(net.relu(net.dense(x, "fc1", 16)), "fc2", 12))
    y = net.add(y, net.dense(net.relu(net.dense(y, "fc3", 16)), "fc4", 12))
    net.output(net.dense(net.relu(y), "head", 4), "output")
    return net.build()


@network
def denoiser() -> onnx.ModelProto:
    """x + f(x) as the output: the last convolution is the output layer, the input is added behind it."""
    net = Net("denoiser")
    x = image(net, 2, 8)
    y = conv_bn(net, conv_relu(net, x, "conv1", 8), "conv2", 12)
    net.output(net.op("Sub", x, net.conv(y, "conv3", 2)), "output")
    return net.build()


@variants(features_too={"late": False}, features_too_late={"late": True})
def features_too(late: bool) -> onnx.ModelProto:
    """Hidden features are an output as well: of a middle layer that others read, or of the last one."""
    net = Net("features_too")
    x = conv_bn(net, image(net, size=8), "conv1", 8)
    x = conv_bn(net, x, "conv2", 12)
    features = net.global_pool(x) if late else x
    y = features if late else net.global_pool(conv_relu(net, x, "conv3", 8))
    net.output(net.dense(y, "fc", 10), "logits")
    net.output(features, "features")
    return net.build()


@network
def auxiliary_head() -> onnx.ModelProto:
    """A logit layer in the middle that is an output and also feeds the next stage."""
    net = Net("auxiliary_head")
    x = conv_relu(net, image(net, size=8), "stage1.0", 12)
    first = net.conv(conv_relu(net, x, "stage1.1", 8), "stage1.heatmap", 4, 1)
    y = conv_relu(net, net.concat(x, first), "stage2.0", 12)
    net.output(net.conv(y, "stage2.heatmap", 4, 1), "heatmap2")
    net.output(first, "heatmap1")
    return net.build()


@network
def backbone() -> onnx.ModelProto:
    """No output layer: the features of a residual network, at two scales."""
    net = Net("backbone")
    x = conv_bn(net, image(net, size=8), "stem", 8)
    fine = net.relu(net.add(x, conv_bn(net, x, "block1", 8, act="")))
    x = conv_bn(net, fine, "down", 12, stride=2)
    net.output(net.relu(net.add(x, conv_bn(net, x, "block2", 12, act=""))), "c2")
    net.output(fine, "c1")
    return net.build()


@variants(narrow_bottleneck={"width": 2}, narrowest_bottleneck={"width": 1})
def narrow_bottleneck(width: int) -> onnx.ModelProto:
    """A code of two units (or one) between wide layers: fewer than most K."""
    net = Net("narrow_bottleneck")
    x = net.relu(net.dense(net.input("input", ("batch", 6)), "encoder.0", 16))
    x = net.op("Tanh", net.dense(x, "encoder.1", width))
    x = net.relu(net.dense(x, "decoder.0", 12))
    net.output(net.dense(x, "decoder.1", 6), "output")
    return net.build()


@network
def narrow_squeeze() -> onnx.ModelProto:
    """Squeeze-and-excite through two channels, in both spellings."""
    net = Net("narrow_squeeze")
    x = squeeze_excite(net, conv_bn(net, image(net, size=8), "conv1", 8), "se1", 2)
    x = squeeze_excite(net, conv_bn(net, x, "conv2", 12), "se2", 2, spelling="dense")
    classifier(net, x)
    return net.build()


@network
def squeeze_excite_net() -> onnx.ModelProto:
    net = Net("squeeze_excite")
    x = squeeze_excite(net, conv_bn(net, image(net, size=8), "conv1", 12), "se1", 6, spelling="dense")
    x = net.add(x, squeeze_excite(net, conv_bn(net, x, "conv2", 12), "se2", 8, gate="HardSigmoid"))
    classifier(net, x)
    return net.build()


@network
def tied_layers() -> onnx.ModelProto:
    """One weight used twice over depth, with its own bias each time: units couple index by index."""
    net = Net("tied_layers")
    x = net.relu(net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    weight = net.param("shared.weight", (12, 12))
    for i in range(2):
        x = net.op("Tanh", net.op("Gemm", x, weight, net.param(f"shared.bias{i}", (12,), "bias"), transB=1))
    net.output(net.dense(x, "head", 4), "output")
    return net.build()


@network
def siamese() -> onnx.ModelProto:
    """One trunk applied to two inputs; the difference of the features is classified."""
    net = Net("siamese")
    kernel, shift = net.param("conv.weight", (8, 3, 3, 3)), net.param("conv.bias", (8,), "bias")
    weight, bias = net.param("fc.weight", (12, 8)), net.param("fc.bias", (12,), "bias")
    codes = []
    for name in ("left", "right"):
        x = net.relu(net.op("Conv", image(net, size=8, name=name), kernel, shift, pads=[1] * 4))
        codes.append(net.op("Tanh", net.op("Gemm", net.global_pool(x), weight, bias, transB=1)))
    net.output(net.dense(net.op("Abs", net.op("Sub", *codes)), "head", 2), "output")
    return net.build()


@network
def merged_by_bytes() -> onnx.ModelProto:
    """Optimisers merge initializers whose bytes are equal: two layers share one bias, without being tied."""
    net = Net("merged_by_bytes")
    x = image(net, size=8)
    bias = net.param("conv1.bias", (12,), "bias")
    for i in range(2):
        weight = net.param(f"conv{i + 1}.weight", (12, net.size(x), 3, 3))
        x = net.relu(net.op("Conv", x, weight, bias, name=f"conv{i + 1}", pads=[1] * 4))
    classifier(net, x)
    return net.build()


@network
def glu() -> onnx.ModelProto:
    """Gated linear units over channels and over hidden units: value and gate come from one layer."""
    net = Net("glu")
    x = image(net, size=8)
    for i, width in enumerate((8, 12)):
        value, gate = net.split(net.conv(x, f"conv{i + 1}", 2 * width), [width, width])
        x = net.mul(value, net.op("Sigmoid", gate))
    value, gate = net.split(net.dense(net.global_pool(x), "fc1", 20), [10, 10])
    net.output(net.dense(net.mul(value, net.op("Tanh", gate)), "fc2", 5), "output")
    return net.build()


@network
def maxout() -> onnx.ModelProto:
    """Two pieces a unit: the maximum is over pieces, so a unit's pieces stay together and units don't."""
    net = Net("maxout")
    x = net.input("input", ("batch", 6))
    for i, width in enumerate((12, 10)):
        pieces = net.reshape(net.dense(x, f"fc{i + 1}", 2 * width), [-1, width, 2])
        x = net.axes_op("ReduceMax", pieces, [2], 18, keepdims=0)
    net.output(net.dense(x, "head", 4), "output")
    return net.build()


@network
def cross_product() -> onnx.ModelProto:
    """Two branches that meet in a product and in a maximum, and a constant mask on the features."""
    net = Net("cross_product")
    x = net.input("input", ("batch", 6))
    a, b = (net.op("Tanh", net.dense(x, f"branch.{n}", 12)) for n in "ab")
    y = net.op("Max", net.mul(a, b), net.dense(x, "branch.c", 12))
    y = net.op("Where", net.op("Greater", a, net.constant(0.1)), y, net.mul(b, net.constant(0.5)))
    net.output(net.dense(y, "head", 4), "output")
    return net.build()


@network
def gathered_channels() -> onnx.ModelProto:
    """Channels reordered and repeated by Gather, and reversed by a negative stride."""
    net = Net("gathered_channels")
    x = conv_relu(net, image(net, size=8), "conv1", 12)
    order = [5, 0, 3, 3, 11, 7, 1, 2, 10, 9]
    x = conv_relu(net, net.op("Gather", x, net.constant(order), axis=1), "conv2", 8)
    bounds = ([-1], [-100], [1], [-1])
    x = net.add(x, net.op("Slice", x, *(net.constant(b, name="bound") for b in bounds)))
    classifier(net, x)
    return net.build()
