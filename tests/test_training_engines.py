"""Engines of trainings: processes and a Ray cluster give what this process gives, also when a worker is killed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsplit
from graphsplit.training import Training, TrainingError, load_task, train_parts
from graphsplit.training.engines import Job, in_processes, on_ray
from tests.commands import Run
from tests.training_commands import GLYPHS, run, small
from tests.training_tasks import PLAIN, ROOT, net, weights

__all__ = ["run", "small"]  # fixtures

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


# -- processes ------------------------------------------------------------------------------------------------


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


# -- Ray ------------------------------------------------------------------------------------------------------


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
