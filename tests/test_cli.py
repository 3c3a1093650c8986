"""The command line: options, output, and the documentation of all of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphsplit
from graphsplit.cli import main
from graphsplit.partition import STRATEGIES
from tests.command_line import ROOT, lenet, run, saved
from tests.commands import Run

__all__ = ["lenet", "run"]  # fixtures

DOCUMENT = ROOT / "docs" / "commands.md"
LENET = ["parameters   share", "431,080", "109,295  25.35%"]
COMMANDS = ("split", "merge", "verify", "inspect", "explain", "train", "run")


# -- the five commands ---------------------------------------------------------------------------------------------


def test_split_merge_and_verify(run: Run, lenet: Path) -> None:
    done = run("split", lenet, "-k", 2)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert all(piece in done.stdout for piece in LENET)
    assert sorted(p.name for p in Path("lenet-parts").iterdir()) == [
        "manifest.json", "source.onnx", "submodel_0.onnx", "submodel_1.onnx",
    ]  # fmt: skip
    done = run("verify", "lenet-parts")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    done = run("merge", "lenet-parts")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert "merged 2 parts into lenet-parts/merged.onnx" in done.stdout
    assert run("verify", "lenet-parts", "lenet-parts/merged.onnx").exit_code == 0


def test_json_of_split_merge_and_verify(run: Run, lenet: Path) -> None:
    found = json.loads(run("split", lenet, "-k", 2, "-o", "parts", "--json").stdout)
    assert found["folder"] == "parts"
    assert found["parameters"] == 431_080
    assert [s["parameters"] for s in found["submodels"]] == [109_295, 109_295]
    assert all(Path(s["file"]).is_file() for s in found["submodels"])
    assert found["outputs"] == [{"name": "output", "merge": "mean"}]
    merged = json.loads(run("merge", "parts", "-o", "m.onnx", "--json").stdout)
    assert merged == {"path": "m.onnx", "parts": 2, "difference": None}
    verified = json.loads(run("verify", "parts", "m.onnx", "--json").stdout)
    assert verified["passed"] is True
    assert verified["runtime"]
    assert {"name", "passed", "detail", "worst", "tolerance"} == set(verified["checks"][0])


def test_verify_exits_with_1_when_a_law_fails(run: Run, lenet: Path) -> None:
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    assert run("merge", "parts", "-o", "m.onnx").exit_code == 0
    model = onnx.load("m.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "fc2.weight")
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, "doubled.onnx")
    done = run("verify", "parts", "doubled.onnx")
    assert done.exit_code == 1
    assert "FAILED" in done.stdout
    found = run("verify", "parts", "doubled.onnx", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["passed"] is False


def test_options_reach_the_split(run: Run, lenet: Path) -> None:
    options = ("--strategy", "random", "--seed", 3, "--shares", "2,1", "--keep", "/conv2/Conv", "--init", "rescale")
    done = run("split", lenet, "-k", 2, "-o", "parts", *options, "--json")
    assert done.exit_code == 0, done.output
    sizes = [s["parameters"] for s in json.loads(done.stdout)["submodels"]]
    assert sizes[0] > sizes[1]
    recorded = json.loads(Path("parts/manifest.json").read_text())["options"]
    assert (recorded["strategy"], recorded["seed"], recorded["init"]) == ("random", 3, "rescale")
    assert recorded["keep"] == ["/conv2/Conv"]


def test_trained_files_in_any_order(run: Run, lenet: Path) -> None:
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    files = ["parts/submodel_1.onnx", "parts/submodel_0.onnx"]
    assert run("merge", "parts", *files, "-o", "a.onnx").exit_code == 0
    assert run("merge", "parts", *files[::-1], "-o", "b.onnx").exit_code == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert run("verify", "parts", "a.onnx", "--trained", *files).exit_code == 0
    assert run("verify", "parts", "a.onnx", "--trained", files[0], "--trained", files[1]).exit_code == 0


def test_inputs_of_ones_own(run: Run, lenet: Path) -> None:
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    np.savez("x.npz", input=np.ones((3, 1, 28, 28), np.float32))
    assert run("verify", "parts", "--inputs", "x.npz").exit_code == 0


def test_a_custom_op_needs_its_rule(run: Run, tmp_path: Path) -> None:
    model = saved(tmp_path, "custom_operator")
    done = run("inspect", model, "-k", 2)
    assert done.exit_code == 2
    assert "--rules FILE" in done.stderr
    (tmp_path / "rules.txt").write_text("# one line an op\ncom.example::Mystery ... -> ...\n")
    assert "12" in run("inspect", model, "--rules", "rules.txt").stdout
    (tmp_path / "broken.txt").write_text("com.example::Mystery ... ->\n")
    assert run("inspect", model, "--rules", "broken.txt").stderr.startswith("graphsplit: error: line 1: ")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    assert run("inspect", model, "--rules", "binary.txt").exit_code == 2


def test_inspect_a_model_a_plan_and_a_folder(run: Run, lenet: Path) -> None:
    assert "tried with 2" in run("inspect", lenet).stdout
    planned = run("inspect", lenet, "-k", 2)
    assert all(piece in planned.stdout for piece in LENET)
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    assert json.loads(run("inspect", "parts", "--json").stdout) == json.loads(
        run("inspect", lenet, "-k", 2, "--json").stdout
    )
    compared = run("inspect", lenet, "--compare")
    assert [line.split()[0] for line in compared.stdout.splitlines()[2:10]] == list("12345678")
    assert len(json.loads(run("inspect", lenet, "--compare", "-k", 3, "--json").stdout)["rows"]) == 3
    assert json.loads(run("inspect", lenet, "--json").stdout)["report"] == "graph"


def test_inspect_says_which_options_go_together(run: Run, lenet: Path) -> None:
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    for arguments in (
        ("parts", "-k", 2),
        (lenet, "--keep", "x"),
        (lenet, "--outputs", "mean"),
        (lenet, "--compare", "--shares", "1,1"),
    ):
        done = run("inspect", *arguments)
        assert done.exit_code == 2
        assert "Usage: graphsplit inspect" in done.stderr


def test_outputs_side_by_side_are_said_and_refused_where_that_is_impossible(run: Run, lenet: Path) -> None:
    done = run("split", lenet, "-k", 2, "-o", "parts", "--outputs", "concat")
    assert done.exit_code == 0
    assert "a part alone then no longer has the original cost function" in " ".join(done.stdout.split())
    (output,) = json.loads(Path("parts/manifest.json").read_text())["outputs"]
    assert output["merge"] == "concat"
    assert run("verify", "parts").exit_code == 0
    refused = run("split", lenet, "-k", 11, "--outputs", "concat")
    assert refused.exit_code == 2
    assert "each part has 'output' whole" in refused.stderr
    planned = json.loads(run("inspect", lenet, "-k", 2, "--outputs", "concat", "--json").stdout)
    assert [output["merge"] for output in planned["outputs"]] == ["concat"]


def test_cut_weights_can_keep_their_old_values(run: Run, lenet: Path) -> None:
    assert run("split", lenet, "-k", 2, "-o", "parts").exit_code == 0
    done = run("merge", "parts", "--cut", "base", "--base", lenet, "-o", "over.onnx")
    assert done.exit_code == 0
    assert "isn't the mean of the parts" in done.stdout
    assert run("merge", "parts", "-o", "plain.onnx").exit_code == 0
    over, plain = (graphsplit.load(name).tensors["fc1.weight"].numpy() for name in ("over.onnx", "plain.onnx"))
    assert np.count_nonzero(over) > 1.9 * np.count_nonzero(plain)
    for arguments in (("--cut", "base"), ("--base", lenet)):
        assert "go together" in run("merge", "parts", *arguments, "-o", "x.onnx").stderr


def test_inspect_lists_every_refused_node(run: Run, tmp_path: Path) -> None:
    done = run("inspect", saved(tmp_path, "quantise_dequantise"))
    assert done.exit_code == 0
    assert "refused, 3 in all" in done.stdout


def test_explain_one_name_and_two(run: Run, tmp_path: Path) -> None:
    model = saved(tmp_path, "resnet_basic")
    one = run("explain", model, "stem.conv.weight")
    assert one.exit_code == 0
    assert "Add '/Add': it adds them element by element" in one.stdout
    two = run("explain", model, "stem.conv.weight:0:1", "layer1.0.0.conv.weight", "--json")
    assert json.loads(two.stdout)["coupled"] is False
    apart = run("explain", model, "stem.conv.weight", "layer1.0.0.conv.weight")
    assert "nothing couples them; each may go to another part" in apart.stdout


# -- what the API gives, without it -----------------------------------------------------------------------------------


def test_what_merge_prints(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def merge(folder: Path, trained: tuple[Path, ...], **options: object) -> SimpleNamespace:
        asked.update(options, folder=folder, trained=trained)
        return SimpleNamespace(path=options["out"], parts=2, difference=0.0123)

    monkeypatch.setattr(graphsplit, "merge", merge, raising=False)
    done = run("merge", "parts", "b.onnx", "a.onnx", "--layers", "original", "--output-scale", "activation")
    assert done.stdout.splitlines() == [
        "merged 2 parts into parts/merged.onnx",
        "the original layers differ from the parts' mean by up to 0.0123",
    ]
    assert asked.pop("progress") is not None
    assert asked == {
        "folder": Path("parts"),
        "trained": (Path("b.onnx"), Path("a.onnx")),
        "out": Path("parts/merged.onnx"),
        "layers": "original",
        "base": None,
        "output_scale": "activation",
        "allow_nonfinite": False,
        "force": False,
    }


def test_what_verify_prints(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    checks = (
        SimpleNamespace(name="exact merge", passed=False, detail="tap output", worst=float("inf"), tolerance=1e-5),
        SimpleNamespace(name="valid parts", passed=True, detail="", worst=None, tolerance=None),
    )

    def verify(folder: Path, merged: Path | None, **options: object) -> SimpleNamespace:
        asked.update(options, merged=merged)
        return SimpleNamespace(passed=False, checks=checks, runtime="a runtime")

    monkeypatch.setattr(graphsplit, "verify", verify, raising=False)
    done = run("verify", "parts", "m.onnx", "--trained", "a", "b", "--inputs", "x.npz")
    assert done.exit_code == 1
    assert "FAILED  exact merge    inf    1e-05  tap output" in done.stdout
    assert "1 of 2 checks failed (run with a runtime)" in done.stdout
    assert (asked["merged"], asked["trained"], asked["inputs"]) == (
        Path("m.onnx"),
        (Path("a"), Path("b")),
        Path("x.npz"),
    )
    found = json.loads(run("verify", "parts", "--trained", "a", "--json").stdout)
    assert found["checks"][0]["worst"] == "inf"
    assert (asked["merged"], asked["trained"], asked["inputs"]) == (None, (Path("a"),), None)


# -- the documentation -----------------------------------------------------------------------------------------------


def document() -> str:
    """`docs/commands.md`."""
    lines = [
        "# The commands",
        "",
        "Printed by `python -m tests.test_cli > docs/commands.md`; a test holds it to what `--help` says.",
        "",
        "Results go to stdout, progress and diagnostics to stderr; `--json` prints the result of any command as JSON,",
        "that of `inspect` and `explain` by [inspect.schema.json](inspect.schema.json). Exit codes: 0 done, 1 a",
        "verification failed, 2 refused or misused (130: interrupted). A refusal is one line, `graphsplit: error: ...`",
        "and, where something helps a second, `  hint: ...`; it leaves nothing behind.",
        "",
        "Multiply-adds are those of contractions (convolutions, matrix products, what recurrent layers and attention have",
        "inside), for the sizes of dynamic axes that `inspect` prints beside them: activations don't count, positions in the",
        "padding or behind a mask do. `train` and `run` count [what was run](training.md#multiply-adds), forward and backward.",
        "What these two leave, and what a task is, says [training.md](training.md).",
        "",
    ]
    top = click.Context(main, info_name="graphsplit", terminal_width=80, **main.context_settings)
    lines += ["```", main.get_help(top), "```", ""]
    for name in COMMANDS:
        command = main.commands[name]
        context = click.Context(command, info_name=name, parent=top, terminal_width=80)
        lines += [f"## graphsplit {name}", "", "```", command.get_help(context), "```", ""]
    return "\n".join(re.sub(r"[ \t]+$", "", line) for line in "\n".join(lines).split("\n"))


def test_every_command_is_documented_as_it_is() -> None:
    assert set(main.commands) == set(COMMANDS)
    assert DOCUMENT.read_text() == document(), "run python -m tests.test_cli > docs/commands.md"


def test_every_option_says_what_it_does() -> None:
    for command in main.commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{command.name} {option.name}"
        assert any(option.name == "as_json" for option in command.params)
    described = str(next(p for p in main.commands["split"].params if p.name == "strategy").to_info_dict())
    assert all(name in described for name in STRATEGIES)


if __name__ == "__main__":
    sys.stdout.write(document())
