"""Measure what a step of all K sub-models on one device costs, against one of the full model.

    python tools/benchmark_stacking.py [--json] [--steps N] [--threads N] [--device cuda] [--cpu-time] [--k 2 5 10]

The paper's LeNet, batch 500, SGD with momentum 0.9, K = 2, 5 and 10: one step (its batch out of the data, forward,
loss, backward, update) of the full model, of the K sub-models one after another, stacked (images as they are, and
channels last), and through `torch.func` with vmap over a stacked state; all in turns in one run, the data on the
device. Figures are medians, and their ratio to the full model's; beside them the ratio of multiply-adds, and the full
model's own step with channels last, which is the stricter comparison. An epoch is equally many steps of each, so its
ratio is the same. `--cpu-time` counts the seconds that this process's threads ran instead of those that passed, where
other programs use the machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from graphsplit.modules import split_module
from graphsplit.stacking import part_losses, stack

sys.path.insert(0, str(Path(__file__).parent.parent))
from models.lenet import LeNet

BATCH, IMAGES = 500, 10_000
Step = Callable[[], None]


@dataclass(frozen=True)
class Data:
    """Images (n, 1, 28, 28) and their digits, on the device."""

    images: Tensor
    digits: Tensor


def stepped(parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> Step:
    """A step of SGD with momentum on a loss."""
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def alone(module: nn.Module, data: Data, order: Tensor) -> Step:
    """One network, which takes its batch out of the data."""
    return stepped(list(module.parameters()), lambda: cross_entropy(module(data.images[order]), data.digits[order]))


def joint(module: nn.Module, data: Data, orders: Tensor) -> Step:
    """A stack, each part of which has its own order of the data."""
    return stepped(
        list(module.parameters()),
        lambda: part_losses(module(data.images[orders]), data.digits[orders], cross_entropy).sum(),
    )


def in_turn(each: Sequence[Step]) -> None:
    for step in each:
        step()


def vmapped(modules: Sequence[nn.Module], data: Data, orders: Tensor) -> Step:
    """`torch.func` over a stacked state."""
    state, buffers = stack_module_state(list(modules))
    base = copy.deepcopy(modules[0])

    def outputs(params: dict[str, Tensor], held: dict[str, Tensor], x: Tensor) -> Tensor:
        found: Tensor = functional_call(base, (params, held), (x,))
        return found

    batched = torch.vmap(outputs, randomness="different")

    def loss() -> Tensor:
        return part_losses(batched(state, buffers, data.images[orders]), data.digits[orders], cross_entropy).sum()

    return stepped(list(state.values()), loss)


class Last(nn.Module):
    """A module whose images have their channels last in memory."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images.contiguous(memory_format=torch.channels_last))
        return found


def steps(counts: Sequence[int], device: str) -> dict[str, Step]:
    """What is measured: the full model, and each way for each K."""
    torch.manual_seed(0)
    model = LeNet()
    data = Data(torch.randn(IMAGES, 1, 28, 28, device=device), torch.randint(10, (IMAGES,), device=device))
    orders = torch.stack([torch.randperm(IMAGES, device=device)[:BATCH] for _ in range(max(counts))])
    found = {"full": alone(copy.deepcopy(model).to(device).train(), data, orders[0])}
    found["full, channels last"] = alone(Last(copy.deepcopy(model).to(device).train()), data, orders[0])
    for k in counts:
        parts = [part.to(device).train() for part in split_module(model, (torch.randn(2, 1, 28, 28),), k=k).submodels]
        each = [alone(part, data, order) for part, order in zip(copy.deepcopy(parts), orders, strict=False)]
        found[f"{k} in turn"] = partial(in_turn, each)
        found[f"{k} stacked"] = joint(stack(parts, layout="contiguous"), data, orders[:k])
        found[f"{k} stacked, channels last"] = joint(stack(parts, layout="channels_last"), data, orders[:k])
        found[f"{k} vmap"] = vmapped(parts, data, orders[:k])
    return found


def measured(found: dict[str, Step], count: int, device: str, clock: Callable[[], float]) -> dict[str, float]:
    """Medians in milliseconds, in turns that go both ways."""

    def done() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(count + 2):
        for name in list(found) if turn % 2 else list(found)[::-1]:
            done()
            start = clock()
            found[name]()
            done()
            times[name].append(clock() - start)
    return {name: statistics.median(held[2:]) * 1e3 for name, held in times.items()}


def multiply_adds(k: int) -> int:
    """Of one image through all K sub-models, forward."""
    model = LeNet().eval()
    image = torch.randn(1, 1, 28, 28)
    total = 0
    for module in split_module(model, (image,), k=k).submodels:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(image)
        total += counter.get_total_flops() // 2
    return total


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 5, 10])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    clock = time.process_time if options.cpu_time else time.perf_counter
    found = measured(steps(options.k, options.device), options.steps, options.device, clock)
    bound = {k: multiply_adds(k) / multiply_adds(1) for k in options.k}
    load = os.getloadavg()
    if options.json:
        print(json.dumps({"milliseconds": found, "multiply-adds": bound, "load": load}))
        return
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads, load {load[0]:.1f}; milliseconds, ratio"
    )
    print(f"{'full':<28} {found['full']:8.1f}  1.00")
    last = "full, channels last"
    print(f"{last:<28} {found[last]:8.1f}  {found[last] / found['full']:.2f}")
    for k in options.k:
        print(f"{f'{k} multiply-adds':<28} {'':8}  {bound[k]:.2f}")
        for way in ("in turn", "stacked", "stacked, channels last", "vmap"):
            name = f"{k} {way}"
            print(f"{name:<28} {found[name]:8.1f}  {found[name] / found['full']:.2f}")


if __name__ == "__main__":
    main()
