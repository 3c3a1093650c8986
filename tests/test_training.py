"""Training: the same result however often it is killed, each part's own data order, and clear refusals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphsplit
from graphsplit.training import Outcome, Task, Training, TrainingError, checkpoint, load_task, train_parts
from graphsplit.training.files import tensors_of
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, METRICS, Course, train
from graphsplit.training.streams import Stream
from graphsplit.training.trainee import make

ROOT = Path(__file__).parent.parent

TASK = """
import torch
from torch.utils.data import DataLoader, Dataset

EPOCHS = 3
SCHEDULE_EACH = "{each}"
RATE = 0.05


class Noisy(Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, at):
        x = torch.sin(torch.arange(6.0) * (at + 1))
        return x + 0.1 * torch.randn(6), torch.tensor(at % 4)  # draws: an augmentation


def train_data():
    return DataLoader(Noisy(), batch_size=5, shuffle=True)


def validation_data():
    return [(torch.sin(torch.arange(6.0) * torch.arange(1.0, 9.0)[:, None]), torch.arange(8) % 4)]


def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)


def metrics(outputs, targets):
    return {{"error": (outputs.argmax(1) != targets).float().mean()}}


def optimizer(model):
    return torch.optim.{optimizer}(model.parameters(), lr=RATE)


def schedule(optimizer, epochs):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
"""


class Net(nn.Module):
    """With batch norm and dropout: buffers that change, and a network that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.drop, self.down = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return self.down(self.drop(self.norm(self.up(x)).relu()))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK.format(each="epoch", optimizer="SGD"))
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=tmp_path / "parts")
    return tmp_path / "parts"


def weights(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in outcome.history]


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


class _KilledError(Exception):
    pass


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


# -- stacked ------------------------------------------------------------------------------------------------------


def calm_net() -> Net:
    """Without dropout, which a stack draws in another order, and in double precision."""
    found = net()
    found.drop.p = 0.0
    return found.double()


@pytest.fixture
def double_task(tmp_path: Path) -> Task:
    path = tmp_path / "double.py"
    path.write_text(in_double())
    return load_task(path)


def in_double() -> str:
    """The plain task with momentum, its data in double precision."""
    text = PLAIN.replace("lr=RATE)", "lr=RATE, momentum=0.9)").replace(
        "torch.arange(6.0", "torch.arange(6, dtype=float"
    )
    return text.replace("torch.randn(6)", "torch.randn(6).double()")


def split_calm(folder: Path) -> Path:
    graphsplit.split(calm_net(), (torch.randn(3, 6).double(),), k=2, out=folder)
    return folder


def states(folder: Path) -> list[dict[str, Any]]:
    return [graphsplit.load_module(folder / f"submodel_{part}.pt2").state_dict() for part in (0, 1)]


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


