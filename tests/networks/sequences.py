"""Networks over tokens and time: transformers with attention spelled out, recurrent layers, mixers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from tests.networks.blocks import attention, gated_mlp, layer_norm_spelled, mlp, rms_norm
from tests.networks.builder import Net
from tests.networks.registry import network, variants

Norm = Callable[[Net, str, str], str]


def layer_norm_op(net: Net, x: str, name: str) -> str:
    return net.layer_norm(x, name)


def encoder_block(net: Net, x: str, name: str, heads: int, fused: bool, norm: Norm, first: bool = True) -> str:
    """Pre-norm (norms in front of each branch) or post-norm (behind each sum)."""
    for i, branch in enumerate(("attn", "mlp")):
        y = norm(net, x, f"{name}.norm{i + 1}") if first else x
        y = attention(net, y, f"{name}.attn", heads, 4, fused=fused) if branch == "attn" else mlp(net, y, name, 20)
        x = net.add(x, y)
        x = x if first else norm(net, x, f"{name}.norm{i + 1}")
    return x


@variants(
    transformer={"fused": True, "norm": layer_norm_op},
    transformer_separate={"fused": False, "norm": layer_norm_op},
    transformer_spelled={"fused": True, "norm": layer_norm_spelled},
    transformer_post_norm={"fused": False, "norm": layer_norm_op, "first": False},
    transformer_three_heads={"fused": True, "norm": layer_norm_op, "heads": 3, "width": 12},
)
def transformer(fused: bool, norm: Norm, first: bool = True, heads: int = 4, width: int = 16) -> onnx.ModelProto:
    """An encoder over a sequence of vectors of dynamic length, read out by its mean over time."""
    net = Net("transformer")
    x = net.dense(net.input("input", ("batch", "length", 6)), "embed", width)
    for i in range(2):
        x = encoder_block(net, x, f"layers.{i}", heads, fused, norm, first)
    x = norm(net, x, "norm") if first else x
    net.output(net.dense(net.mean(x, [1], keepdims=0), "head", 5), "output")
    return net.build()


@network
def vision_transformer() -> onnx.ModelProto:
    """Patches by a convolution, a class token in front, positions added."""
    net = Net("vision_transformer")
    width, patches = 16, 16
    x = net.conv(net.input("input", ("batch", 3, 16, 16)), "patch_embed", width, 4, stride=4, pad=0)
    x = net.transpose(net.reshape(x, [0, width, patches]), [0, 2, 1])
    batch = net.op("Gather", net.op("Shape", x), net.constant([0]), axis=0)
    shape = net.concat(batch, net.constant([1, 1]), axis=0)
    token = net.op("Expand", net.param("cls_token", (1, 1, width), "embedding"), shape)
    x = net.concat(net.declare(token, ("batch", 1, width)), x, axis=1)
    x = net.add(net.declare(x, ("batch", patches + 1, width)), net.param("pos_embed", (1, 17, width), "embedding"))
    for i in range(2):
        x = encoder_block(net, x, f"blocks.{i}", 4, True, layer_norm_op)
    first = net.op("Gather", net.layer_norm(x, "norm"), net.constant(np.asarray(0, np.int64)), axis=1)
    net.output(net.dense(first, "head", 5), "output")
    return net.build()


@variants(language_model={"tied": False})
def language_model(tied: bool) -> onnx.ModelProto:
    """Causal, with RMSNorm and SwiGLU; the output layer may be the embedding itself."""
    net = Net("language_model")
    tokens = net.input("tokens", ("batch", 8), "int64")
    table = net.param("embed.weight", (11, 16), "embedding")
    x = net.op("Gather", table, tokens, axis=0)
    x = net.add(x, net.param("positions", (8, 16), "embedding"))
    for i in range(2):
        name = f"layers.{i}"
        x = net.add(x, attention(net, rms_norm(net, x, f"{name}.norm1"), f"{name}.attn", 4, 4, fused=False))
        x = net.add(x, gated_mlp(net, rms_norm(net, x, f"{name}.norm2"), f"{name}.mlp", 12))
    x = rms_norm(net, x, "norm")
    if tied:
        net.output(net.op("MatMul", x, net.transpose(table, [1, 0]), name="lm_head"), "logits")
    else:
        net.output(net.dense(x, "lm_head", 11, bias=False), "logits")
    return net.build()


@network
def grouped_query_attention() -> onnx.ModelProto:
    """Eight query heads share four key-value heads, which Expand repeats."""
    net = Net("grouped_query_attention")
    heads, shared, size, length = 8, 4, 2, 6
    x = net.dense(net.input("input", ("batch", length, 6)), "embed", 16)
    y = net.layer_norm(x, "norm1")
    q = net.reshape(net.dense(y, "q_proj", heads * size), [-1, length, heads, size])
    q = net.transpose(q, [0, 2, 1, 3])
    repeated = []
    for name in ("k_proj", "v_proj"):
        z = net.reshape(net.dense(y, name, shared * size, bias=name == "v_proj"), [-1, length, shared, size])
        z = net.unsqueeze(net.transpose(z, [0, 2, 1, 3]), [2])
        z = net.op("Expand", z, net.constant([1, 1, heads // shared, 1, 1], name="repeats"))
        repeated.append(net.reshape(z, [-1, heads, length, size]))
    k, v = repeated
    scores = net.op("MatMul", net.mul(q, net.constant(size**-0.5)), net.transpose(k, [0, 1, 3, 2]))
    mask = np.triu(np.full((length, length), -1e4), 1)
    weights = net.op("Softmax", net.add(scores, net.constant(mask, name="mask")), axis=-1)
    y = net.reshape(net.transpose(net.op("MatMul", weights, v), [0, 2, 1, 3]), [-1, length, heads * size])
    x = net.add(x, net.dense(y, "o_proj", 16))
    net.output(net.dense(net.layer_norm(x, "norm2"), "head", 5), "output")
    return net.build()


@network
def mixer() -> onnx.ModelProto:
    """MLP-Mixer: dense layers over the tokens, which all channels share, and over the channels."""
    net = Net("mixer")
    x = net.dense(net.input("input", ("batch", 6, 5)), "embed", 12)
    for i in range(2):
        name = f"blocks.{i}"
        y = net.transpose(net.layer_norm(x, f"{name}.norm1"), [0, 2, 1])
        x = net.add(x, net.transpose(mlp(net, y, f"{name}.tokens", 8), [0, 2, 1]))
        x = net.add(x, mlp(net, net.layer_norm(x, f"{name}.norm2"), f"{name}.channels", 20))
    net.output(net.dense(net.mean(net.layer_norm(x, "norm"), [1], keepdims=0), "head", 5), "output")
    return net.build()


def recurrent(net: Net, x: str, name: str, op_type: str, hidden: int, both: bool, bias: bool = True) -> str:
    """A recurrent layer of (length, N, C), its directions side by side: (length, N, D*H)."""
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type], 2 if both else 1
    operands = [
        x,
        net.param(f"{name}.W", (directions, gates * hidden, net.size(x, 2)), fan_in=net.size(x, 2)),
        net.param(f"{name}.R", (directions, gates * hidden, hidden), fan_in=2 * hidden),
    ] + ([net.param(f"{name}.B", (directions, 2 * gates * hidden), "bias")] if bias else [])
    # torch multiplies the reset gate behind the recurrent weights.
    extra: dict[str, Any] = {"linear_before_reset": 1} if op_type == "GRU" else {}
    direction = "bidirectional" if both else "forward"
    y = net.op(op_type, *operands, name=name, hidden_size=hidden, direction=direction, **extra)
    if not both:
        return net.squeeze(y, [1])
    return net.reshape(net.transpose(y, [0, 2, 1, 3]), [0, 0, 2 * hidden])


@variants(
    lstm={"op_type": "LSTM"},
    gru={"op_type": "GRU"},
    rnn={"op_type": "RNN"},
    lstm_bidirectional={"op_type": "LSTM", "both": True},
    gru_bidirectional={"op_type": "GRU", "both": True},
)
def recurrent_net(op_type: str, both: bool = False) -> onnx.ModelProto:
    """Two recurrent layers and a dense layer for each step."""
    net = Net("recurrent")
    x = net.input("input", ("length", "batch", 5))
    x = recurrent(net, x, "rnn1", op_type, 8, both)
    x = recurrent(net, x, "rnn2", op_type, 6, both, bias=False)
    net.output(net.dense(x, "head", 4), "output")
    return net.build()


@network
def crnn() -> onnx.ModelProto:
    """Text recognition: convolutions, height pooled away, columns as time, an LSTM, classes by step."""
    net = Net("crnn")
    x = net.relu(net.conv(net.input("input", ("batch", 1, 8, 16)), "conv1", 8))
    x = net.relu(net.conv(net.max_pool(x), "conv2", 12, stride=2))
    x = net.squeeze(net.mean(x, [2]), [2])
    x = recurrent(net, net.transpose(x, [2, 0, 1]), "lstm", "LSTM", 8, True)
    y = net.op("LogSoftmax", net.dense(x, "head", 6), axis=2)
    net.output(net.transpose(y, [1, 0, 2]), "output")
    return net.build()


def windows(net: Net, x: str, size: int, window: int, width: int) -> str:
    """(N, H, W, C) -> (N * windows, window * window, C)"""
    y = net.reshape(x, [-1, size // window, window, size // window, window, width])
    return net.reshape(net.transpose(y, [0, 1, 3, 2, 4, 5]), [-1, window * window, width])


def unwindow(net: Net, x: str, size: int, window: int, width: int) -> str:
    y = net.reshape(x, [-1, size // window, size // window, window, window, width])
    return net.reshape(net.transpose(y, [0, 1, 3, 2, 4, 5]), [-1, size, size, width])


def roll(net: Net, x: str, shift: int, axis: int) -> str:
    """Elements from `shift` on first, as exporters spell a roll: two slices and a concat."""
    size = net.size(x, axis)
    return net.concat(net.slice(x, [shift], [size], [axis]), net.slice(x, [0], [shift], [axis]), axis=axis)


@network
def swin() -> onnx.ModelProto:
    """Attention in shifted windows, and patch merging: four neighbours' channels side by side."""
    net = Net("swin")
    size, window, width, heads = 4, 2, 12, 3
    x = net.conv(net.input("input", ("batch", 3, 16, 16)), "patch_embed", width, 4, stride=4, pad=0)
    x = net.transpose(x, [0, 2, 3, 1])
    for i in range(2):
        name = f"layers.0.blocks.{i}"
        y = net.layer_norm(x, f"{name}.norm1")
        for axis in (1, 2) if i else ():
            y = roll(net, y, 1, axis)
        y = attention(net, windows(net, y, size, window, width), f"{name}.attn", heads, 4)
        y = unwindow(net, y, size, window, width)
        for axis in (1, 2) if i else ():
            y = roll(net, y, size - 1, axis)
        x = net.add(x, y)
        x = net.add(x, mlp(net, net.layer_norm(x, f"{name}.norm2"), f"{name}.mlp", 20))
    end = np.iinfo(np.int64).max
    corners = []
    for start in ([0, 0], [1, 0], [0, 1], [1, 1]):
        bounds = (start, [end, end], [1, 2], [2, 2])
        corners.append(net.op("Slice", x, *(net.constant(b, name="bound") for b in bounds)))
    x = net.dense(net.layer_norm(net.concat(*corners, axis=3), "downsample.norm"), "downsample.reduction", 16)
    x = net.layer_norm(net.mean(x, [1, 2], keepdims=0), "norm")
    net.output(net.dense(x, "head", 5), "output")
    return net.build()


