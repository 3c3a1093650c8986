"""Trainings that end early: the same result however often they are killed, and what is gone on with or replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphsplit
from graphsplit.training import Task, Training, TrainingError, checkpoint, load_task, train_parts
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, Course, train
from graphsplit.training.trainee import make
from tests.training_tasks import (
    PLAIN,
    ROOT,
    TASK,
    _killed,
    _KilledError,
    double_task,
    lines,
    net,
    parts,
    split_calm,
    task_file,
    weights,
)

__all__ = ["double_task", "parts", "task_file"]  # fixtures

# -- killed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", ["epoch", "step"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("every", [0.0, 60.0])
def test_killed_at_any_step_it_ends_the_same(tmp_path: Path, each: str, optimizer: str, every: float) -> None:
    """With checkpoints after each step, and with none but the last."""
    path = tmp_path / "task.py"
    path.write_text(TASK.format(each=each, optimizer=optimizer))
    task = load_task(path)
    whole = train(task, make(task, net(), [0], "cpu", 3), Course(3, 3, 7, folder=tmp_path / "whole", every=every))
    first = make(task, net(), [0], "cpu", 3)
    train(task, first, Course(3, 3, 7, folder=tmp_path / "other", every=every))
    wanted = {name: value.clone() for name, value in first.module.state_dict().items()}
    for stop in range(0, 15, 2):
        seen = 0

        def report(title: str, done: int, total: int, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == stop + 1:
                raise _KilledError

        course = Course(3, 3, 7, folder=tmp_path / f"stop{stop}", every=every, resume=True)
        with pytest.raises(_KilledError):
            train(task, make(task, net(), [0], "cpu", 3), course, report)
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002 - what a new process starts with
        again = make(task, net(), [0], "cpu", 3)
        found = train(task, again, course)
        assert lines(found[0]) == lines(whole[0])
        assert all(bool((again.module.state_dict()[name] == value).all()) for name, value in wanted.items())


def test_killed_outright_it_ends_the_same(tmp_path: Path, parts: Path, task_file: Path) -> None:
    """A process that the system ends, in the middle of part 1."""
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=tmp_path / "calm")
    task = load_task(task_file)
    train_parts(tmp_path / "calm", task, Training(3, 3, every=0.0))
    code = (
        "import os, signal, sys\n"
        "from graphsplit.training import Training, load_task, train_parts\n"
        "steps = 0\n"
        "def report(title, done, total):\n"
        "    global steps\n"
        "    steps += 1\n"
        "    if steps == 23: os.kill(os.getpid(), signal.SIGKILL)\n"
        "task = load_task(sys.argv[1])\n"
        "train_parts(sys.argv[2], task, Training(3, 3, every=0.0, resume=True), report=report)\n"
    )
    command = [sys.executable, "-c", code, str(task_file), str(parts)]
    done = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert weights(parts)[1] != weights(tmp_path / "calm")[1]
    train_parts(parts, task, Training(3, 3, every=0.0, resume=True))
    assert weights(parts) == weights(tmp_path / "calm")


def test_more_epochs_go_on_from_where_it_was(tmp_path: Path, task_file: Path) -> None:
    task = load_task(task_file)
    whole = make(task, net(), [0], "cpu", 5)
    train(task, whole, Course(5, 5, folder=tmp_path / "whole"))
    two = Course(2, 5, folder=tmp_path / "two")
    train(task, make(task, net(), [0], "cpu", 5), two)
    longer = make(task, net(), [0], "cpu", 5)
    found = train(task, longer, replace(two, until=5, resume=True))
    assert [line["epoch"] for line in found[0].history] == [1, 2, 3, 4, 5]
    assert torch.equal(longer.module.up.weight, whole.module.up.weight)


def test_tensorboard_has_the_same_numbers_where_it_is_installed(tmp_path: Path, task_file: Path) -> None:
    """Once each, though the training was killed and went on."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    task = load_task(task_file)
    course = Course(2, 3, folder=tmp_path / "run", every=60.0)

    def report(title: str, done: int, total: int) -> None:
        if done == 8:
            raise _KilledError

    with pytest.raises(_KilledError):
        train(task, make(task, net(), [0], "cpu", 3), replace(course, until=3), report)
    found = train(task, make(task, net(), [0], "cpu", 3), replace(course, resume=True))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning rate", "validation loss", "validation error"}
    scalars = [(event.step, event.value) for event in events.Scalars("loss")]
    assert scalars == [(line["epoch"], pytest.approx(line["loss"])) for line in found[0].history]


