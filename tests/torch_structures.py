"""The structures that networks are made of today, each in a module as small as it gets, with what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.torch_attention import Attention, ClassToken, Cross, D, Language, Latents, Relative, Summed, Windows

Case = tuple[Callable[[], nn.Module], tuple[Any, ...], float]
TOKENS, IMAGES, WORDS = torch.randn(2, 6, 5), torch.randn(2, 3, 8, 8), torch.randint(0, 11, (2, 6))


class Block(nn.Module):
    """A first layer, what is being looked at, and an output layer, over tokens."""

    def __init__(self, inner: nn.Module, width: int = D) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(5, width), inner, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.inner(x))


class Planes(nn.Module):
    """The same over images."""

    def __init__(self, inner: nn.Module, width: int = 12, back: int | None = None) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, width, 3, padding=1), inner
        self.last = nn.Conv2d(back or width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.inner(self.first(x))))


class Gated(nn.Module):
    """A gated layer: two projections, or one cut in two."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.up, self.down = nn.Linear(D, 48), nn.Linear(24, D)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "glu":
            return self.down(F.glu(self.up(x), -1))
        gate, y = self.up(x).chunk(2, -1) if self.how == "chunk" else self.up(x).split([24, 24], -1)
        return self.down(F.silu(gate) * y)


class Scaled(nn.Module):
    """A layer scale, and a stochastic depth that training has."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.gain = nn.Linear(D, 24), nn.Linear(24, D), nn.Parameter(torch.full((D,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gain * self.down(F.gelu(self.up(x)))
        if self.training:
            y = y * (torch.rand(x.shape[0], 1, 1, dtype=x.dtype) < 0.8)
        return y


class Function(nn.Module):
    """A function of one argument, perhaps with a layer before it."""

    def __init__(self, function: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x if self.layer is None else self.layer(x))


class ResponseNorm(nn.Module):
    """Global response normalisation."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.randn(width, 1, 1)), nn.Parameter(torch.randn(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=(2, 3), keepdim=True)
        return self.gain * (x * size / (size.mean(1, keepdim=True) + 1e-6)) + self.shift + x


