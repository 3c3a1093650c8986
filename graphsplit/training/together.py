"""Sub-models of equal shapes on one device, trained as one stacked computation where that is faster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from graphsplit.errors import UnsupportedError
from graphsplit.executor import OnnxModule
from graphsplit.files import atomic_file
from graphsplit.stacking import choose, fastest, stack, stack_optimizers, unstack, unstack_optimizer
from graphsplit.stacking.optimizers import refuse_unknown
from graphsplit.training.checkpoint import Progress, save
from graphsplit.training.history import written
from graphsplit.training.loop import CHECKPOINT, METRICS, Course, Outcome, Report, identity, train
from graphsplit.training.streams import Stream, drawn
from graphsplit.training.task import Task, TrainingError
from graphsplit.training.trainee import Layout, Trainee, batch_of, fed, make, same_shapes, take_up

Stack = Literal["auto", "on", "off"]
WAY = "way.json"
IN_TURN = "in turn"
REPEATS = 3
PROBED = 3
"""How many batches of each part are looked at before they are stacked."""


def way_of(
    task: Task,
    modules: Sequence[nn.Module],
    parts: Sequence[int],
    stacked: Stack,
    place: Path,
    device: str,
    epochs: int,
    layout: Layout = "contiguous",
) -> str:
    """How to train: in turn, or stacked with a memory layout. Measured once, on the task's own batches, and then kept.

    Raises TrainingError where stacking is asked for and isn't possible.
    """
    if stacked == "off" or len(modules) < 2:
        return IN_TURN
    known = place / WAY
    content: dict[str, Any] = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    way: str = content.get("way", IN_TURN)
    begun = (place / CHECKPOINT).exists()
    if begun and way != IN_TURN:  # to the same result
        return way
    seconds: dict[str, float] = content.get("seconds", {})
    if content.get("on") != [device, layout]:
        seconds, refused = _measured(task, modules, parts, device, epochs, layout)
        if len(seconds) < 2:
            if stacked == "on":
                raise TrainingError(f"--stack on: {refused}", hint="--stack auto trains in turn what can't be stacked")
            return IN_TURN
    way = fastest(seconds, stack=begun or stacked == "on")
    place.mkdir(parents=True, exist_ok=True)
    with atomic_file(known, force=True) as staged:
        staged.write_text(json.dumps({"way": way, "seconds": seconds, "on": [device, layout]}) + "\n", encoding="utf-8")
    return way


def _measured(
    task: Task, modules: Sequence[nn.Module], parts: Sequence[int], device: str, epochs: int, layout: Layout
) -> tuple[dict[str, float], str]:
    """The seconds of a step in each way that is possible, and why the others aren't."""
    if any(isinstance(module, OnnxModule) for module in modules):
        return {}, "sub-models that are ONNX files can't be stacked"
    trainees = [make(task, module, [part], device, epochs, layout) for module, part in zip(modules, parts, strict=True)]
    try:
        refuse_unknown(trainees[0].optimizer)
    except UnsupportedError as error:
        return {}, error.message
    streams = [Stream(drawn(task.train_data, 0), 0, part, task.path) for part in parts]
    for stream in streams:
        stream.begin(0)
    for _ in range(min(PROBED, len(streams[0]))):
        found = [batch_of(stream.next(), trainees[0].device) for stream in streams]
        if not same_shapes([inputs for inputs, _ in found]):
            return {}, "the parts' batches have different shapes"
    inputs, targets = found[0]
    if isinstance(inputs, Mapping):
        return {}, "inputs by name can't be stacked"
    batch = tuple(inputs) if isinstance(inputs, list) else inputs, targets
    with fed("train_data"):
        chosen = choose(modules, batch, task.loss, repeats=REPEATS)
    return {str(way): passed for way, passed in chosen.seconds.items()}, chosen.refused


def train_together(
    task: Task,
    modules: Sequence[nn.Module],
    parts: Sequence[int],
    way: str,
    course: Course,
    device: str,
    layout: Layout,
    report: Report | None,
) -> tuple[list[Outcome], list[Trainee]]:
    """Train sub-models stacked. Gives outcomes, and each one with its own optimizer and schedule as they are then.

    Raises TrainingError for a task whose optimizer can't be stacked.
    """
    apart = [
        make(task, module, [part], device, course.epochs, layout) for module, part in zip(modules, parts, strict=True)
    ]
    together = stacked_of(task, apart, way, course.epochs)
    found = train(task, together, course, report)
    unstacked_into(together, apart)
    return found, apart


def stacked_of(task: Task, apart: Sequence[Trainee], way: str, epochs: int) -> Trainee:
    """Sub-models as one computation in a memory layout, optimizers and schedule too, from where they are.

    Raises TrainingError for what can't be stacked.
    """
    modules = [one.module for one in apart]
    try:
        module = stack(modules, layout=way)  # type: ignore[arg-type]
        optimizer = stack_optimizers([one.optimizer for one in apart], module, modules)
    except UnsupportedError as error:
        raise TrainingError(f"--stack: {error.message}", hint=error.hint or "add --stack off") from error
    together = Trainee(module, optimizer, None, tuple(part for one in apart for part in one.parts), apart[0].device)
    first = apart[0].schedule
    take_up(task, together, epochs, None if first is None else first.state_dict())
    return together


def unstacked_into(together: Trainee, apart: Sequence[Trainee]) -> None:
    """Put what a stack has learnt, and where its optimizer and schedule are, into the sub-models that it is made of."""
    modules = [one.module for one in apart]
    unstack(together.module, modules)
    unstack_optimizer(together.optimizer, together.module, [one.optimizer for one in apart], modules)
    for one in apart:
        if together.schedule is not None:
            one.schedule.load_state_dict(together.schedule.state_dict())


def leave(task: Task, trainee: Trainee, outcome: Outcome, course: Course, folder: Path) -> None:
    """Leave in a part's folder what it would have there if it had been trained alone, and its share of time and work."""
    progress = Progress(
        epoch=outcome.epochs,
        samples=outcome.samples,
        seconds=outcome.seconds / outcome.together,
        multiply_adds=outcome.multiply_adds // outcome.together,
        peak_memory=outcome.peak_memory,
        lines=len(outcome.history),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / METRICS, force=True) as staged:
        staged.write_text(written(outcome.history), encoding="utf-8")
    save(folder / CHECKPOINT, trainee, progress, identity(course, trainee, task))
