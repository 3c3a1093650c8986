"""Attention over heads, linear attention and rotary positions, in ONNX's own ops.

Heads are an axis of their own inside: (batch, heads, length, size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, torch_type

_BIASED, _SOFT, _CAPPED = 2, 3, 1
"""What `qk_matmul_output_mode` asks for; 0 are the plain products."""


def to_heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, heads · size) with heads as an axis."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def from_heads(x: Tensor) -> Tensor:
    """Heads side by side again."""
    return x.transpose(1, 2).flatten(2)


def shared(x: Tensor, heads: int) -> Tensor:
    """Key or value heads, each as often as query heads share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


@dataclass(frozen=True)
class _Mask:
    """Which keys a query sees, besides the mask that is given."""

    causal: bool
    left: int
    right: int

    def __bool__(self) -> bool:
        return self.causal or self.left >= 0 or self.right >= 0

    def bias(self, q: Tensor, keys: int, offset: Any) -> Tensor:
        """0 where a key is seen and -inf where not: (queries, keys), or (batch, 1, queries, keys) for offsets of a batch."""
        row = torch.arange(q.shape[2], device=q.device)[:, None]
        column = torch.arange(keys, device=q.device)
        offset = offset.reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset
        ahead = column - row - offset
        seen = torch.ones_like(ahead, dtype=torch.bool)
        seen = seen & (ahead <= 0) if self.causal else seen
        seen = seen & (ahead >= -self.left) if self.left >= 0 else seen
        seen = seen & (ahead <= self.right) if self.right >= 0 else seen
        return _additive(seen, q.dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of truths as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))


def _attention(a: Attributes) -> Run:
    q_heads, kv_heads = a.get("q_num_heads"), a.get("kv_num_heads")
    scale, cap, mode = a.get("scale"), a.get("softcap", 0.0), a.get("qk_matmul_output_mode", 0)
    hidden = _Mask(bool(a.get("is_causal", 0)), a.get("left_window_size", -1), a.get("right_window_size", -1))
    precision = torch_type(a["softmax_precision"], a) if a.get("softmax_precision") else None
    simple = (
        not cap and precision is None and not any(a.wants(i) for i in (1, 2, 3)) and not a.given(6) and not a.given(4)
    )

    def run(
        q: Tensor, k: Tensor, v: Tensor, mask: Any = None, past_k: Any = None, past_v: Any = None, lengths: Any = None
    ) -> tuple[Tensor, ...]:
        flat = q.ndim == 3
        if flat:
            q, k, v = to_heads(q, q_heads), to_heads(k, kv_heads), to_heads(v, kv_heads)
        if simple and mask is None and not hidden:
            y = nnf.scaled_dot_product_attention(q, shared(k, q.shape[1]), shared(v, q.shape[1]), scale=scale)
            return (from_heads(y) if flat else y,)
        offset: Any = 0 if past_k is None else past_k.shape[2]
        k = k if past_k is None else torch.cat([past_k, k], 2)
        v = v if past_v is None else torch.cat([past_v, v], 2)
        if lengths is not None and past_k is None:
            offset = lengths.to(q.device) - q.shape[2]
        bias = _bias(q, k.shape[2], mask, hidden, offset, lengths)
        root = math.sqrt(scale if scale is not None else 1 / math.sqrt(q.shape[3]))
        products = (q * root) @ (shared(k, q.shape[1]) * root).mT
        capped = torch.tanh(products / cap) * cap if cap > 0 else products
        biased = capped if bias is None else capped + bias
        soft = _softmax(biased if precision is None else biased.to(precision), bias).to(q.dtype)
        y = soft @ shared(v, q.shape[1])
        asked = {_CAPPED: capped, _BIASED: biased, _SOFT: soft}.get(mode, capped if cap > 0 else products)
        return from_heads(y) if flat else y, k, v, asked

    return run


