"""Which way of training K sub-models on one device is fastest, measured on a batch of the user's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphsplit.errors import UnsupportedError
from graphsplit.stacking.modules import stack

Way = Literal["in turn", "contiguous", "channels_last"]
STACKED: tuple[Way, ...] = ("contiguous", "channels_last")
Loss = Callable[[Any, Any], Tensor]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Choice:
    """The fastest way, and the seconds that a step of all sub-models takes in each (forward, loss and backward).

    `refused` says why they can't be stacked, where they can't.
    """

    way: Way
    seconds: Mapping[Way, float]
    refused: str = ""


def choose(
    modules: Sequence[nn.Module],
    batch: Sequence[Any],
    loss: Loss,
    *,
    args: Sequence[Any] = (),
    repeats: int = 5,
    margin: float = 0.03,
) -> Choice:
    """Measure a step of K sub-models one after another and stacked, in turns, and take the fastest by their medians.

    `batch` is (inputs, targets), one part's: the first a tensor or a tuple of the module's arguments; `loss(outputs, targets)`
    gives one part's loss. Everything runs on copies, and no random number of the caller's is used up. Stacked has to be faster by
    `margin`, or nothing is gained. `args` export modules that aren't sub-models of a split (see `stack`).
    """
    copies = [copy.deepcopy(module).train() for module in modules]
    inputs = batch[0] if isinstance(batch[0], tuple) else (batch[0],)
    runs: dict[Way, Callable[[], None]] = {"in turn": lambda: _in_turn(copies, inputs, batch[1], loss)}
    refused = ""
    for way in STACKED:
        try:
            runs[way] = _run_stacked(copies, way, inputs, batch[1], loss, args)
        except UnsupportedError as error:
            refused = str(error)
            break
    devices = {tensor.device for module in modules for tensor in module.parameters()}
    cuda = [device for device in devices if device.type == "cuda"]
    seconds: dict[Way, list[float]] = {way: [] for way in runs}
    with torch.random.fork_rng(cuda), torch.enable_grad():
        for repeat in range(repeats + 1):
            for way, run in runs.items():
                passed = _timed(run, cuda)
                if repeat:  # the first one is for memory and compiled kernels
                    seconds[way].append(passed)
    medians = {way: median(times) for way, times in seconds.items()}
    return Choice(fastest(medians, margin=margin), medians, refused)


def fastest(seconds: Mapping[Name, float], *, stack: bool = False, margin: float = 0.03) -> Name:
    """The fastest way of those whose seconds are given; of the stacked ones alone with `stack`."""
    ways = [way for way in seconds if way != "in turn" or not stack]
    return min(ways, key=lambda way: seconds[way] * (1 if way == "in turn" else 1 + margin))


def part_losses(outputs: Any, targets: Any, loss: Loss) -> Tensor:
    """The loss of each part, shape (K,), for outputs and targets with the parts' axis in front.

    Their *sum* gives each part the gradients that it has by itself.
    """
    count = next(leaf.shape[0] for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))
    return torch.stack([loss(*pair) for pair in zip(unbound(outputs, count), unbound(targets, count), strict=True)])


def unbound(tree: Any, count: int) -> Iterator[Any]:
    """A tree of tensors with the axis of `count` parts in front, for each part."""
    leaves, spec = pytree.tree_flatten(tree)
    # unbind has one gradient for all parts; indexing would have one as large as the whole for each
    each = [leaf.unbind() if isinstance(leaf, Tensor) else (leaf,) * count for leaf in leaves]
    return (pytree.tree_unflatten(part, spec) for part in zip(*each, strict=True))


def _in_turn(modules: Sequence[nn.Module], inputs: Sequence[Any], targets: Any, loss: Loss) -> None:
    for module in modules:
        module.zero_grad()
        loss(module(*inputs), targets).backward()  # type: ignore[no-untyped-call]


def _run_stacked(
    modules: Sequence[nn.Module], way: Way, inputs: Sequence[Any], targets: Any, loss: Loss, args: Sequence[Any]
) -> Callable[[], None]:
    assert way != "in turn"
    stacked = stack(modules, args, layout=way)
    given, wanted = (
        pytree.tree_map(lambda leaf: torch.stack([leaf] * len(modules)) if isinstance(leaf, Tensor) else leaf, tree)
        for tree in (tuple(inputs), targets)
    )

    def run() -> None:
        stacked.zero_grad()
        part_losses(stacked(*given), wanted, loss).sum().backward()  # type: ignore[no-untyped-call]

    return run


def _timed(run: Callable[[], None], cuda: Sequence[torch.device]) -> float:
    for device in cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    for device in cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
