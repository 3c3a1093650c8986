"""Statistics over channels, norms and gates: what a split has to duplicate, and its neighbours that it need not."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tests.networks.blocks import (
    classifier,
    conv_bn,
    conv_relu,
    group_norm,
    group_norm_op,
    image,
    layer_norm_spelled,
    rms_norm,
    spatial_gate,
)
from tests.networks.builder import Net
from tests.networks.registry import network, variants

Block = Callable[[Net, str, str], str]


def softmax_over_channels(net: Net, x: str, name: str) -> str:
    return net.op("Softmax", x, axis=1, name=name)


def mean_gate(net: Net, x: str, name: str) -> str:
    """A gate from the mean over channels alone, without parameters."""
    return net.mul(x, net.op("Sigmoid", net.mean(x, [1])))


def max_gate(net: Net, x: str, name: str) -> str:
    return net.mul(x, net.op("Sigmoid", net.axes_op("ReduceMax", x, [1], 18, keepdims=1)))


def one_channel_gate(net: Net, x: str, name: str) -> str:
    """Attention U-Net's gate: features contracted to a single channel, which is narrower than any K."""
    return net.mul(x, net.op("Sigmoid", net.conv(x, name, 1, 1)))


def local_response(net: Net, x: str, name: str) -> str:
    return net.op("LRN", x, name=name, size=3, alpha=0.3, beta=0.75, bias=1.0)


def efficient_channel_attention(net: Net, x: str, name: str) -> str:
    """ECA: a 1-D convolution that slides over the channels."""
    pooled = net.squeeze(net.op("GlobalAveragePool", x), [3])
    y = net.conv(net.transpose(pooled, [0, 2, 1]), name, 1, 3, bias=False)
    gate = net.op("Sigmoid", net.unsqueeze(net.transpose(y, [0, 2, 1]), [3]))
    return net.mul(x, gate)


def global_response_norm(net: Net, x: str, name: str) -> str:
    """GRN of ConvNeXt v2: norms over space, divided by their mean over channels."""
    channels = net.size(x)
    norms = net.axes_op("ReduceL2", x, [2, 3], 18, keepdims=1)
    relative = net.op("Div", norms, net.add(net.mean(norms, [1]), net.constant(1e-3)))
    y = net.mul(net.mul(x, relative), net.param(f"{name}.gamma", (1, channels, 1, 1), "scale"))
    return net.add(net.add(y, net.param(f"{name}.beta", (1, channels, 1, 1), "bias")), x)


def unit_length(net: Net, x: str, name: str) -> str:
    """Channels scaled to unit length, and by a learned factor, as SSD does."""
    length = net.add(net.axes_op("ReduceL2", x, [1], 18, keepdims=1), net.constant(0.1))
    return net.mul(net.op("Div", x, length), net.param(f"{name}.weight", (1, net.size(x), 1, 1), "scale"))


def instance_norm(net: Net, x: str, name: str) -> str:
    return net.instance_norm(x, name)


def norm_over_space(net: Net, x: str, name: str) -> str:
    """A mean over space alone touches each channel by itself: nothing to duplicate."""
    return net.op("Sub", x, net.mean(x, [2, 3]))


def groups_of(groups: int) -> Block:
    return lambda net, x, name: group_norm(net, x, name, groups)


def groups_op(groups: int) -> Block:
    return lambda net, x, name: group_norm_op(net, x, name, groups)


@variants(
    softmax_over_channels={"block": softmax_over_channels},
    mean_gate={"block": mean_gate},
    max_over_channels={"block": max_gate},
    spatial_gate={"block": spatial_gate},
    one_channel_gate={"block": one_channel_gate},
    lrn={"block": local_response},
    eca={"block": efficient_channel_attention},
    global_response_norm={"block": global_response_norm},
    unit_length={"block": unit_length},
    instance_norm={"block": instance_norm},
    norm_over_space={"block": norm_over_space},
    group_norm={"block": groups_of(4)},
    group_norm_one_group={"block": groups_of(1)},
    group_norm_each_channel={"block": groups_of(12)},
    group_norm_two_groups={"block": groups_of(2)},
    group_norm_straddled={"block": groups_op(3), "opset": 21},
    group_norm_op={"block": groups_op(4), "opset": 21},
    layer_norm_image={"block": lambda net, x, name: layer_norm_spelled(net, x, name, axis=1)},
)
def in_a_trunk(block: Block, opset: int = 17) -> onnx.ModelProto:
    """A convolution, the block, a residual block with it, and a classifier."""
    net = Net("norms", opset=opset)
    x = net.conv(image(net, size=8), "conv1", 12, bias=False)
    x = net.relu(block(net, x, "block1"))
    y = net.relu(block(net, net.conv(x, "conv2", 12, bias=False), "block2"))
    classifier(net, conv_relu(net, net.add(x, y), "conv3", 8))
    return net.build()


def layer_norm_op(net: Net, x: str, name: str) -> str:
    return net.layer_norm(x, name)


@variants(
    layer_norm_mlp={"norm": layer_norm_op},
    layer_norm_mlp_spelled={"norm": layer_norm_spelled},
    rms_norm_mlp={"norm": rms_norm},
    layer_norm_mlp_uneven={"norm": layer_norm_op, "widths": (13, 11)},
)
def normed_mlp(norm: Block, widths: tuple[int, ...] = (16, 12)) -> onnx.ModelProto:
    net = Net("normed_mlp")
    x = net.input("input", ("batch", 6))
    for i, width in enumerate(widths):
        x = net.relu(norm(net, net.dense(x, f"fc{i + 1}", width), f"norm{i + 1}"))
    net.output(net.dense(x, "head", 5), "output")
    return net.build()


@network
def batch_norm_on_input() -> onnx.ModelProto:
    """Trainable parameters that meet only the raw input: each part has its own copy."""
    net = Net("batch_norm_on_input")
    x = net.batch_norm(image(net, size=8), "bn0")
    classifier(net, conv_bn(net, conv_bn(net, x, "conv1", 8), "conv2", 12))
    return net.build()


@variants(prelu={"slopes": 12}, prelu_one_slope={"slopes": 1})
def prelu(slopes: int) -> onnx.ModelProto:
    net = Net("prelu")
    x = image(net, size=8)
    for i in range(2):
        x = net.conv(x, f"conv{i + 1}", 12)
        x = net.op("PRelu", x, net.param(f"act{i + 1}.weight", (slopes, 1, 1), "slope"))
    classifier(net, x)
    return net.build()


@network
def temperature() -> onnx.ModelProto:
    """One learned gain that every channel shares, of shape (1,), and a scale for each channel after it."""
    net = Net("temperature")
    x = net.mul(net.conv(image(net, size=8), "conv1", 12), net.param("gain", (1,), "scale"))
    x = net.mul(net.relu(x), net.param("layer_scale", (12, 1, 1), "scale"))
    classifier(net, conv_relu(net, x, "conv2", 8))
    return net.build()
