"""Attention as networks spell it today, each way in a module as small as it gets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

D, HEADS, SIZE = 16, 4, 4


class Attention(nn.Module):
    """Attention, its projections and positions in one of the usual ways."""

    def __init__(self, layout: str = "separate", heads: int = HEADS, few: int = HEADS, how: str = "fused") -> None:
        super().__init__()
        self.layout, self.heads, self.few, self.how = layout, heads, few, how
        width = heads * SIZE
        if layout == "separate":
            self.q, self.k, self.v = nn.Linear(D, width), nn.Linear(D, few * SIZE), nn.Linear(D, few * SIZE)
        else:
            self.qkv = nn.Linear(D, 3 * width)
        self.out = nn.Linear(width, D)
        self.norms = nn.ModuleList([nn.RMSNorm(SIZE), nn.RMSNorm(SIZE)]) if how == "normed" else None
        self.table = nn.Parameter(torch.randn(11, heads)) if how == "table" else None

    def projected(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, s, _ = x.shape
        if self.layout == "separate":
            q, k, v = self.q(x), self.k(memory), self.v(memory)
            return tuple(y.unflatten(-1, (-1, SIZE)).transpose(1, 2) for y in (q, k, v))  # type: ignore[return-value]
        if self.layout == "3hd":
            q, k, v = self.qkv(x).reshape(b, s, 3, self.heads, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.layout == "h3d":
            q, k, v = self.qkv(x).reshape(b, s, self.heads, 3 * SIZE).transpose(1, 2).chunk(3, -1)
        else:
            q, k, v = (y.view(b, s, self.heads, SIZE).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        return q, k, v

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        q, k, v = self.projected(x, x if memory is None else memory)
        b, _, s, _ = q.shape
        if self.norms is not None:
            q, k = self.norms[0](q), self.norms[1](k)
        if self.how.startswith("rotary"):
            q, k = rotated(q, self.how), rotated(k, self.how)
        if self.few < self.heads and self.how == "repeated":
            k, v = (y[:, :, None].expand(b, self.few, self.heads // self.few, s, SIZE).flatten(1, 2) for y in (k, v))
        if self.how == "inside":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        elif self.how == "decomposed" or self.few < self.heads:
            scores = q @ k.transpose(-1, -2) / math.sqrt(SIZE)
            y = scores.masked_fill(torch.ones(s, s).triu(1).bool(), -1e9).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(s, q))
        return self.out(y.transpose(1, 2).reshape(b, s, -1))

    def mask(self, s: int, q: Tensor) -> Tensor | None:
        places = torch.arange(s)
        if self.how == "alibi":
            slopes = 2.0 ** -torch.arange(1, self.heads + 1)
            return (slopes[:, None, None] * (places[None, :] - places[:, None]).abs()).to(q.dtype)
        if self.table is not None:
            return self.table[(places[None, :] - places[:, None]) + 5].permute(2, 0, 1)[None]
        return torch.zeros(s, s, dtype=q.dtype).masked_fill(places[None, :] > places[:, None], -1e9)


def rotated(x: Tensor, how: str) -> Tensor:
    """Rotary positions, by halves or by neighbours."""
    angles = torch.arange(x.shape[-2])[:, None] / 10 ** torch.arange(SIZE // 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    if how == "rotary halves":
        one, other = x.chunk(2, -1)
        turned = torch.cat([-other, one], -1)
        return x * torch.cat([cos, cos], -1) + turned * torch.cat([sin, sin], -1)
    one, other = x[..., 0::2], x[..., 1::2]
    return torch.stack([one * cos - other * sin, one * sin + other * cos], -1).flatten(-2)


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(5, D), nn.Linear(5, D)
        self.attention, self.last = Attention(), nn.Linear(D, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.one(x)
        return self.last(x + self.attention(x, self.other(y)))


class Windows(nn.Module):
    """Shifted windows, an attention in each, and patches merged behind it."""

    def __init__(self, shift: int = 1) -> None:
        super().__init__()
        self.shift = shift
        self.stem, self.attention = nn.Conv2d(3, D, 2, stride=2), Attention("3hd")
        self.norm, self.merge, self.last = nn.LayerNorm(4 * D), nn.Linear(4 * D, 2 * D), nn.Linear(2 * D, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(x, (-self.shift, -self.shift), (1, 2)).view(b, h // 2, 2, w // 2, 2, c)
        y = self.attention(y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)).view(b, h // 2, w // 2, 2, 2, c)
        x = x + torch.roll(y.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c), (self.shift, self.shift), (1, 2))
        x = torch.cat([x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], -1)
        return self.last(self.merge(self.norm(x)).mean((1, 2)))


class ClassToken(nn.Module):
    """A vision transformer's first layer: patches, a class token, positions as bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, D, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, D)), nn.Parameter(torch.randn(1, 5, D))
        self.norm, self.attention, self.last = nn.LayerNorm(D), Attention("3hd"), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.last((x + self.attention(self.norm(x)))[:, 0])


