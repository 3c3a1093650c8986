"""Torch modules on the command line: how they and their inputs are named, and the commands on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")

import graphsplit  # noqa: E402
from graphsplit.cli import main  # noqa: E402
from graphsplit.errors import FormatError  # noqa: E402
from graphsplit.modules.factory import example, names_module  # noqa: E402

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 5)
        self.drop = nn.Dropout(0.5)
    def forward(self, x, scale=None):
        y = self.drop(self.norm(self.conv(x)).relu().mean((2, 3)))
        return self.fc(y if scale is None else y * scale)

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Embedding(30, 8), nn.Linear(8, 4)
    def forward(self, ids, mask):
        return self.fc((self.table(ids).relu() * mask.unsqueeze(-1)).sum(1))

ready = Net(4)
number = 3
def fails(): raise KeyError("no such thing")
def gives_text(): return "text"
def leaves(): raise SystemExit(7)
def prints():
    print("hello")
    return Net()
def odd():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        def forward(self, x):
            return self.b(torch.ops.networks_of_test_factory.odd(self.a(x)))
    return Odd()

@torch.library.custom_op("networks_of_test_factory::odd", mutates_args=())
def odd_op(x: torch.Tensor) -> torch.Tensor:
    return x * 2

odd_op.register_fake(torch.empty_like)
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "networks_of_test_factory.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def invoke(*words: str) -> Result:
        named = [word.replace("net:", "networks_of_test_factory:") for word in words]
        return CliRunner().invoke(main, named, catch_exceptions=False)

    return invoke


def test_split_merge_and_load(run: Run, tmp_path: Path) -> None:
    done = run("split", "net:Net", "-k", "2", "--input", "1x3x8x8", "-o", "parts")
    assert done.exit_code == 0, done.stderr
    assert "split Net into 2 parts in parts" in done.stdout
    assert "outputs averaged by the merge: fc\n" in done.stdout
    assert run("merge", "parts").stdout == "merged 2 parts into parts/merged.pt2\n"
    x = torch.randn(5, 3, 8, 8)
    parts = [graphsplit.load_module(f"parts/submodel_{k}.pt2") for k in range(2)]
    merged = graphsplit.load_module("parts/merged.pt2")
    assert torch.allclose(merged(x), (parts[0](x) + parts[1](x)) / 2, atol=1e-6)
    assert parts[0].conv.weight.shape == (4, 3, 3, 3)
    assert not torch.equal(parts[0].train()(x), parts[0](x))


def test_commands_speak_json(run: Run) -> None:
    done = json.loads(run("split", "net:ready", "-k", "2", "--input", "1x3x8x8", "-o", "parts", "--json").stdout)
    assert done["parts"] == 2
    assert [Path(item["file"]).name for item in done["submodels"]] == ["submodel_0.pt2", "submodel_1.pt2"]
    assert json.loads(run("merge", "parts", "-o", "merged.pt2", "--json").stdout)["path"] == "merged.pt2"
    layers = json.loads(run("inspect", "parts", "--json").stdout)["layers"]
    assert not [layer for layer in layers if "training" in layer["node"]]
    assert json.loads(run("inspect", "net:Net", "--input", "1x3x8x8", "--json").stdout)["report"] == "graph"
    assert json.loads(run("inspect", "net:Net", "--input", "1x3x8x8", "-k", "2", "--json").stdout)["parts"] == 2
    assert run("inspect", "net:Net", "--input", "1x3x8x8", "--compare").exit_code == 0
    assert "8 vertices" in run("explain", "net:Net", "--input", "1x3x8x8", "conv.weight").stdout


def test_what_a_factory_prints_is_no_result(run: Run) -> None:
    done = run("split", "net:prints", "-k", "2", "--input", "1x3x8x8", "-o", "parts", "--json")
    assert json.loads(done.stdout)["parts"] == 2
    assert "hello" in done.stderr


def test_a_sub_model_is_split_again(run: Run) -> None:
    run("split", "net:Net", "-k", "2", "--input", "1x3x8x8", "-o", "parts")
    done = run("split", "parts/submodel_0.pt2", "-k", "2", "-o", "inner")
    assert done.exit_code == 0, done.stderr
    done = run("merge", "parts", "inner", "parts/submodel_1.pt2", "-o", "merged.pt2")
    assert done.exit_code == 0, done.stderr
    assert (
        "--input is for package.module:factory"
        in run("split", "parts/submodel_0.pt2", "-k", "2", "--input", "3").stderr
    )


def test_inputs_by_name_with_types_and_free_axes(run: Run) -> None:
    done = run(
        "split",
        "net:Words",
        "-k",
        "2",
        "--input",
        "ids=NxS:int64",
        "--input",
        "mask=NxS",
        "--size",
        "S=6",
        "-o",
        "parts",
    )
    assert done.exit_code == 0, done.stderr
    module = graphsplit.load_module("parts/submodel_0.pt2")
    for batch, length in ((1, 6), (4, 3), (7, 11)):
        assert module(torch.zeros(batch, length, dtype=torch.int64), torch.ones(batch, length)).shape == (batch, 4)
        assert (
            module(ids=torch.zeros(batch, length, dtype=torch.int64), mask=torch.ones(batch, length)).shape[0] == batch
        )


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("net:Net",), "its inputs aren't known", "--input 1x3x224x224"),
        (("net:Nothing", "--input", "1"), "has no 'Nothing'", "package.module:factory"),
        (("nowhere.at_all:Net", "--input", "1"), "cannot import 'nowhere.at_all'", "current one"),
        (("net:number", "--input", "1"), "is a int, neither a module nor a function", ""),
        (("net:fails", "--input", "1"), "raised KeyError: 'no such thing'", "without arguments"),
        (("net:gives_text", "--input", "1"), "gives a str", ""),
        (("net:leaves", "--input", "1"), "raised SystemExit: 7", ""),
        (("net:Net", "--input", "0x3x8x8"), "an axis has no elements", ""),
        (("net:Net", "--input", "99999999999999999999x6"), "torch can't make such a tensor", ""),
        (("net:Net", "--input", "1,3,8,8"), "not the form of an input", "1x3x224x224"),
        (("net:Net", "--input", "1x3x8x8:floaty"), "no type 'floaty'", "float32"),
        (("net:Net", "--input", "1x3xHx8"), "the size of H isn't known", "--size H=64"),
        (("net:Net", "--input", "x=1x3x8x8", "--input", "4"), "come before those with one", ""),
        (("net:Net", "--input", "1x3x8x8", "--input", "8", "--input", "2"), "torch.export can't follow", ""),
        (("net:odd", "--input", "4x4"), "networks_of_test_factory::odd", "--rules"),
        (("models.onnx", "--input", "1"), "--input is for torch modules", ""),
        (("net:Net", "--input", "1x3x8x8", "--size", "H"), "not of the form NAME=SIZE", ""),
    ],
)
def test_mistakes_are_named(run: Run, words: tuple[str, ...], message: str, hint: str) -> None:
    done = run("split", *words, "-k", "2", "-o", "parts")
    assert done.exit_code == 2
    assert message in done.stderr
    assert hint in done.stderr
    assert not Path("parts").exists()


def test_a_refusal_names_the_users_line(run: Run) -> None:
    done = run("split", "net:odd", "--input", "4x4", "-k", "2", "-o", "parts")
    line = next(i for i, text in enumerate(SOURCE.splitlines(), 1) if "factory.odd(self" in text)
    assert f"networks_of_test_factory.py:{line}" in done.stderr


def test_the_merged_file_has_the_sources_kind(run: Run) -> None:
    run("split", "net:Net", "-k", "2", "--input", "1x3x8x8", "-o", "parts")
    assert "is a .pt2 file" in run("merge", "parts", "-o", "merged.onnx").stderr


def test_what_names_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_module("package.module:factory")
    assert names_module("file.pt2")
    assert not names_module("model.onnx")
    assert not names_module("C:/models/x.onnx")
    Path("a:b").touch()
    assert not names_module("a:b")
    with pytest.raises(FormatError):
        example("nowhere:x")
