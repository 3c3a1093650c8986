"""onnxruntime's own ops in float networks: activations with a bias, and attention over heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.attention import from_heads, rotated, shared, to_heads
from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, plain


def _fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return nnf.gelu(x if bias is None else x + bias, approximate="tanh")


def _quick_gelu(a: Attributes) -> Run:
    alpha = a.get("alpha", 1.702)
    return lambda x: x * torch.sigmoid(x * alpha)


def _rotary(a: Attributes) -> Run:
    heads, interleaved = a.get("num_heads", 0), bool(a.get("interleaved", 0))
    if a.get("is_packed_batching", 0):
        raise a.refused("its tokens are packed without padding", "save the model unoptimised")
    scale = a.get("scale", 1.0)

    def run(x: Tensor, places: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        parts = (
            x.transpose(1, 2)
            if x.ndim == 4
            else x.reshape(*x.shape[:2], heads or x.shape[-1] // (2 * cosine.shape[-1]), -1)
        )
        if places.ndim < 2:  # where the first token is
            places = places.reshape(-1, 1) + torch.arange(parts.shape[1], device=x.device)
        y = rotated(parts, cosine[places] * scale, sine[places] * scale, interleaved=interleaved)
        return y.transpose(1, 2) if x.ndim == 4 else y.flatten(2)

    return run


def _refuse_cache(a: Attributes, positions: tuple[int, ...]) -> None:
    if any(a.given(position) for position in positions):
        raise a.refused("it reads a cache of keys and values", "export the model without a cache")


def _padding(mask: Tensor, q: Tensor, keys: int, low: float) -> Tensor:
    """A mask in one of onnxruntime's forms as numbers to add, for (batch, heads, queries, keys)."""
    if mask.ndim == 1:  # how many keys each row has
        mask = torch.arange(keys, device=q.device) < mask.to(q.device)[: q.shape[0], None]
    elif mask.ndim == 4:
        mask = mask[:, :, keys - q.shape[2] : keys, :keys]
    mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask == 0, low)


def _attend(a: Attributes, q: Tensor, k: Tensor, v: Tensor, mask: Any, bias: Any) -> Tensor:
    low, scale = a.get("mask_filter_value", -10000.0), a.get("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    added: Tensor | None = bias
    if mask is not None:
        more = _padding(mask, q, k.shape[2], low)
        added = more if added is None else added + more
    if a.get("unidirectional", 0):
        row = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
        later = torch.arange(k.shape[2], device=q.device) > row
        more = torch.zeros(later.shape, dtype=q.dtype, device=q.device).masked_fill(later, low)
        added = more if added is None else added + more
    return nnf.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)


def _attention(a: Attributes) -> Run:
    heads, sizes = a["num_heads"], a.get("qkv_hidden_sizes")
    _refuse_cache(a, (4, 6))
    if a.get("do_rotary", 0):
        raise a.refused("it rotates positions by itself", "save the model unoptimised")

    def run(
        x: Tensor, w: Tensor, b: Any = None, mask: Any = None, _past: Any = None, bias: Any = None
    ) -> tuple[Any, ...]:
        y = x @ w if b is None else x @ w + b
        parts = y.split(list(sizes), -1) if sizes else y.chunk(3, -1)
        q, k, v = (to_heads(part, heads) for part in parts)
        return from_heads(_attend(a, q, k, v, mask, bias)), torch.stack([k, v]) if a.wants(1) else None

    return run


def _multi_head(a: Attributes) -> Run:
    heads = a["num_heads"]
    _refuse_cache(a, (6, 7, 8, 9))
    if not a.given(1) or not a.given(2):
        raise a.refused("its operands are packed", "save the model unoptimised")

    def run(q: Tensor, k: Tensor, v: Tensor, b: Any = None, mask: Any = None, bias: Any = None) -> tuple[Any, ...]:
        if b is not None:
            one, two, three = b.split([q.shape[-1], k.shape[-1], v.shape[-1]])
            q, k, v = q + one, k + two, v + three
        q, k, v = (x if x.ndim == 4 else to_heads(x, heads) for x in (q, k, v))
        return from_heads(_attend(a, q, k, v, mask, bias)), k, v

    if a.wants(3):
        raise a.refused("it gives its scores", "save the model unoptimised")
    return run