def test_rates_that_numpy_computes_come_back(tmp_path: Path) -> None:
    schedule = "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: np.cos(epoch / 9))"
    text = PLAIN.replace("torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)", schedule)
    (tmp_path / "task.py").write_text("import numpy as np\n" + text)
    task = load_task(tmp_path / "task.py")
    two = Course(2, 4, folder=tmp_path / "two")
    train(task, make(task, net(), [0], "cpu", 4), two)
    (found,) = train(task, make(task, net(), [0], "cpu", 4), replace(two, until=4, resume=True))
    (whole,) = train(task, make(task, net(), [0], "cpu", 4), Course(4, 4))
    assert lines(found) == lines(whole)


class _Moving(nn.Module):
    """A buffer that no state dict has, and that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5).double()
        self.register_buffer("seen", torch.zeros(1).double(), persistent=False)
        self.register_buffer("wide", torch.zeros(1).double().expand(4), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        if self.training:
            self.seen += 1
        return self.layer(x) * (1 + self.seen) + self.wide[0]


def test_a_checkpoint_has_what_no_state_dict_has(tmp_path: Path, double_task: Task) -> None:
    """Buffers that aren't persistent; and an epoch's loss so far, with the precision that it has."""
    course = Course(1, 1, folder=tmp_path / "run", every=0.0)
    task = replace(double_task, validation_data=None)
    torch.manual_seed(0)
    start = _Moving().state_dict()
    found = []
    for name, stop in (("whole", 0), ("cut", 2)):
        first, later = _Moving(), _Moving()
        first.load_state_dict(start)
        here = replace(course, folder=tmp_path / name)

        def report(_: str, done: int, __: int, stop: int = stop) -> None:
            if done == stop + 1 and stop:
                raise _KilledError

        if stop:
            with pytest.raises(_KilledError):
                train(task, make(task, first, [0], "cpu", 1), here, report)
        trainee = make(task, later if stop else first, [0], "cpu", 1)
        (outcome,) = train(task, trainee, replace(here, resume=True))
        found.append((float(trainee.module.seen), outcome.history[0]["loss"]))  # type: ignore[arg-type]
    assert found[0] == found[1]
    assert found[0][0] > 3


def test_a_stacked_training_that_is_killed_ends_the_same(tmp_path: Path, double_task: Task) -> None:
    training = Training(3, 3, every=0.0)
    train_parts(split_calm(tmp_path / "whole"), double_task, training, stack="on")
    other = split_calm(tmp_path / "other")

    def report(title: str, done: int, total: int) -> None:
        if done == 8:
            raise _KilledError

    with pytest.raises(_KilledError):
        train_parts(other, double_task, training, stack="on", report=report)
    before = weights(other)
    again = replace(training, resume=True)
    with pytest.raises(TrainingError, match="in the midst of a training in which the parts are stacked"):
        train_parts(other, double_task, again, parts=[0])
    assert weights(other) == before
    train_parts(other, double_task, again, stack="auto")
    assert weights(other) == weights(tmp_path / "whole")
    found = train_parts(other, double_task, replace(again, epochs=4), parts=[0])  # alone from there on
    assert [line["epoch"] for line in found[0].history] == [1, 2, 3, 4]


def test_one_part_alone_doesn_t_end_a_stacked_training(tmp_path: Path, double_task: Task) -> None:
    """Not even with force: the other parts' progress is in it."""
    folder = split_calm(tmp_path / "parts")

    def report(title: str, done: int, total: int) -> None:
        if done == 8:
            raise _KilledError

    with pytest.raises(_KilledError):
        train_parts(folder, double_task, Training(3, 3, every=0.0), stack="on", report=report)
    for training in (Training(3, 3), Training(3, 3, force=True), Training(3, 3, resume=True)):
        with pytest.raises((TrainingError, _KilledError)):
            train_parts(folder, double_task, training, parts=[0], report=report)
        assert (folder / "training" / "stacked" / CHECKPOINT).exists()


