"""`graphsplit.run`: when the parts are merged, what the merged network goes on with, and runs that are killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsplit
from graphsplit.training import Training, TrainingError, checkpoint, load_task, train_parts
from graphsplit.training.confidence import CONFIDENCE, MOST, leave_confidence
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, Outcome
from graphsplit.training.method import run as method_of
from graphsplit.training.task import Task
from graphsplit.training.trainee import make
from tests.training_commands import small
from tests.training_tasks import PLAIN, net

__all__ = ["small"]  # fixtures

NAN = float("nan")


class _KilledError(Exception):
    pass


def method(
    small: Path, out: str, *, stop: int | None = None, resume: bool = False, stack: Any = "off"
) -> dict[str, Any]:
    """A run of the whole method on a small network, killed at its `stop`th step; gives the trained weights."""
    seen = 0

    def report(title: str, done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise _KilledError

    def split(where: Path) -> None:
        graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where)

    done = graphsplit.run(
        split,
        small / "task.py",
        pretrain=2,
        epochs=4,
        out=small / out,
        every=0.0,
        resume=resume,
        stack=stack,
        report=report,
    )
    state: dict[str, Any] = graphsplit.load_module(done.file).state_dict()
    return state


@pytest.mark.parametrize(("stack", "stops"), [("off", (1, 10, 14, 20, 24)), ("on", (6, 10, 14))])
def test_a_run_that_is_killed_ends_the_same(small: Path, stack: str, stops: tuple[int, ...]) -> None:
    """Ten steps of each part, or of both together, then ten of the merged network."""
    (small / "task.py").write_text(PLAIN.replace("SGD", "Adam").replace("RATE = 0.05", "RATE = 0.02"))
    wanted = method(small, "whole", stack=stack)
    for stop in stops:
        with pytest.raises(_KilledError):
            method(small, f"stop{stop}", stop=stop, stack=stack)
        torch.manual_seed(stop)
        found = method(small, f"stop{stop}", resume=True, stack=stack)
        assert all(torch.equal(found[name], value) for name, value in wanted.items()), stop


def test_a_run_is_not_replaced_unasked(small: Path) -> None:
    wanted = method(small, "out")
    with pytest.raises(TrainingError, match=r"--pretrain 3: the run in .* was begun with --pretrain 2"):
        graphsplit.run(lambda _: None, small / "task.py", pretrain=3, epochs=4, out=small / "out", resume=True)
    found = graphsplit.load_module(small / "out" / "trained.pt2").state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    with pytest.raises(TrainingError, match="holds a run already"):
        method(small, "out")
    with pytest.raises(TrainingError, match="isn't empty"):
        method(small, "parts")


# -- when the parts are merged --------------------------------------------------------------------------------


def test_a_merge_on_a_plateau(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the parts' mean validation loss hasn't fallen for as many epochs as there is patience."""
    text = PLAIN.replace("lr=RATE)", "lr=RATE / 1e9)")  # nothing moves but running statistics

    def merged_at(name: str, text: str, **options: Any) -> int:
        (small / "task.py").write_text(text)
        done = graphsplit.run(
            lambda where: graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where),
            small / "task.py",
            pretrain=6,
            epochs=7,
            out=small / name,
            stack="off",
            **options,
        )
        assert done.merged.epochs == 7
        assert done.parts[0].epochs == done.merged_at
        return done.merged_at

    early = merged_at("still", text, patience=2)
    assert merged_at("still", text, patience=2, resume=True) == early
    assert merged_at("asked", PLAIN) == 6
    with pytest.raises(TrainingError, match=r"has no validation_data\(\)"):
        merged_at("blind", PLAIN.replace("def validation_data", "def other_data"), patience=2)


@pytest.mark.parametrize(
    ("losses", "asked"),
    [
        pytest.param((5, 4, 3, 3, 3, 3, 3, 3), [2, 4, 6], id="flat behind the third"),
        pytest.param((5, 4, 3, 2, 4, 4, 1, 1), [2, 4, 6], id="up again"),
        pytest.param((1, 4, 3, 2, 4, 4, 1, 1), [2, 4], id="best at first"),
        pytest.param((8, 7, 6, 5, 4, 3, 2, 1), [2, 4, 6, 7], id="falls to the end"),
        pytest.param((NAN, 7, 6, 5, 4, 3, 2, 1), [2, 4, 6, 7], id="not a number at first"),
        pytest.param((NAN,) * 8, [2, 4, 6, 7], id="never a number"),
        pytest.param((5, 4, NAN, NAN, 4, 4, 4, 4), [2, 4, 6], id="not a number in between"),
    ],
)
def test_when_a_plateau_is_seen(small: Path, losses: Sequence[float], asked: list[int]) -> None:
    """It is looked for every second epoch, in the mean of the parts' validation losses, which each alone don't show."""
    epochs: list[int] = []

    def scripted(parts: Path, task: Task, training: Training) -> list[Outcome]:
        epochs.append(training.epochs)
        found = train_parts(parts, task, training)
        lines = [
            tuple({"validation": {"loss": mean + (-10 * mean if part else 10 * mean)}} for mean in losses)
            for part in (0, 1)
        ]
        return [replace(one, history=lines[one.part][: training.epochs]) for one in found]

    def split(where: Path) -> None:
        graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where)

    done = method_of(
        split, load_task(small / "task.py"), Training(8, 8), 7, small / "out", patience=2, train_them=scripted
    )
    assert epochs == asked
    assert done.merged_at == asked[-1]
    assert done.merged.epochs == 8


