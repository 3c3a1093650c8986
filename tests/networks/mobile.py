"""Networks for small machines: depthwise and grouped convolutions, shuffles, gates."""

from __future__ import annotations

import onnx

from tests.networks.blocks import channel_shuffle, classifier, conv_bn, depthwise_bn, image, inverted_residual
from tests.networks.builder import Net
from tests.networks.registry import network, variants


def shuffle_unit(net: Net, x: str, name: str, out: int, groups: int, stride: int) -> str:
    """ShuffleNet v1: grouped 1x1, shuffle, depthwise, grouped 1x1; stride 2 concatenates the pooled input."""
    made = out - net.size(x) if stride == 2 else out
    hidden = max(1, out // 4 // groups) * groups
    # The stem has too few channels for a grouped convolution, as in the paper.
    y = conv_bn(net, x, f"{name}.conv1", hidden, 1, groups=groups if net.size(x) % groups == 0 else 1)
    y = depthwise_bn(net, channel_shuffle(net, y, groups), f"{name}.conv2", stride=stride, act="")
    y = conv_bn(net, y, f"{name}.conv3", made, 1, groups=groups, act="")
    if stride == 2:
        return net.relu(net.concat(net.avg_pool(x, 3, pad=1), y))
    return net.relu(net.add(x, y))


@variants(
    shufflenet_v1_g2={"groups": 2, "stem": 8},
    shufflenet_v1_g3={"groups": 3, "stem": 12},
    shufflenet_v1_g4={"groups": 4, "stem": 8},
)
def shufflenet_v1(groups: int, stem: int) -> onnx.ModelProto:
    net = Net("shufflenet_v1")
    x = conv_bn(net, image(net), "stem", stem)
    for stage in range(2):
        out = 24 * (stage + 1)
        for i in range(2):
            x = shuffle_unit(net, x, f"stage{stage + 2}.{i}", out, groups, 1 if i else 2)
    classifier(net, x)
    return net.build()


@variants(shufflenet_v2={"half": 8}, shufflenet_v2_uneven={"half": 7})
def shufflenet_v2(half: int) -> onnx.ModelProto:
    net = Net("shufflenet_v2")
    x = conv_bn(net, image(net), "conv1", 8)
    for i in range(4):
        name, stride = f"stage2.{i}", 1 if i else 2
        if stride == 1:
            kept, y = net.split(x, [half, half])
        else:
            y = depthwise_bn(net, x, f"{name}.branch1.0", stride=2, act="")
            kept, y = conv_bn(net, y, f"{name}.branch1.1", half, 1), x
        y = conv_bn(net, y, f"{name}.branch2.0", half, 1)
        y = depthwise_bn(net, y, f"{name}.branch2.1", stride=stride, act="")
        y = conv_bn(net, y, f"{name}.branch2.2", half, 1)
        x = channel_shuffle(net, net.concat(kept, y), 2)
    classifier(net, conv_bn(net, x, "conv5", 24, 1))
    return net.build()


@network
def mobilenet_v1() -> onnx.ModelProto:
    net = Net("mobilenet_v1")
    x = conv_bn(net, image(net), "model.0", 8, stride=2)
    for i, (width, stride) in enumerate(((12, 1), (16, 2), (16, 1), (24, 2))):
        x = depthwise_bn(net, x, f"model.{i + 1}.0", stride=stride, act="Relu")
        x = conv_bn(net, x, f"model.{i + 1}.1", width, 1)
    classifier(net, x)
    return net.build()


@network
def mobilenet_v2() -> onnx.ModelProto:
    net = Net("mobilenet_v2")
    x = conv_bn(net, image(net), "features.0", 8, stride=2, act="Relu6")
    x = inverted_residual(net, x, "features.1", 8, 8)
    for i, (hidden, width, stride) in enumerate(((24, 8, 1), (24, 12, 2), (36, 12, 1))):
        x = inverted_residual(net, x, f"features.{i + 2}", hidden, width, stride=stride)
    x = conv_bn(net, x, "features.18", 24, 1, act="Relu6")
    net.output(net.dense(net.dropout(net.mean(x, [2, 3], keepdims=0), 0.2), "classifier.1", 10), "output")
    return net.build()


@variants(mobilenet_v3={"hard_swish": "HardSwish"}, mobilenet_v3_spelled={"hard_swish": "HardSwishSpelled"})
def mobilenet_v3(hard_swish: str) -> onnx.ModelProto:
    net = Net("mobilenet_v3")
    x = conv_bn(net, image(net), "features.0", 8, stride=2, act=hard_swish)
    blocks = ((16, 8, 1, "Relu", 0), (20, 12, 2, "Relu", 8), (24, 12, 1, hard_swish, 8), (24, 16, 2, hard_swish, 6))
    for i, (hidden, width, stride, act, squeeze) in enumerate(blocks):
        x = inverted_residual(
            net, x, f"features.{i + 1}", hidden, width, stride=stride, act=act, squeeze=squeeze, gate="HardSigmoid",
            kernel=5 if i % 2 else 3,
        )  # fmt: skip
    x = net.global_pool(conv_bn(net, x, "features.12", 24, 1, act=hard_swish))
    x = net.op("HardSwish", net.dense(x, "classifier.0", 20))
    net.output(net.dense(x, "classifier.3", 10), "output")
    return net.build()


@network
def efficientnet() -> onnx.ModelProto:
    net = Net("efficientnet")
    x = conv_bn(net, image(net), "features.0", 8, stride=2, act="Swish")
    for i, (hidden, width, stride) in enumerate(((8, 8, 1), (24, 12, 2), (36, 12, 1), (36, 16, 1))):
        # Squeezed channels are a quarter of the block's *input*, so they are few: 4 here.
        x = inverted_residual(
            net, x, f"features.{i + 1}", hidden, width, stride=stride, act="Swish", squeeze=4, squeeze_act="Swish",
            kernel=3 + 2 * (i % 2),
        )  # fmt: skip
    classifier(net, conv_bn(net, x, "features.8", 24, 1, act="Swish"), "classifier.1")
    return net.build()


@network
def depthwise_multiplier() -> onnx.ModelProto:
    """Depthwise convolution with two filters a channel."""
    net = Net("depthwise_multiplier")
    x = conv_bn(net, image(net, size=8), "conv1", 8)
    x = conv_bn(net, x, "depthwise", 16, groups=8)
    classifier(net, conv_bn(net, x, "pointwise", 12, 1))
    return net.build()
