"""Networks with shortcuts and dense connections: ResNet and its relatives, DenseNet, ConvNeXt, CSP."""

from __future__ import annotations

import onnx

from tests.networks.blocks import activation, channels_last_norm, classifier, conv_bn, image
from tests.networks.builder import Net
from tests.networks.registry import network, variants


def padded_shortcut(net: Net, x: str, out: int, stride: int) -> str:
    """Option A of the ResNet paper: every second pixel, and zero channels on both sides."""
    x = net.stride_slice(x, stride) if stride > 1 else x
    missing = out - net.size(x)
    before = missing // 2
    return net.pad(x, [0, before, 0, 0, 0, missing - before, 0, 0]) if missing else x


def shortcut(net: Net, x: str, name: str, out: int, stride: int, option: str) -> str:
    if stride == 1 and out == net.size(x):
        return x
    if option == "A":
        return padded_shortcut(net, x, out, stride)
    return conv_bn(net, x, f"{name}.downsample", out, 1, stride=stride, act="")


def basic_block(net: Net, x: str, name: str, out: int, stride: int, option: str = "B") -> str:
    y = conv_bn(net, x, f"{name}.0", out, stride=stride)
    y = conv_bn(net, y, f"{name}.1", out, act="")
    return net.relu(net.add(y, shortcut(net, x, name, out, stride, option)))


def bottleneck(net: Net, x: str, name: str, out: int, stride: int, groups: int = 1, hidden: int = 8) -> str:
    y = conv_bn(net, x, f"{name}.0", hidden, 1)
    y = conv_bn(net, y, f"{name}.1", hidden, stride=stride, groups=groups)
    y = conv_bn(net, y, f"{name}.2", out, 1, act="")
    return net.relu(net.add(y, shortcut(net, x, name, out, stride, "B")))


@variants(resnet_basic={"option": "B"}, resnet_option_a={"option": "A"})
def resnet(option: str) -> onnx.ModelProto:
    net = Net("resnet")
    x = net.max_pool(conv_bn(net, image(net), "stem", 8, 3), 3, pad=1)
    for stage, width in enumerate((8, 12, 16)):
        for i in range(2):
            x = basic_block(net, x, f"layer{stage + 1}.{i}", width, 2 if stage and not i else 1, option)
    classifier(net, x)
    return net.build()


@variants(
    resnet_bottleneck={"groups": 1, "hidden": 8},
    resnext={"groups": 4, "hidden": 12},
    resnext_many_groups={"groups": 8, "hidden": 16},
    resnext_two_groups={"groups": 2, "hidden": 12},
)
def bottleneck_net(groups: int, hidden: int) -> onnx.ModelProto:
    net = Net("resnext")
    x = conv_bn(net, image(net), "stem", 8, 3, stride=2)
    for stage, width in enumerate((16, 24)):
        for i in range(2):
            x = bottleneck(net, x, f"layer{stage + 1}.{i}", width, 2 if stage and not i else 1, groups, hidden)
    classifier(net, x)
    return net.build()


@network
def preact_resnet() -> onnx.ModelProto:
    """Norm and activation come first; a shortcut convolution starts from the activated value."""
    net = Net("preact_resnet")
    x = net.conv(image(net, size=12), "conv1", 8, bias=False)
    for i, (width, stride) in enumerate(((8, 1), (12, 2), (12, 1))):
        name = f"layer{i + 1}"
        y = net.relu(net.batch_norm(x, f"{name}.bn1"))
        skip = x if width == net.size(x) else net.conv(y, f"{name}.shortcut", width, 1, stride=stride, bias=False)
        y = net.conv(y, f"{name}.conv1", width, stride=stride, bias=False)
        y = net.relu(net.batch_norm(y, f"{name}.bn2"))
        x = net.add(net.conv(y, f"{name}.conv2", width, bias=False), skip)
    classifier(net, net.relu(net.batch_norm(x, "bn")))
    return net.build()


@variants(densenet={"growth": 4, "stem": 8}, densenet_uneven={"growth": 5, "stem": 9})
def densenet(growth: int, stem: int) -> onnx.ModelProto:
    net = Net("densenet")
    x = net.conv(image(net, size=12), "features.conv0", stem, bias=False)
    for block in range(2):
        for i in range(3):
            name = f"features.denseblock{block + 1}.denselayer{i + 1}"
            y = net.conv(net.relu(net.batch_norm(x, f"{name}.norm1")), f"{name}.conv1", 2 * growth, 1, bias=False)
            y = net.conv(net.relu(net.batch_norm(y, f"{name}.norm2")), f"{name}.conv2", growth, bias=False)
            x = net.concat(x, y)
        name = f"features.transition{block + 1}"
        x = net.conv(net.relu(net.batch_norm(x, f"{name}.norm")), f"{name}.conv", net.size(x) // 2, 1, bias=False)
        x = net.avg_pool(x)
    classifier(net, net.relu(net.batch_norm(x, "features.norm5")), "classifier")
    return net.build()


@network
def convnext() -> onnx.ModelProto:
    """Depthwise 7x7, LayerNorm over channels, layer scale; dense layers on channels-last values."""
    net = Net("convnext")
    x = channels_last_norm(net, net.conv(image(net), "stem.0", 12, 4, stride=4, pad=0), "stem.1")
    for i in range(2):
        name, width = f"stages.0.{i}", net.size(x)
        y = net.transpose(net.conv(x, f"{name}.conv_dw", width, 7, groups=width), [0, 2, 3, 1])
        y = net.dense(net.layer_norm(y, f"{name}.norm"), f"{name}.mlp.fc1", 20)
        y = net.dense(activation(net, y, "GeluErf"), f"{name}.mlp.fc2", width)
        y = net.transpose(net.mul(y, net.param(f"{name}.gamma", (width,), "scale")), [0, 3, 1, 2])
        x = net.add(x, y)
    x = net.flatten(channels_last_norm(net, net.op("GlobalAveragePool", x), "norm"))
    net.output(net.dense(x, "head.fc", 10), "output")
    return net.build()


@variants(csp={"spelling": "split"}, csp_slice={"spelling": "slice"})
def csp(spelling: str) -> onnx.ModelProto:
    """Channels split in halves: one goes through residual blocks, then both are put together again."""
    net = Net("csp")
    x = conv_bn(net, image(net, size=12), "stem", 16, act="Swish")
    for stage in range(2):
        name = f"stage{stage}"
        x = conv_bn(net, x, f"{name}.cv1", 16, 1, act="Swish")
        if spelling == "split":
            kept, y = net.split(x, [8, 8])
        else:
            kept, y = (net.slice(x, [a], [a + 8], [1]) for a in (0, 8))
        parts = [kept, y]
        for i in range(2):
            inner = conv_bn(net, y, f"{name}.m.{i}.cv1", 6, act="LeakyRelu")
            y = net.add(y, conv_bn(net, inner, f"{name}.m.{i}.cv2", 8, act="Swish"))
            parts.append(y)
        x = conv_bn(net, net.concat(*parts), f"{name}.cv2", 16, 1, act="Mish")
    classifier(net, x)
    return net.build()