class Squeeze(nn.Module):
    """Squeeze and excite, or a gate of one channel."""

    def __init__(self, middle: int, width: int = 12) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, middle, 1), nn.Conv2d(middle, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class SpatialGate(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gate = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


class Experts(nn.Module):
    """A mixture of experts, all of which are computed: the router's choice of the best two is what weighs them."""

    def __init__(self, best: int | None) -> None:
        super().__init__()
        self.best, self.router = best, nn.Linear(D, 3)
        self.experts = nn.ModuleList([Gated("chunk") for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        if self.best:
            least = weights.topk(self.best, -1).values[..., -1:]
            weights = weights * (weights >= least)
        return sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))  # type: ignore[return-value]


class Picked(nn.Module):
    """A mixture of experts, of which each token's best two are picked out of one tensor while it runs."""

    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        self.again, self.router = again, nn.Linear(D, 6)
        self.up, self.shift = nn.Parameter(torch.randn(6, 24, D)), nn.Parameter(torch.randn(6, 24))
        self.down = nn.Parameter(torch.randn(6, D, 24))

    def forward(self, x: Tensor, words: Tensor | None = None) -> Tensor:
        tokens = x.flatten(0, -2)
        if words is None:
            weights, chosen = self.router(tokens).softmax(-1).topk(2, -1)
        else:
            chosen = torch.stack([words % 6, words % 5], -1).flatten(0, 1)
            weights = torch.ones_like(chosen, dtype=x.dtype)
        y = tokens.repeat_interleave(2, 0)[..., None]
        y = F.relu(self.up[chosen.flatten()] @ y + self.shift[chosen.flatten()][..., None])
        y = (self.down[chosen.flatten()] @ y).squeeze(-1) * weights.flatten()[:, None]
        y = y.unflatten(0, (-1, 2)).sum(1).view(x.shape)
        if self.again:
            y = y + torch.einsum("bsei,edi->bsd", F.relu(torch.einsum("bsd,eid->bsei", x, self.up)), self.down)
        return y


class Routed(nn.Module):
    """Experts that are picked by the words, not by what a part makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.experts, self.last = nn.Embedding(11, D), Picked(), nn.Linear(D, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        return self.last(x + self.experts(x, words))


class Sorted(nn.Module):
    """Tokens in the order of a score, an attention among neighbours, and back to their places in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.score, self.mix = how, nn.Linear(D, 1), Gated("chunk")

    def forward(self, x: Tensor) -> Tensor:
        order = self.score(x).squeeze(-1).argsort(1)
        places = order[..., None].expand(x.shape)
        y = torch.gather(x, 1, places)
        y = self.mix(y + y.roll(1, 1))
        if self.how == "scatter":
            return torch.zeros_like(x).scatter(1, places, y)
        if self.how == "reduce":
            return torch.zeros_like(x).scatter_reduce(1, places, y, "amax", include_self=True)
        if self.how == "index":
            return x.flatten(0, 1).index_add(0, order.flatten(), y.flatten(0, 1)).view(x.shape)
        return x.scatter_add(1, places, y)


class Pooled(nn.Module):
    """Neighbouring tokens averaged by a pool over planes: its windows are one neuron wide."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(self.up(x)[:, None], (2, 1), stride=(2, 1), ceil_mode=True)
        return F.max_pool2d(y, (1, 1)).squeeze(1).repeat_interleave(2, 1)


class TableTwice(nn.Module):
    """A table that is looked up, and a hidden layer as well: its rows are vertices there."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(11, D), nn.Linear(11, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.last(F.relu(self.words(words) @ self.words.weight.T))


class Backbone(nn.Module):
    """Features without an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        one = F.relu(self.first(x))
        return [one, F.relu(self.second(one))]


class Described(nn.Module):
    """Features that are an output together with their mean, and that a hidden layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 24, 3), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.first(x))
        return torch.cat([x, x.mean(1, keepdim=True)], 1), self.last(F.relu(self.second(x)))


