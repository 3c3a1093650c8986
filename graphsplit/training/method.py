"""The whole method: split, train the sub-models, merge them with their optimizers, and train the merged network on."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphsplit.api import merge, reopen
from graphsplit.files import inside
from graphsplit.manifest import Manifest
from graphsplit.modules.optimizers import KNOWN
from graphsplit.training import checkpoint
from graphsplit.training.confidence import leave_confidence
from graphsplit.training.files import open_network, save_as
from graphsplit.training.folder import FOLDER, Training, part_folder, train_parts
from graphsplit.training.loop import CHECKPOINT, Course, Outcome, Report, train
from graphsplit.training.rehearsal import rehearse
from graphsplit.training.run_folder import MERGED, PARTS, TRAINED, Clock, Splitter, begin, place
from graphsplit.training.streams import held_out
from graphsplit.training.task import Task, TrainingError
from graphsplit.training.trainee import Trainee, evaluate, make, take_up


@dataclass(frozen=True)
class Result:
    """What the method came to.

    seconds: of splitting, merging and evaluation, as each was first done; those of training are in the outcomes. scores: loss and
    metrics on the test data, else the validation data, of each part, the merged network as it was merged, and at the end. file:
    the trained network. merged_at: the epoch of the merge.
    """

    file: Path
    parts: tuple[Outcome, ...]
    merged: Outcome
    seconds: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float]]
    merged_at: int


Trainer = Callable[[Path, Task, Training], Sequence[Outcome]]
"""Trains the sub-models in a folder."""


def run(
    split: Splitter,
    task: Task,
    training: Training,
    pretrain: int,
    out: str | os.PathLike[str],
    *,
    patience: int | None = None,
    asked: Mapping[str, Any] | None = None,
    report: Report | None = None,
    train_them: Trainer | None = None,
) -> Result:
    """Run the method in a folder: `pretrain` epochs of each sub-model, then the merged network to `training.epochs`.

    With `patience`, sub-models are merged earlier if their mean validation loss hasn't fallen for so many epochs; it is looked at
    every so many epochs. A run that was ended goes on where it was with `training.resume`, if it is `asked` for the same, and is
    replaced with `training.force`. `train_them` trains the sub-models in another way than one after another. Raises
    TrainingError, and what splitting and merging raise.
    """
    if not 0 <= pretrain <= training.epochs:
        raise TrainingError(f"--pretrain {pretrain} isn't within the {training.epochs} epochs in all")
    if patience is not None and task.validation_data is None:
        raise TrainingError(
            "--merge-when plateau looks at the validation loss, and the task has no validation_data()",
            hint="give it one, or say when to merge with --pretrain alone",
        )
    out = Path(out)
    own = {"pretrain": pretrain, "patience": patience, "epochs": training.epochs, "seed": training.seed}
    with place(out, force=training.force):
        clock = Clock(out)

        def timed(where: Path) -> None:
            with clock("split"):
                split(where)

        begin(
            timed,
            out,
            {**(asked or {}), **own},
            lambda: _ready(out / PARTS, task, training),
            resume=training.resume,
            force=training.force,
        )
        first = replace(training, epochs=pretrain, schedule=training.epochs, resume=True, force=False)
        trained = _pretrained(out / PARTS, task, first, train_them or _in_turn(report), patience)
        return _trained_on(out, task, training, trained, clock, report)


def _ready(parts: Path, task: Task, training: Training) -> None:
    """Raise TrainingError for what would fail behind hours of training: data, metrics, an optimizer that can't be merged."""
    optimizer = rehearse(task, open_network(_files(parts)[0]), training).optimizer
    if type(optimizer).__name__ not in KNOWN:
        raise TrainingError(
            f"there is no rule to merge the state of {type(optimizer).__name__}",
            hint=f"{', '.join(KNOWN)} have one; or train, merge, and train on with three commands",
        )


def _trained_on(
    out: Path, task: Task, training: Training, trained: Sequence[Outcome], clock: Clock, report: Report | None
) -> Result:
    """Merge the sub-models, measure all, and train on."""
    parts, pretrain = out / PARTS, trained[0].epochs
    with clock("merge"):
        merged = _merged(parts, task, training, out)
    judge = "test_data" if task.test_data is not None else "validation_data"
    data = held_out(task, judge, training.seed)
    scores: dict[str, Mapping[str, float]] = {}
    if data is not None:
        with clock("evaluate"):
            for part, file in enumerate(_files(parts)):
                alone = make(task, open_network(file), [0], training.device, training.schedule, training.layout)
                scores[f"part {part}"] = evaluate(task, alone, data, name=judge)[0]
                leave_confidence(task, alone, data, part_folder(parts, part), name=judge)
            scores["merged"] = evaluate(task, merged.trainee, data, name=judge)[0]
    course = Course(
        training.epochs,
        training.epochs,
        training.seed,
        first=pretrain,
        folder=out / FOLDER,
        every=training.every,
        resume=True,
        other_task=training.other_task,
        title="merged",
    )
    (outcome,) = train(task, merged.trainee, course, report)
    if data is not None:
        with clock("evaluate trained"):
            scores["trained"] = evaluate(task, merged.trainee, data, name=judge)[0]
    return Result(merged.write(), tuple(trained), outcome, clock.seconds, scores, pretrain)