def _bias(
    q: Tensor, keys: int, mask: Tensor | None, hidden: _Mask, offset: Any, lengths: Tensor | None
) -> Tensor | None:
    """All masks as one, to be added; None where there is none."""
    bias: Tensor | None = None
    if mask is not None:
        short = keys - mask.shape[-1]
        bias = _additive(mask, q.dtype)
        bias = nnf.pad(bias, (0, short), value=float("-inf")) if short > 0 else bias
    if hidden:
        more = hidden.bias(q, keys, offset)
        bias = more if bias is None else bias + more
    if lengths is not None:
        seen = torch.arange(keys, device=q.device) < lengths.to(q.device)[:, None]
        more = _additive(seen, q.dtype)[:, None, None]
        bias = more if bias is None else bias + more
    return bias


def _softmax(x: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax over keys; a query that sees none gets nothing."""
    if bias is None:
        return torch.softmax(x, -1)
    blind = torch.isneginf(bias.amax(-1, keepdim=True))
    return torch.softmax(x.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)


def rotated(x: Tensor, cosine: Tensor, sine: Tensor, *, interleaved: bool) -> Tensor:
    """(batch, length, heads, size) turned by angles (batch, length, turned / 2); elements beyond those stay."""
    turned = 2 * cosine.shape[-1]
    rest, x = x[..., turned:], x[..., :turned]
    cosine, sine = cosine.unsqueeze(2), sine.unsqueeze(2)
    one, two = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    real, imaginary = cosine * one - sine * two, sine * one + cosine * two
    y = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    return torch.cat([y, rest], -1) if rest.shape[-1] else y


def _rotary(a: Attributes) -> Run:
    heads, interleaved = a.get("num_heads", 0), bool(a.get("interleaved", 0))

    def run(x: Tensor, cosine: Tensor, sine: Tensor, places: Tensor | None = None) -> Tensor:
        if places is not None:
            cosine, sine = cosine[places], sine[places]
        if x.ndim == 4:
            return rotated(x.transpose(1, 2), cosine, sine, interleaved=interleaved).transpose(1, 2)
        return rotated(x.reshape(*x.shape[:2], heads, -1), cosine, sine, interleaved=interleaved).flatten(2)

    return run


def _linear_attention(a: Attributes) -> Run:
    """The recurrence token by token."""
    q_heads, kv_heads, rule = a["q_num_heads"], a["kv_num_heads"], a.get("update_rule", "gated_delta")
    corrects = rule in ("delta", "gated_delta")

    def run(
        q: Tensor, k: Tensor, v: Tensor, past: Any = None, decay: Any = None, beta: Any = None
    ) -> tuple[Tensor, Tensor]:
        kind, width = q.dtype, torch.promote_types(q.dtype, torch.float32)
        q, k, v = (to_heads(x, n).to(width) for x, n in ((q, q_heads), (k, kv_heads), (v, kv_heads)))
        scale = a.get("scale") or 1 / math.sqrt(q.shape[-1])
        shape = (q.shape[0], kv_heads, k.shape[-1], v.shape[-1])
        state = q.new_zeros(shape) if past is None else past.to(width)
        kept = None if decay is None else to_heads(decay, kv_heads).to(width).exp()
        rate = None if beta is None else to_heads(beta, beta.shape[-1]).to(width)
        found = []
        for t in range(q.shape[2]):
            key, value = k[:, :, t], v[:, :, t]
            state = state if kept is None else state * kept[:, :, t].unsqueeze(-1)
            if corrects and rate is not None:
                value = rate[:, :, t] * (value - torch.einsum("bhdm,bhd->bhm", state, key))
            state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
            found.append(torch.einsum("bhd,bhdm->bhm", q[:, :, t], shared(state, q_heads)) * scale)
        return from_heads(torch.stack(found, 2)).to(kind), state.to(kind if past is None else past.dtype)

    return run


TABLE: Table = {
    "Attention": Op(_attention, many=True),
    "LinearAttention": Op(_linear_attention, many=True),
    "RotaryEmbedding": Op(_rotary),
}
