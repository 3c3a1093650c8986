"""`graphsplit train` and `graphsplit run`, end to end on the shipped models and tasks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsplit
from graphsplit.training import Training, TrainingError, checkpoint, load_task, train_parts
from graphsplit.training.confidence import CONFIDENCE, MOST, leave_confidence
from graphsplit.training.engines import Job, in_processes, on_ray
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, METRICS, Outcome
from graphsplit.training.method import run as method_of
from graphsplit.training.task import Task
from graphsplit.training.trainee import make
from tests.commands import Run, runner
from tests.test_training import PLAIN, net, weights

ROOT = Path(__file__).parent.parent
NAN = float("nan")
GLYPHS = ROOT / "models" / "glyphs_task.py"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return runner(monkeypatch)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A split and its task, in a folder."""
    (tmp_path / "task.py").write_text(PLAIN)
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=tmp_path / "parts")
    return tmp_path


WHOLE = ("--input", "1x1x28x28", "--task", GLYPHS, "-k", 2, "--pretrain", 3, "--set", "IMAGES=1500", "-o", "out")


def test_the_whole_method(run: Run) -> None:
    """The merged network starts at the mean of its parts, and ends better than any of them."""
    done = run("run", "models.lenet:LeNet", *WHOLE, "--epochs", 6, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    scores = found["scores"]
    assert set(scores) == {"part 0", "part 1", "merged", "trained"}
    best = min(scores["part 0"]["loss"], scores["part 1"]["loss"])
    assert scores["merged"]["loss"] < max(scores["part 0"]["loss"], scores["part 1"]["loss"])
    assert scores["trained"]["loss"] < 0.7 * best
    assert scores["trained"]["error"] < min(scores["part 0"]["error"], scores["part 1"]["error"])
    assert [line["epoch"] for line in found["merged"]["history"]] == [4, 5, 6]
    x = torch.randn(4, 1, 28, 28)
    merged = graphsplit.load_module("out/merged.pt2")
    each = [graphsplit.load_module(f"out/parts/submodel_{part}.pt2")(x) for part in (0, 1)]
    assert torch.allclose(merged(x), (each[0] + each[1]) / 2, atol=1e-5)
    assert not torch.allclose(graphsplit.load_module("out/trained.pt2")(x), merged(x), atol=1e-2)
    task = load_task(GLYPHS, {"IMAGES": "1500"})
    assert task.test_data is not None
    images, labels = (torch.cat(list(column)) for column in zip(*task.test_data(), strict=True))
    for part in (0, 1):
        sure = json.loads(Path(f"out/parts/training/part_{part}/confidence.json").read_text())
        right = graphsplit.load_module(f"out/parts/submodel_{part}.pt2")(images).softmax(1)[range(len(labels)), labels]
        assert torch.allclose(torch.tensor(sure), right[:2000], atol=1e-4)
    assert graphsplit.verify("out/parts", "out/merged.pt2").passed


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


def test_a_single_network_trains(run: Run, tmp_path: Path) -> None:
    few = ("--task", GLYPHS, "--set", "IMAGES=200", "--epochs", 1)
    done = run("train", "models.lenet:LeNet", *few, "-o", "lenet.safetensors")
    assert done.exit_code == 0, done.stderr
    assert "network       1" in done.stdout
    from safetensors.torch import load_file

    from models.lenet import LeNet

    model = LeNet()
    model.load_state_dict(load_file("lenet.safetensors"))
    assert run("train", "models.lenet:LeNet", *few, "-o", "lenet.pt2").exit_code == 2
    graphsplit.split(model, (torch.randn(1, 1, 28, 28),), k=2, out=tmp_path / "parts")
    graphsplit.merge("parts", out="merged.pt2")
    assert run("train", "merged.pt2", *few).exit_code == 0
    before, after = graphsplit.load_module("merged.pt2"), graphsplit.load_module("merged-trained.pt2")
    assert not torch.equal(before.fc1.weight, after.fc1.weight)
    assert (tmp_path / "merged-trained-training" / METRICS).exists()
    kept = Path("merged-trained.pt2").read_bytes()
    refused = run("train", "merged.pt2", *few)
    assert refused.exit_code == 2
    assert "'merged-trained.pt2' exists already" in refused.stderr
    assert Path("merged-trained.pt2").read_bytes() == kept
    assert run("train", "merged.pt2", *few, "--resume").exit_code == 0


def test_parts_one_by_one_as_a_job_array_does(run: Run, small: Path) -> None:
    for part in (1, 0):
        done = run("train", "parts", "--task", "task.py", "--part", part, "--epochs", 2, "--json")
        assert [one["part"] for one in json.loads(done.stdout)["outcomes"]] == [part]
    apart = weights(small / "parts")
    with pytest.raises(graphsplit.GraphsplitError, match="holds 'training'"):  # a split doesn't replace a training
        graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=small / "parts", force=True)
    shutil.rmtree(small / "parts")
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=small / "parts")
    assert run("train", "parts", "--task", "task.py", "--epochs", 2, "--stack", "off").exit_code == 0
    assert weights(small / "parts") == apart


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("parts", "--task", "none.py"), "there is no such file"),
        (("nothing", "--task", "task.py"), "is no network to train"),
        (("parts", "--task", "task.py", "--part", "2"), "has parts 0 to 1"),
        (("parts", "--task", "task.py", "-o", "x.pt2"), "trained where they lie"),
        (("parts", "--task", "task.py", "--engine", "spark"), "none of local, ray"),
        (("parts", "--task", "task.py", "--set", "RATE"), "NAME=VALUE"),
        (("parts", "--task", "task.py", "--device", "abacus"), "--device abacus"),
    ],
)
def test_what_can_t_be_trained_is_refused(run: Run, small: Path, arguments: tuple[str, ...], message: str) -> None:
    before = weights(small / "parts")
    done = run("train", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert weights(small / "parts") == before


def test_a_run_goes_on_with_the_split_that_it_began_with(run: Run) -> None:
    few = ("--task", GLYPHS, "--set", "IMAGES=100", "--pretrain", 1, "--epochs", 1, "-o", "out")
    model = ROOT / "models" / "lenet.onnx"
    split = {"-k": 2, "--strategy": "random", "--init": "rescale", "--seed": 3}

    def begun(changed: dict[str, Any]) -> Any:
        return run("run", model, *few, *(word for option in (split | changed).items() for word in option), "--resume")

    assert begun({}).exit_code == 0
    options = json.loads(Path("out/parts/manifest.json").read_text())["options"]
    assert (options["strategy"], options["init"], options["seed"]) == ("random", "rescale", 3)
    for changed, message in (
        ({"-k": 4}, "-k 4: the run in 'out' was begun with -k 2"),
        ({"--strategy": "interleaved"}, "--strategy interleaved: the run in 'out' was begun with --strategy random"),
        ({"--init": "keep"}, "--init keep: the run in 'out' was begun with --init rescale"),
        ({"--seed": 4}, "--seed 4: the run in 'out' was begun with --seed 3"),
        ({"--shares": "2,1"}, "--shares 2,1: the run in 'out' was begun with no --shares"),
        ({"--keep": "fc1.weight"}, "--keep fc1.weight: the run in 'out' was begun with no --keep"),
        ({"--outputs": "concat"}, "--outputs concat: the run in 'out' was begun with --outputs auto"),
        ({"--merge-when": "plateau"}, "was begun with --merge-when epoch"),
    ):
        refused = begun(changed)
        assert refused.exit_code == 2
        assert message in " ".join(refused.stderr.split())
    assert begun({"--shares": "3,3"}).exit_code == 0  # as equal as none
    shutil.copy(ROOT / "models" / "lenet.onnx", "other.onnx")
    refused = run("run", "other.onnx", *few, *(word for option in split.items() for word in option), "--resume")
    assert "MODEL other.onnx" in refused.stderr
    assert "was begun with MODEL lenet.onnx" in " ".join(refused.stderr.split())
    asked = json.loads(Path("out/run.json").read_text())
    Path("out/run.json").write_text(json.dumps({name: asked[name] for name in ("pretrain", "patience", "epochs")}))
    assert "was begun with -k 2" in begun({"-k": 4}).stderr  # an earlier version noted no more
    assert begun({}).exit_code == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_changed_task_is_noticed_by_processes_too(run: Run, small: Path, jobs: int) -> None:
    few = ("train", "parts", "--task", "task.py", "--schedule-epochs", 3, "--jobs", jobs)
    assert run(*few, "--epochs", 1).exit_code == 0
    refused = run(*few, "--epochs", 2, "--resume", "--set", "RATE=0.01")
    assert refused.exit_code == 2
    assert "written with another task" in refused.stderr
    assert "add --other-task" in refused.stderr
    assert run(*few, "--epochs", 2, "--resume", "--set", "RATE=0.01", "--other-task").exit_code == 0


def test_a_merge_before_any_training_needs_no_processes(run: Run) -> None:
    few = ("--task", GLYPHS, "--set", "IMAGES=100", "--pretrain", 0, "--epochs", 1, "-k", 2, "-o", "out")
    done = run("run", ROOT / "models" / "lenet.onnx", *few, "--jobs", 2)
    assert done.exit_code == 0, done.stderr


def test_a_run_notices_a_changed_task(run: Run) -> None:
    few = ("--task", GLYPHS, "--pretrain", 1, "--epochs", 2, "-o", "out", "-k", 2, "--stack", "off")
    model = ROOT / "models" / "lenet.onnx"
    assert run("run", model, *few, "--set", "IMAGES=100").exit_code == 0
    refused = run("run", model, *few, "--set", "IMAGES=90", "--resume")
    assert refused.exit_code == 2
    assert "written with another task" in refused.stderr
    assert run("run", model, *few, "--set", "IMAGES=90", "--resume", "--other-task").exit_code == 0


def test_a_task_s_epochs_are_those_of_the_schedule_on_any_engine(run: Run, small: Path) -> None:
    """Data that changes with the epoch asks for them."""
    (small / "task.py").write_text(
        PLAIN.replace(
            "def train_data():",
            "def train_data():\n    with open('seen', 'a') as file:\n        print(EPOCHS, file=file)",
        )
    )
    few = ("--task", "task.py", "--epochs", 1, "--schedule-epochs", 3, "--stack", "off")
    assert run("train", "parts", *few).exit_code == 0
    assert run("train", "parts", *few, "--force", "--jobs", 2).exit_code == 0
    for job in jobs_of(small, Training(1, 3, force=True)):
        job.run()
    assert (small / "seen").read_text().split() == ["3"] * 6


# -- engines --------------------------------------------------------------------------------------------------

SUICIDAL = """
_first = __import__("pathlib").Path(__file__).with_name("killed")


def loss(outputs, targets, _loss=loss, _count=[0]):
    import os, signal
    _count[0] += 1
    if _count[0] == 8 and not _first.exists():
        _first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _loss(outputs, targets)
"""


def jobs_of(small: Path, training: Training, **changes: Any) -> list[Job]:
    return [Job(str(small / "parts"), part, str(small / "task.py"), training, **changes) for part in (0, 1)]


Engine = Callable[[list[Job]], object]


def killed_on_the_way(small: Path, engine: Engine) -> None:
    """An engine gives what it gives undisturbed, to the bit, and what this process gives, up to rounding."""

    def trained(train: Callable[[], object]) -> list[bytes]:
        shutil.rmtree(small / "parts")
        graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=small / "parts")
        train()
        return weights(small / "parts")

    jobs = jobs_of(small, Training(3, 3, every=0.0))
    trained(lambda: train_parts(small / "parts", load_task(small / "task.py"), jobs[0].training))
    here = states(small)
    calm = trained(lambda: engine(jobs))
    for state, wanted in zip(states(small), here, strict=True):
        assert all(torch.allclose(state[name], value, atol=1e-6) for name, value in wanted.items())
    (small / "task.py").write_text(PLAIN + SUICIDAL)
    assert trained(lambda: engine(jobs)) == calm
    assert (small / "killed").exists()


