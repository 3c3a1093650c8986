"""`graphsplit train` and `graphsplit run`, end to end on the shipped models and tasks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsplit
from graphsplit.training import checkpoint, load_task
from graphsplit.training.folder import part_folder
from graphsplit.training.loop import CHECKPOINT, METRICS
from tests.commands import Run
from tests.training_commands import GLYPHS, run, small
from tests.training_tasks import ROOT, net, weights

__all__ = ["run", "small"]  # fixtures

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


def test_a_run_notices_a_changed_task(run: Run) -> None:
    few = ("--task", GLYPHS, "--pretrain", 1, "--epochs", 2, "-o", "out", "-k", 2, "--stack", "off")
    model = ROOT / "models" / "lenet.onnx"
    assert run("run", model, *few, "--set", "IMAGES=100").exit_code == 0
    refused = run("run", model, *few, "--set", "IMAGES=90", "--resume")
    assert refused.exit_code == 2
    assert "written with another task" in refused.stderr
    assert run("run", model, *few, "--set", "IMAGES=90", "--resume", "--other-task").exit_code == 0


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
