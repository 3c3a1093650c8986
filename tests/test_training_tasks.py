"""Tasks: what their files say, and clear refusals of what is wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphsplit
from graphsplit.training import Task, Training, TrainingError, load_task, train_parts
from graphsplit.training.loop import Course, train
from graphsplit.training.trainee import make
from tests.training_tasks import PLAIN, TASK, net, parts, task_file

__all__ = ["parts", "task_file"]  # fixtures

# -- refusals -------------------------------------------------------------------------------------------------

BROKEN = {
    "no_loss": (lambda t: t.replace("def loss", "def lost"), "has no function 'loss'"),
    "syntax": (lambda t: t + "\ndef", "raised SyntaxError"),
    "epochs": (lambda t: t.replace("EPOCHS = 3", "EPOCHS = 0"), "EPOCHS is 0"),
    "each": (lambda t: t.replace('"epoch"', '"day"'), "SCHEDULE_EACH is 'day'"),
    "raises": (lambda t: t + "\nraise KeyError('data')\n", "raised KeyError: 'data'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_task_is_refused(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = tmp_path / "task.py"
    path.write_text(change(TASK.format(each="epoch", optimizer="SGD")))
    with pytest.raises(TrainingError) as caught:
        load_task(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_a_file_that_isn_t_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no such file"):
        load_task(tmp_path / "none.py")


def _failing(text: str, old: str, new: str) -> Callable[[Path], Task]:
    def make_it(path: Path) -> Task:
        path.write_text(text.replace(old, new))
        return load_task(path)

    return make_it


HELD_OUT = "torch.sin(torch.arange(6.0) * torch.arange(1.0, 9.0)[:, None]), torch.arange(8) % 4"
FAILING = {
    "loss fails": (
        _failing(PLAIN, "cross_entropy(outputs", "cross_entropy(outputs[0]"),
        r"task.py:\d+: loss\(\) raised",
    ),
    "loss is no scalar": (
        _failing(PLAIN, "outputs, targets)\n\n\ndef m", "outputs, targets, reduction='none')\n\n\ndef m"),
        "scalar",
    ),
    "no optimizer": (_failing(PLAIN, "torch.optim.SGD(model.parameters(), lr=RATE)", "model"), "gives a Net"),
    "no schedule": (_failing(PLAIN, "torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)", "1"), "gives a int"),
    "a plateau": (
        _failing(PLAIN, "lr_scheduler.ExponentialLR(optimizer, 0.95)", "lr_scheduler.ReduceLROnPlateau(optimizer)"),
        "a rate of its own",
    ),
    "metrics are no numbers": (_failing(PLAIN, ".float().mean()}", "}"), "metrics\\(\\) gives 'error' as Tensor"),
    "metrics say loss": (_failing(PLAIN, '{"error"', '{"loss"'), "other than loss"),
    "another shape": (_failing(PLAIN, "return x +", "return x[:4] +"), "can't take the inputs|raised RuntimeError"),
    "a closure": (_failing(PLAIN, "torch.optim.SGD(", "torch.optim.LBFGS("), "LBFGS evaluates the loss"),
    "an iterator": (
        _failing(PLAIN, "return DataLoader(Noisy(), batch_size=5, shuffle=True)", "return iter([1])"),
        "once only",
    ),
    "no pairs": (_failing(PLAIN, "torch.tensor(at % 4)", "at, at"), "pairs of inputs and targets"),
    "no batch": (_failing(PLAIN, "return 23", "return 0"), "no batch|num_samples"),
    "data fails": (
        _failing(PLAIN, "x = torch.sin", "x = torch.sinus"),
        r"task.py:\d+: the data of train_data\(\) raised Attr",
    ),
    "validation data of another shape": (
        _failing(PLAIN, "arange(6.0) * torch.arange(1.0", "arange(5.0) * torch.arange(1.0"),
        r"the network can't take the inputs of validation_data\(\): RuntimeError: mat1",
    ),
    "validation targets that fit no output": (
        _failing(PLAIN, "torch.arange(8) % 4", "torch.arange(8)"),
        r"task.py:\d+: loss\(\) raised IndexError: .*; on a batch of validation_data\(\)",
    ),
    "no pairs to validate on": (
        _failing(PLAIN, f"[({HELD_OUT})]", "[torch.ones(3, 6)]"),
        r"^validation_data\(\) gives batches",
    ),
    "no validation data": (_failing(PLAIN, f"[({HELD_OUT})]", "None"), r"validation_data\(\) gives a NoneType"),
    "validation data for once": (
        _failing(PLAIN, f"[({HELD_OUT})]", f"iter([({HELD_OUT})])"),
        r"validation_data\(\) gives a list_iterator, which can be gone through once",
    ),
    "no validation batch": (_failing(PLAIN, f"[({HELD_OUT})]", "[]"), r"validation_data\(\) gives no batch"),
    "no sample": (
        _failing(PLAIN, "DataLoader(Noisy(), batch_size=5, shuffle=True)", "[(torch.ones(0, 6), torch.ones(0))]"),
        r"train_data\(\) gives a batch without samples",
    ),
    "no sample to validate on": (
        _failing(PLAIN, f"[({HELD_OUT})]", "[(torch.ones(0, 6), torch.ones(0))]"),
        r"validation_data\(\) gives a batch without samples",
    ),
    "a schedule that ends": (
        _failing(PLAIN, "ExponentialLR(optimizer, 0.95)", "OneCycleLR(optimizer, 0.1, total_steps=1)"),
        r"task.py: the schedule of schedule\(\) raised ValueError: Tried to step 2 times.*\n.*after each epoch, 2 times",
    ),
    "a schedule's own function": (
        _failing(PLAIN, "ExponentialLR(optimizer, 0.95)", "LambdaLR(optimizer, lambda at: [1.0][at])"),
        r"task.py:\d+: the schedule of schedule\(\) raised IndexError",
    ),
    "an optimizer of sparse gradients": (
        _failing(PLAIN, "optim.SGD", "optim.SparseAdam"),
        r"task.py: the optimizer of optimizer\(\) raised RuntimeError: SparseAdam does not",
    ),
    "it ends the program": (
        _failing(
            PLAIN, "    return torch.nn.functional.cross", "    raise SystemExit(3)\n    torch.nn.functional.cross"
        ),
        r"task.py:\d+: loss\(\) raised SystemExit: 3",
    ),
    "data end the program": (
        _failing(PLAIN, "x = torch.sin(", "x = exit("),
        r"task.py:\d+: the data of train_data\(\) raised SystemExit",
    ),
    "a loader's worker": (
        _failing(PLAIN.replace("batch_size=5", "batch_size=5, num_workers=1"), "x = torch.sin(", "x = torch.sinus("),
        r"task.py:15: the data of train_data\(\) raised AttributeError: module 'torch' has no attribute 'sinus' \(x =",
    ),
    "a length": (
        _failing(
            PLAIN,
            "DataLoader(Noisy(), batch_size=5, shuffle=True)",
            "type('', (list,), {'__len__': lambda _: 1 // 0})()",
        ),
        r"task.py:\d+: the length of train_data\(\) raised ZeroDivisionError",
    ),
    "diverges": (_failing(PLAIN, "RATE = 0.05", "RATE = 1e30"), "the loss of epoch 1 is"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_task_that_fails_says_where(tmp_path: Path, name: str) -> None:
    build, message = FAILING[name]
    with pytest.raises(TrainingError, match=message):
        task = build(tmp_path / "task.py")
        train(task, make(task, net(), [0], "cpu", 2), Course(2, 2))


class _Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.down = nn.Embedding(10, 8), nn.Linear(8, 4)

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.down(self.words(tokens).mean(1))


@pytest.mark.parametrize(("train_most", "held_out_most", "name"), [(10, 9, "train_data"), (9, 10, "validation_data")])
def test_tokens_that_a_network_doesn_t_have_are_told_of_the_data_s_function(
    task_file: Path, train_most: int, held_out_most: int, name: str
) -> None:
    def data(most: int) -> list[Any]:
        return [(torch.full((2, 3), most), torch.zeros(2, dtype=torch.long))]

    task = replace(
        load_task(task_file), train_data=lambda: data(train_most), validation_data=lambda: data(held_out_most)
    )
    with pytest.raises(TrainingError, match=rf"can't take the inputs of {name}\(\): IndexError"):
        train(task, make(task, _Reading(), [0], "cpu", 1), Course(1, 1))


def test_test_data_are_told_apart_from_validation_data(tmp_path: Path, task_file: Path) -> None:
    """In the whole method, which judges networks by the first, if there are any."""
    task = replace(load_task(task_file), test_data=lambda: [(torch.ones(3, 5), torch.zeros(3, dtype=torch.long))])

    def split(where: Path) -> None:
        graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where)

    with pytest.raises(TrainingError, match=r"the inputs of test_data\(\)"):
        graphsplit.run(split, task, pretrain=1, epochs=1, out=tmp_path / "out", stack="off")


def test_inputs_that_don_t_fit_are_told_before_parts_are_stacked(parts: Path, task_file: Path) -> None:
    task = replace(load_task(task_file), train_data=lambda: [(torch.ones(3, 5), torch.zeros(3, dtype=torch.long))])
    with pytest.raises(TrainingError, match=r"can't take the inputs of train_data\(\)"):
        train_parts(parts, task, Training(1, 1), stack="auto")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_torch_doesn_t_take_is_refused(seed: int) -> None:
    with pytest.raises(TrainingError, match=f"--seed {seed} is no seed"):
        Training(1, 1, seed)
    assert Training(1, 1, 2**64 - 1).seed == 2**64 - 1


def test_a_device_that_keeps_no_numbers_is_refused(task_file: Path) -> None:
    with pytest.raises(TrainingError, match="--device meta: "):
        make(load_task(task_file), net(), [0], "meta:0", 1)


def test_how_many_epochs_has_to_be_said(task_file: Path) -> None:
    task = load_task(task_file)
    assert Training.of(task).epochs == 3
    assert Training.of(task, 5).epochs == 5
    with pytest.raises(TrainingError, match="how many epochs"):
        Training.of(replace(task, epochs=None))


# -- what a task says ---------------------------------------------------------------------------------------------


def test_a_schedule_is_made_for_all_epochs_wherever_it_is_made(parts: Path, task_file: Path) -> None:
    """To measure how to train, too: a schedule of one epoch may be none at all."""
    asked = []

    def schedule(optimizer: Any, epochs: int) -> Any:
        asked.append(epochs)
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    train_parts(parts, replace(load_task(task_file), schedule=schedule), Training(1, 5), stack="auto")
    assert set(asked) == {5}


def test_a_callable_without_a_name_is_a_task_s_function_too(task_file: Path) -> None:
    task_file.write_text(PLAIN + "\nimport functools\nloss = functools.partial(loss, 1, 2)\n")
    with pytest.raises(TrainingError, match=r"loss\(\) raised TypeError"):
        load_task(task_file).loss(1, 2)


def test_settings_replace_constants(task_file: Path) -> None:
    task = load_task(task_file, {"RATE": "1", "EPOCHS": "7"})
    assert task.optimizer(net()).param_groups[0]["lr"] == 1.0
    assert task.epochs == 7
    assert load_task(task_file, {"EPOCHS": "9"}).digest == load_task(task_file).digest != task.digest
    for settings, message in (({"SPEED": "1"}, "no such constant"), ({"RATE": "fast"}, "of type float")):
        with pytest.raises(TrainingError, match=message):
            load_task(task_file, settings)


def test_what_a_task_does_decides_its_digest(tmp_path: Path) -> None:
    """Comments, layout and where data lie don't; what is computed, and in which branch, does."""
    text = PLAIN + '\nPLACE = "here"\n\ndef unused(x):\n    if x:\n        x += 1\n    return x\n'

    def digest(text: str, settings: dict[str, str] | None = None) -> str:
        (tmp_path / "task.py").write_text(text)
        return load_task(tmp_path / "task.py", settings).digest

    same = digest(text)
    assert digest("# a comment\n\n" + text.replace("    ", "  ") + "\n\n") == same
    assert digest(text, {"PLACE": "there"}) == same
    for other in (text.replace("RATE = 0.05", "RATE = 0.04"), text.replace("    return x\n", "        return x\n")):
        assert other != text
        assert digest(other) != same
    assert digest(text, {"RATE": "0.04"}) != same
