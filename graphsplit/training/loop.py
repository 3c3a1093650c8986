"""The training loop: epochs of batches, measured, and written down so that it can go on after any kill."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphsplit.files import atomic_file
from graphsplit.training import checkpoint
from graphsplit.training.board import Board
from graphsplit.training.checkpoint import Progress
from graphsplit.training.flops import flop_counter
from graphsplit.training.history import read, written
from graphsplit.training.streams import Stream, drawn, held_out, seed_model
from graphsplit.training.task import Task, TrainingError, blaming
from graphsplit.training.trainee import Trainee, batch_of, evaluate, outputs_of, samples

CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Course:
    """What is asked of a training: to which epoch (of how many in the schedule), with what seed, and where it keeps its files.

    first: the epoch that it starts at, where networks before it trained so far. every: seconds between checkpoints.
    other_task: whether an earlier training is gone on with though its task was another one.
    """

    until: int
    epochs: int
    seed: int = 0
    first: int = 0
    folder: Path | None = None
    every: float = 60.0
    resume: bool = False
    force: bool = False
    other_task: bool = False
    title: str = "training"


@dataclass(frozen=True)
class Outcome:
    """What a training of one part came to. seconds, multiply-adds and memory are those of all that was trained with it.

    history: a line for each epoch, as in the metrics file. finished: whether the epochs asked for are done.
    """

    part: int
    epochs: int
    samples: int
    seconds: float
    multiply_adds: int
    peak_memory: int
    together: int
    history: tuple[dict[str, Any], ...]


@dataclass
class _Run:
    task: Task
    trainee: Trainee
    course: Course
    streams: list[Stream]
    report: Report
    progress: Progress
    board: Board
    sums: list[torch.Tensor] = field(default_factory=list)
    saved: float = 0.0
    begun: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        return identity(self.course, self.trainee, self.task)


def identity(course: Course, trainee: Trainee, task: Task) -> dict[str, Any]:
    """What has to be the same when a training is gone on with."""
    return {
        "seed": course.seed,
        "parts": list(trainee.parts),
        "first epoch": course.first,
        "epochs of the schedule": course.epochs,
        "task": task.digest,
    }


def train(task: Task, trainee: Trainee, course: Course, report: Report | None = None) -> list[Outcome]:
    """Train to the end of a course: one outcome for each sub-model.

    With a folder, an earlier training there is gone on with (`resume`), replaced (`force`), or refused. Raises TrainingError.
    """
    data = [drawn(task.train_data, course.seed) for _ in trainee.parts]
    streams = [Stream(one, course.seed, part, task.path) for one, part in zip(data, trainee.parts, strict=True)]
    run = _Run(
        task,
        trainee,
        course,
        streams,
        report or (lambda *_: None),
        Progress(epoch=course.first, each=trainee.counted),
        Board(None, 0),
    )
    _open(run)
    run.board = Board(course.folder, run.progress.epoch)
    run.begun = run.saved = time.monotonic()
    validation = held_out(task, "validation_data", course.seed)
    while run.progress.epoch < course.until:
        _epoch(run)
        _finish_epoch(run, validation)
    run.board.close()
    if course.folder is not None and not (course.folder / CHECKPOINT).exists():
        _save(run)  # no epoch was asked for: what comes after takes up the start
    return _outcomes(run)


def _open(run: _Run) -> None:
    """Take up an earlier training, or start one."""
    seed_model(run.course.seed, run.trainee.parts, run.course.first)
    run.sums = [torch.zeros((), device=run.trainee.device) for _ in run.trainee.parts]
    if run.course.folder is None:
        return
    path = run.course.folder / CHECKPOINT
    if path.exists() and not (run.course.resume or run.course.force):
        known = checkpoint.read(path)["progress"]
        raise TrainingError(
            f"{str(run.course.folder)!r} holds a training at epoch {known['epoch']}",
            hint="add --resume to go on with it, or --force to start anew from the weights as they are",
        )
    if path.exists() and run.course.resume:
        content = checkpoint.read(path)
        checkpoint.refuse_another(content, run.identity, path, other_task=run.course.other_task)
        run.progress = checkpoint.restore(content, run.trainee, path)
        run.sums = [torch.as_tensor(total, device=run.trainee.device) for total in run.progress.losses] or run.sums
    if run.course.force and not run.course.resume:
        path.unlink(missing_ok=True)  # or a kill would bring it back
    run.course.folder.mkdir(parents=True, exist_ok=True)
    _keep_lines(run.course.folder / METRICS, run.progress.lines)


def _keep_lines(path: Path, count: int) -> None:
    """Drop what a killed run wrote behind its last checkpoint."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if not path.exists() or len(lines) != count:
        with atomic_file(path, force=True) as staged:
            staged.write_text("".join(lines[:count]), encoding="utf-8")


def _epoch(run: _Run) -> None:
    """The batches of an epoch that are left."""
    progress, trainee = run.progress, run.trainee
    for stream in run.streams:
        stream.begin(progress.epoch, skip=progress.step)
    total = len(run.streams[0])  # a sampler may have another length each epoch
    before, whole = progress.epoch * total, run.course.until * total
    trainee.module.train()
    while progress.step < total:
        batches = [batch_of(stream.next(), trainee.device) for stream in run.streams]
        _step(run, batches)
        progress.step += 1
        run.report(run.course.title, before + progress.step, whole)
        if run.task.schedule_each == "step":
            _step_schedule(run, f"it is stepped after each batch, {run.course.epochs * total} times in all")
        if progress.step < total and time.monotonic() - run.saved > run.course.every:
            _save(run)


