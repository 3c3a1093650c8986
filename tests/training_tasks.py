"""A small network and the tasks that train it, which the tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphsplit
from graphsplit.training import Outcome, Task, load_task

ROOT = Path(__file__).parent.parent

TASK = """
import torch
from torch.utils.data import DataLoader, Dataset

EPOCHS = 3
SCHEDULE_EACH = "{each}"
RATE = 0.05


class Noisy(Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, at):
        x = torch.sin(torch.arange(6.0) * (at + 1))
        return x + 0.1 * torch.randn(6), torch.tensor(at % 4)  # draws: an augmentation


def train_data():
    return DataLoader(Noisy(), batch_size=5, shuffle=True)


def validation_data():
    return [(torch.sin(torch.arange(6.0) * torch.arange(1.0, 9.0)[:, None]), torch.arange(8) % 4)]


def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)


def metrics(outputs, targets):
    return {{"error": (outputs.argmax(1) != targets).float().mean()}}


def optimizer(model):
    return torch.optim.{optimizer}(model.parameters(), lr=RATE)


def schedule(optimizer, epochs):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
"""
PLAIN = TASK.format(each="epoch", optimizer="SGD")


class Net(nn.Module):
    """With batch norm and dropout: buffers that change, and a network that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.drop, self.down = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return self.down(self.drop(self.norm(self.up(x)).relu()))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK.format(each="epoch", optimizer="SGD"))
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=tmp_path / "parts")
    return tmp_path / "parts"


def weights(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in outcome.history]


class _KilledError(Exception):
    pass


def _killed(*_: object) -> None:
    raise _KilledError


def calm_net() -> Net:
    """Without dropout, which a stack draws in another order, and in double precision."""
    found = net()
    found.drop.p = 0.0
    return found.double()


@pytest.fixture
def double_task(tmp_path: Path) -> Task:
    path = tmp_path / "double.py"
    path.write_text(in_double())
    return load_task(path)


def in_double() -> str:
    """The plain task with momentum, its data in double precision."""
    text = PLAIN.replace("lr=RATE)", "lr=RATE, momentum=0.9)").replace(
        "torch.arange(6.0", "torch.arange(6, dtype=float"
    )
    return text.replace("torch.randn(6)", "torch.randn(6).double()")


def split_calm(folder: Path) -> Path:
    graphsplit.split(calm_net(), (torch.randn(3, 6).double(),), k=2, out=folder)
    return folder


def states(folder: Path) -> list[dict[str, Any]]:
    return [graphsplit.load_module(folder / f"submodel_{part}.pt2").state_dict() for part in (0, 1)]
