"""The two commands: train what lies somewhere, and run the whole method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch

from graphsplit.files import MANIFEST_NAME, replaceable
from graphsplit.training import method
from graphsplit.training.engines import Job, in_processes, on_ray
from graphsplit.training.files import open_network, save_as, target_of
from graphsplit.training.folder import Training, TrainingOptions, begin, clear, part_folder, train_parts
from graphsplit.training.locks import held
from graphsplit.training.loop import Outcome, Report
from graphsplit.training.loop import train as train_course
from graphsplit.training.method import Result
from graphsplit.training.run_folder import Splitter
from graphsplit.training.task import Task, TrainingError, load_task
from graphsplit.training.together import Stack
from graphsplit.training.trainee import make

TaskLike = Task | str | os.PathLike[str]


def train(
    network: str | os.PathLike[str],
    task: TaskLike,
    *,
    epochs: int | None = None,
    schedule: int | None = None,
    settings: Mapping[str, str] | None = None,
    parts: Sequence[int] | None = None,
    device: str | None = None,
    stack: Stack = "auto",
    engine: str = "local",
    jobs: int = 1,
    out: str | os.PathLike[str] | None = None,
    report: Report | None = None,
    **options: Unpack[TrainingOptions],
) -> list[Outcome]:
    """Train the sub-models of a split's folder (or the `parts` named), where they lie, or a single network.

    task: a `Task`, or its file, whose constants `settings` replace. schedule: how many epochs the schedule is made for, where the
    training goes on behind a merge; as many as `epochs` by default. device: an accelerator if there is one, by default. stack:
    whether sub-models train as one computation, "on", "off", or "auto" where that is faster. engine: "local", or "ray" with an
    address behind a colon; jobs: how many sub-models at once, each in a process. out: where a single network's weights go. The
    rest is as in `TrainingOptions`.

    Raises TrainingError, and what reading a network raises.
    """
    found = _task(task, settings, schedule or epochs)
    training = Training.of(found, epochs, schedule, device, **options)
    path = Path(network)
    if not (path / MANIFEST_NAME).is_file():
        if parts is not None:
            raise TrainingError(f"{str(path)!r} is no split's folder, and has no parts")
        return [_train_network(path, found, training, out, report)]
    if out is not None:
        raise TrainingError("-o is for a single network: sub-models are trained where they lie")
    return train_folder(
        path, found, training, settings or {}, stack=stack, engine=engine, jobs=jobs, parts=parts, report=report
    )


def run(
    split: Splitter,
    task: TaskLike,
    *,
    pretrain: int,
    out: str | os.PathLike[str],
    patience: int | None = None,
    asked: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    settings: Mapping[str, str] | None = None,
    device: str | None = None,
    stack: Stack = "auto",
    engine: str = "local",
    jobs: int = 1,
    report: Report | None = None,
    **options: Unpack[TrainingOptions],
) -> Result:
    """The whole method in the folder `out`: split, train each sub-model for `pretrain` epochs, merge, train on to `epochs`.

    `split` writes the split into the folder that it is called with. patience: merge earlier if the sub-models' mean validation
    loss hasn't fallen for so many epochs. asked: what the split is asked for, by name: only a run that was begun with the same is
    gone on with. force: start over, with a new split. Everything else is as in `train`.

    Raises TrainingError, and what splitting and merging raise.
    """
    found = _task(task, settings, epochs)
    training = Training.of(found, epochs, device=device, **options)

    def train_them(parts: Path, task: Task, first: Training) -> Sequence[Outcome]:
        return train_folder(parts, task, first, settings or {}, stack=stack, engine=engine, jobs=jobs, report=report)

    return method.run(
        split, found, training, pretrain, out, patience=patience, asked=asked, report=report, train_them=train_them
    )


def train_folder(
    folder: Path,
    task: Task,
    training: Training,
    settings: Mapping[str, str],
    *,
    stack: Stack = "auto",
    engine: str = "local",
    jobs: int = 1,
    parts: Sequence[int] | None = None,
    report: Report | None = None,
) -> list[Outcome]:
    """Train sub-models with an engine. Raises TrainingError."""
    name, _, address = engine.partition(":")
    if name not in ("local", "ray"):
        raise TrainingError(f"--engine {engine}: there is no such engine", hint="choose local, ray or ray:ADDRESS")
    if (name == "local" and jobs == 1) or not training.epochs:
        return train_parts(folder, task, training, parts=parts, stack=stack, report=report)
    if stack == "on":
        raise TrainingError("--stack on: sub-models are stacked in one process", hint="leave out --engine and --jobs")
    if task.path is None:
        raise TrainingError(
            "other processes read the task from its file, and this one has none", hint="write it into one"
        )
    chosen = list(begin(folder, parts))
    with held(part_folder(folder, part) for part in chosen):
        clear(folder, training, chosen)
    found = [Job(str(folder), part, str(task.path), training, dict(settings)) for part in chosen]
    if name == "ray":
        gpus = {"num_gpus": 1} if training.device.startswith("cuda") else {}
        return on_ray(found, address or None, report, **gpus)
    return in_processes(found, jobs, _devices(training.device), report)


def _devices(device: str) -> list[str]:
    """The accelerators that processes side by side take in turns."""
    if device == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [device]


def _task(task: TaskLike, settings: Mapping[str, str] | None, epochs: int | None) -> Task:
    if isinstance(task, Task):
        return task
    return load_task(task, {**(settings or {}), **({"EPOCHS": str(epochs)} if epochs else {})})


def _train_network(
    path: Path, task: Task, training: Training, out: str | os.PathLike[str] | None, report: Report | None
) -> Outcome:
    target = target_of(path, out)
    if target.exists() and not (training.resume or training.force):
        raise TrainingError(f"{str(target)!r} exists already", hint="add --force to replace it, or choose another -o")
    replaceable(target)
    torch.manual_seed(training.seed)  # a factory draws the first weights
    trainee = make(task, open_network(path), [0], training.device, training.schedule, training.layout)
    course = training.course(target.with_name(f"{target.stem}-training"), target.name)
    with held([target.with_name(f"{target.stem}-training")]):
        (outcome,) = train_course(task, trainee, course, report)
        save_as(trainee.module, path, target)
    return outcome


def as_json(found: Outcome | Result) -> dict[str, Any]:
    """An outcome or a result as plain data."""
    if isinstance(found, Outcome):
        return {**vars(found), "history": list(found.history)}
    return {
        "file": str(found.file),
        "parts": [as_json(one) for one in found.parts],
        "merged": as_json(found.merged),
        "merged_at": found.merged_at,
        "seconds": dict(found.seconds),
        "scores": {name: dict(score) for name, score in found.scores.items()},
    }