def _pretrained(
    parts: Path, task: Task, training: Training, train_them: Trainer, patience: int | None
) -> Sequence[Outcome]:
    """The sub-models, trained to the epoch of the merge. A run that goes on comes to the same epoch."""
    if patience is None or not training.epochs:
        return train_them(parts, task, training)
    until = 0
    while True:
        until = min(until + patience, training.epochs)
        found = train_them(parts, task, replace(training, epochs=until))
        each = zip(*(one.history[:until] for one in found), strict=True)
        losses = [sum(line["validation"]["loss"] for line in lines) / len(lines) for lines in each]
        if until == training.epochs or levelled(losses, patience):
            return found


def levelled(losses: Sequence[float], patience: int) -> bool:
    """Whether a loss, by epoch, hasn't fallen below its least for `patience` epochs.

    An epoch whose loss isn't finite says nothing of whether it falls: it is neither the lowest nor one of those that wait.
    Comparing it would: nothing is lower than a NaN, so one at the start would be the lowest for good.
    """
    known = [loss for loss in losses if math.isfinite(loss)]
    return bool(known) and len(known) - 1 - known.index(min(known)) >= patience


def _in_turn(report: Report | None) -> Trainer:
    return lambda parts, task, training: train_parts(parts, task, training, report=report)


def _files(parts: Path) -> list[Path]:
    return [inside(parts, entry.file) for entry in Manifest.read(parts).submodels]


# -- the merged network -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Merged:
    """The merged network ready to train on, and how it is written."""

    trainee: Trainee
    write: Callable[[], Path]


def _merged(parts: Path, task: Task, training: Training, out: Path) -> _Merged:
    from graphsplit.modules.folder import is_module_split

    found = (
        _merged_module(parts, task, training, out)
        if is_module_split(parts)
        else _merged_onnx(parts, task, training, out)
    )
    first = checkpoint.read(part_folder(parts, 0) / CHECKPOINT)
    take_up(task, found.trainee, training.epochs, first.get("schedule"))
    return found


def _merged_module(parts: Path, task: Task, training: Training, out: Path) -> _Merged:
    from graphsplit.formats import torch_archive
    from graphsplit.modules.source import with_weights

    split = reopen(parts)
    source = split.merged_source(split.leaves())
    target = out / f"{MERGED}.pt2"
    torch_archive.save(source, target, force=True)
    module = split.merge()
    trainee = make(task, module, [0], training.device, training.schedule, training.layout)
    split.merge_optimizers([o for _, o in _optimizers(parts, split.submodels, task)], into=trainee.optimizer)

    def write() -> Path:
        path = out / f"{TRAINED}.pt2"
        torch_archive.save(with_weights(trainee.module.cpu(), source), path, force=True)
        return path

    return _Merged(trainee, write)


def _merged_onnx(parts: Path, task: Task, training: Training, out: Path) -> _Merged:
    from graphsplit.modules.optimizers import merge_named_into

    target = out / f"{MERGED}.onnx"
    done = merge(parts, out=target, force=True)
    trainee = make(task, open_network(target), [0], training.device, training.schedule, training.layout)
    modules = [open_network(file) for file in _files(parts)]
    merge_named_into(done.opened, done.leaves, _optimizers(parts, modules, task), trainee.optimizer, trainee.module)

    def write() -> Path:
        path = out / f"{TRAINED}.onnx"
        save_as(trainee.module, target, path)
        return path

    return _Merged(trainee, write)


def _optimizers(parts: Path, modules: Sequence[nn.Module], task: Task) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    """The sub-models' optimizers as their training left them."""
    found = []
    for part, module in enumerate(modules):
        optimizer = task.optimizer(module)
        state = checkpoint.read(part_folder(parts, part) / CHECKPOINT)["optimizer"]
        optimizer.load_state_dict(copy.deepcopy(state))
        found.append((module, optimizer))
    return found