@network
def rotary_attention() -> onnx.ModelProto:
    """Rotary positions: halves of each head are exchanged, negated and mixed with constant sines."""
    net = Net("rotary_attention")
    heads, size, length = 4, 4, 6
    x = net.dense(net.input("input", ("batch", length, 6)), "embed", 16)
    y = net.layer_norm(x, "norm1")
    angles = np.outer(np.arange(length), [1.0, 0.1, 1.0, 0.1])
    cos, sin = net.constant(np.cos(angles), name="cos"), net.constant(np.sin(angles), name="sin")
    rotated = []
    for name in ("q_proj", "k_proj"):
        z = net.reshape(net.dense(y, name, heads * size, bias=False), [-1, length, heads, size])
        z = net.transpose(z, [0, 2, 1, 3])
        first, second = (net.slice(z, [a], [a + size // 2], [3]) for a in (0, size // 2))
        turned = net.concat(net.op("Neg", second), first, axis=3)
        rotated.append(net.add(net.mul(z, cos), net.mul(turned, sin)))
    v = net.transpose(net.reshape(net.dense(y, "v_proj", heads * size), [-1, length, heads, size]), [0, 2, 1, 3])
    scores = net.op("MatMul", rotated[0], net.transpose(rotated[1], [0, 1, 3, 2]))
    mixed = net.op("MatMul", net.op("Softmax", net.mul(scores, net.constant(0.5)), axis=-1), v)
    mixed = net.reshape(net.transpose(mixed, [0, 2, 1, 3]), [-1, length, heads * size])
    x = net.add(x, net.dense(mixed, "o_proj", 16))
    net.output(net.dense(net.layer_norm(x, "norm2"), "head", 5), "output")
    return net.build()