def states(small: Path) -> list[dict[str, Any]]:
    return [graphsplit.load_module(small / "parts" / f"submodel_{part}.pt2").state_dict() for part in (0, 1)]


def test_processes_side_by_side_give_the_same(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is killed on the way is started again."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    seen: dict[str, int] = {}
    found: list[Any] = []

    def engine(jobs: list[Job]) -> None:
        found[:] = in_processes(jobs, 2, report=lambda title, done, total: seen.update({title: done}))

    killed_on_the_way(small, engine)
    assert [(one.part, one.epochs, len(one.history)) for one in found] == [(0, 3, 3), (1, 3, 3)]
    assert seen == {"part 0": 3, "part 1": 3}


def test_what_a_process_refuses_ends_the_training(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (small / "task.py").write_text(PLAIN.replace("cross_entropy(outputs", "cross_entropy(outputs[0]"))
    with pytest.raises(TrainingError, match=r"part \d: .*task.py:\d+: loss\(\) raised") as caught:
        in_processes(jobs_of(small, Training(3, 3)), 2)
    assert "Traceback" not in str(caught.value)


SAYING = PLAIN + "\nprint('made')\n"


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_task_prints_is_no_result(
    run: Run, small: Path, jobs: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (small / "task.py").write_text(SAYING)
    done = run("train", "parts", "--task", "task.py", "--epochs", 1, "--stack", "off", "--jobs", jobs, "--json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["outcomes"]) == 2
    assert done.stderr.count("made") == (1 if jobs == 1 else 3)


def test_a_process_s_refusal_is_told_apart_from_what_its_task_says(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (small / "task.py").write_text(SAYING.replace("cross_entropy(outputs", "cross_entropy(outputs[0]"))
    with pytest.raises(TrainingError) as caught:
        in_processes(jobs_of(small, Training(1, 1)), 1)
    assert caught.value.message.startswith(f"part 0: {small / 'task.py'}:28: loss() raised")
    assert "made" in capsys.readouterr().err


def test_a_process_that_crashes_is_told_by_its_last_line(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    crash = "\nimport graphsplit.training.start as start\ndel start.train_parts\n"
    (small / "task.py").write_text(PLAIN + crash)
    with pytest.raises(TrainingError, match=r"^part 0: NameError: name 'train_parts' is not defined$"):
        in_processes(jobs_of(small, Training(1, 1)), 1)
    assert '\nTraceback (most recent call last):\n  File "' in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A Ray cluster of three nodes on this machine, with a processor each."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    os.environ.update(
        PYTHONPATH=str(ROOT),
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        RAY_worker_niceness="0",  # what runs beside these tests would leave nothing to workers that give way
    )
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        found.add_node(num_cpus=1)
    ray.init(address=found.address, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()
    found.shutdown()


def test_a_ray_cluster_gives_the_same(cluster: Any, small: Path) -> None:
    """On two nodes, with a worker killed on the way."""
    found: list[Any] = []

    def engine(jobs: list[Job]) -> None:
        found[:] = on_ray(jobs)

    killed_on_the_way(small, engine)
    assert [one.epochs for one in found] == [3, 3]
    with pytest.raises(TrainingError, match="holds a training already"):
        on_ray(jobs_of(small, Training(3, 3)))
    (small / "task.py").write_text(PLAIN.replace("cross_entropy(outputs", "cross_entropy(outputs[0]"))
    with pytest.raises(TrainingError, match=r"part \d: .* was written with another task"):
        on_ray(jobs_of(small, Training(4, 3, resume=True)))
    with pytest.raises(TrainingError, match=r"part \d: .*task.py:\d+: loss\(\) raised"):
        on_ray(jobs_of(small, Training(4, 3, resume=True, other_task=True)))


def test_without_ray_it_says_what_to_install(small: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("train", "parts", "--task", "task.py", "--engine", "ray")
    assert done.exit_code == 2
    assert "graphsplit[ray]" in done.stderr


def test_python_m_graphsplit_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphsplit", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("graphsplit ")


# -- ONNX files -----------------------------------------------------------------------------------------------


def test_the_whole_method_on_an_onnx_file(run: Run, tmp_path: Path) -> None:
    """Sub-models train as the files that they are, and the merged file goes on with their momentum."""
    model = ROOT / "models" / "lenet.onnx"
    few = ("--task", GLYPHS, "--set", "IMAGES=1000", "-k", 2, "--pretrain", 2, "--epochs", 4, "-o", "out")
    done = run("run", model, *few, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    scores = found["scores"]
    assert scores["trained"]["loss"] < min(scores["part 0"]["loss"], scores["part 1"]["loss"])
    assert found["file"].endswith("trained.onnx")
    assert graphsplit.verify("out/parts", "out/merged.onnx").passed
    x = torch.randn(3, 1, 28, 28)
    merged, trained = (graphsplit.trainable(f"out/{name}.onnx") for name in ("merged", "trained"))
    each = [graphsplit.trainable(f"out/parts/submodel_{part}.onnx")(x) for part in (0, 1)]
    assert torch.allclose(merged(x), (each[0] + each[1]) / 2, atol=1e-5)
    assert not torch.allclose(trained(x), merged(x), atol=1e-3)
    again = run("run", model, *few, "--resume", "--json")
    assert json.loads(again.stdout)["scores"]["trained"] == scores["trained"]


def test_momentum_of_onnx_sub_models_merges(small: Path, run: Run) -> None:
    """Of a hidden layer side by side, of the output layer's weight by Eq. 1, and of cut weights zero."""
    model = ROOT / "models" / "lenet.onnx"
    few = (
        "--task",
        GLYPHS,
        "--set",
        "IMAGES=100",
        "-k",
        2,
        "--pretrain",
        1,
        "--epochs",
        1,
        "-o",
        "out",
        "--stack",
        "off",
    )
    assert run("run", model, *few).exit_code == 0
    names = [name for name, _ in graphsplit.trainable("out/merged.onnx").named_parameters()]
    places = [Path("out/training"), *(part_folder(Path("out/parts"), part) for part in (0, 1))]
    whole, *each = (checkpoint.read(place / CHECKPOINT)["optimizer"]["state"] for place in places)
    at = names.index("fc2.weight")
    assert torch.allclose(whole[at]["momentum_buffer"], torch.cat([s[at]["momentum_buffer"] for s in each], 1) / 2)
    at = names.index("conv2.weight")
    blocks = [s[at]["momentum_buffer"] for s in each]
    assert torch.allclose(
        whole[at]["momentum_buffer"], torch.block_diag(*(b.flatten(1) for b in blocks)).view(50, 20, 5, 5)
    )