def shuffled(groups: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


CASES: dict[str, Case] = {
    "separate projections": (lambda: Block(Attention()), (TOKENS,), 0.36),
    "fused 3 H d": (lambda: Block(Attention("3hd")), (TOKENS,), 0.36),
    "fused H 3 d": (lambda: Block(Attention("h3d")), (TOKENS,), 0.36),
    "fused, chunked": (lambda: Block(Attention("chunk")), (TOKENS,), 0.36),
    "decomposed attention": (lambda: Block(Attention(how="decomposed")), (TOKENS,), 0.36),
    "grouped queries": (lambda: Block(Attention(few=2, how="repeated")), (TOKENS,), 0.36),
    "grouped queries in the op": (lambda: Block(Attention(few=2, how="inside")), (TOKENS,), 0.36),
    "one key and value head": (lambda: Block(Attention(few=1, how="repeated")), (TOKENS,), 0.5),
    "cross-attention": (Cross, (TOKENS, torch.randn(2, 6, 5)), 0.36),
    "slopes": (lambda: Block(Attention(how="alibi")), (TOKENS,), 0.36),
    "a table row a head": (lambda: Block(Attention(how="table")), (TOKENS,), 0.37),
    "rotary by halves": (lambda: Block(Attention(how="rotary halves")), (TOKENS,), 0.36),
    "rotary by neighbours": (lambda: Block(Attention(how="rotary neighbours")), (TOKENS,), 0.36),
    "query and key norms": (lambda: Block(Attention(how="normed")), (TOKENS,), 0.37),
    "layer norm": (lambda: Block(nn.LayerNorm(D)), (TOKENS,), 0.52),
    "rms norm": (lambda: Block(nn.RMSNorm(D)), (TOKENS,), 0.52),
    "group norm": (lambda: Planes(nn.GroupNorm(4, 12)), (IMAGES,), 0.52),
    "group norm, straddled": (lambda: Planes(nn.GroupNorm(3, 12)), (IMAGES,), 0.67),
    "instance norm": (lambda: Planes(nn.InstanceNorm2d(12, affine=True)), (IMAGES,), 0.52),
    "global response norm": (lambda: Planes(ResponseNorm()), (IMAGES,), 0.52),
    "unit length": (lambda: Planes(Function(lambda x: F.normalize(x, dim=1))), (IMAGES,), 0.52),
    "softmax over channels": (lambda: Planes(Function(lambda x: x.softmax(1))), (IMAGES,), 0.52),
    "gated, chunked": (lambda: Block(Gated("chunk")), (TOKENS,), 0.32),
    "gated, split": (lambda: Block(Gated("split")), (TOKENS,), 0.32),
    "glu": (lambda: Block(Gated("glu")), (TOKENS,), 0.32),
    "layer scale and stochastic depth": (lambda: Block(Scaled()), (TOKENS,), 0.36),
    "shifted windows and merged patches": (Windows, (IMAGES,), 0.3),
    "pixel shuffle": (lambda: Planes(nn.PixelShuffle(2), 16, 4), (IMAGES,), 0.52),
    "pixel unshuffle": (lambda: Planes(nn.PixelUnshuffle(2), 8, 32), (IMAGES,), 0.52),
    "channel shuffle": (
        lambda: Planes(Function(shuffled(4), nn.Conv2d(16, 16, 1, groups=4)), 16),
        (IMAGES,),
        0.51,
    ),
    "squeeze and excite": (lambda: Planes(Squeeze(4)), (IMAGES,), 0.46),
    "squeezed to less than a unit a part": (lambda: Planes(Squeeze(1)), (IMAGES,), 0.56),
    "a gate of one channel": (lambda: Planes(SpatialGate()), (IMAGES,), 0.53),
    "class token": (ClassToken, (IMAGES,), 0.42),
    "a language model": (Language, (WORDS,), 0.38),
    "a tied language model": (lambda: Language(tied=True), (WORDS,), 0.4),
    "norms behind": (lambda: Language(post=True), (WORDS,), 0.38),
    "hidden states, no output layer": (lambda: Language(head=False), (WORDS,), 0.38),
    "a backbone": (Backbone, (IMAGES,), 0.51),
    "experts, weighed": (lambda: Block(Experts(None)), (TOKENS,), 0.34),
    "experts, the best two": (lambda: Block(Experts(2)), (TOKENS,), 0.34),
    "a column of ones": (lambda: Block(Summed()), (TOKENS,), 0.36),
    "distances shifted into place": (lambda: Block(Relative()), (TOKENS,), 0.38),
    "features beside their mean": (Described, (IMAGES,), 0.56),
    "experts, picked": (lambda: Block(Picked()), (TOKENS,), 0.34),
    "experts, picked by words": (Routed, (WORDS,), 0.34),
    "experts, picked and all of them": (lambda: Block(Picked(again=True)), (TOKENS,), 0.34),
    "tokens sorted and scattered": (lambda: Block(Sorted("scatter")), (TOKENS,), 0.34),
    "tokens sorted and reduced": (lambda: Block(Sorted("reduce")), (TOKENS,), 0.34),
    "tokens sorted and added": (lambda: Block(Sorted("add")), (TOKENS,), 0.34),
    "tokens sorted and added to rows": (lambda: Block(Sorted("index")), (TOKENS,), 0.34),
    "tokens pooled": (lambda: Block(Pooled()), (TOKENS,), 0.36),
    "latents that ask": (Latents, (TOKENS,), 0.4),
    "a table and a layer": (TableTwice, (WORDS,), 0.6),
    "distances of one head": (lambda: Block(Relative(1)), (TOKENS,), 0.8),
}
