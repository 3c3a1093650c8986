"""Blocks that several networks share: activations, gates, shuffles, norms spelled out, attention."""

from __future__ import annotations

import math

import numpy as np

from tests.networks.builder import Net


def image(net: Net, channels: int = 3, size: int = 16, name: str = "input") -> str:
    return net.input(name, ("batch", channels, size, size))


def activation(net: Net, x: str, kind: str) -> str:
    """An activation by the name of its operator, or one of the spelled-out ones: Relu6, Swish, GeluErf, Mish."""
    match kind:
        case "Relu6":
            return net.clip(x, 0.0, 6.0)
        case "Swish":
            return net.mul(x, net.op("Sigmoid", x))
        case "GeluErf":
            erf = net.op("Erf", net.op("Div", x, net.constant(math.sqrt(2.0))))
            return net.mul(net.mul(x, net.add(erf, net.constant(1.0))), net.constant(0.5))
        case "Mish":
            return net.mul(x, net.op("Tanh", net.op("Softplus", x)))
        case "HardSwishSpelled":
            return net.mul(x, net.op("Div", net.clip(net.add(x, net.constant(3.0)), 0.0, 6.0), net.constant(6.0)))
        case "":
            return x
        case _:
            return net.op(kind, x)


def conv_bn(
    net: Net, x: str, name: str, out: int, kernel: int = 3, *, act: str = "Relu", stride: int = 1, groups: int = 1
) -> str:
    """Convolution, batch norm and activation (none for act="")."""
    y = net.conv(x, f"{name}.conv", out, kernel, stride=stride, groups=groups, bias=False)
    return activation(net, net.batch_norm(y, f"{name}.bn"), act)


