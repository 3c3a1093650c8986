"""Refusals of the command line: one line and a hint, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphsplit
from tests.command_line import lenet, run, saved
from tests.commands import Run
from tests.networks import REFUSED

__all__ = ["lenet", "run"]  # fixtures


def test_a_refusal_is_one_line_and_a_hint_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    for name, (_, word) in sorted(REFUSED.items()):
        done = run("split", saved(tmp_path, name), "-k", 2, "-o", "out")
        assert done.exit_code == 2, name
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) in (1, 2), name
        assert lines[0].startswith("graphsplit: error: ")
        assert word in done.stderr or word == "nothing"
        assert lines[1:] == [] or lines[1].startswith("  hint: ")
        assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("split", "none.onnx", "-k", 2), "'none.onnx': there is no such file"),
        (("split", "lenet.onnx", "-k", 2, "--strategy", "best"), "there is no strategy 'best'"),
        (("split", "lenet.onnx", "-k", 2, "--shares", "1,2,3"), "don't fit 2 parts"),
        (("split", "lenet.onnx", "-k", 2, "--keep", "nobody"), "nobody: no node, parameter or value has this name"),
        (("split", "lenet.onnx", "-k", 5000), "5000 parts"),
        (("explain", "lenet.onnx", "nobody"), "nobody: no node, parameter or value of the network has this name"),
        (("inspect", "none.onnx"), "'none.onnx': there is no such file"),
        (("merge", "none"), "none"),
        (("verify", "none"), "none"),
    ],
)
def test_refusals(run: Run, lenet: Path, arguments: tuple[object, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("graphsplit: error: ")
    assert said in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("split", "lenet.onnx"),
        ("split", "lenet.onnx", "-k", 0),
        ("split", "lenet.onnx", "-k", 2, "--shares", "a,b"),
        ("split", "lenet.onnx", "-k", 2, "--init", "fresh"),
        ("split", "lenet.onnx", "-k", 2, "--frobnicate"),
        ("merge",),
        ("explain", "lenet.onnx"),
        ("inspect", "lenet.onnx", "--rules", "none.txt"),
        ("dance",),
    ],
)
def test_misuse_shows_the_usage(run: Run, lenet: Path, arguments: tuple[object, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: graphsplit")
    assert "Error: " in done.stderr


def test_an_option_without_its_file_is_misuse(run: Run) -> None:
    done = run("verify", "parts", "--trained")
    assert done.exit_code == 2
    assert done.stderr == "Error: Option '--trained' requires an argument.\n"


def test_an_existing_folder_is_refused_without_force(run: Run, lenet: Path) -> None:
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    before = Path("parts/manifest.json").read_bytes()
    done = run("split", lenet, "-k", 3, "-o", "parts")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert Path("parts/manifest.json").read_bytes() == before
    assert run("split", lenet, "-k", 3, "-o", "parts", "--force").exit_code == 0
    assert Path("parts/submodel_2.onnx").is_file()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (graphsplit.GraphsplitError("two\nlines\x1b[31m", hint="go on"), 2, "two lines\\x1b[31m\n  hint: go on\n"),
        (OSError(28, "No space left on device", "parts/x"), 2, "'parts/x': No space left on device\n"),
        (OSError("odd"), 2, "odd\n"),
        (MemoryError(), 2, "out of memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(graphsplit, "split", fail, raising=False)
    done = run("split", "x.onnx", "-k", 2)
    assert done.exit_code == code
    assert done.stderr == f"graphsplit: error: {said}"


def test_a_mistake_of_ours_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(graphsplit, "split", fail, raising=False)
    with pytest.raises(AssertionError, match="ours"):
        run("split", "x.onnx", "-k", 2)