def test_auto_measures_once_and_keeps_to_it(tmp_path: Path, double_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = split_calm(tmp_path / "parts")
    train_parts(folder, double_task, Training(1, 2), stack="auto")
    found = json.loads((folder / "training" / "stacked" / "way.json").read_text())
    assert found["way"] in found["seconds"]
    assert len(found["seconds"]) == 3
    monkeypatch.setattr("graphsplit.training.together.choose", lambda *_, **__: pytest.fail("it was measured already"))
    train_parts(folder, double_task, Training(2, 2, resume=True), stack="auto")


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


# -- data order -----------------------------------------------------------------------------------------------


def batches(stream: Stream, epoch: int, skip: int = 0) -> list[list[float]]:
    stream.begin(epoch, skip)
    return [stream.next()[0].flatten().tolist() for _ in range(len(stream) - skip)]


def test_a_stream_depends_on_seed_part_and_epoch_alone(task_file: Path) -> None:
    data = load_task(task_file).train_data()
    found = batches(Stream(data, 0, 0), 0)
    torch.rand(7)
    random.random()
    assert batches(Stream(data, 0, 0), 0) == found
    assert batches(Stream(data, 0, 0), 0, skip=3) == found[3:]
    for other in (Stream(data, 1, 0), Stream(data, 0, 1)):
        assert batches(other, 0) != found
    assert batches(Stream(data, 0, 0), 1) != found


def test_a_stream_leaves_the_network_s_numbers_alone(task_file: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    batches(Stream(load_task(task_file).train_data(), 0, 0), 0)
    assert torch.equal(torch.rand(3), wanted)


GROWING = """

class Growing(torch.utils.data.Sampler):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 10 if self.epoch < 2 else 20

    def __iter__(self):
        return iter(range(len(self)))


def train_data():
    return DataLoader(Noisy(), batch_size=5, sampler=Growing())
"""


def test_an_epoch_is_as_long_as_its_sampler_says(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(PLAIN + GROWING)
    task = load_task(tmp_path / "task.py")
    (found,) = train(task, make(task, net(), [0], "cpu", 4), Course(4, 4))
    assert [line["samples"] for line in found.history] == [10, 20, 40, 60]
    (later,) = train(task, make(task, net(), [0], "cpu", 4), Course(4, 4, first=2))
    assert [line["samples"] for line in later.history] == [20, 40]


def test_what_validation_draws_changes_no_training(tmp_path: Path) -> None:
    shuffled = PLAIN.replace("    return [(", "    return DataLoader([(").replace(
        "torch.arange(8) % 4)]", "torch.arange(8) % 4)], None)"
    )
    drawing = shuffled.replace("def validation_data():", "def validation_data():\n    torch.rand(3)")
    losses = []
    for text in (PLAIN, drawing, PLAIN.replace("def validation_data", "def nothing")):
        (tmp_path / "task.py").write_text(text)
        task = load_task(tmp_path / "task.py")
        (found,) = train(task, make(task, net(), [0], "cpu", 3), Course(3, 3))
        losses.append([line["loss"] for line in found.history])
    assert losses[0] == losses[1] == losses[2]


def test_what_is_drawn_as_data_is_made_depends_on_the_seed(tmp_path: Path) -> None:
    split = "return DataLoader(torch.utils.data.random_split(Noisy(), [13, 10])[0], batch_size=5)"
    (tmp_path / "task.py").write_text(PLAIN.replace("return DataLoader(Noisy(), batch_size=5, shuffle=True)", split))
    task, losses = load_task(tmp_path / "task.py"), []
    for drawn, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(drawn)
        (found,) = train(task, make(task, net(), [0], "cpu", 1), Course(1, 1, seed))
        losses.append(found.history[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


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


def test_a_training_that_was_replaced_doesn_t_come_back(tmp_path: Path, task_file: Path) -> None:
    task, course = load_task(task_file), Course(2, 3, folder=tmp_path / "run")
    train(task, make(task, net(), [0], "cpu", 3), course)

    def report(title: str, done: int, total: int) -> None:
        raise _KilledError

    with pytest.raises(_KilledError):
        train(task, make(task, net(), [0], "cpu", 3), replace(course, force=True), report)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_loader_s_own_generator_is_seeded(task_file: Path) -> None:
    from torch.utils.data import DataLoader

    data = [(torch.full((2,), float(at)), torch.tensor(0)) for at in range(12)]
    loader = DataLoader(data, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1))
    found = batches(Stream(loader, 0, 0), 0)
    assert batches(Stream(loader, 0, 0), 0) == found
    assert batches(Stream(loader, 0, 1), 0) != found


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


PLAIN = TASK.format(each="epoch", optimizer="SGD")
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


def test_a_schedule_is_made_for_all_epochs_wherever_it_is_made(parts: Path, task_file: Path) -> None:
    """To measure how to train, too: a schedule of one epoch may be none at all."""
    asked = []

    def schedule(optimizer: Any, epochs: int) -> Any:
        asked.append(epochs)
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    train_parts(parts, replace(load_task(task_file), schedule=schedule), Training(1, 5), stack="auto")
    assert set(asked) == {5}


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_torch_doesn_t_take_is_refused(seed: int) -> None:
    with pytest.raises(TrainingError, match=f"--seed {seed} is no seed"):
        Training(1, 1, seed)
    assert Training(1, 1, 2**64 - 1).seed == 2**64 - 1


def test_a_device_that_keeps_no_numbers_is_refused(task_file: Path) -> None:
    with pytest.raises(TrainingError, match="--device meta: "):
        make(load_task(task_file), net(), [0], "meta:0", 1)


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


def test_how_many_epochs_has_to_be_said(task_file: Path) -> None:
    task = load_task(task_file)
    assert Training.of(task).epochs == 3
    assert Training.of(task, 5).epochs == 5
    with pytest.raises(TrainingError, match="how many epochs"):
        Training.of(replace(task, epochs=None))


def test_tied_tensors_are_kept_once() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    assert list(tensors_of(nn.ModuleList([one, other]))) == ["0.weight", "0.bias", "1.bias"]


def _killed(*_: object) -> None:
    raise _KilledError


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


def test_samplers_that_never_end_are_looked_at_so_deep(task_file: Path) -> None:
    class Endless:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Any:
            return iter([(torch.ones(2, 6), torch.zeros(2))])

        @property
        def sampler(self) -> Any:
            return Endless()

    ring = Endless()
    assert len(batches(Stream(ring, 0, 0), 0)) == 1


def test_spawned_workers_read_a_task_s_data_with_its_settings(tmp_path: Path) -> None:
    """They import its module anew."""
    spawned = PLAIN.replace("batch_size=5", 'batch_size=5, num_workers=1, multiprocessing_context="spawn"')
    found = []
    for name, text in (("plain", PLAIN), ("spawned", spawned)):
        (tmp_path / f"{name}.py").write_text(text.replace("x + 0.1 * torch.randn(6)", "x * RATE"))
        task = load_task(tmp_path / f"{name}.py", {"RATE": "0.25"})
        found.append(batches(Stream(task.train_data(), 0, 0), 0))
    assert found[0] == found[1]


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


def test_streams_that_share_a_generator_have_orders_of_their_own() -> None:
    """Given to a sampler inside a sampler: drawn in turns, and taken up in the middle, each is what it is alone."""
    generator = torch.Generator()
    data = torch.utils.data.TensorDataset(torch.arange(24))

    def loader() -> Any:
        order = torch.utils.data.RandomSampler(data, generator=generator)
        return torch.utils.data.DataLoader(
            data, sampler=torch.utils.data.BatchSampler(order, 4, drop_last=False), batch_size=None
        )

    def batches(streams: list[Stream], count: int) -> list[list[list[int]]]:
        return [[stream.next()[0].tolist() for stream in streams] for _ in range(count)]

    alone = []
    for part in (0, 1):
        stream = Stream(loader(), 3, part)
        stream.begin(1)
        alone.append([each[0] for each in batches([stream], 6)])
    both = [Stream(loader(), 3, part) for part in (0, 1)]
    for stream in both:
        stream.begin(1)
    assert batches(both, 6) == [list(pair) for pair in zip(*alone, strict=True)]
    later = [Stream(loader(), 3, part) for part in (0, 1)]
    for stream in later:
        stream.begin(1, skip=2)
    assert batches(later, 4) == [list(pair) for pair in zip(*alone, strict=True)][2:]
    assert alone[0] != alone[1]


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