class Language(nn.Module):
    """Token, position and type embeddings, before or behind norms, and an output layer that may be the embedding."""

    def __init__(self, *, tied: bool = False, post: bool = False, head: bool = True) -> None:
        super().__init__()
        self.post, self.words, self.places = post, nn.Embedding(11, D), nn.Embedding(6, D)
        self.types, self.norm, self.norm2 = nn.Embedding(2, D), nn.LayerNorm(D), nn.LayerNorm(D)
        self.attention, self.head = Attention(), nn.Linear(D, 11, bias=False) if head else None
        if tied and self.head is not None:
            self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.places(torch.arange(words.shape[1])) + self.types(words % 2)
        x = self.norm(x + self.attention(x)) if self.post else x + self.attention(self.norm(x))
        x = self.norm2(x)
        return x if self.head is None else self.head(x)


class Summed(nn.Module):
    """Linear attention that finds its own denominator: a column of ones beside the values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        b, s, _ = x.shape
        q, k, v = self.qkv(x).view(b, s, HEADS, 3 * SIZE).transpose(1, 2).chunk(3, -1)
        y = F.relu(q) @ (F.relu(k).transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
        y = y[..., :-1] / (y[..., -1:] + 1e-3)
        return self.out(y.transpose(1, 2).reshape(b, s, D))


class Relative(nn.Module):
    """Attention with a table of distances that all heads share, shifted into place by a pad and a reshape."""

    def __init__(self, heads: int = HEADS) -> None:
        super().__init__()
        self.heads, self.size = heads, D // heads
        self.q, self.kv, self.out = nn.Linear(D, D), nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.table = nn.Parameter(torch.randn(15, self.size))

    def forward(self, x: Tensor) -> Tensor:
        b, s, _ = x.shape
        q = self.q(x).view(b, s, self.heads, self.size).transpose(1, 2).flatten(0, 1)
        k, v = (
            F.pad(y, (0, 0, 1, 1)).view(b, s + 2, self.heads, self.size).transpose(1, 2).flatten(0, 1)
            for y in self.kv(x).chunk(2, -1)
        )
        t = s + 2
        far = F.pad(F.pad(q @ self.table.T, (0, 1)).flatten(1), (0, 2 * t - 1 - s))
        near = far.view(-1, s + 1, 2 * t - 1)[:, :s, t - 1 :]
        y = (q @ k.transpose(1, 2) + near).softmax(-1) @ v
        return self.out(y.view(b, self.heads, s, self.size).transpose(1, 2).reshape(b, s, D))


class Latents(nn.Module):
    """Learnt latents that ask the tokens: their queries are projected from parameters alone."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.last = nn.Parameter(torch.randn(7, D)), nn.Linear(D, 3)
        self.first, self.norm, self.attention = nn.Linear(5, D), nn.LayerNorm(D), Attention(how="decomposed")

    def forward(self, x: Tensor) -> Tensor:
        asked = self.latents.expand(len(x), -1, -1)
        q, k, v = self.attention.projected(self.norm(asked), self.first(x))
        y = (q @ k.transpose(-1, -2) / math.sqrt(SIZE)).softmax(-1) @ v
        return self.last(asked + self.attention.out(y.transpose(1, 2).flatten(2)))
