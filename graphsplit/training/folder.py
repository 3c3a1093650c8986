"""Training the sub-models of a split's folder, each alone, where they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import nn

from graphsplit.files import inside
from graphsplit.manifest import Manifest
from graphsplit.training import checkpoint
from graphsplit.training.files import WEIGHTS, open_network, put_back
from graphsplit.training.locks import held
from graphsplit.training.loop import CHECKPOINT, METRICS, Course, Outcome, Report, train
from graphsplit.training.task import Task, TrainingError
from graphsplit.training.together import IN_TURN, WAY, Stack, leave, train_together, way_of
from graphsplit.training.trainee import Layout, make

FOLDER, STACKED = "training", "stacked"
"""Where a split's folder keeps what its training leaves: a folder for each part, with its checkpoint and its metrics."""


class TrainingOptions(TypedDict, total=False):
    """How networks are trained, by name.

    seed: of data orders and dropout, from 0 to 2**64 - 1. every: seconds between checkpoints. resume: go on with an earlier
    training, of the same task unless `other_task`; force: start anew. layout: of images in memory.
    """

    seed: int
    every: float
    resume: bool
    force: bool
    other_task: bool
    layout: Layout


@dataclass(frozen=True)
class Training:
    """What is asked of the training of sub-models or of a network.

    epochs: to train to; schedule: how many epochs the schedule is made for, where it goes on behind the merge. The rest is as in
    `TrainingOptions`.
    """

    epochs: int
    schedule: int
    seed: int = 0
    device: str = "cpu"
    every: float = 60.0
    resume: bool = False
    force: bool = False
    other_task: bool = False
    layout: Layout = "contiguous"

    def __post_init__(self) -> None:
        """Refuse a seed that torch's generators don't take."""
        if not 0 <= self.seed < 1 << 64:
            raise TrainingError(f"--seed {self.seed} is no seed of torch's", hint="choose one from 0 to 2**64 - 1")

    @classmethod
    def of(
        cls,
        task: Task,
        epochs: int | None = None,
        schedule: int | None = None,
        device: str | None = None,
        **options: Unpack[TrainingOptions],
    ) -> Training:
        """Settings with the task's number of epochs where none is given, and on an accelerator if there is one.

        Raises TrainingError where there is no number of epochs at all.
        """
        found = epochs or task.epochs
        if found is None:
            raise TrainingError("how many epochs isn't said", hint="give --epochs N, or write EPOCHS = N into the task")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(found, schedule or found, device=device, **options)

    def course(self, folder: Path | None, title: str) -> Course:
        """The course of one network that starts at the first epoch."""
        return Course(
            self.epochs,
            self.schedule,
            self.seed,
            folder=folder,
            every=self.every,
            resume=self.resume,
            force=self.force,
            other_task=self.other_task,
            title=title,
        )


def train_parts(
    folder: str | os.PathLike[str],
    task: Task,
    training: Training,
    *,
    parts: Sequence[int] | None = None,
    stack: Stack = "off",
    report: Report | None = None,
) -> list[Outcome]:
    """Train sub-models of a split; their weights go back into their files as they are done.

    `parts` are those to train, all by default. `stack`: one after another ("off"), as one computation ("on"), or in whichever way
    a step is faster ("auto"). Raises TrainingError, and what reading a split raises.
    """
    folder = Path(folder)
    files = begin(folder, parts)
    with held(part_folder(folder, part) for part in files):
        clear(folder, training, list(files))
        return _train(folder, files, task, training, stack, report)


def _train(
    folder: Path, files: Mapping[int, Path], task: Task, training: Training, stack: Stack, report: Report | None
) -> list[Outcome]:
    chosen = list(files)
    place = folder / FOLDER / STACKED
    begun = any((part_folder(folder, part) / CHECKPOINT).exists() for part in chosen)
    if stack != "off" and len(chosen) > 1 and ((place / CHECKPOINT).exists() or not begun):
        modules = [open_network(file) for file in files.values()]
        way = way_of(task, modules, chosen, stack, place, training.device, training.schedule, training.layout)
        if way != IN_TURN:
            return _train_together(folder, files, modules, way, task, training, report)
    _leave_stack(place, folder, chosen, training)
    return [
        outcome for part, file in files.items() for outcome in _train_part(folder, file, part, task, training, report)
    ]


