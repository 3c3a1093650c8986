"""Torch modules that the tests split."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

KEPT: list[object] = []


def vision() -> object:
    """torchvision, whose compiled ops needn't fit this torch: what its modules name when they're imported is declared."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        import torchvision
    except (RuntimeError, ImportError):
        library = torch.library.Library("torchvision", "FRAGMENT")
        KEPT.append(library)
        for line in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",):
            for op in (line, f"q{line}"):
                library.define(op)
        import torchvision
    return torchvision


class LeNet(nn.Module):
    """The paper's MNIST network, with widths to choose."""

    def __init__(self, first: int = 20, second: int = 50, hidden: int = 500) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(second * 16, hidden)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(self.drop(F.relu(self.fc1(x.flatten(1)))))


class Residual(nn.Module):
    """A residual block with batch norm between two ends."""

    def __init__(self, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.stem(x)))
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, size: int, hidden: int, *, fused: bool, drop: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * size)
        self.out = nn.Linear(heads * size, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)
        self.heads, self.size, self.fused = heads, size, fused

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, time, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) / self.size**0.5, -1) @ v
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(batch, time, self.heads * self.size)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class Transformer(nn.Module):
    """A small language model."""

    def __init__(
        self,
        width: int = 16,
        heads: int = 4,
        hidden: int = 64,
        *,
        fused: bool = True,
        tied: bool = False,
        drop: float = 0.0,
        words: int = 40,
        depth: int = 2,
        size: int = 4,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.place = nn.Parameter(torch.randn(1, 32, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, size, hidden, fused=fused, drop=drop) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Grouped(nn.Module):
    """Group norm, a grouped and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 24, 3, padding=1), nn.GroupNorm(6, 24)
        self.conv2, self.norm2 = nn.Conv2d(24, 24, 3, padding=1, groups=12), nn.GroupNorm(6, 24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = x + F.relu(self.norm2(self.conv2(x)))
        return self.fc(self.depthwise(x).mean((2, 3)))


class Forked(nn.Module):
    """Its forward branches on its mode: an auxiliary output, stochastic depth, a dictionary as result."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.aux = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.aux_out = nn.Linear(width, 5)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = F.relu(self.stem(x)) * scale
        y = self.body(x)
        if self.training:
            keep = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(0.8)
            y = y * keep
        found = {"out": self.fc((x + y).mean((2, 3)))}
        if self.training:
            found["aux"] = self.aux_out(self.aux(x))
        return found


class InPlace(nn.Module):
    """It writes into values that each part has for itself, and into ones that all parts share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 12), nn.LayerNorm(12)
        self.gate, self.last = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y.mul_(2.0)
        mean = y.mean(-1, keepdim=True)
        mean.add_(0.5).relu_()
        scale = torch.ones_like(x[:, :1])
        scale.add_(mean)
        gate = self.gate(y).sigmoid_()
        y = y * gate
        y += scale
        return self.last(y)
