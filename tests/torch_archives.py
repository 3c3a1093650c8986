"""Sub-models of torch that are written as files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphsplit.formats import torch_archive
from graphsplit.modules import split_module
from tests.torch_nets import Forked, Grouped, LeNet, Residual, Transformer


class Told(nn.Module):
    """Inputs and outputs of several forms, a frozen weight, buffers in and out of the state dict, a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)
        self.up.bias.requires_grad_(False)
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("mask", torch.tensor([True, False, True, True, True, True]), persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(
        self,
        given: dict[str, Any],
        pair: tuple[Any, Any],
        scale: float = 1.0,
        flip: bool = False,
        most: float = math.inf,
    ) -> Any:
        x = given["x"].clamp(max=most) * self.mask + self.shift + pair[0] - pair[1]
        y = self.down(self.drop(self.up(x * scale).relu()))
        return {"logits": -y if flip else y, "more": [y.argmax(-1), None]}


Example = tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any]]
X = torch.randn(3, 6)
CASES: dict[str, Example] = {
    "lenet": (LeNet, (torch.randn(2, 1, 28, 28),), {}),
    "residual": (Residual, (torch.randn(2, 3, 16, 16),), {}),
    "transformer": (lambda: Transformer(depth=1), (torch.randint(0, 40, (2, 7)),), {}),
    "tied": (lambda: Transformer(tied=True, depth=1), (torch.randint(0, 40, (2, 7)),), {}),
    "grouped": (Grouped, (torch.randn(2, 3, 16, 16),), {}),
    "two modes": (Forked, (torch.randn(2, 3, 16, 16),), {}),
    "told": (Told, ({"x": X}, (X, X)), {"scale": 0.5, "flip": True}),
}


def sub_model(name: str, tmp_path: Path, part: int = 0) -> tuple[nn.Module, nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A sub-model, the same from its file, and what both are called with."""
    make, args, kwargs = CASES[name]
    split = split_module(make(), args, kwargs, k=2, out=tmp_path / "parts")
    return split.submodels[part], torch_archive.load(tmp_path / "parts" / f"submodel_{part}.pt2"), args, kwargs


def same(one: Any, other: Any) -> bool:
    found, wanted = (torch.utils._pytree.tree_flatten(x) for x in (one, other))
    return found[1] == wanted[1] and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(found[0], wanted[0], strict=True)
    )