# -- what goes on behind the merge ----------------------------------------------------------------------------


def test_the_merged_network_goes_on_with_the_parts_momentum_and_schedule(small: Path) -> None:
    """The momentum of a hidden layer is the parts', side by side."""
    (small / "task.py").write_text(PLAIN.replace("lr=RATE)", "lr=RATE, momentum=0.9)"))
    found = graphsplit.run(
        lambda where: graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where),
        small / "task.py",
        pretrain=2,
        epochs=2,
        out=small / "out",
        stack="off",
    )
    assert found.merged.history == ()
    merged = checkpoint.read(small / "out" / "training" / CHECKPOINT)
    parts = [checkpoint.read(part_folder(small / "out" / "parts", part) / CHECKPOINT) for part in (0, 1)]
    assert merged["schedule"] == parts[0]["schedule"]
    assert merged["optimizer"]["param_groups"][0]["lr"] == parts[0]["optimizer"]["param_groups"][0]["lr"]
    whole, *each = (one["optimizer"]["state"][0]["momentum_buffer"] for one in (merged, *parts))
    assert torch.allclose(whole, torch.cat(each))
    assert whole.abs().max() > 0


def test_an_optimizer_without_a_merge_is_refused_before_anything_trains(small: Path) -> None:
    (small / "task.py").write_text(PLAIN.replace("torch.optim.SGD", "torch.optim.NAdam"))
    with pytest.raises(TrainingError, match="no rule to merge the state of NAdam"):
        method(small, "out")
    assert not (small / "out" / "parts" / "training").exists()


def test_settings_that_a_schedule_moves_go_on_behind_the_merge(small: Path) -> None:
    """Not only rates: OneCycleLR moves the momentum as well."""
    cycle = "torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs)"
    text = PLAIN.replace("lr=RATE)", "lr=RATE, momentum=0.9)")
    (small / "task.py").write_text(text.replace("torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)", cycle))
    with pytest.raises(_KilledError):
        graphsplit.run(
            lambda where: graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where),
            small / "task.py",
            pretrain=2,
            epochs=5,
            out=small / "out",
            every=0.0,
            stack="off",
            report=_killed_at(22),
        )
    merged = checkpoint.read(small / "out" / "training" / CHECKPOINT)["optimizer"]["param_groups"][0]
    part = checkpoint.read(part_folder(small / "out" / "parts", 0) / CHECKPOINT)["optimizer"]["param_groups"][0]
    assert merged["momentum"] == part["momentum"] != 0.95
    assert merged["lr"] == part["lr"]


def _killed_at(step: int) -> Callable[[str, int, int], None]:
    seen = 0

    def report(title: str, done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            raise _KilledError

    return report


def test_confidence_is_kept_of_some_samples(small: Path) -> None:
    task = load_task(small / "task.py")
    trainee = make(task, net(), [0], "cpu", 1)
    batches = [(torch.randn(1500, 6), torch.zeros(1500, dtype=torch.int64)) for _ in range(3)]
    leave_confidence(task, trainee, batches, small)
    assert not (small / CONFIDENCE).exists()
    leave_confidence(replace(task, confidence=lambda outputs, _: outputs[:, 0]), trainee, batches, small)
    found = json.loads((small / CONFIDENCE).read_text())
    with torch.no_grad():
        wanted = torch.cat([trainee.module.eval()(inputs)[:, 0] for inputs, _ in batches])[:MOST]
    assert len(found) == MOST
    assert torch.allclose(torch.tensor(found), wanted, atol=1e-4)
    with pytest.raises(TrainingError, match="a number for each sample"):
        leave_confidence(replace(task, confidence=lambda outputs, _: outputs.mean()), trainee, batches, small)
