"""Routers over experts, weights that are normed in the graph, tokens merged and scaled, and networks without an output layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.networks.attention import LENGTH, WIDTH, rows
from tests.networks.blocks import attention, classifier, conv_relu, gated_mlp, image, mlp
from tests.networks.builder import Net
from tests.networks.registry import exact_or_refused, network, refused, variants

EXPERTS, HIDDEN = 4, 12


def experts(net: Net, x: str, name: str, act: str = "Relu") -> str:
    """Every expert on every token, stacked: (N, E, S, C); their weights stand in one tensor, as exporters batch them."""
    wide, back = (
        net.param(f"{name}.{n}", shape, fan_in=shape[1])
        for n, shape in (("w1", (EXPERTS, WIDTH, HIDDEN)), ("w2", (EXPERTS, HIDDEN, WIDTH)))
    )
    hidden = net.op(act, net.op("MatMul", net.unsqueeze(x, [1]), wide, name=f"{name}.w1"))
    return net.op("MatMul", hidden, back, name=f"{name}.w2")


def weighed(net: Net, stacked: str, weights: str) -> str:
    """The experts' results summed by weights of (N, S, E)."""
    return net.axes_op(
        "ReduceSum", net.mul(stacked, net.unsqueeze(net.transpose(weights, [0, 2, 1]), [3])), [1], 13, keepdims=0
    )


def soft_router(net: Net, x: str, name: str) -> str:
    """All experts, weighed by a softmax."""
    weights = net.op("Softmax", net.dense(x, f"{name}.router", EXPERTS), axis=-1)
    return weighed(net, experts(net, x, name), weights)


def separate_experts(net: Net, x: str, name: str) -> str:
    """The same with a layer of its own for each expert, and a slice of the router's result."""
    weights = net.op("Softmax", net.dense(x, f"{name}.router", EXPERTS), axis=-1)
    found = []
    for i in range(EXPERTS):
        y = gated_mlp(net, x, f"{name}.{i}", 6)
        found.append(net.mul(y, net.slice(weights, [i], [i + 1], [2])))
    return net.op("Sum", *found)


def top_two(net: Net, x: str, name: str) -> str:
    """The two best experts, their weights scattered back over all four: each expert still sees every token."""
    logits = net.dense(x, f"{name}.router", EXPERTS)
    best, index = net.ops("TopK", logits, net.constant([2], name="k"), outputs=2, axis=-1)
    zeros = net.mul(logits, net.constant(0.0))
    weights = net.op("ScatterElements", zeros, index, net.op("Softmax", best, axis=-1), axis=-1)
    return weighed(net, experts(net, x, name), weights)


def top_by_threshold(net: Net, x: str, name: str) -> str:
    """The same by comparing with the second best."""
    scores = net.op("Softmax", net.dense(x, f"{name}.router", EXPERTS), axis=-1)
    best, _ = net.ops("TopK", scores, net.constant([2], name="k"), outputs=2, axis=-1)
    kept = net.op("GreaterOrEqual", scores, net.slice(best, [1], [2], [2]))
    return weighed(net, experts(net, x, name), net.op("Where", kept, scores, net.constant(0.0)))


def looped_experts(net: Net, x: str, name: str) -> str:
    """Mixtral as torch exports it: for each expert, a mask of who chose it, from the indices of the best."""
    logits = net.dense(x, f"{name}.router", EXPERTS)
    best, index = net.ops("TopK", logits, net.constant([2], name="k"), outputs=2, axis=-1)
    best, total = net.op("Softmax", best, axis=-1), []
    for i in range(EXPERTS):
        chosen = net.op("Cast", net.op("Equal", index, net.constant(np.asarray(i, np.int64))), to=1)
        weight = net.axes_op("ReduceSum", net.mul(best, chosen), [2], 13, keepdims=1)
        total.append(net.mul(mlp(net, x, f"{name}.{i}", 8), weight))
    return net.op("Sum", *total)


def layer_scale(net: Net, x: str, name: str) -> str:
    """Branches scaled channel by channel (CaiT, ConvNeXt)."""
    y = attention(net, x, f"{name}.attn", 4, 4)
    x = net.add(x, net.mul(y, net.param(f"{name}.gamma1", (WIDTH,), "scale")))
    return net.mul(mlp(net, x, name, 12), net.param(f"{name}.gamma2", (WIDTH,), "scale"))