# -- gone on with, or replaced ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["off", "on"])
def test_a_training_is_gone_on_with_by_the_same_task(tmp_path: Path, double_task: Task, stack: Any) -> None:
    """A changed rate would be lost unnoticed: the optimizer comes from the checkpoint."""
    folder, path = split_calm(tmp_path / "parts"), tmp_path / "double.py"
    train_parts(folder, double_task, Training(1, 3), stack=stack)
    path.write_text("# a word\n" + path.read_text())
    train_parts(folder, load_task(path), Training(2, 3, resume=True), stack=stack)
    path.write_text(path.read_text().replace("RATE = 0.05", "RATE = 0.01"))
    changed, before = load_task(path), [p.read_bytes() for p in sorted(folder.glob("*.pt2"))]
    with pytest.raises(TrainingError, match="was written with another task") as caught:
        train_parts(folder, changed, Training(3, 3, resume=True), stack=stack)
    assert "--other-task" in caught.value.hint
    assert [p.read_bytes() for p in sorted(folder.glob("*.pt2"))] == before
    for one in train_parts(folder, changed, Training(3, 3, resume=True, other_task=True), stack=stack):
        assert [line["epoch"] for line in one.history] == [1, 2, 3]
        assert one.history[2]["learning_rate"] == pytest.approx(0.05 * 0.95**2)  # the checkpoint's schedule


def test_a_training_is_not_replaced_unasked(parts: Path, task_file: Path) -> None:
    task = load_task(task_file)
    train_parts(parts, task, Training(1, 1), parts=[0])
    before = weights(parts)
    with pytest.raises(TrainingError, match="holds a training at epoch 1"):
        train_parts(parts, task, Training(2, 2), parts=[0])
    with pytest.raises(TrainingError, match="written with seed 0, and this training has 5"):
        train_parts(parts, task, Training(2, 2, seed=5, resume=True), parts=[0])
    with pytest.raises(TrainingError, match="has parts 0 to 1"):
        train_parts(parts, task, Training(2, 2), parts=[2])
    assert weights(parts) == before
    train_parts(parts, task, Training(1, 1, force=True), parts=[0])
    assert weights(parts)[0] != before[0]
    assert weights(parts)[1] == before[1]


def test_a_training_that_was_replaced_doesn_t_come_back(tmp_path: Path, task_file: Path) -> None:
    task, course = load_task(task_file), Course(2, 3, folder=tmp_path / "run")
    train(task, make(task, net(), [0], "cpu", 3), course)

    def report(title: str, done: int, total: int) -> None:
        raise _KilledError

    with pytest.raises(_KilledError):
        train(task, make(task, net(), [0], "cpu", 3), replace(course, force=True), report)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


@pytest.mark.parametrize("stack", ["on", "off"])
def test_a_forced_training_that_is_killed_doesn_t_bring_back_the_one_before(
    tmp_path: Path, double_task: Task, stack: Any
) -> None:
    """Not even where the checkpoint before it can't be read."""
    folder = split_calm(tmp_path / "parts")
    train_parts(folder, double_task, Training(1, 2), stack=stack)
    for path in (folder / "training").rglob(CHECKPOINT):
        path.write_bytes(b"cut")
    with pytest.raises(_KilledError):
        train_parts(folder, double_task, Training(1, 2, force=True), stack=stack, report=_killed)
    assert not list((folder / "training").rglob(CHECKPOINT))


def test_a_damaged_checkpoint_is_refused(parts: Path, task_file: Path) -> None:
    task = load_task(task_file)
    train_parts(parts, task, Training(1, 1), parts=[0])
    path = part_folder(parts, 0) / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="is damaged or cut short") as caught:
        train_parts(parts, task, Training(2, 2, resume=True), parts=[0])
    assert "start anew: --force" in caught.value.hint
    torch.save({"format": 1, "state": Path()}, path)  # more than the safe loader takes
    with pytest.raises(TrainingError, match="can't be read as a checkpoint") as caught:
        train_parts(parts, task, Training(2, 2, resume=True), parts=[0])
    assert "more than numbers and tensors" in caught.value.hint
    path.unlink()
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        checkpoint.read(path)


@pytest.mark.parametrize("name", ["submodel_0.safetensors", "training", "training/part_0", "training/stacked"])
def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path, double_task: Task, name: str) -> None:
    folder, outside = split_calm(tmp_path / "parts"), tmp_path / "outside"
    if name.startswith("training"):
        outside.mkdir()
        (folder / name).parent.mkdir(exist_ok=True)
    else:
        (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else None
    with pytest.raises(graphsplit.GraphsplitError, match="leaves its folder"):
        train_parts(folder, double_task, Training(1, 1))
    assert (outside.read_bytes() == before) if before else not list(outside.iterdir())
