"""Folders and processes of trainings: what a run refuses before it trains, what it replaces, and who may write at once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsplit
from graphsplit.training import Result, Training, TrainingError, load_task, train_parts
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, METRICS, Outcome
from graphsplit.training.run_folder import LEAVING
from graphsplit.training.tables import show_result
from tests.commands import Run
from tests.training_commands import GLYPHS, run, small
from tests.training_tasks import PLAIN, ROOT, net, weights

__all__ = ["run", "small"]  # fixtures

LENET = ROOT / "models" / "lenet.onnx"


def method(small: Path, text: str = PLAIN, **options: Any) -> Result:
    """A run of the whole method on a small network: two epochs apart, one merged."""
    (small / "task.py").write_text(text)
    given: dict[str, Any] = {"pretrain": 2, "epochs": 3, "out": small / "out", "stack": "off"} | options
    return graphsplit.run(
        lambda where: graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=where), small / "task.py", **given
    )


def nothing_trains(title: str, done: int, total: int) -> None:
    raise AssertionError(f"{title} trains")


# -- before training ----------------------------------------------------------------------------------------------

TESTED = PLAIN + "\n\ndef test_data():\n    return validation_data()\n"
SURE = TESTED + "\n\ndef confidence(outputs, targets):\n    return outputs[:, 0]\n"
WRONG = {
    "raises": (
        TESTED.replace("return validation_data()", "return [][1]"),
        r"task.py:\d+: test_data\(\) raised IndexError",
    ),
    "no pairs": (TESTED.replace("return validation_data()", "return [1]"), r"test_data\(\) gives batches of type int"),
    "a shape": (
        TESTED.replace("return validation_data()", "return [(torch.zeros(2, 5), torch.zeros(2))]"),
        r"can't take the inputs of test_data\(\)",
    ),
    "nothing": (TESTED.replace("return validation_data()", "return []"), r"test_data\(\) gives no batch"),
    "once": (
        PLAIN.replace("return [(torch.sin(", "return iter([(torch.sin(").replace("% 4)]", "% 4)])"),
        r"validation_data\(\) gives a list_iterator, which can be gone through once only",
    ),
    "a metric": (PLAIN.replace(".float().mean()}", "}"), r"metrics\(\) gives 'error' as Tensor"),
    "confidence": (SURE.replace("outputs[:, 0]", "outputs"), r"confidence\(\) doesn't give a number for each sample"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_fails_in_evaluation_is_refused_before_training(small: Path, name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(TrainingError, match=message):
        method(small, text, report=nothing_trains)
    assert not (small / "out").exists()


def test_a_look_at_the_data_changes_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that draws, and a network that draws: the same weights as without a look."""
    text = SURE.replace("return [(torch.sin(", "return [(torch.randn(1) + torch.sin(")
    method(small, text)
    with_it = weights(small / "out" / "parts")
    monkeypatch.setattr(
        "graphsplit.training.method.rehearse",
        lambda task, module, training: graphsplit.training.trainee.make(task, module, [0], "cpu", 3),
    )
    method(small, text, force=True)
    assert weights(small / "out" / "parts") == with_it


def test_a_plateau_without_validation_is_refused_before_the_split(small: Path) -> None:
    with pytest.raises(TrainingError, match=r"has no validation_data\(\)"):
        method(small, PLAIN.replace("def validation_data", "def other_data"), patience=1, report=nothing_trains)
    assert not (small / "out").exists()


@pytest.mark.parametrize("there", ["folder", "link"])
def test_where_a_network_can_t_be_written_is_refused_before_training(run: Run, tmp_path: Path, there: str) -> None:
    if there == "folder":
        Path("lenet.safetensors").mkdir()
    else:
        Path("lenet.safetensors").symlink_to("nowhere/at/all")
    few = ("--task", GLYPHS, "--set", "IMAGES=100", "--epochs", 1, "-o", "lenet.safetensors", "--force")
    refused = run("train", "models.lenet:LeNet", *few)
    assert refused.exit_code == 2
    assert ("is a folder" if there == "folder" else "leads nowhere") in refused.stderr
    assert not Path("lenet-training").exists()


def test_a_missing_sub_model_is_said(run: Run, small: Path) -> None:
    (small / "parts" / "submodel_1.pt2").unlink()
    refused = run("train", "parts", "--task", "task.py")
    assert refused.exit_code == 2
    assert "submodel_1.pt2' is missing: the sub-model of part 1" in " ".join(refused.stderr.split())
    assert "split the network again" in refused.stderr
    assert not (small / "parts" / "training").exists()


