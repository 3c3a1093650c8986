"""How long a training step of an ONNX network as a torch module takes, against the torch module that it was exported from.

    python tools/benchmark_executor.py [--threads 1] [--rounds 15]

Both take the same batch, the same loss and plain SGD, in turns within one run, so that what else the machine does slows
both down; the medians' ratio is what counts. `forward` is evaluation mode alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.append(str(Path(__file__).parent.parent))
import graphsplit
from models.lenet import LeNet


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18 (He et al., 2015)."""
    widths = (64, 64, 128, 256, 512)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for i, (before, width) in enumerate(pairwise(widths)):
        layers += [Block(before, width, 2 if i else 1), Block(width, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """The networks with a batch each."""
    torch.manual_seed(0)
    lenet = LeNet()
    for name, child in lenet.named_children():
        if isinstance(child, nn.Dropout):  # evaluation mode is exported, which has none
            setattr(lenet, name, nn.Identity())
    return {
        "LeNet, batch 64": (lenet, torch.randn(64, 1, 28, 28)),
        "LeNet, batch 1": (lenet, torch.randn(1, 1, 28, 28)),
        "ResNet-18, batch 8 of 64x64": (resnet18(), torch.randn(8, 3, 64, 64)),
        "ResNet-18, batch 2 of 224x224": (resnet18(), torch.randn(2, 3, 224, 224)),
    }


def exported(model: nn.Module, x: torch.Tensor, folder: Path) -> Any:
    """The network as a module of ONNX ops."""
    path = folder / "network.onnx"
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:  # the exporter makes one tensor of equal ones, such as a fresh norm's mean and bias
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # in training mode batch norms stay nodes of their own, which evaluation mode would fold into convolutions
        torch.onnx.export(
            model.eval(), (x,), path, dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE
        )
    return graphsplit.trainable(path)


def stepper(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A training step."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    target = torch.zeros(len(x), dtype=torch.long)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def forward(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Evaluation without gradients."""
    model.eval()

    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def medians(runs: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """The median time of each, taken in turns."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
        run()
    for _ in range(rounds):
        for run, found in zip(runs, times, strict=True):
            begin = time.perf_counter()
            run()
            found.append(time.perf_counter() - begin)
    return [statistics.median(found) for found in times]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program, and give its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    print("| network | step in torch | step of ONNX ops | ratio | forward in torch | of ONNX ops | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, (model, x) in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            other = exported(model, x, Path(folder))
            rounds = given.rounds * (10 if x.numel() < 100_000 else 1)
            ones = medians([stepper(model, x), stepper(other, x)], rounds)
            twos = medians([forward(model, x), forward(other, x)], rounds)
            cells = [f"{t * 1e3:.2f} ms" for t in (*ones, *twos)]
            ratios = [f"{b / a:.2f}" for a, b in (ones, twos)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratios[0]} | {cells[2]} | {cells[3]} | {ratios[1]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