def average_pooled(net: Net, x: str, name: str) -> str:
    """PoolFormer: neighbours are averaged."""
    y = net.avg_pool(net.transpose(x, [0, 2, 1]), 3, stride=1, pad=1, count_include_pad=0)
    return net.transpose(y, [0, 2, 1])


def gated_units(net: Net, x: str, name: str) -> str:
    """gMLP's spatial gate: half of the units, mixed over the tokens by one matrix, gates the other half."""
    value, gate = net.split(net.dense(x, f"{name}.in_proj", 24), [12, 12], axis=-1)
    gate = net.transpose(net.layer_norm(gate, f"{name}.norm"), [0, 2, 1])
    gate = net.transpose(net.dense(gate, f"{name}.tokens", LENGTH), [0, 2, 1])
    return net.dense(net.mul(value, gate), f"{name}.out_proj", WIDTH)


@variants(
    soft_experts={"mix": soft_router},
    separate_experts={"mix": separate_experts},
    top_two_experts={"mix": top_two},
    top_experts_by_threshold={"mix": top_by_threshold},
    looped_experts={"mix": looped_experts},
    layer_scale={"mix": layer_scale},
    average_pooled={"mix": average_pooled},
    gated_units={"mix": gated_units},
)
def tokens_net(mix: Callable[[Net, str, str], str]) -> onnx.ModelProto:
    """A residual block of tokens around what is to be tried."""
    net = Net("tokens")
    x = net.dense(rows(net), "embed", WIDTH)
    x = net.add(x, mix(net, net.layer_norm(x, "norm1"), "mix"))
    net.output(net.dense(net.layer_norm(x, "norm2"), "head", 5), "output")
    return net.build()


@network
def strongest_channels() -> onnx.ModelProto:
    """The strongest channels behind a depthwise layer stay: both layers in front of it are whole in each part."""
    net = Net("strongest_channels")
    x = conv_relu(net, image(net, size=8), "conv1", 8)
    x = net.conv(x, "depthwise", 8, 3, groups=8)
    best, _ = net.ops("TopK", x, net.constant([3], name="k"), outputs=2, axis=1)
    x = net.op("Where", net.op("GreaterOrEqual", x, net.slice(best, [2], [3], [1])), x, net.constant(0.0))
    classifier(net, conv_relu(net, conv_relu(net, x, "conv2", 12), "conv3", 12))
    return net.build()


@refused("GatherND")
def gathered_experts() -> onnx.ModelProto:
    """Each expert on the tokens alone that chose it: how many they are is known at run time only."""
    net = Net("gathered_experts")
    x = net.dense(net.input("input", (10, 6)), "embed", WIDTH)
    index = net.op("ArgMax", net.dense(x, "router", 2), axis=1, keepdims=0)
    total = net.mul(x, net.constant(0.0))
    for i in range(2):
        places = net.transpose(net.op("NonZero", net.op("Equal", index, net.constant(np.asarray(i, np.int64)))), [1, 0])
        chosen = net.op("GatherND", x, places)
        net.declare(chosen, (None, WIDTH))
        y = net.op("MatMul", chosen, net.param(f"{i}.weight", (WIDTH, WIDTH)))
        total = net.op("ScatterND", total, places, y)
    net.output(net.dense(total, "head", 5), "output")
    return net.build()


# -- weights that the graph computes ----------------------------------------------------------------------------------------


@exact_or_refused
def spectral_norm() -> onnx.ModelProto:
    """Weights divided by their largest singular value, estimated with two stored vectors."""
    net = Net("spectral_norm")
    x = net.input("input", ("batch", 6))
    for i, (fan_in, out) in enumerate(((6, 12), (12, 10))):
        weight = net.param(f"fc{i}.weight", (out, fan_in))
        u, v = net.constant(np.full(out, out**-0.5), name="u"), net.constant(np.full(fan_in, fan_in**-0.5), name="v")
        sigma = net.op("MatMul", u, net.op("MatMul", weight, v))
        x = net.op(
            "Tanh", net.op("Gemm", x, net.op("Div", weight, sigma), net.param(f"fc{i}.bias", (out,), "bias"), transB=1)
        )
    net.output(net.dense(x, "head", 4), "output")
    return net.build()