def _step(run: _Run, batches: Sequence[tuple[Any, Any]]) -> None:
    """One step of the optimizer."""
    progress, trainee = run.progress, run.trainee
    size = samples(batches[0])
    with _Counter(progress, size) if not progress.each else nullcontext():
        outputs = outputs_of(trainee, [inputs for inputs, _ in batches])
        losses = [run.task.loss(out, targets) for out, (_, targets) in zip(outputs, batches, strict=True)]
        if not (torch.is_tensor(losses[0]) and losses[0].dim() == 0 and losses[0].requires_grad):
            raise TrainingError(
                "loss() doesn't give a scalar tensor that depends on the outputs", hint="take the mean over the batch"
            )
        trainee.optimizer.zero_grad(set_to_none=True)
        with blaming(run.task.path, "the gradient of loss()"):
            trainee.backward(losses)
    with blaming(run.task.path, "the optimizer of optimizer()"):
        trainee.optimizer.step()
    trainee.counted = progress.each
    for at, loss in enumerate(losses):
        run.sums[at] = run.sums[at] + loss.detach() * size
    progress.counted += size
    progress.samples += size * len(batches)
    progress.multiply_adds += round(progress.each * size)


def _step_schedule(run: _Run, hint: str) -> None:
    if run.trainee.schedule is not None:
        with blaming(run.task.path, "the schedule of schedule()", hint):
            run.trainee.schedule.step()


class _Counter(AbstractContextManager["_Counter"]):
    """Counts the multiply-adds of a step, forward and backward, for each of its samples."""

    def __init__(self, progress: Progress, size: int) -> None:
        self.progress, self.size, self.counter = progress, size, flop_counter()

    def __enter__(self) -> _Counter:
        self.counter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.counter.__exit__(*error)
        self.progress.each = max(1, self.counter.get_total_flops() // 2) / self.size


def _finish_epoch(run: _Run, validation: Any) -> None:
    """Measure, write a line for each sub-model, step the schedule, and checkpoint."""
    progress, trainee, course = run.progress, run.trainee, run.course
    means = [float(total) / progress.counted for total in run.sums]
    if not all(math.isfinite(mean) for mean in means):
        raise _diverged(run, f"loss of epoch {progress.epoch + 1} is {next(m for m in means if not math.isfinite(m))}")
    rates = [group["lr"] for group in trainee.optimizer.param_groups]
    if run.task.schedule_each == "epoch":
        _step_schedule(run, f"it is stepped after each epoch, {course.epochs} times in all")
    held = evaluate(run.task, trainee, validation) if validation is not None else None
    progress.epoch, progress.step, progress.counted, progress.losses = progress.epoch + 1, 0, 0, []
    run.sums = [torch.zeros((), device=trainee.device) for _ in trainee.parts]
    _clock(run)
    lines = [
        {
            "part": part,
            "epoch": progress.epoch,
            "learning_rate": float(rates[0]),
            "loss": means[at],
            **({"validation": held[at]} if held is not None else {}),
            "samples": progress.samples // len(trainee.parts),
            "seconds": round(progress.seconds, 3),
        }
        for at, part in enumerate(trainee.parts)
    ]
    if course.folder is None:
        run.history += lines
        return
    with (course.folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(written(lines))
    progress.lines += len(lines)
    run.board.write(lines)
    if progress.epoch >= course.until or time.monotonic() - run.saved > course.every:
        _save(run)


def _clock(run: _Run) -> None:
    """Bring time and memory up to date."""
    now = time.monotonic()
    run.progress.seconds += now - run.begun
    run.begun = now
    run.progress.peak_memory = max(run.progress.peak_memory, _memory(run.trainee.device))


def _memory(device: torch.device) -> int:
    """Bytes at the peak: of the accelerator's memory, else of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # there is none on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _save(run: _Run) -> None:
    if run.course.folder is None:
        return
    if not all(bool(weight.isfinite().all()) for weight in run.trainee.module.parameters() if weight.requires_grad):
        raise _diverged(run, f"network has weights in epoch {run.progress.epoch + 1} that aren't finite")
    _clock(run)
    run.progress.losses = [total.cpu() for total in run.sums]
    checkpoint.save(run.course.folder / CHECKPOINT, run.trainee, run.progress, run.identity)
    run.saved = time.monotonic()


def _diverged(run: _Run, what: str) -> TrainingError:
    kept = run.course.folder is not None and (run.course.folder / CHECKPOINT).exists()
    return TrainingError(
        f"the {what}",
        hint="a smaller learning rate, as a rule"
        + "; the checkpoint before it is kept: start anew with --force in place of --resume" * kept,
    )


def _outcomes(run: _Run) -> list[Outcome]:
    place = None if run.course.folder is None else run.course.folder / METRICS
    return outcome_of(vars(run.progress), place, run.trainee.parts, run.history)


def outcome_of(
    progress: Mapping[str, Any], metrics: Path | None, parts: Sequence[int], history: Sequence[dict[str, Any]] = ()
) -> list[Outcome]:
    """What a training came to, from what a checkpoint says of it and its metrics file, if there is one."""
    if metrics is not None:
        history = read(metrics)
    return [
        Outcome(
            part,
            progress["epoch"],
            progress["samples"] // len(parts),
            progress["seconds"],
            progress["multiply_adds"],
            progress["peak_memory"],
            len(parts),
            tuple(line for line in history if line["part"] == part),
        )
        for part in parts
    ]
