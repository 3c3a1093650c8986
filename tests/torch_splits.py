"""Splits of torch modules, trained ones, and what verification says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from graphsplit.graph import ArrayTensor
from graphsplit.merging import LeafModel
from graphsplit.modules import ModuleSplit, split_module
from graphsplit.verification import Verification, verify_opened
from tests import torch_networks
from tests.torch_nets import Forked, InPlace, LeNet, Residual, Transformer

LAWS = ("valid parts", "coverage", "narrowness", "identity", "order", "exact merge")
AUTO = torch.export.Dim.AUTO


class Lookups(nn.Module):
    """Tables of different lengths, looked up in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.table = nn.Embedding(9, 8), nn.Parameter(torch.randn(5, 8))
        self.up, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, i: Any, j: Any, c: Any) -> Any:
        y = self.words(i.reshape(-1)) + self.table[j] + F.one_hot(c, 8).to(self.table.dtype)
        return self.head(F.gelu(self.up(y)))


class Features(nn.Module):
    """A backbone: no output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)

    def forward(self, x: Any) -> Any:
        return F.relu(self.norm(self.conv(x)))


Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]
CASES: dict[str, Case] = {
    "lenet": (lambda: LeNet(hidden=60), lambda: (torch.randn(3, 1, 28, 28),)),
    "residual": (Residual, lambda: (torch.randn(3, 3, 8, 8),)),
    "transformer": (lambda: Transformer(depth=1, drop=0.1), lambda: (torch.randint(0, 40, (2, 7)),)),
    "tied": (lambda: Transformer(depth=1, tied=True, fused=False), lambda: (torch.randint(0, 40, (2, 7)),)),
    "forked": (Forked, lambda: (torch.randn(2, 3, 8, 8),)),
    "in place": (InPlace, lambda: (torch.randn(5, 6),)),
    "features": (Features, lambda: (torch.randn(2, 3, 8, 8),)),
    "lookups": (Lookups, lambda: (torch.randint(0, 9, (4,)), torch.randint(0, 5, (4,)), torch.randint(0, 8, (4,)))),
    "group norm": (lambda: torch_networks.group_norm()[0], lambda: torch_networks.group_norm()[1]),
    "double": (lambda: Residual().double(), lambda: (torch.randn(3, 3, 8, 8, dtype=torch.float64),)),
    "half": (lambda: LeNet(hidden=60).half(), lambda: (torch.randn(3, 1, 28, 28).half(),)),
    "computed": (torch_networks.Computed, lambda: (torch.randn(3, 6),)),
}


def made(name: str, k: int = 2, **options: Any) -> ModuleSplit:
    torch.manual_seed(0)
    module, inputs = CASES[name]
    return split_module(module(), inputs(), k=k, **options)


def verified(split: ModuleSplit, leaves: list[LeafModel] | None = None, **options: Any) -> Verification:
    return verify_opened(split.opened, split.leaves() if leaves is None else leaves, **options)


def failed(found: Verification) -> set[str]:
    assert [check.name for check in found.checks] == list(LAWS)
    return {check.name for check in found.checks if not check.passed}


def train(split: ModuleSplit, steps: int = 2) -> None:
    """Train each sub-model by itself: weights, running statistics and counters change."""
    for number, module in enumerate(split.submodels):
        torch.manual_seed(number)
        name = type(split.model).__name__.lower()
        inputs = CASES[name][1]()
        optimizer = torch.optim.SGD(module.parameters(), 0.05)
        for _ in range(steps + number):
            optimizer.zero_grad()
            module.train()(*inputs).square().mean().backward()
            optimizer.step()


def with_tensors(leaf: LeafModel, **arrays: Any) -> LeafModel:
    """A leaf with other tensors."""
    return replace(leaf, tensors={**leaf.tensors, **{n.replace("__", "."): ArrayTensor(a) for n, a in arrays.items()}})


@pytest.fixture(scope="module")
def lenet() -> ModuleSplit:
    return made("lenet")


@pytest.fixture(scope="module")
def trained() -> ModuleSplit:
    split = made("residual")
    train(split)
    return split


def broken(found: Verification) -> set[str]:
    return {check.name for check in found.checks if not check.passed}
