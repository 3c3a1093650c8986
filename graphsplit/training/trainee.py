"""What is trained as one: a module with its optimizer and schedule, or several sub-models stacked into one computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphsplit.errors import GraphsplitError
from graphsplit.stacking import unbound
from graphsplit.training.streams import apart
from graphsplit.training.task import Task, TrainingError, batches

Layout = Literal["contiguous", "channels_last"]
"""How images and the filters over them lie in memory: the same numbers up to rounding, and on some machines sooner."""


@dataclass
class Trainee:
    """A module on its device. `parts` are the sub-models that it stands for; of several, the first axis is theirs.

    A whole network stands for no part of a split, and is number 0. `counted` are its multiply-adds for a sample, once that is
    known.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    parts: tuple[int, ...]
    device: torch.device
    counted: float = 0.0

    @property
    def stacked(self) -> bool:
        """Whether the module computes several sub-models at once."""
        return len(self.parts) > 1

    def outputs(self, inputs: Sequence[Any]) -> list[Any]:
        """Each sub-model's outputs, given each one's inputs: a tensor, or tensors by position or by name."""
        if not self.stacked:
            return [call(self.module, inputs[0])]
        if not same_shapes(inputs):
            raise TrainingError(
                "the parts' batches have different shapes, and can't be stacked",
                hint="start anew with --stack off --force: sub-models then train one after another",
            )
        joined = pytree.tree_map(lambda *each: torch.stack(each) if torch.is_tensor(each[0]) else each[0], *inputs)
        return list(unbound(call(self.module, joined), len(inputs)))

    def backward(self, losses: Sequence[torch.Tensor]) -> None:
        """Gradients of each sub-model's own loss: none depends on another's parameters."""
        total = losses[0] if len(losses) == 1 else torch.stack(tuple(losses)).sum()
        total.backward()  # type: ignore[no-untyped-call]


def same_shapes(trees: Sequence[Any]) -> bool:
    """Whether the tensors of trees have the same shapes, one by one."""
    shapes = [[x.shape for x in pytree.tree_leaves(tree) if torch.is_tensor(x)] for tree in trees]
    return all(each == shapes[0] for each in shapes)


def call(module: nn.Module, inputs: Any) -> Any:
    """Call a module with what a batch holds: one tensor, a tuple or list by position, a mapping by name."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, list | tuple) else module(inputs)


def outputs_of(trainee: Trainee, inputs: Sequence[Any], name: str = "train_data") -> list[Any]:
    """Each sub-model's outputs, given inputs from the data of the task's function `name`. Raises TrainingError."""
    with fed(name):
        return trainee.outputs(inputs)


@contextmanager
def fed(name: str) -> Iterator[None]:
    """What a network raises inside becomes a TrainingError about the inputs that it was given; want of memory isn't theirs."""
    try:
        yield
    except (GraphsplitError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"the network can't take the inputs of {name}(): {type(error).__name__}: {first:.300}",
            hint="sub-models take what their source takes: shapes, types, names, and as many tokens",
        ) from error


def batch_of(found: Any, device: torch.device, name: str = "train_data") -> tuple[Any, Any]:
    """Inputs and targets of a batch from the task's function `name`, on the device. Raises TrainingError for anything else."""
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise TrainingError(
            f"{name}() gives batches of type {type(found).__name__}, and not pairs of inputs and targets",
            hint="several inputs go into a tuple, or into a dictionary by name: ((tokens, mask), targets)",
        )
    inputs, targets = pytree.tree_map(lambda x: x.to(device, non_blocking=True) if torch.is_tensor(x) else x, found)
    if not samples((inputs, targets)):
        raise TrainingError(f"{name}() gives a batch without samples", hint="leave it out: it has no mean loss")
    return inputs, targets


def samples(batch: tuple[Any, Any]) -> int:
    """How many samples a batch has: the length of its first tensor's first axis."""
    return next((len(x) for x in pytree.tree_leaves(batch) if torch.is_tensor(x) and x.dim()), 1)


