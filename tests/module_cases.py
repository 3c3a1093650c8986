"""Torch modules with their inputs, split, perturbed and compared with what they are merged to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphsplit.modules import ModuleSplit, split_module
from tests.torch_nets import Grouped, InPlace, LeNet, Residual, Transformer, vision

Make = Callable[[], nn.Module]


def images(channels: int = 3, size: int = 16, batch: int = 3) -> tuple[Any, ...]:
    return (torch.randn(batch, channels, size, size),)


def words(count: int = 40) -> tuple[Any, ...]:
    return (torch.randint(0, count, (2, 7)),)


def zoo(name: str, **options: Any) -> Make:
    return lambda: getattr(vision().models, name)(num_classes=10, **options)  # type: ignore[attr-defined]


CASES: dict[str, tuple[Make, Callable[[], tuple[Any, ...]]]] = {
    "lenet": (LeNet, lambda: images(1, 28)),
    "residual": (Residual, images),
    "transformer": (Transformer, words),
    "decomposed attention": (lambda: Transformer(fused=False), words),
    "tied": (lambda: Transformer(tied=True), words),
    "grouped": (Grouped, images),
    "in place": (InPlace, lambda: (torch.randn(5, 6),)),
    "resnet18": (zoo("resnet18"), lambda: images(size=32)),
    "densenet": (
        lambda: vision().models.DenseNet(8, (2, 2), 16, num_classes=10),  # type: ignore[attr-defined]
        lambda: images(size=32),
    ),
    "mobilenet_v3": (zoo("mobilenet_v3_small"), lambda: images(size=32)),
    "shufflenet_v2": (zoo("shufflenet_v2_x0_5"), lambda: images(size=32)),
}


def perturb(split: ModuleSplit, seed: int = 0) -> None:
    """Change every parameter and every running statistic of every sub-model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in split.submodels:
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise * 0.1 * parameter.abs().mean().clamp(min=0.1))
            for name, buffer in module.named_buffers():
                if "running" in name:
                    buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))


def difference(split: ModuleSplit, merged: nn.Module, args: tuple[Any, ...]) -> float:
    """How far the merged network is from the mean of the sub-models, relative to the mean."""
    with torch.no_grad():
        mean = sum(module.eval()(*args) for module in split.submodels) / split.parts
        return float((merged.eval()(*args) - mean).abs().max() / mean.abs().max())


def made(name: str, k: int, **options: Any) -> tuple[ModuleSplit, tuple[Any, ...]]:
    torch.manual_seed(0)
    module, inputs = CASES[name]
    args = tuple(x.double() if x.is_floating_point() else x for x in inputs())
    return split_module(lively(module().double(), args), args, k=k, **options), args


def lively(model: nn.Module, args: tuple[Any, ...]) -> nn.Module:
    """A network whose signals reach its outputs: with untrained running statistics most of them die on the way."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        model.train()(*args)
    for module in norms:
        module.momentum = 0.1
    return model


class TiedNorm(nn.Module):
    """A tied embedding without a repeated layer: batch norm over the width; with `skip` another layer reads the norm too."""

    def __init__(self, *, skip: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.body, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 20)
        self.head.weight = self.embed.weight
        self.other = nn.Linear(8, 20)
        self.skip = skip

    def forward(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        x = self.norm(x + torch.relu(self.body(x)))
        result = self.head(torch.dropout(x, 0.1, self.training))
        return (result, self.other(x)) if self.skip else result
