"""The classical networks, narrow: multi-layer perceptrons and plain convolutional nets up to Inception."""

from __future__ import annotations

import onnx

from tests.networks.blocks import classifier, conv_bn, conv_relu, image
from tests.networks.builder import Net
from tests.networks.registry import network, variants


@network
def mlp() -> onnx.ModelProto:
    net = Net("mlp")
    x = net.input("input", ("batch", 6))
    for i, width in enumerate((16, 13, 12)):
        x = net.relu(net.dense(x, f"fc{i + 1}", width))
    net.output(net.dense(x, "fc4", 5), "output")
    return net.build()


@network
def mlp_matmul_add() -> onnx.ModelProto:
    """Each spelling of a dense layer: MatMul and Add on either side, a transposed weight, Gemm's attributes."""
    net = Net("mlp_matmul_add")
    x = net.input("input", ("batch", 6))
    x = net.op("MatMul", x, net.param("fc1.weight", (6, 16), fan_in=6), name="fc1")
    x = net.relu(net.op("Add", net.param("fc1.bias", (16,), "bias"), x, name="fc1"))
    x = net.op("MatMul", x, net.transpose(net.param("fc2.weight", (12, 16)), [1, 0]), name="fc2")
    x = net.op("Tanh", net.op("Add", x, net.param("fc2.bias", (1, 12), "bias"), name="fc2"))
    weight, bias = net.param("fc3.weight", (12, 14), fan_in=12), net.param("fc3.bias", (14,), "bias")
    x = net.relu(net.op("Gemm", x, weight, bias, name="fc3", alpha=0.5, beta=2.0, transB=0))
    weight, bias = net.param("fc4.weight", (8, 14)), net.param("fc4.bias", (1, 8), "bias")
    x = net.op("Elu", net.op("Gemm", x, weight, bias, name="fc4", alpha=1.5, beta=0.5, transB=1))
    # The weight on the left: units along axis 0, the batch along axis 1.
    x = net.transpose(net.op("MatMul", net.param("fc5.weight", (9, 8)), net.transpose(x, [1, 0]), name="fc5"), [1, 0])
    net.output(net.op("Gemm", net.relu(x), net.param("fc6.weight", (4, 9)), name="fc6", transB=1), "output")
    return net.build()


@network
def lenet() -> onnx.ModelProto:
    """The MNIST network of the paper at full size: 431,080 parameters."""
    net = Net("lenet")
    x = image(net, 1, 28)
    for i, width in enumerate((20, 50)):
        x = net.max_pool(net.relu(net.conv(x, f"conv{i + 1}", width, 5, pad=0)))
    x = net.dropout(net.relu(net.dense(net.flatten(x), "fc1", 500)), 0.5)
    net.output(net.dense(x, "fc2", 10), "output")
    return net.build()


def lrn(net: Net, x: str, size: int = 5) -> str:
    # A larger alpha than AlexNet's: its 1e-4 hardly changes anything, and a wrong LRN would pass.
    return net.op("LRN", x, size=size, alpha=0.1, beta=0.75, bias=1.0)


@variants(
    alexnet={"widths": (8, 16, 24, 24, 16), "first": (5, 2), "groups": 2},
    zfnet={"widths": (12, 16, 24, 24, 16), "first": (7, 2), "groups": 1},
    alexnet_uneven={"widths": (9, 14, 22, 18, 10), "first": (3, 1), "groups": 1},
)
def alexnet_like(widths: tuple[int, ...], first: tuple[int, int], groups: int) -> onnx.ModelProto:
    net = Net("alexnet")
    x = image(net, 3, 24)
    kernel, stride = first
    x = net.max_pool(lrn(net, net.relu(net.conv(x, "features.0", widths[0], kernel, stride=stride))), 3)
    x = net.max_pool(lrn(net, conv_relu(net, x, "features.4", widths[1], 5, groups=groups)), 3, pad=1)
    for i, width in enumerate(widths[2:]):
        x = conv_relu(net, x, f"features.{8 + 2 * i}", width, groups=groups if i else 1)
    x = net.flatten(net.max_pool(x))
    for i in range(2):
        x = net.dropout(net.relu(net.dense(x, f"classifier.{3 * i + 1}", 20)))
    net.output(net.op("Softmax", net.dense(x, "classifier.6", 10), axis=1), "prob")
    return net.build()


@variants(vgg={"norm": False}, vgg_bn={"norm": True})
def vgg(norm: bool) -> onnx.ModelProto:
    net = Net("vgg")
    x = image(net)
    for stage, width in enumerate((8, 12, 20)):
        for i in range(2):
            name = f"features.{stage}.{i}"
            x = conv_bn(net, x, name, width) if norm else conv_relu(net, x, name, width)
        x = net.max_pool(x)
    x = net.flatten(x)
    for i in range(2):
        x = net.relu(net.dense(x, f"classifier.{i}", 24))
    net.output(net.dense(x, "classifier.2", 10), "output")
    return net.build()


def inception(net: Net, x: str, name: str, widths: tuple[int, ...], batch_norm: bool) -> str:
    """Four towers side by side: 1x1; 1x1 and 3x3; 1x1 and 5x5 (v2: two 3x3); pool and 1x1."""
    layer = conv_bn if batch_norm else conv_relu
    a, b1, b2, c1, c2, d = widths
    towers = [
        layer(net, x, f"{name}.branch1", a, 1),
        layer(net, layer(net, x, f"{name}.branch2.0", b1, 1), f"{name}.branch2.1", b2, 3),
    ]
    y = layer(net, x, f"{name}.branch3.0", c1, 1)
    for i in range(1 + batch_norm):
        y = layer(net, y, f"{name}.branch3.{i + 1}", c2, 3 if batch_norm else 5)
    towers += [y, layer(net, net.max_pool(x, 3, stride=1, pad=1), f"{name}.branch4", d, 1)]
    return net.concat(*towers)


@variants(inception_v1={"batch_norm": False}, inception_v2={"batch_norm": True})
def inception_net(batch_norm: bool) -> onnx.ModelProto:
    net = Net("inception")
    x = image(net)
    layer = conv_bn if batch_norm else conv_relu
    x = layer(net, x, "conv1", 12, 5, stride=2)
    x = x if batch_norm else lrn(net, x)
    x = inception(net, x, "inception3a", (8, 6, 10, 4, 5, 4), batch_norm)
    x = inception(net, net.max_pool(x), "inception4a", (8, 6, 12, 4, 6, 5), batch_norm)
    classifier(net, x)
    return net.build()


@network
def squeezenet() -> onnx.ModelProto:
    """The classifier is a convolution, and the output its mean over space."""
    net = Net("squeezenet")
    x = net.max_pool(conv_relu(net, image(net), "features.0", 12, stride=2), 3, ceil_mode=1)
    for i, (squeeze, expand) in enumerate(((4, 8), (4, 8), (6, 10))):
        name = f"features.{3 + i}"
        y = conv_relu(net, x, f"{name}.squeeze", squeeze, 1)
        x = net.concat(*(conv_relu(net, y, f"{name}.expand{k}x{k}", expand, k) for k in (1, 3)))
    x = net.relu(net.conv(net.dropout(x), "classifier.1", 10, 1))
    net.output(net.global_pool(x), "output")
    return net.build()