def _grouped_query(a: Attributes) -> Run:
    """Causal attention of a whole prompt, query heads sharing key-value heads; `lengths` are the last tokens' positions."""
    heads, shared_heads, window = a["num_heads"], a["kv_num_heads"], a.get("local_window_size", -1)
    rotary, interleaved, cap = a.get("do_rotary", 0), bool(a.get("rotary_interleaved", 0)), a.get("softcap", 0.0)
    _refuse_cache(a, (3, 4))
    if not a.given(1) or not a.given(2) or a.get("smooth_softmax", 0) or any(a.given(i) for i in (11, 12, 13, 14, 15)):
        raise a.refused("its operands are packed or quantised, or its softmax has a sink", "save the model unoptimised")
    if a.wants(3):
        raise a.refused("it gives its scores", "save the model unoptimised")

    def run(
        q: Tensor, k: Tensor, v: Tensor, _k: Any = None, _v: Any = None, lengths: Any = None, _total: Any = None,
        cosine: Any = None, sine: Any = None, places: Any = None, bias: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        row = torch.arange(q.shape[1], device=q.device)
        if rotary:
            at = row.expand(q.shape[0], -1) if places is None else places
            turn = cosine[at], sine[at]
            q = rotated(q.reshape(*q.shape[:2], heads, -1), *turn, interleaved=interleaved).flatten(2)
            k = rotated(k.reshape(*k.shape[:2], shared_heads, -1), *turn, interleaved=interleaved).flatten(2)
        q, k, v = to_heads(q, heads), to_heads(k, shared_heads), to_heads(v, shared_heads)
        seen = row <= row[:, None]
        seen = seen & (row > row[:, None] - window) if window > 0 else seen
        scale = a.get("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
        scores = (q @ shared(k, heads).mT) * scale
        scores = torch.tanh(scores / cap) * cap if cap > 0 else scores
        scores = scores if bias is None else scores + bias
        y = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1) @ shared(v, heads)
        return from_heads(y), k, v

    return run


def _embedding_norm(a: Attributes) -> Run:
    epsilon = a.get("epsilon", 1e-12)
    if a.given(7):
        raise a.refused("it counts a mask", "save the model unoptimised")

    def run(
        words: Tensor, segments: Any, table: Tensor, positions: Tensor, kinds: Any, scale: Tensor, shift: Tensor,
        _mask: Any = None, places: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        places = torch.arange(words.shape[1], device=words.device) if places is None else places
        total = nnf.embedding(words.long(), table) + nnf.embedding(places.long(), positions)
        if kinds is not None and segments is not None:
            total = total + nnf.embedding(segments.long(), kinds)
        lengths = torch.zeros(words.shape[0], dtype=torch.int32, device=words.device)
        return nnf.layer_norm(total, (total.shape[-1],), scale, shift, epsilon), lengths, total

    return run


TABLE: Table = {
    "com.microsoft::Attention": Op(_attention, many=True),
    "com.microsoft::BiasAdd": plain(lambda x, bias, skip: x + bias + skip),
    "com.microsoft::BiasGelu": plain(lambda x, bias: nnf.gelu(x + bias)),
    "com.microsoft::EmbedLayerNormalization": Op(_embedding_norm, many=True),
    "com.microsoft::FastGelu": plain(_fast_gelu),
    "com.microsoft::Gelu": plain(nnf.gelu),
    "com.microsoft::GroupQueryAttention": Op(_grouped_query, many=True),
    "com.microsoft::MultiHeadAttention": Op(_multi_head, many=True),
    "com.microsoft::QuickGelu": Op(_quick_gelu),
    "com.microsoft::RotaryEmbedding": Op(_rotary),
}
