"""The experiments' programs from their command lines, on data in the published formats that a test can make."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="the extra 'experiments'")

from graphsplit.training import load_task
from models.char_lm import CharLM
from models.cuda_convnet import CudaConvnet
from tools.experiments import beyond, char_lm, cifar10, mnist, steps
from tools.experiments.trials import read

pytestmark = pytest.mark.usefixtures("frozen_heap")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The programs set how many there are."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with data sets of a few items."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 30)):
        _idx(raw / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        _idx(raw / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    batches = tmp_path / "data" / "cifar-10-batches-py"
    batches.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        held = {b"data": rng.integers(0, 256, (20, 3072), np.uint8), b"labels": [at % 10 for at in range(20)]}
        (batches / name).write_bytes(pickle.dumps(held, protocol=2))
    text = tmp_path / "data" / "text" / "tinyshakespeare.txt"
    text.parent.mkdir()
    text.write_text("To be, or not to be, that is the question.\n" * 60)
    return tmp_path / "data"


def _idx(path: Path, values: np.ndarray) -> None:
    path.write_bytes(
        gzip.compress(struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes())
    )


PROGRAMS = {
    "mnist": (mnist, ("--pretrain", "1", "--epochs", "3", "--images", "60"), "baseline", "K=2, merged at 1"),
    "cifar10": (cifar10, ("--epochs", "3", "--images", "20", "--merges", "300"), "Original", "Net2WiderNet at 2"),
    "char_lm": (
        char_lm,
        ("--pretrain", "2", "1", "--epochs", "3", "--steps", "2", "--batch", "2", "--rescale"),
        "baseline",
        "K=2, merged at 2, rescale",
    ),
    "beyond": (
        beyond,
        ("--pretrain", "2", "--epochs", "3", "--images", "40", "--batch", "20"),
        "baseline",
        "K=2, merged on a plateau of 1",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_writes_its_page_and_takes_up_its_trials(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, arguments, first, other = PROGRAMS[name]
    _with_few_ways(program, monkeypatch)
    words = ["--data-root", str(data), "--seeds", "1", "--curve", "1", *arguments, "-o", str(tmp_path / "out")]
    assert program.main(words) == 0
    page = (tmp_path / "out.md").read_text()
    assert f"python tools/experiments/{name}.py --data-root FOLDER --seeds 1" in page
    trials = read(tmp_path / "out.json")
    assert {(first, 0), (other, 0)} <= trials.keys()
    for (way, _), trial in trials.items():
        assert f"| {way} | {min(trial.parameters):,} |" in page
        assert trial.seconds > 0
        assert trial.curve[-1]["multiply_adds"] == trial.multiply_adds
    assert str(data) not in page
    assert ("on the first batches alone" in page) == (name == "beyond")  # of the others one batch is all
    assert page.count(f"| {first} | 1 of 1 |") == 1  # when it first was as good as at its end
    pictures = [line.partition("](")[2].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert pictures
    assert all((tmp_path / picture).read_text().startswith("<?xml") for picture in pictures)
    assert len(capsys.readouterr().out.splitlines()) == len(trials)

    kept = (tmp_path / "out.json").read_bytes()
    assert program.main(words) == 0
    assert capsys.readouterr().out == ""  # nothing runs twice
    assert (tmp_path / "out.json").read_bytes() == kept
    assert (tmp_path / "out.md").read_text() == page
    assert len(json.loads(kept)) == len(trials)


def _with_few_ways(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a program tries, one of each kind, on networks that take no time."""
    monkeypatch.setattr(sys, "argv", ["a program"])
    if program is mnist:
        monkeypatch.setattr(mnist, "PARTS", (2,))
    elif program is char_lm:
        monkeypatch.setattr(char_lm, "SHARES", {2: 0.52})
        monkeypatch.setattr(char_lm, "CharLM", lambda: CharLM(width=16, heads=2, depth=1))
    elif program is cifar10:
        monkeypatch.setattr(cifar10, "CudaConvnet", lambda: CudaConvnet((8, 8, 8, 8)))
        _keep(program, {"Original", "Duplicated", "K=2, merged at 2", "Net2WiderNet at 2"}, monkeypatch)
    elif program is beyond:
        _keep(program, {"baseline", "K=2, merged at 2", "K=2, merged on a plateau of 1"}, monkeypatch)


def _keep(program: ModuleType, titles: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    every = program.ways
    monkeypatch.setattr(program, "ways", lambda *args: [way for way in every(*args) if way.title in titles])


def test_fewer_images_to_train_on_are_tested_on_as_many(data: Path) -> None:
    task = load_task(cifar10.TASK, {"DATA_ROOT": str(data), "IMAGES": "5"})
    assert task.test_data is not None
    assert task.validation_data is not None
    counts = [sum(len(classes) for _, classes in made()) for made in (task.test_data, task.validation_data)]
    assert counts == [20, 5]
    few = load_task(cifar10.TASK, {"DATA_ROOT": str(data), "IMAGES": "5", "TESTED": "7"})
    assert few.test_data is not None
    assert [len(classes) for _, classes in few.test_data()] == [7]


@pytest.mark.parametrize(("epochs", "falls"), [(520, (500, 510)), (13, (11, 12)), (4, (2, 3)), (2, (2, 2))], ids=str)
def test_the_rate_falls_twice_however_few_epochs_there_are(epochs: int, falls: tuple[int, int]) -> None:
    task = load_task(cifar10.TASK, {"EPOCHS": str(epochs)})
    assert task.schedule is not None
    optimizer = task.optimizer(CudaConvnet((8, 8, 8, 8)))
    schedule = task.schedule(optimizer, epochs)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.001 * (1 if at < falls[0] else 0.1 if at < falls[1] else 0.01) for at in range(epochs)]
    assert rates == pytest.approx(expected)


def test_steps_are_measured_against_the_full_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.benchmark_stacking.BATCH", 10)
    monkeypatch.setattr("tools.benchmark_stacking.IMAGES", 20)
    assert steps.main(["--steps", "1", "--k", "2", "-o", str(tmp_path / "out")]) == 0
    rows = dict(
        line.strip("| ").split(" | ") for line in (tmp_path / "out.md").read_text().splitlines() if " | " in line
    )
    assert (
        "thread, images as the rows say, freed memory kept, seconds the process's own; python 3"
        in (tmp_path / "out.md").read_text()
    )
    assert rows["multiply-adds of all K"] == "0.56"
    assert float(rows["K in turn"]) == pytest.approx(2 * float(rows["one sub-model"]), abs=0.02)
    assert rows["one sub-model, in the paper"] == "0.48"


def test_images_that_are_held_out_aren_t_trained_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        beyond.main(["--data-root", str(data), "--images", "55001"])
    assert ended.value.code == 2
    assert "--images 55001: between 1 and 55,000" in capsys.readouterr().err