def make(
    task: Task,
    module: nn.Module,
    parts: Sequence[int],
    device: str | torch.device,
    epochs: int,
    layout: Layout = "contiguous",
) -> Trainee:
    """Put a module on its device, in a memory layout, and give it the task's optimizer and schedule. Raises TrainingError."""
    if str(device).partition(":")[0] == "meta":
        raise TrainingError("--device meta: it keeps no numbers, and can't train", hint="choose cpu or cuda")
    try:
        place = torch.device(device)
        module = module.to(place).train()
        if layout == "channels_last":
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {device}: {str(error).splitlines()[0]}") from error
    optimizer = task.optimizer(module)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TrainingError(f"optimizer() gives a {type(optimizer).__name__}, and no torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TrainingError(
            "LBFGS evaluates the loss several times a step, which this trainer doesn't", hint="see docs/trainers.md"
        )
    return Trainee(module, optimizer, schedule_of(task, optimizer, epochs), tuple(parts), place)


def schedule_of(task: Task, optimizer: torch.optim.Optimizer, epochs: int) -> Any:
    """The task's schedule of an optimizer; None where it has none. Raises TrainingError."""
    made = task.schedule(optimizer, epochs) if task.schedule is not None else None
    if made is not None and not isinstance(made, torch.optim.lr_scheduler.LRScheduler):
        raise TrainingError(f"schedule() gives a {type(made).__name__}, and no scheduler of torch.optim.lr_scheduler")
    if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TrainingError(
            "ReduceLROnPlateau gives each sub-model a rate of its own, and the merged network goes on with one",
            hint="take a schedule of epochs or steps; --merge-when plateau merges when the loss stops falling",
        )
    return made


def take_up(task: Task, trainee: Trainee, epochs: int, state: Any) -> None:
    """Give a trainee whose optimizer goes on from that of others its schedule, where theirs was: `state`, if they had one.

    A schedule sets rates, and some set momentum, as it is made: the settings that the optimizer has are put back.
    """
    groups = trainee.optimizer.param_groups
    settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    for group in groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    trainee.schedule = schedule_of(task, trainee.optimizer, epochs)
    if trainee.schedule is not None and state is not None:
        trainee.schedule.load_state_dict(state)
    for group, known in zip(groups, settings, strict=True):
        group.update(known)


def evaluate(
    task: Task,
    trainee: Trainee,
    data: Any,
    progress: Callable[[int], None] | None = None,
    *,
    name: str = "validation_data",
    most: int | None = None,
) -> list[dict[str, float]]:
    """Loss and metrics of each sub-model over data, means over the samples; all see the same batches, `most` of them.

    name: the task's function that gave the data, for messages. Raises TrainingError.
    """
    found: list[dict[str, tuple[Any, int]]] = [{} for _ in trainee.parts]
    trainee.module.eval()
    with torch.no_grad(), apart(0):
        for number, item in enumerate(islice(batches(data, name, task.path), most)):
            inputs, targets = batch_of(item, trainee.device, name)
            size = samples((inputs, targets))
            outputs = outputs_of(trainee, [inputs] * len(trainee.parts), name)
            try:
                for sums, (key, value) in _measured(task, outputs, targets, found):
                    total, count = sums.get(key, (0.0, 0))
                    sums[key] = total + value * size, count + size
            except TrainingError as error:  # loss() got through the training data, as a rule
                raise TrainingError(f"{error.message}; on a batch of {name}()", hint=error.hint) from error
            if progress is not None:
                progress(number + 1)
    trainee.module.train()
    if not found[0]:
        raise TrainingError(f"{name}() gives no batch", hint="leave the function out where there is no such data")
    return [{name: float(total) / count for name, (total, count) in sums.items()} for sums in found]


def _measured(
    task: Task, outputs: Sequence[Any], targets: Any, found: list[dict[str, tuple[Any, int]]]
) -> Iterator[tuple[dict[str, tuple[Any, int]], tuple[str, Any]]]:
    for sums, own in zip(found, outputs, strict=True):
        loss = task.loss(own, targets)
        if not torch.is_tensor(loss) or loss.dim():
            raise TrainingError("loss() doesn't give a scalar tensor", hint="take the mean over the batch")
        yield sums, ("loss", loss.detach())
        numbers = task.metrics(own, targets) if task.metrics is not None else {}
        if not isinstance(numbers, Mapping) or "loss" in numbers:
            raise TrainingError("metrics() doesn't give numbers by names other than loss", hint='such as {"error": …}')
        for name, value in numbers.items():
            try:
                yield sums, (name, float(value))
            except (TypeError, ValueError, RuntimeError) as error:
                raise TrainingError(f"metrics() gives {name!r} as {type(value).__name__}, and no number") from error
