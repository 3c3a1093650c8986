"""Measure that a sub-model trains as fast as the same narrower architecture written by hand.

    python tools/benchmark_modules.py [--json] [--steps N] [--threads N]

For LeNet, ResNet-18 and a small transformer, K = 2: a training step (forward, loss, backward, SGD with momentum) of a
sub-model, and of the hand-written network of its widths with its weights, in turns in one run. The figure that counts is
the ratio of the medians; at most 1.1 is wanted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphsplit.modules import split_module

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.torch_nets import LeNet, Transformer, vision

Case = tuple[nn.Module, Callable[[dict[str, Tensor]], nn.Module], tuple[Any, ...]]


def resnet(width: int = 64) -> nn.Module:
    """ResNet-18 with another width."""
    models: Any = vision().models  # type: ignore[attr-defined]
    found: nn.Module = models.resnet18(num_classes=10)
    if width == 64:
        return found

    def narrow(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                size: Any = child.kernel_size
                first = 3 if child.in_channels == 3 else child.in_channels * width // 64
                setattr(
                    module,
                    name,
                    nn.Conv2d(first, child.out_channels * width // 64, size, child.stride, child.padding, bias=False),  # type: ignore[arg-type]
                )
            elif isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.num_features * width // 64))
            elif isinstance(child, nn.Linear):
                setattr(module, name, nn.Linear(child.in_features * width // 64, child.out_features))
            else:
                narrow(child)

    narrow(found)
    return found


def cases() -> dict[str, Case]:
    """Network, its narrower form for a sub-model's state dict, and a batch."""

    def lenet(state: dict[str, Tensor]) -> nn.Module:
        return LeNet(len(state["conv1.bias"]), len(state["conv2.bias"]), len(state["fc1.bias"]))

    def transformer(state: dict[str, Tensor]) -> nn.Module:
        inner, width = state["blocks.0.qkv.weight"].shape
        return Transformer(
            width, inner // 3 // 32, len(state["blocks.0.up.bias"]), words=1000, depth=4, size=32, drop=0.1
        )

    full = Transformer(256, 8, 1024, words=1000, depth=4, size=32, drop=0.1)
    return {
        "LeNet": (LeNet(), lenet, (torch.randn(64, 1, 28, 28),)),
        "ResNet-18": (resnet(), lambda state: resnet(len(state["bn1.bias"])), (torch.randn(16, 3, 64, 64),)),
        "transformer": (full, transformer, (torch.randint(0, 1000, (8, 32)),)),
    }


def measured(case: Case, steps: int) -> dict[str, float]:
    """Medians in milliseconds of both networks' steps, and their ratio."""
    model, narrower, args = case
    module = split_module(model.train(), args, k=2).submodels[0]
    state = module.state_dict()
    other = narrower(state)
    other.load_state_dict(state)
    trained = {"sub-model": module.train(), "by hand": other.train()}
    optimizers = {name: torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9) for name, net in trained.items()}
    times: dict[str, list[float]] = {name: [] for name in trained}
    for step in range(steps + 3):
        order = list(trained) if step % 2 else list(trained)[::-1]
        for name in order:
            start = time.perf_counter()
            optimizers[name].zero_grad()
            trained[name](*args).square().mean().backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found[3:]) * 1e3 for name, found in times.items()}
    return {**medians, "ratio": medians["sub-model"] / medians["by hand"]}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = {name: measured(case, options.steps) for name, case in cases().items()}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'network':<12} {'sub-model':>12} {'by hand':>12} {'ratio':>8}")
    for name, figures in found.items():
        print(f"{name:<12} {figures['sub-model']:>9.2f} ms {figures['by hand']:>9.2f} ms {figures['ratio']:>8.3f}")


if __name__ == "__main__":
    main()
