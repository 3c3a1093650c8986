"""Attention as one op: ONNX's own of opset 23, and onnxruntime's; with the norms and positions that stand around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.networks.builder import Net
from tests.networks.registry import network, refused, variants

MICROSOFT = "com.microsoft"
LENGTH, WIDTH = 6, 16
Mixer = Callable[[Net, str, str], str]


def rows(net: Net, name: str = "input", width: int = 6) -> str:
    return net.input(name, ("batch", LENGTH, width))


def split_heads(net: Net, x: str, heads: int) -> str:
    """(N, S, H * d) -> (N, H, S, d)"""
    return net.transpose(net.reshape(x, [0, LENGTH, heads, -1]), [0, 2, 1, 3])


def join_heads(net: Net, x: str) -> str:
    heads, size = net.size(x, 1), net.size(x, 3)
    return net.reshape(net.transpose(x, [0, 2, 1, 3]), [0, LENGTH, heads * size])


def residual(net: Net, x: str, mix: Mixer) -> onnx.ModelProto:
    """A pre-norm block around what mixes tokens, and an output layer for each token."""
    x = net.dense(x, "embed", WIDTH)
    x = net.add(x, net.dense(mix(net, net.layer_norm(x, "norm1"), "attn"), "o_proj", WIDTH))
    net.output(net.dense(net.layer_norm(x, "norm2"), "head", 5), "output")
    return net.build()


def causal(net: Net) -> str:
    return net.constant(np.triu(np.full((LENGTH, LENGTH), -1e4), 1), name="mask")


def padding(net: Net) -> str:
    """A mask that an input gives, the same for all heads: which keys a query sees."""
    return net.unsqueeze(net.input("mask", ("batch", LENGTH, LENGTH), "bool"), [1])


def head_bias(net: Net, heads: int) -> str:
    """A trained bias for each head, query and key."""
    return net.param("attn.bias", (heads, LENGTH, LENGTH), "bias")


@variants(
    attention_op={"heads": 4},
    attention_op_flat={"heads": 4, "flat": True, "mask": "causal"},
    attention_op_padded={"heads": 4, "mask": "padding"},
    attention_op_biased={"heads": 4, "flat": True, "mask": "head_bias"},
    attention_op_wide_values={"heads": 4, "flat": True, "value_size": 3},
    attention_op_grouped={"heads": 8, "shared": 4},
    attention_op_grouped_flat={"heads": 8, "shared": 4, "flat": True},
    attention_op_few_groups={"heads": 8, "shared": 2, "mask": "head_bias"},
    attention_op_few_groups_flat={"heads": 8, "shared": 2, "flat": True},
    attention_op_multi_query={"heads": 4, "shared": 1},
    attention_op_multi_query_flat={"heads": 4, "shared": 1, "flat": True},
)
def attention_op(
    heads: int, shared: int = 0, flat: bool = False, mask: str = "", size: int = 2, value_size: int = 2
) -> onnx.ModelProto:
    """The operator on heads as an axis of their own, or side by side; key-value heads may be shared by several queries."""
    net, shared = Net("attention_op", opset=23), shared or heads

    def mix(net: Net, x: str, name: str) -> str:
        widths = {"q": heads * size, "k": shared * size, "v": shared * value_size}
        # A bias of the keys adds the same to all scores of a query.
        parts = [net.dense(x, f"{name}.{n}_proj", width, bias=n != "k") for n, width in widths.items()]
        masks = {"causal": causal, "padding": padding, "head_bias": lambda net: head_bias(net, heads)}
        operands = [masks[mask](net)] if mask else []
        if flat:
            return net.op("Attention", *parts, *operands, q_num_heads=heads, kv_num_heads=shared)
        split = [split_heads(net, part, shared if i else heads) for i, part in enumerate(parts)]
        return join_heads(net, net.op("Attention", *split, *operands, is_causal=int(mask == "padding")))

    return residual(net, rows(net), mix)


@network
def cross_attention_op() -> onnx.ModelProto:
    """Queries from one input, keys and values from another, which is longer."""
    net = Net("cross_attention_op", opset=23)
    memory = net.relu(net.dense(net.input("memory", ("batch", 9, 5)), "encode", 12))

    def mix(net: Net, x: str, name: str) -> str:
        q = net.dense(x, f"{name}.q_proj", 8)
        k, v = net.dense(memory, f"{name}.k_proj", 8, bias=False), net.dense(memory, f"{name}.v_proj", 8)
        return net.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=4)

    return residual(net, rows(net), mix)


@network
def attention_op_raw_memory() -> onnx.ModelProto:
    """Keys and values are raw inputs, a head for every two queries': a part takes the heads that its queries ask for."""
    net = Net("attention_op_raw_memory", opset=23)
    memory = [net.input(name, ("batch", 9, 8)) for name in ("keys", "values")]

    def mix(net: Net, x: str, name: str) -> str:
        return net.op("Attention", net.dense(x, f"{name}.q_proj", 16), *memory, q_num_heads=8, kv_num_heads=4)

    return residual(net, rows(net), mix)