def conv_relu(net: Net, x: str, name: str, out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> str:
    return net.relu(net.conv(x, name, out, kernel, stride=stride, groups=groups))


def depthwise_bn(net: Net, x: str, name: str, kernel: int = 3, *, stride: int = 1, act: str = "Relu6") -> str:
    channels = net.size(x)
    return conv_bn(net, x, name, channels, kernel, stride=stride, groups=channels, act=act)


def classifier(net: Net, x: str, name: str = "fc", classes: int = 10) -> None:
    """Global pooling and the output layer."""
    net.output(net.dense(net.global_pool(x), name, classes), "output")


def squeeze_excite(
    net: Net, x: str, name: str, hidden: int, *, act: str = "Relu", gate: str = "Sigmoid", spelling: str = "conv"
) -> str:
    """A gate for each channel from the means over space; the two layers are 1x1 convolutions or dense ones."""
    channels = net.size(x)
    if spelling == "conv":
        pooled = net.op("GlobalAveragePool", x)
        squeezed = activation(net, net.conv(pooled, f"{name}.fc1", hidden, 1), act)
        return net.mul(x, net.op(gate, net.conv(squeezed, f"{name}.fc2", channels, 1)))
    pooled = net.mean(x, [2, 3], keepdims=0)
    squeezed = activation(net, net.dense(pooled, f"{name}.fc1", hidden), act)
    return net.mul(x, net.unsqueeze(net.op(gate, net.dense(squeezed, f"{name}.fc2", channels)), [2, 3]))


def inverted_residual(
    net: Net, x: str, name: str, hidden: int, out: int, *, kernel: int = 3, stride: int = 1, act: str = "Relu6",
    squeeze: int = 0, gate: str = "Sigmoid", squeeze_act: str = "Relu",
) -> str:  # fmt: skip
    """MobileNet's block: widen, filter depthwise, (gate), project; a shortcut where the shapes allow it."""
    y = conv_bn(net, x, f"{name}.expand", hidden, 1, act=act) if hidden != net.size(x) else x
    y = depthwise_bn(net, y, f"{name}.depthwise", kernel, stride=stride, act=act)
    if squeeze:
        y = squeeze_excite(net, y, f"{name}.se", squeeze, act=squeeze_act, gate=gate)
    y = conv_bn(net, y, f"{name}.project", out, 1, act="")
    return net.add(x, y) if stride == 1 and out == net.size(x) else y


def channel_shuffle(net: Net, x: str, groups: int) -> str:
    """ShuffleNet's shuffle: (g, c/g) channels become (c/g, g)."""
    channels, height, width = (net.size(x, axis) for axis in (1, 2, 3))
    y = net.reshape(x, [-1, groups, channels // groups, height, width])
    y = net.reshape(net.transpose(y, [0, 2, 1, 3, 4]), [-1, channels, height, width])
    return net.declare(y, net.shape(x))


def group_norm(net: Net, x: str, name: str, groups: int) -> str:
    """torch's export before opset 21: instance norm over the flattened groups, then a gain for each channel."""
    shape = net.shape(x)
    assert isinstance(shape[1], int)
    ones, zeros = (net.constant(f(groups, np.float32), name=f"{name}.unit") for f in (np.ones, np.zeros))
    y = net.op("InstanceNormalization", net.reshape(x, [0, groups, -1]), ones, zeros, epsilon=1e-3)
    y = net.op("Reshape", y, net.op("Shape", x))
    net.declare(y, shape)
    tail = [1] * (len(shape) - 2)
    y = net.mul(y, net.param(f"{name}.weight", (shape[1], *tail), "scale"))
    return net.add(y, net.param(f"{name}.bias", (shape[1], *tail), "bias"))


def group_norm_op(net: Net, x: str, name: str, groups: int) -> str:
    """The operator of opset 21, with a scale for each channel."""
    assert net.opset >= 21
    operands = [net.param(f"{name}.{s}", (net.size(x),), k) for s, k in (("weight", "scale"), ("bias", "bias"))]
    y = net.op("GroupNormalization", x, *operands, name=name, num_groups=groups, epsilon=1e-3)
    return net.declare(y, net.shape(x))


def layer_norm_spelled(net: Net, x: str, name: str, *, axis: int = -1) -> str:
    """LayerNorm over one axis, as exporters wrote it before opset 17."""
    centred = net.op("Sub", x, net.mean(x, [axis]))
    variance = net.mean(net.op("Pow", centred, net.constant(2.0)), [axis])
    y = net.op("Div", centred, net.op("Sqrt", net.add(variance, net.constant(1e-3))))
    rank = len(net.shape(x))
    shape = [net.size(x, axis)] + [1] * (rank - 1 - axis % rank)
    y = net.mul(y, net.param(f"{name}.weight", shape, "scale"))
    return net.add(y, net.param(f"{name}.bias", shape, "bias"))


def rms_norm(net: Net, x: str, name: str) -> str:
    square = net.mean(net.op("Pow", x, net.constant(2.0)), [-1])
    inverse = net.op("Reciprocal", net.op("Sqrt", net.add(square, net.constant(1e-3))))
    return net.mul(net.mul(x, inverse), net.param(f"{name}.weight", (net.size(x, -1),), "scale"))


def channels_last_norm(net: Net, x: str, name: str) -> str:
    """ConvNeXt's norm: LayerNormalization over the channels of an image, between two transposes."""
    return net.transpose(net.layer_norm(net.transpose(x, [0, 2, 3, 1]), name), [0, 3, 1, 2])


def spatial_gate(net: Net, x: str, name: str, kernel: int = 3) -> str:
    """CBAM's spatial gate: mean and maximum over the channels, a convolution to one channel, a sigmoid."""
    statistics = net.concat(net.mean(x, [1]), net.axes_op("ReduceMax", x, [1], 18, keepdims=1))
    return net.mul(x, net.op("Sigmoid", net.conv(statistics, name, 1, kernel)))


def attention(net: Net, x: str, name: str, heads: int, head_size: int, *, fused: bool = True) -> str:
    """Multi-head self-attention of (N, S, D), spelled out; fused: one projection of size 3*H*d."""
    width, inner = net.size(x, -1), heads * head_size
    if fused:
        qkv = net.reshape(net.dense(x, f"{name}.qkv", 3 * inner), [0, 0, 3, heads, head_size])
        stacked = net.transpose(qkv, [2, 0, 3, 1, 4])
        q, k, v = (
            net.op("Gather", stacked, net.constant(np.asarray(i, np.int64), name="index"), axis=0) for i in range(3)
        )
    else:
        # A bias of the keys adds the same to all scores of a query, and softmax takes it away again.
        rows = (net.dense(x, f"{name}.{p}_proj", inner, bias=p != "k") for p in "qkv")
        q, k, v = (net.transpose(net.reshape(y, [0, 0, heads, head_size]), [0, 2, 1, 3]) for y in rows)
    scores = net.op("MatMul", q, net.transpose(k, [0, 1, 3, 2]))
    weights = net.op("Softmax", net.mul(scores, net.constant(head_size**-0.5)), axis=-1)
    mixed = net.reshape(net.transpose(net.op("MatMul", weights, v), [0, 2, 1, 3]), [0, 0, inner])
    return net.dense(mixed, f"{name}.proj", width)


def mlp(net: Net, x: str, name: str, hidden: int, act: str = "GeluErf") -> str:
    return net.dense(activation(net, net.dense(x, f"{name}.fc1", hidden), act), f"{name}.fc2", net.size(x, -1))


def gated_mlp(net: Net, x: str, name: str, hidden: int) -> str:
    """SwiGLU with one projection for value and gate."""
    value, gate = net.split(net.dense(x, f"{name}.in_proj", 2 * hidden), [hidden, hidden], axis=-1)
    return net.dense(net.mul(activation(net, gate, "Swish"), value), f"{name}.out_proj", net.size(x, -1))
