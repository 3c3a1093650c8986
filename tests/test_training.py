"""Training: each sub-model where it lies, apart or stacked, with the same result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphsplit
from graphsplit.training import Task, Training, TrainingError, checkpoint, load_task, train_parts
from graphsplit.training.files import tensors_of
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, METRICS, Course, train
from graphsplit.training.trainee import make
from tests.training_tasks import ROOT, calm_net, double_task, lines, net, parts, split_calm, states, task_file, weights

__all__ = ["double_task", "parts", "task_file"]  # fixtures

# -- whole trainings ------------------------------------------------------------------------------------------


def test_each_sub_model_trains_where_it_lies(parts: Path, task_file: Path) -> None:
    before = weights(parts)
    task = load_task(task_file)
    found = train_parts(parts, task, Training.of(task, seed=3))
    assert [one.part for one in found] == [0, 1]
    assert all(old != new for old, new in zip(before, weights(parts), strict=True))
    for one in found:
        assert [line["epoch"] for line in one.history] == [1, 2, 3]
        assert one.samples == 3 * 23
        assert one.multiply_adds > 0
        assert set(one.history[0]["validation"]) == {"loss", "error"}
        assert one.history[-1]["learning_rate"] == pytest.approx(0.05 * 0.95**2)
    assert lines(found[0]) != lines(found[1])
    text = (part_folder(parts, 1) / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in text] == list(found[1].history)
    graphsplit.merge(parts, out=parts / "merged.pt2")
    assert graphsplit.verify(parts, parts / "merged.pt2").passed


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, task_file: Path) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=tmp_path / str(number))
        torch.manual_seed(number)  # what was drawn before doesn't matter
        train_parts(tmp_path / str(number), load_task(task_file), Training(1, 1, seed))
        found.append(weights(tmp_path / str(number)))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_channels_last_gives_the_same_up_to_rounding(tmp_path: Path, double_task: Task) -> None:
    found = []
    for layout in ("contiguous", "channels_last"):
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).double()
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.fill_(0.1 * (number + 1))
        trainee = make(double_task, model, [0], "cpu", 1, layout)  # type: ignore[arg-type]
        found.append((trainee.module[0].weight.is_contiguous(), trainee.module(torch.ones(1, 3, 5, 5).double())))  # type: ignore[index]
    assert [flat for flat, _ in found] == [True, False]
    assert torch.allclose(found[0][1], found[1][1])


def test_weights_that_aren_t_finite_are_never_kept(tmp_path: Path, double_task: Task) -> None:
    def spoilt(outputs: Any, targets: Any) -> Any:
        return double_task.loss(outputs, targets) + (outputs * float("inf")).clamp(max=0).sum() * 0

    task = replace(double_task, loss=spoilt)
    with pytest.raises(TrainingError, match="weights in epoch 1 that aren't finite"):
        train(task, make(task, calm_net(), [0], "cpu", 1), Course(1, 1, folder=tmp_path / "run", every=0.0))
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_tied_tensors_are_kept_once() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    assert list(tensors_of(nn.ModuleList([one, other]))) == ["0.weight", "0.bias", "1.bias"]


def _strictly(text: str) -> Any:
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("stack", ["off", "on"])
def test_metrics_that_are_no_numbers_are_json_all_the_same(tmp_path: Path, double_task: Task, stack: Any) -> None:
    """And numbers again in the outcome, before and after a resume."""
    task = replace(double_task, metrics=lambda *_: {"error": float("nan"), "most": float("-inf"), "least": 1.5})
    folder = split_calm(tmp_path / "parts")
    for epochs in (1, 2):
        for one in train_parts(folder, task, Training(epochs, 2, resume=True), stack=stack):
            assert [str(line["validation"]["error"]) for line in one.history] == ["nan"] * epochs
            assert one.history[0]["validation"]["most"] == -float("inf")
    text = (part_folder(folder, 1) / METRICS).read_text().splitlines()
    held = _strictly(text[1])["validation"]
    assert (held["error"], held["most"], held["least"]) == ("nan", "-inf", 1.5)


# -- stacked ------------------------------------------------------------------------------------------------------


def test_stacked_sub_models_train_as_they_do_alone(tmp_path: Path, double_task: Task) -> None:
    """Each on its own batches; what is left behind is what each would have left."""
    apart = train_parts(split_calm(tmp_path / "apart"), double_task, Training(3, 3))
    stacked = train_parts(split_calm(tmp_path / "stacked"), double_task, Training(3, 3), stack="on")
    assert [one.together for one in stacked] == [2, 2]
    for one, other in zip(apart, stacked, strict=True):
        for line, same in zip(one.history, other.history, strict=True):
            assert line["loss"] == pytest.approx(same["loss"], rel=1e-9)
            assert line["validation"] == pytest.approx(same["validation"], rel=1e-9)
            assert (line["epoch"], line["samples"]) == (same["epoch"], same["samples"])
    for state, wanted in zip(states(tmp_path / "stacked"), states(tmp_path / "apart"), strict=True):
        assert all(torch.allclose(state[name], value, rtol=1e-9) for name, value in wanted.items())
    for part in (0, 1):
        left = [checkpoint.read(part_folder(tmp_path / name, part) / CHECKPOINT) for name in ("apart", "stacked")]
        assert left[0]["schedule"] == left[1]["schedule"]
        for at, state in left[0]["optimizer"]["state"].items():
            momentum = left[1]["optimizer"]["state"][at]["momentum_buffer"]
            assert torch.allclose(momentum, state["momentum_buffer"], rtol=1e-9)


def test_auto_measures_once_and_keeps_to_it(tmp_path: Path, double_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = split_calm(tmp_path / "parts")
    train_parts(folder, double_task, Training(1, 2), stack="auto")
    found = json.loads((folder / "training" / "stacked" / "way.json").read_text())
    assert found["way"] in found["seconds"]
    assert len(found["seconds"]) == 3
    monkeypatch.setattr("graphsplit.training.together.choose", lambda *_, **__: pytest.fail("it was measured already"))
    train_parts(folder, double_task, Training(2, 2, resume=True), stack="auto")


def test_stack_on_isn_t_what_auto_chose_and_stays(
    tmp_path: Path, double_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = split_calm(tmp_path / "parts")
    place = folder / "training" / "stacked"
    place.mkdir(parents=True)
    seconds = {"in turn": 1.0, "contiguous": 3.0, "channels_last": 2.0}
    (place / "way.json").write_text(json.dumps({"way": "in turn", "seconds": seconds, "on": ["cpu", "contiguous"]}))
    assert [one.together for one in train_parts(folder, double_task, Training(1, 2), stack="on")] == [2, 2]
    monkeypatch.setattr("graphsplit.training.together.choose", lambda *_, **__: pytest.fail("it might be in turn now"))
    later = Training(2, 2, resume=True, layout="channels_last")
    assert [one.together for one in train_parts(folder, double_task, later, stack="auto")] == [2, 2]
    assert json.loads((place / "way.json").read_text())["way"] == "channels_last"


# -- what isn't stacked -------------------------------------------------------------------------------------------


def test_what_can_t_be_stacked_is_refused_or_trains_in_turn(tmp_path: Path, task_file: Path) -> None:
    folder = tmp_path / "parts"
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, shares=(3, 1), out=folder)
    task = load_task(task_file)
    with pytest.raises(TrainingError, match="--stack on: "):
        train_parts(folder, task, Training(1, 1), stack="on")
    assert [one.together for one in train_parts(folder, task, Training(1, 1), stack="auto")] == [1, 1]


def test_batches_of_different_lengths_aren_t_stacked(
    tmp_path: Path, double_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches() -> list[Any]:
        sizes = iter(torch.randint(2, 9, (6,)).tolist())
        return [(torch.randn(n, 6).double(), torch.zeros(n, dtype=torch.long)) for n in sizes]

    class Ragged:
        def __len__(self) -> int:
            return 6

        def __iter__(self) -> Any:
            return iter(batches())

    task = replace(double_task, train_data=Ragged)
    with pytest.raises(TrainingError, match="different shapes"):
        train_parts(split_calm(tmp_path / "parts"), task, Training(1, 1), stack="on")
    with monkeypatch.context() as context:
        context.setattr(
            "graphsplit.training.together.choose", lambda *_, **__: pytest.fail("there is nothing to choose")
        )
        found = train_parts(split_calm(tmp_path / "auto"), task, Training(1, 1), stack="auto")
    assert [one.together for one in found] == [1, 1]
    assert len(train_parts(split_calm(tmp_path / "apart"), task, Training(1, 1), parts=[0, 0])) == 1


def test_optimizers_with_hooks_train_in_turn(tmp_path: Path, double_task: Task) -> None:
    """A hook that clips would see all sub-models as one, or nothing at all."""

    def hooked(model: Any) -> torch.optim.Optimizer:
        found = double_task.optimizer(model)
        found.register_step_pre_hook(lambda *_: None)
        return found

    folder = split_calm(tmp_path / "parts")
    task = replace(double_task, optimizer=hooked)
    with pytest.raises(TrainingError, match="have hooks"):
        train_parts(folder, task, Training(1, 1), stack="on")
    assert [one.together for one in train_parts(folder, task, Training(1, 1), stack="auto")] == [1, 1]


def test_sub_models_with_hooks_train_in_turn(tmp_path: Path, double_task: Task) -> None:
    """And a hook on a place inside one, which no code calls, is refused."""
    calls = []

    def hooked(model: Any) -> torch.optim.Optimizer:
        model.register_forward_hook(lambda *_: calls.append(1))
        return double_task.optimizer(model)

    def lost(model: Any) -> torch.optim.Optimizer:
        model.up.register_forward_hook(lambda *_: calls.append(1))
        return double_task.optimizer(model)

    folder = split_calm(tmp_path / "parts")
    task = replace(double_task, optimizer=hooked)
    with pytest.raises(TrainingError, match=r"--stack on: a sub-model has forward or backward hooks"):
        train_parts(folder, task, Training(1, 1), stack="on")
    calls.clear()
    assert [one.together for one in train_parts(folder, task, Training(1, 1), stack="auto")] == [1, 1]
    assert len(calls) >= 10
    with pytest.raises(graphsplit.GraphsplitError, match="a hook here would never be called"):
        train_parts(folder, replace(double_task, optimizer=lost), Training(1, 1, force=True), stack="auto")


def test_onnx_sub_models_aren_t_stacked(tmp_path: Path, task_file: Path) -> None:
    graphsplit.split(ROOT / "models" / "lenet.onnx", 2, out=tmp_path / "parts")
    with pytest.raises(TrainingError, match=r"^--stack on: sub-models that are ONNX files can't be stacked\n"):
        train_parts(tmp_path / "parts", load_task(task_file), Training(1, 1), stack="on")
