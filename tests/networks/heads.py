"""Attention spelled out in the ways that exporters and papers write it: layouts of heads, biases, positions, norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.networks.attention import LENGTH, WIDTH, head_bias, join_heads, padding, residual, rows, split_heads
from tests.networks.blocks import rms_norm
from tests.networks.builder import Array, Net
from tests.networks.registry import network, variants

Change = Callable[[Net, str], str]
Bias = Callable[[Net, int], str]
HEADS, SIZE = 4, 4


def attend(
    net: Net, q: str, k: str, v: str, *, change: Change | None = None, bias: str = "", scale: float = 0.5
) -> str:
    """Attention of (N, H, S, d), its scores changed or added to before the softmax; (N, S, H * d)."""
    scores = net.mul(net.op("MatMul", q, net.transpose(k, [0, 1, 3, 2])), net.constant(scale))
    scores = change(net, scores) if change else scores
    scores = net.add(scores, bias) if bias else scores
    return join_heads(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), v))


def projected(net: Net, x: str, name: str, heads: int = HEADS, size: int = SIZE, which: str = "qkv") -> list[str]:
    """Three layers, each result (N, H, S, d). A bias of the keys would add the same to all scores of a query."""
    rows = (net.dense(x, f"{name}.{n}_proj", heads * size, bias=n != "k") for n in which)
    return [split_heads(net, y, heads) for y in rows]


# -- one layer for queries, keys and values --------------------------------------------------------------------------------


def heads_first(net: Net, x: str, name: str) -> str:
    """Heads outside, then query, key, value: (N, S, H * 3 * d), as in GPT-NeoX."""
    y = net.reshape(net.dense(x, f"{name}.qkv", 3 * HEADS * SIZE), [0, LENGTH, HEADS, 3 * SIZE])
    return attend(net, *net.split(net.transpose(y, [0, 2, 1, 3]), [SIZE] * 3, axis=3))


def kinds_outside(net: Net, x: str, name: str) -> str:
    """(N, S, 3 * H * d), split before the heads are."""
    y = net.dense(x, f"{name}.qkv", 3 * HEADS * SIZE)
    return attend(net, *(split_heads(net, part, HEADS) for part in net.split(y, [HEADS * SIZE] * 3, axis=2)))


def kinds_inside(net: Net, x: str, name: str) -> str:
    """The kind runs fastest: (N, S, H * d * 3)."""
    y = net.reshape(net.dense(x, f"{name}.qkv", 3 * HEADS * SIZE), [0, LENGTH, HEADS, SIZE, 3])
    parts = (net.op("Gather", y, net.constant(np.asarray(i, np.int64)), axis=4) for i in range(3))
    return attend(net, *(net.transpose(part, [0, 2, 1, 3]) for part in parts))


# -- key-value heads that several query heads share ------------------------------------------------------------------------


def by_expand(net: Net, x: str, heads: int) -> str:
    shared, size = net.size(x, 1), net.size(x, 3)
    x = net.op("Expand", net.unsqueeze(x, [2]), net.constant([1, 1, heads // shared, 1, 1], name="repeats"))
    return net.reshape(x, [0, heads, LENGTH, size])


def by_tile(net: Net, x: str, heads: int) -> str:
    """Repeats whole: query head h reads key-value head h modulo their number."""
    return net.op("Tile", x, net.constant([1, heads // net.size(x, 1), 1, 1], name="repeats"))


def by_gather(net: Net, x: str, heads: int) -> str:
    index = np.repeat(np.arange(net.size(x, 1)), heads // net.size(x, 1))
    return net.op("Gather", x, net.constant(index, name="index"), axis=1)


def by_broadcast(net: Net, x: str, heads: int) -> str:
    """One key-value head for all."""
    return x


def shared_heads(repeat: Callable[[Net, str, int], str], heads: int, shared: int) -> Callable[[Net, str, str], str]:
    def mix(net: Net, x: str, name: str) -> str:
        (q,) = projected(net, x, name, heads, which="q")
        k, v = (repeat(net, y, heads) for y in projected(net, x, name, shared, which="kv"))
        return attend(net, q, k, v)

    return mix


# -- what is added to the scores -------------------------------------------------------------------------------------------


def distances() -> Array:
    return np.arange(LENGTH)[None, :] - np.arange(LENGTH)[:, None]


def alibi(net: Net, heads: int) -> str:
    """A slope for each head times the distance, constants."""
    slopes = 2.0 ** -np.arange(1, heads + 1).reshape(1, heads, 1, 1)
    return net.mul(net.constant(slopes, name="slopes"), net.constant(-np.abs(distances()) * 1.0, name="distance"))


def position_table(net: Net, heads: int) -> str:
    """T5 and Swin: a trained table with a row for each distance and a column for each head."""
    table = net.param("attn.relative_position", (2 * LENGTH - 1, heads), "bias")
    index = net.constant(distances() + LENGTH - 1, name="index")
    return net.unsqueeze(net.transpose(net.op("Gather", table, index, axis=0), [2, 0, 1]), [0])


def position_table_flat(net: Net, heads: int) -> str:
    """The same with a flat index and a reshape, as Swin is exported."""
    table = net.param("attn.relative_position", (2 * LENGTH - 1, heads), "bias")
    found = net.op("Gather", table, net.constant((distances() + LENGTH - 1).ravel(), name="index"), axis=0)
    return net.unsqueeze(net.transpose(net.reshape(found, [LENGTH, LENGTH, heads]), [2, 0, 1]), [0])


def flags(net: Net, heads: int) -> str:
    """A mask from the input, as a number that is added."""
    return net.mul(net.op("Cast", net.op("Not", padding(net)), to=1), net.constant(-1e4))


def biased(bias: Bias) -> Callable[[Net, str, str], str]:
    return lambda net, x, name: attend(net, *projected(net, x, name), bias=bias(net, HEADS))


def masked_by_where(net: Net, x: str, name: str) -> str:
    def change(net: Net, scores: str) -> str:
        return net.op("Where", padding(net), scores, net.constant(-1e4))

    return attend(net, *projected(net, x, name), change=change)


def talking_heads(net: Net, x: str, name: str) -> str:
    """Scores mixed across heads by a trained matrix: a layer of its own, with a vertex for each head and pair of tokens."""

    def change(net: Net, scores: str) -> str:
        mixed = net.op("MatMul", net.transpose(scores, [0, 2, 3, 1]), net.param(f"{name}.mix", (HEADS, HEADS)))
        return net.transpose(mixed, [0, 3, 1, 2])

    return attend(net, *projected(net, x, name), change=change)


def temperatures(net: Net, x: str, name: str) -> str:
    """A trained temperature for each head, behind a cosine similarity (Swin v2)."""
    q, k, v = projected(net, x, name)
    q, k = (net.op("Div", y, net.add(net.axes_op("ReduceL2", y, [3], 18), net.constant(0.1))) for y in (q, k))
    gain = net.op("Exp", net.param(f"{name}.logit_scale", (1, HEADS, 1, 1), "bias"))
    return attend(net, q, k, v, change=lambda net, scores: net.mul(scores, gain))


# -- positions and norms in each head --------------------------------------------------------------------------------------


def waves(net: Net) -> tuple[str, str]:
    angles = np.outer(np.arange(LENGTH), 0.5 ** np.arange(SIZE // 2))
    return net.constant(np.cos(angles)[..., None], name="cos"), net.constant(np.sin(angles)[..., None], name="sin")


def rotated_pairs(net: Net, x: str) -> str:
    """Rotary positions, neighbours in pairs: (N, H, S, d) -> (N, H, S, d / 2, 2) and back."""
    pairs = net.reshape(x, [0, HEADS, LENGTH, SIZE // 2, 2])
    first, second = net.split(pairs, [1, 1], axis=4)
    cos, sin = waves(net)
    turned = [
        net.op("Sub", net.mul(first, cos), net.mul(second, sin)), net.add(net.mul(first, sin), net.mul(second, cos)),
    ]  # fmt: skip
    return net.reshape(net.concat(*turned, axis=4), [0, HEADS, LENGTH, SIZE])


def rotated_steps(net: Net, x: str) -> str:
    """The same with strided slices."""
    end = np.iinfo(np.int64).max
    cos, sin = (net.op("Squeeze", w, net.constant([2])) for w in waves(net))
    halves = []
    for start in (0, 1):
        bounds = (net.constant([b], name="bound") for b in (start, end, 3, 2))
        halves.append(net.op("Slice", x, *bounds))
    first, second = halves
    turned = [
        net.op("Sub", net.mul(first, cos), net.mul(second, sin)), net.add(net.mul(first, sin), net.mul(second, cos)),
    ]  # fmt: skip
    return net.reshape(net.concat(*(net.unsqueeze(y, [4]) for y in turned), axis=4), [0, HEADS, LENGTH, SIZE])


def normed(net: Net, x: str, name: str) -> str:
    """A norm over each head, its gain shared by all heads."""
    return rms_norm(net, x, name)


def normed_layer(net: Net, x: str, name: str) -> str:
    """A norm over all heads at once, in front of the split into heads (OLMo 2)."""
    return split_heads(net, rms_norm(net, join_heads(net, x), name), HEADS)


def queries_and_keys(change: Callable[[Net, str, str], str]) -> Callable[[Net, str, str], str]:
    def mix(net: Net, x: str, name: str) -> str:
        q, k, v = projected(net, x, name)
        return attend(net, change(net, q, f"{name}.q_norm"), change(net, k, f"{name}.k_norm"), v)

    return mix


def gated_heads(net: Net, x: str, name: str) -> str:
    """A gate for each head, computed from the token (as in gated attention)."""
    gate = net.op("Sigmoid", net.dense(x, f"{name}.gate", HEADS))
    y = net.reshape(attend(net, *projected(net, x, name)), [0, LENGTH, HEADS, SIZE])
    return net.reshape(net.mul(y, net.unsqueeze(gate, [3])), [0, LENGTH, HEADS * SIZE])


def linear_attention(net: Net, x: str, name: str) -> str:
    """Keys and values are contracted first: a matrix for each head."""
    q, k, v = projected(net, x, name)
    q, k = net.op("Softmax", q, axis=-1), net.op("Softmax", k, axis=2)
    state = net.op("MatMul", net.transpose(k, [0, 1, 3, 2]), v)
    return join_heads(net, net.op("MatMul", q, state))


def by_einsum(net: Net, x: str, name: str) -> str:
    """Projections with heads as axes of their weights, all by Einsum."""
    q, k, v = (
        net.op("Einsum", x, net.param(f"{name}.{n}", (WIDTH, HEADS, SIZE), fan_in=WIDTH), equation="bsi,ihd->bhsd")
        for n in "qkv"
    )
    scores = net.op("Softmax", net.mul(net.op("Einsum", q, k, equation="bhqd,bhkd->bhqk"), net.constant(0.5)), axis=-1)
    return join_heads(net, net.op("Einsum", scores, v, equation="bhqk,bhkd->bhqd"))


def channel_attention(net: Net, x: str, name: str) -> str:
    """Attention over the channels of each head (XCA, Restormer): d x d scores."""
    q, k, v = (net.transpose(y, [0, 1, 3, 2]) for y in projected(net, x, name))
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, [0, 1, 3, 2])), axis=-1)
    return join_heads(net, net.transpose(net.op("MatMul", scores, v), [0, 1, 3, 2]))


@variants(
    qkv_heads_first={"mix": heads_first},
    qkv_kinds_outside={"mix": kinds_outside},
    qkv_kinds_inside={"mix": kinds_inside},
    shared_heads_expand={"mix": shared_heads(by_expand, 8, 2)},
    shared_heads_tile={"mix": shared_heads(by_tile, 8, 4)},
    shared_heads_gather={"mix": shared_heads(by_gather, 8, 4)},
    multi_query={"mix": shared_heads(by_broadcast, 4, 1)},
    alibi={"mix": biased(alibi)},
    position_table={"mix": biased(position_table)},
    position_table_flat={"mix": biased(position_table_flat)},
    trained_score_bias={"mix": biased(head_bias)},
    padding_mask_where={"mix": masked_by_where},
    talking_heads={"mix": talking_heads},
    cosine_attention={"mix": temperatures},
    rotary_pairs={"mix": queries_and_keys(lambda net, x, name: rotated_pairs(net, x))},
    rotary_steps={"mix": queries_and_keys(lambda net, x, name: rotated_steps(net, x))},
    query_key_norm={"mix": queries_and_keys(normed)},
    query_key_norm_layer={"mix": queries_and_keys(normed_layer)},
    gated_heads={"mix": gated_heads},
    linear_attention={"mix": linear_attention},
    attention_by_einsum={"mix": by_einsum},
    channel_attention={"mix": channel_attention},
)
def heads_net(mix: Callable[[Net, str, str], str]) -> onnx.ModelProto:
    net = Net("heads")
    return residual(net, rows(net), mix)


@network
def cross_attention() -> onnx.ModelProto:
    """A decoder block: attention to itself, to a longer memory, and a gated layer."""
    net = Net("cross_attention")
    memory = net.relu(net.dense(net.input("memory", ("batch", 9, 5)), "encode", 12))
    x = net.dense(rows(net), "embed", WIDTH)
    x = net.add(x, net.dense(attend(net, *projected(net, net.layer_norm(x, "norm1"), "self")), "self.o_proj", WIDTH))
    (q,) = projected(net, net.layer_norm(x, "norm2"), "cross", which="q")
    k, v = (
        net.transpose(
            net.reshape(net.dense(memory, f"cross.{n}_proj", HEADS * SIZE, bias=n == "v"), [0, 9, HEADS, SIZE]),
            [0, 2, 1, 3],
        )
        for n in "kv"
    )
    x = net.add(x, net.dense(attend(net, q, k, v), "cross.o_proj", WIDTH))
    net.output(net.dense(net.layer_norm(x, "norm3"), "head", 5), "output")
    return net.build()