@network
def attention_op_backbone() -> onnx.ModelProto:
    """The operator is the last: its heads are the features, put side by side."""
    net = Net("attention_op_backbone", opset=23)
    x = net.layer_norm(net.dense(rows(net), "embed", WIDTH), "norm")
    parts = [net.dense(x, f"{n}_proj", 8, bias=n != "k") for n in "qkv"]
    net.output(net.op("Attention", *parts, q_num_heads=4, kv_num_heads=4), "output")
    return net.build()


def angles(net: Net, size: int) -> tuple[str, str]:
    """Cosines and sines of (positions, size / 2), constants."""
    found = np.outer(np.arange(LENGTH), 0.5 ** np.arange(size // 2))
    return net.constant(np.cos(found), name="cos"), net.constant(np.sin(found), name="sin")


def positions(net: Net) -> str:
    places = net.constant(np.arange(LENGTH)[None], name="positions")
    shape = net.concat(net.slice(net.op("Shape", "input"), [0], [1], [0]), net.constant([LENGTH]), axis=0)
    return net.declare(net.op("Expand", places, shape), ("batch", LENGTH), "int64")


@variants(
    rotary_op={"flat": False},
    rotary_op_flat={"flat": True, "interleaved": 1},
)
def rotary_op(flat: bool, interleaved: int = 0) -> onnx.ModelProto:
    """Rotary positions and RMSNorm as ops, around attention that is one."""
    net, heads, size = Net("rotary_op", opset=23), 4, 4

    def mix(net: Net, x: str, name: str) -> str:
        gain = net.param(f"{name}.norm", (WIDTH,), "scale")
        x = net.op("RMSNormalization", x, gain, axis=-1, epsilon=1e-3)
        q, k, v = (net.dense(x, f"{name}.{n}_proj", heads * size, bias=n != "k") for n in "qkv")
        cos, sin = angles(net, size)
        turn: dict[str, Any] = {"interleaved": interleaved}
        if flat:
            q, k = (net.op("RotaryEmbedding", y, cos, sin, positions(net), num_heads=heads, **turn) for y in (q, k))
            return net.op("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads)
        q, k, v = (split_heads(net, y, heads) for y in (q, k, v))
        q, k = (net.op("RotaryEmbedding", y, cos, sin, positions(net), **turn) for y in (q, k))
        return join_heads(net, net.op("Attention", q, k, v))

    return residual(net, rows(net), mix)


@network
def swiglu_op() -> onnx.ModelProto:
    """A gated layer whose gate is one op, and the Gelu op."""
    net = Net("swiglu_op", opset=20)
    x = net.dense(rows(net), "embed", WIDTH)
    y = net.op("Gelu", net.dense(x, "fc1", 12), approximate="tanh")
    net.output(net.dense(net.dense(y, "fc2", 10), "head", 5), "output")
    return net.build()


def group_norm_18(groups: int) -> onnx.ModelProto:
    """GroupNormalization as it was in opset 18: a scale for each group. The checker calls that version deprecated."""
    net = Net("group_norm_18", opset=18)
    x = net.conv(net.input("input", ("batch", 3, 8, 8)), "conv1", 12)
    for i in range(2):
        gain, bias = (net.param(f"norm{i}.{n}", (groups,), kind) for n, kind in (("weight", "scale"), ("bias", "bias")))
        y = net.declare(f"norm{i}", net.shape(x))
        attributes: dict[str, Any] = {"num_groups": groups, "epsilon": 1e-3}
        net.nodes.append(helper.make_node("GroupNormalization", [x, gain, bias], [y], name=f"/norm{i}", **attributes))
        x = net.relu(net.conv(y, f"conv{i + 2}", 12))
    net.output(net.dense(net.global_pool(x), "fc", 5), "output")
    return net.build(check=False)


# -- onnxruntime's own ops ----------------------------------------------------------------------------------------------


def own(net: Net, op: str, *inputs: str, like: str = "", width: int = 0, outputs: int = 1, **attributes: Any) -> str:
    """A node of onnxruntime's domain; its result has the shape of a value, or another last axis."""
    found = net.ops(op, *inputs, domain=MICROSOFT, outputs=outputs, **attributes)[0]
    shape = net.shape(like or inputs[0])
    return net.declare(found, (*shape[:-1], width) if width else shape)


def multi_head(packed: bool, bias: bool, value_size: int = 4) -> Mixer:
    """MultiHeadAttention of separate projections, or Attention with its projections inside."""

    def mix(net: Net, x: str, name: str) -> str:
        heads, size = 4, 4
        if packed:
            weight = net.param(f"{name}.qkv.weight", (WIDTH, 3 * heads * size), fan_in=WIDTH)
            extra = [net.param(f"{name}.qkv.bias", (3 * heads * size,), "bias")] if bias else []
            return own(net, "Attention", x, weight, *extra, num_heads=heads, unidirectional=1)
        sizes = {"q": size, "k": size, "v": value_size}
        parts = [net.dense(x, f"{name}.{n}_proj", heads * s, bias=False) for n, s in sizes.items()]
        extra = [net.param(f"{name}.bias", (3 * heads * size,), "bias")] if bias else []
        return own(net, "MultiHeadAttention", *parts, *extra, width=heads * value_size, num_heads=heads)

    return mix


def grouped_query(net: Net, x: str, name: str) -> str:
    """GroupQueryAttention of a whole prompt: nothing is cached yet."""
    parts = [net.dense(x, f"{name}.{n}_proj", w, bias=n != "k") for n, w in (("q", 32), ("k", 16), ("v", 16))]
    lengths = net.op("ReduceSum", positions(net), net.constant([1]), keepdims=0)
    lengths = net.add(net.mul(lengths, net.constant(0)), net.constant(LENGTH - 1))
    seqlens = net.op("Cast", lengths, to=onnx.TensorProto.INT32)
    total = net.constant(np.asarray(LENGTH), "int32", name="total")
    return own(
        net, "GroupQueryAttention", *parts, "", "", seqlens, total, outputs=3, num_heads=4, kv_num_heads=2
    )  # fmt: skip


def rotary_own(net: Net, x: str, name: str) -> str:
    parts = [net.dense(x, f"{name}.{n}_proj", 16, bias=n != "k") for n in "qkv"]
    cos, sin = angles(net, 4)
    turned = [own(net, "RotaryEmbedding", y, positions(net), cos, sin) for y in parts[:2]]
    return own(net, "MultiHeadAttention", *turned, parts[2], num_heads=4)


@variants(
    ms_attention={"mix": multi_head(True, True)},
    ms_multi_head={"mix": multi_head(False, True)},
    ms_grouped_query={"mix": grouped_query},
    ms_rotary={"mix": rotary_own},
)
def ms_attention(mix: Mixer) -> onnx.ModelProto:
    net = Net("ms_attention")
    return residual(net, rows(net), mix)


@variants(ms_skip_norm={"simple": False}, ms_skip_rms_norm={"simple": True})
def ms_skip_norm(simple: bool) -> onnx.ModelProto:
    """Residual blocks as onnxruntime's optimiser writes them: the sum and its norm are one node, gelu and its bias another."""
    net = Net("ms_skip_norm")
    total = x = net.dense(rows(net), "embed", WIDTH)
    for i in range(2):
        y = net.dense(x, f"{i}.fc1", 20, bias=False)
        y = own(net, "BiasGelu" if i else "FastGelu", y, net.param(f"{i}.fc1.bias", (20,), "bias"))
        y = net.dense(own(net, "QuickGelu", y, alpha=1.5), f"{i}.fc2", WIDTH, bias=False)
        norm = [net.param(f"{i}.norm.weight", (WIDTH,), "scale")]
        norm += [] if simple else [net.param(f"{i}.norm.bias", (WIDTH,), "bias")]
        norm += [net.param(f"{i}.fc2.bias", (WIDTH,), "bias")]
        op = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"
        found = net.ops(op, total, y, *norm, domain=MICROSOFT, outputs=4, epsilon=1e-3)
        x, total = net.declare(found[0], net.shape(total)), net.declare(found[3], net.shape(total))
    net.output(net.dense(x, "head", 5), "output")
    return net.build()


@network
def ms_embedding() -> onnx.ModelProto:
    """BERT's first node: three tables, their sum and its norm."""
    net = Net("ms_embedding")
    tokens, segments = (net.input(n, ("batch", LENGTH), "int32") for n in ("tokens", "segments"))
    sizes = {"word": 11, "position": 7, "segment": 10}
    tables = [net.param(f"{n}.weight", (size, WIDTH), "embedding") for n, size in sizes.items()]
    norm = [net.param("norm.weight", (WIDTH,), "scale"), net.param("norm.bias", (WIDTH,), "bias")]
    x, _ = net.ops(
        "EmbedLayerNormalization", tokens, segments, *tables, *norm, domain=MICROSOFT, outputs=2, epsilon=1e-3
    )
    net.declare(x, ("batch", LENGTH, WIDTH))
    net.output(net.dense(net.op("Tanh", net.dense(x, "fc", 12)), "head", 5), "output")
    return net.build()


# -- refused -------------------------------------------------------------------------------------------------------------


@refused("reads a cache of keys and values")
def attention_op_cached() -> onnx.ModelProto:
    """Keys and values of former steps come in, those of this one too go out."""
    net = Net("attention_op_cached", opset=23)
    past = [net.input(f"past_{n}", ("batch", 4, 3, 2)) for n in ("key", "value")]
    x = net.dense(rows(net), "embed", WIDTH)
    parts = [net.dense(x, f"{n}_proj", 8) for n in "qkv"]
    y, key, value = net.ops("Attention", *parts, "", *past, outputs=3, q_num_heads=4, kv_num_heads=4)
    net.output(net.dense(y, "head", 5), "output")
    net.output(key, "present_key")
    net.output(value, "present_value")
    return net.build()


@refused("GroupQueryAttention")
def ms_grouped_query_cached() -> onnx.ModelProto:
    net = Net("ms_grouped_query_cached")
    past = [net.input(f"past_{n}", ("batch", 2, 3, 8)) for n in ("key", "value")]
    lengths, total = net.input("lengths", ("batch",), "int32"), net.constant(np.asarray(9), "int32", name="total")
    x = net.dense(rows(net), "embed", WIDTH)
    parts = [net.dense(x, f"{n}_proj", w) for n, w in (("q", 32), ("k", 16), ("v", 16))]
    y = own(net, "GroupQueryAttention", *parts, *past, lengths, total, outputs=3, num_heads=4, kv_num_heads=2)
    net.output(net.dense(y, "head", 5), "output")
    return net.build()


@refused("PackedMultiHeadAttention")
def ms_packed_attention() -> onnx.ModelProto:
    net = Net("ms_packed_attention")
    x = net.dense(net.input("input", ("tokens", 6)), "embed", WIDTH)
    offsets, ends = net.input("offsets", ("batch", LENGTH), "int32"), net.input("ends", ("batch",), "int32")
    parts = [net.dense(x, f"{n}_proj", WIDTH) for n in "qkv"]
    y = own(net, "PackedMultiHeadAttention", *parts, "", offsets, ends, num_heads=4)
    net.output(net.dense(y, "head", 5), "output")
    return net.build()