def test_a_setting_that_is_the_file_s_own_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(PLAIN)

    def digest(**settings: str) -> str:
        return load_task(path, settings).digest

    assert digest(RATE="0.05") == digest(RATE="5e-2") == digest()
    assert digest(RATE="0.1") == digest(RATE="1e-1") != digest()


# -- folders ------------------------------------------------------------------------------------------------------


def test_a_refused_run_leaves_nothing_and_a_refused_option_neither(run: Run) -> None:
    few = ("--task", GLYPHS, "--set", "IMAGES=100", "--pretrain", 1, "--epochs", 1, "-k", 2, "-o", "deep/out")
    for wrong in (("--strategy", "alphabetic"), ("--keep", "nobody"), ("--device", "abacus")):
        refused = run("run", LENET, *few, *wrong)
        assert refused.exit_code == 2, wrong
        assert not Path("deep").exists(), wrong
    Path("deep/out").mkdir(parents=True)
    assert run("run", LENET, *few, "--strategy", "alphabetic").exit_code == 2
    assert list(Path("deep/out").iterdir()) == []
    assert run("run", LENET, *few).exit_code == 0


def test_a_run_that_diverged_starts_over(small: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss of epoch 1 is") as caught:
        method(small, PLAIN.replace("RATE = 0.05", "RATE = 1e30"))
    assert "learning rate" in caught.value.hint
    with pytest.raises(TrainingError, match="holds a run already") as caught:
        method(small)
    assert "--force to start over" in caught.value.hint
    found = method(small, force=True)
    assert [one.epochs for one in found.parts] == [2, 2]
    assert sorted(entry.name for entry in (small / "out").iterdir()) == [
        ".lock", "merged.pt2", "parts", "run.json", "trained.pt2", "training",
    ]  # fmt: skip


def test_a_run_that_is_refused_brings_back_the_one_before(small: Path) -> None:
    method(small)
    before = {path: path.read_bytes() for path in (small / "out").rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"metrics\(\)"):
        method(small, PLAIN.replace(".float().mean()}", "}"), force=True, report=nothing_trains)
    assert {path: path.read_bytes() for path in (small / "out").rglob("*") if path.is_file()} == before
    (small / "out" / "parts" / "notes.txt").touch()
    with pytest.raises(TrainingError, match=r"holds 'notes.txt', which no run wrote"):
        method(small, force=True, report=nothing_trains)
    assert (small / "out" / "trained.pt2").exists()


def killed(what: Callable[[], object]) -> None:
    """Do it in a process of its own, which is killed on the way."""
    pid = os.fork()
    if not pid:
        try:
            what()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


@pytest.mark.parametrize("moves", [0, 2, None])
def test_a_run_that_is_killed_before_it_replaces_another_brings_that_back(
    small: Path, monkeypatch: pytest.MonkeyPatch, moves: int | None
) -> None:
    """As the one before moves aside, or while the network is split; the next command finds it, whatever it asks for."""
    method(small)
    before = files_of(small / "out")
    rename = Path.rename

    def few(path: Path, target: Path) -> Path:
        if moves is not None and len(list((small / "out" / LEAVING).iterdir())) == moves:
            die()
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", few)
        patched.setattr(graphsplit, "split", die)
        killed(lambda: method(small, force=True))
    assert not (small / "out" / "parts" / "manifest.json").exists() or moves == 0
    with pytest.raises(TrainingError, match="holds a run already"):
        method(small)
    assert files_of(small / "out") == before
    method(small, resume=True)
    assert files_of(small / "out") == before


def test_a_run_that_is_killed_once_it_has_replaced_another_is_gone_on_with(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method(small)
    with monkeypatch.context() as patched:
        patched.setattr("graphsplit.training.run_folder._settled", die)
        killed(lambda: method(small, force=True, pretrain=1))
    with pytest.raises(TrainingError, match="was begun with --pretrain 1"):
        method(small, resume=True)
    assert not (small / "out" / "trained.pt2").exists()
    method(small, resume=True, pretrain=1)
    assert not [entry.name for entry in (small / "out").iterdir() if entry.name.endswith("graphsplit-tmp")]


def test_only_a_run_is_replaced(small: Path) -> None:
    (small / "out").mkdir()
    (small / "out" / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="isn't empty, and holds no run"):
        method(small, force=True)
    assert [entry.name for entry in (small / "out").iterdir()] == ["thesis.txt"]
    (small / "out" / "thesis.txt").unlink()
    method(small)
    shutil.rmtree(small / "out" / "parts")
    with pytest.raises(TrainingError, match="isn't empty, and holds no split") as caught:
        method(small)
    assert "--force" in caught.value.hint
    assert (small / "out" / "trained.pt2").exists()
    method(small, force=True)


def test_seconds_are_those_of_all_runs(small: Path) -> None:
    first = method(small).seconds
    again = method(small, resume=True).seconds
    assert again == first
    assert set(first) == {"split", "merge", "evaluate"}
    assert method(small, force=True).seconds != first


def test_a_stack_s_time_is_told_once(small: Path) -> None:
    from rich.console import Console

    def outcome(part: int, together: int) -> Outcome:
        return Outcome(part, 2, 100, 7.0, 3_000_000_000, 5, together, ())

    def shown(together: int) -> str:
        console = Console(width=80, record=True, quiet=False, file=io.StringIO())
        parts = (outcome(0, together), outcome(1, together))
        show_result(console, Result(small, parts, outcome(0, 1), {}, {}, 2))
        return console.export_text()

    assert shown(1).count("7.0") == 3
    assert "part 1" in shown(1)
    text = shown(2)
    assert text.count("7.0") == 2
    (row,) = [line for line in text.splitlines() if "parts 0 to 1, stacked" in line]
    assert row.split()[-4:] == ["2", "200", "7.0", "3.0"]


# -- processes ----------------------------------------------------------------------------------------------------

SLOW = (
    PLAIN
    + """

def loss(outputs, targets, _loss=loss):
    import os, time
    with open(f"pid_{os.getpid()}", "a"):
        time.sleep(0.05)
    return _loss(outputs, targets)
"""
)


def begun(small: Path, *arguments: object) -> subprocess.Popen[bytes]:
    (small / "task.py").write_text(SLOW)
    words = ["train", "parts", "--task", "task.py", "--epochs", "1000", *arguments]
    # a shell's background jobs ignore it, and so would this
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "graphsplit", *map(str, words)],
            cwd=small,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def until(true: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def trainers(small: Path) -> list[int]:
    return [int(path.name.removeprefix("pid_")) for path in small.glob("pid_*")]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_children_end_with_their_parent(small: Path, how: str) -> None:
    parent = begun(small, "--jobs", 2)
    try:
        assert until(lambda: len(trainers(small)) == 2)
        parent.send_signal(getattr(signal, how))
        parent.wait(20)
        assert until(lambda: not any(lives(pid) for pid in trainers(small)), 10)
    finally:
        parent.kill()
        for pid in filter(lives, trainers(small)):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_part_is_trained_by_one_process_at_a_time(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another part may train meanwhile, and a process that is killed blocks nobody."""
    monkeypatch.setattr("graphsplit.training.locks.PATIENCE", 0.2)
    other = begun(small, "--part", 0)
    try:
        assert until(lambda: len(trainers(small)) == 1)
        (small / "plain.py").write_text(PLAIN)
        task = load_task(small / "plain.py")
        for training in (Training(1, 1, resume=True), Training(1, 1, force=True)):
            with pytest.raises(TrainingError, match=r"another process is training in '.*part_0'"):
                train_parts(small / "parts", task, training, parts=[0])
        with pytest.raises(TrainingError, match="another process is training"):
            train_parts(small / "parts", task, Training(1, 1), stack="on")
        assert other.poll() is None
        train_parts(small / "parts", task, Training(1, 1), parts=[1])
    finally:
        other.kill()
        other.wait()
    train_parts(small / "parts", task, Training(1, 1, force=True), parts=[0])
    assert (part_folder(small / "parts", 0) / CHECKPOINT).exists()


def test_a_run_is_of_one_process(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsplit.training.locks.PATIENCE", 0.0)
    refused: list[str] = []

    def report(title: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(TrainingError) as caught:
                method(small, resume=True)
            refused.append(caught.value.message)

    method(small, report=report)
    assert refused == [f"another process is training in {str(small / 'out')!r}"]
    lines = (part_folder(small / "out" / "parts", 0) / METRICS).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
