"""Sub-models that are trained apart and stacked, and how far they end from each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from graphsplit.modules import split_module
from graphsplit.stacking import part_losses
from tests.torch_nets import Grouped, LeNet, Residual, Transformer

STEPS, BATCH = 4, 6
Optimize = Callable[[Any], Any]


class Recurrent(nn.Module):
    """Words, a recurrent layer and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm, self.out = nn.Embedding(20, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.out(self.lstm(self.words(tokens))[0][:, -1])
        return found


def lenet(p: float = 0.0) -> nn.Module:
    module = LeNet(6, 8, 20)
    module.drop.p = p
    return module


def images(channels: int = 3, size: int = 16) -> Callable[[], Tensor]:
    return lambda: torch.randn(BATCH, channels, size, size, dtype=torch.float64)


def words(count: int, length: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, count, (BATCH, length))


MADE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "lenet": (lenet, images(1, 28)),
    "residual": (Residual, images()),
    "grouped": (Grouped, images(size=8)),
    "transformer": (lambda: Transformer(depth=1), words(40, 7)),
    "decomposed attention": (lambda: Transformer(depth=1, fused=False, tied=True), words(40, 7)),
    "recurrent": (Recurrent, words(20, 5)),
}
OPTIMIZERS: dict[str, Optimize] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    # a gradient that is zero but for rounding (of a key's bias) would become a step of rounding divided by eps
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4),
}


def parts_made(name: str, k: int = 2) -> list[nn.Module]:
    """Trainable sub-models in double precision, each with weights of its own."""
    torch.manual_seed(0)
    make, inputs = MADE[name]
    parts = split_module(make().double().train(), (inputs(),), k=k).submodels
    with torch.no_grad():
        for tensor in (t for part in parts for t in part.parameters()):
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return parts


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def data(name: str, k: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of K parts, each part with its own."""
    torch.manual_seed(1)
    made = parts_made(name, 1)[0].eval()
    inputs = [torch.stack([MADE[name][1]() for _ in range(k)]) for _ in range(steps)]
    with torch.no_grad():
        shape = made(inputs[0][0]).shape
    return [(x, torch.randint(0, shape[-1], (k, *shape[:-1]))) for x in inputs]


def train_apart(
    parts: Sequence[nn.Module], optimizers: Sequence[Any], batches: Sequence[tuple[Tensor, Tensor]]
) -> None:
    for x, y in batches:
        for k, (part, optimizer) in enumerate(zip(parts, optimizers, strict=True)):
            optimizer.zero_grad()
            loss_of(part(x[k]), y[k]).backward()
            optimizer.step()


def train_stacked(stacked: nn.Module, optimizer: Any, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        part_losses(stacked(x), y, loss_of).sum().backward()
        optimizer.step()


def distance(parts: Sequence[nn.Module], states: Sequence[dict[str, Tensor]]) -> float:
    """The largest difference between what the parts hold and these states, in proportion."""
    worst = 0.0
    for part, state in zip(parts, states, strict=True):
        held = part.state_dict()
        assert list(held) == list(state)
        for name, tensor in held.items():
            scale = 1 + float(tensor.double().abs().max())
            worst = max(worst, float((tensor.double() - state[name].double()).abs().max()) / scale)
    return worst