@network
def weight_norm_of_inputs() -> onnx.ModelProto:
    """Weight norm of the first layer alone: its norm runs over the raw inputs, which every part has whole."""
    net = Net("weight_norm_of_inputs")
    v, g = net.param("fc1.weight_v", (16, 6)), net.param("fc1.weight_g", (16, 1), "scale")
    weight = net.mul(v, net.op("Div", g, net.axes_op("ReduceL2", v, [1], 18, keepdims=1)))
    x = net.op("Gemm", net.input("input", ("batch", 6)), weight, net.param("fc1.bias", (16,), "bias"), transB=1)
    x = net.op("Tanh", net.dense(net.op("Tanh", x), "fc2", 12))
    net.output(net.dense(x, "head", 4), "output")
    return net.build()


# -- no output layer, and a narrow gate -------------------------------------------------------------------------------------


@network
def token_backbone() -> onnx.ModelProto:
    """An encoder whose normed tokens, and their mean, are the outputs."""
    net = Net("token_backbone")
    x = net.dense(rows(net), "embed", WIDTH)
    x = net.add(x, attention(net, net.layer_norm(x, "norm1"), "attn", 4, 4))
    x = net.add(x, mlp(net, net.layer_norm(x, "norm2"), "mlp", 20))
    x = net.layer_norm(x, "norm3")
    net.output(net.mean(x, [1], keepdims=0), "pooled")
    net.output(x, "tokens")
    return net.build()


@network
def sigmoid_gate_of_space() -> onnx.ModelProto:
    """A spatial gate of one channel between wide layers, and squeeze-and-excite through one unit."""
    net = Net("sigmoid_gate_of_space")
    x = conv_relu(net, image(net, size=8), "conv1", 12)
    gate = net.op("Sigmoid", net.conv(conv_relu(net, x, "gate.0", 8, 1), "gate.1", 1, 1))
    x = conv_relu(net, net.mul(x, gate), "conv2", 12)
    code = net.relu(net.dense(net.global_pool(x), "se.fc1", 1))
    x = net.mul(x, net.unsqueeze(net.op("Sigmoid", net.dense(code, "se.fc2", 12)), [2, 3]))
    classifier(net, conv_relu(net, x, "conv3", 8))
    return net.build()


@network
def stacked_recurrent() -> onnx.ModelProto:
    """Bidirectional GRU, LSTM with a given first state, and plain RNN on the last step."""
    from tests.networks.sequences import recurrent

    net = Net("stacked_recurrent")
    x = recurrent(net, net.input("input", ("length", "batch", 5)), "rnn1", "GRU", 6, True)
    hidden = 8
    context = net.input("context", ("batch", 4))
    start = [net.dense(context, f"start.{n}", hidden) for n in "hc"]
    weights = [
        net.param(f"rnn2.{n}", (1, 4 * hidden, size), fan_in=size) for n, size in (("W", net.size(x, 2)), ("R", hidden))
    ]
    states = [net.unsqueeze(s, [0]) for s in start]
    operands = [x, *weights, net.param("rnn2.B", (1, 8 * hidden), "bias"), "", *states]
    last = net.ops("LSTM", *operands, outputs=3, hidden_size=hidden)[1]
    net.output(net.dense(net.squeeze(last, [0]), "head", 4), "output")
    return net.build()


@network
def best_tokens() -> onnx.ModelProto:
    """A layer on the tokens of the best scores, weighed by them and written back to their places."""
    net = Net("best_tokens", opset=18)
    x = net.dense(rows(net), "embed", WIDTH)
    score = net.op("MatMul", x, net.param("score.weight", (WIDTH, 1)))
    best, order = net.ops("TopK", net.squeeze(score, [2]), net.constant(np.array([3])), outputs=2, axis=1)
    places = net.op("Expand", net.unsqueeze(order, [2]), net.constant(np.array([1, 1, WIDTH])))
    y = net.op("GatherElements", x, places, axis=1)
    net.declare(y, ("batch", 3, WIDTH))
    y = net.mul(mlp(net, y, "mlp", 20), net.unsqueeze(net.op("Sigmoid", best), [2]))
    x = net.op("ScatterElements", x, places, y, axis=1, reduction="add")
    x = net.op("ScatterElements", net.op("Tanh", x), places, y, axis=1)
    net.output(net.dense(net.mean(x, [1], keepdims=0), "head", 5), "output")
    return net.build()