def begin(folder: Path, parts: Sequence[int] | None) -> dict[int, Path]:
    """The sub-models to train, and their files. Raises TrainingError, and what reading a split raises."""
    manifest = Manifest.read(folder)
    chosen = list(range(manifest.parts)) if parts is None else list(dict.fromkeys(parts))
    for part in chosen:
        if not 0 <= part < manifest.parts:
            raise TrainingError(f"--part {part}: the split has parts 0 to {manifest.parts - 1}")
    files = {part: inside(folder, manifest.submodels[part].file) for part in chosen}
    for part, file in files.items():  # what a training writes
        if not file.is_file():
            raise TrainingError(
                f"{str(file)!r} is missing: the sub-model of part {part}",
                hint="put the file back, or split the network again with the same options",
            )
        inside(folder, file.with_suffix(WEIGHTS).relative_to(folder).as_posix())
        inside(folder, f"{FOLDER}/{part_folder(folder, part).name}")
    inside(folder, f"{FOLDER}/{STACKED}")
    return files


def clear(folder: Path, training: Training, parts: Sequence[int]) -> None:
    """With `force` nothing is left of an earlier training: no kill can bring it back. Raises TrainingError."""
    if not training.force or training.resume:
        return
    place = folder / FOLDER / STACKED
    if len(parts) < Manifest.read(folder).parts:
        _leave_stack(place, folder, parts, training)
    for name in (CHECKPOINT, WAY):
        (place / name).unlink(missing_ok=True)
    for part in parts:
        for name in (CHECKPOINT, METRICS):
            (part_folder(folder, part) / name).unlink(missing_ok=True)


def _train_together(
    folder: Path,
    files: Mapping[int, Path],
    modules: Sequence[nn.Module],
    way: str,
    task: Task,
    training: Training,
    report: Report | None,
) -> list[Outcome]:
    course = training.course(folder / FOLDER / STACKED, f"{len(files)} parts, stacked")
    found, trainees = train_together(task, modules, list(files), way, course, training.device, training.layout, report)
    for trainee, outcome, file in zip(trainees, found, files.values(), strict=True):
        leave(task, trainee, outcome, course, part_folder(folder, outcome.part))
        put_back(trainee.module, file)
    return found


def _leave_stack(place: Path, folder: Path, parts: Sequence[int], training: Training) -> None:
    """Parts that were stacked go on alone from where the stack left them. Raises TrainingError where it isn't at its end."""
    path = place / CHECKPOINT
    if not path.exists() or not (training.force or training.resume):  # neither: it will be refused
        return
    content = checkpoint.read(path)
    reached = content["progress"]["epoch"]
    for part in parts if not training.force else set(content["identity"]["parts"]) - set(parts):
        own = part_folder(folder, part) / CHECKPOINT
        if not own.exists() or checkpoint.read(own)["progress"]["epoch"] < reached:
            raise TrainingError(
                f"part {part} is in the midst of a training in which the parts are stacked",
                hint="go on with all of them: --resume without --part and --stack off; or start anew with --force",
            )
    path.unlink(missing_ok=True)  # jobs of an array may get here together


def _train_part(
    folder: Path, file: Path, part: int, task: Task, training: Training, report: Report | None
) -> list[Outcome]:
    trainee = make(task, open_network(file), [part], training.device, training.schedule, training.layout)
    course = training.course(part_folder(folder, part), f"part {part}")
    found = train(task, trainee, course, report)
    put_back(trainee.module, file)
    return found


def part_folder(folder: Path, part: int) -> Path:
    """Where one part's training keeps its files."""
    return folder / FOLDER / f"part_{part}"
