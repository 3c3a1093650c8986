"""The programs in tools/: what they print, write and refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphsplit.rules import registry
from tools import coverage, randomise_light
from tools.rules_table import document
from tools.shared.models import Model, distinct, find, topology
from tools.shared.results import Result, read, write
from tools.shared.tables import kind
from tools.shared.ways import Way, ways_of

ROOT = Path(__file__).parent.parent
LENET = ROOT / "models" / "lenet.onnx"


def small(folder: Path, name: str = "small", *, op: str = "Relu", width: int = 6, seed: int = 0) -> Path:
    """Two dense layers with an op between them."""
    rng = np.random.default_rng(seed)
    weights = {"w1": (width, 4), "b1": (width,), "w2": (3, width), "b2": (3,)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name=f"{name}.one", transB=1),
            helper.make_node(op, ["h"], ["r"], name=f"{name}.between", domain="" if op == "Relu" else "some.domain"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name=f"{name}.two", transB=1),
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.domain", 1)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def result(title: str = "a.onnx", status: str = "exact", **changes: object) -> Result:
    fields: dict[str, object] = {"section": "Models", "title": title, "bytes": 1, "way": Way(2), "status": status}
    return Result(**{**fields, **changes})  # type: ignore[arg-type]


# -- coverage -------------------------------------------------------------------------------------


def test_coverage_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(LENET, folder / "lenet.onnx")
    small(folder, "strange", op="Strange")
    (folder / "broken.onnx").write_bytes(b"\x08\xff no model")
    found, table = tmp_path / "found.json", tmp_path / "table.md"
    code = coverage.main([str(folder), "--json", str(found), "--markdown", str(table), "--jobs", "2", "--also", "5"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "3 files, 3 models tried: 2 exact, 2 refused, 0 FAILED" in printed
    results = {(r.title, str(r.way)): r for r in read(found)}
    lenet = results["lenet.onnx", "K=2"]
    assert (lenet.status, lenet.nodes, lenet.parameters) == ("exact", 10, 431_080)
    assert lenet.share == pytest.approx(109_295 / 431_080)
    assert lenet.worst is not None
    assert lenet.tolerance is not None
    assert 0 < lenet.worst <= lenet.tolerance < 1e-3
    assert results["lenet.onnx", "K=5"].share == pytest.approx(18_224 / 431_080)
    assert "some.domain::Strange" in results["strange.onnx", "K=2"].reason
    assert results["broken.onnx", "K=2"].status == "refused"
    text = table.read_text(encoding="utf-8")
    assert "| lenet.onnx | 10 | 431,080 | 25.4% | 28.2% |" in text
    assert "K=5: exact 4.2%" in text
    for content in (text, found.read_text(encoding="utf-8")):
        assert str(tmp_path) not in content


def test_coverage_resumes_but_tries_failures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [small(tmp_path / "models", name) for name in ("a", "b", "c")]
    found = tmp_path / "found.json"
    sizes = [file.stat().st_size for file in files]
    write(found, [result("a.onnx", bytes=sizes[0]), result("b.onnx", "FAILED", bytes=sizes[1])])
    tried: list[str] = []

    def isolated(model: Model, way: Way, limit: float) -> Result:
        tried.append(model.title)
        return result(model.title, bytes=model.path.stat().st_size, way=way)

    monkeypatch.setattr(coverage, "isolated", isolated)
    assert coverage.main([str(tmp_path / "models"), "--json", str(found), "--resume"]) == 0
    assert tried == ["b.onnx", "c.onnx"]
    assert [r.title for r in read(found)] == ["a.onnx", "b.onnx", "c.onnx"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "its process died (SIGKILL)"),
        ("os._exit(3)", "its process died (exit code 3)"),
        ("time.sleep(60)", "it took longer than 3 s"),
        ("raise KeyError('bug')", "KeyError at fake.py:"),
    ],
)
def test_coverage_survives_what_kills_a_process(
    body: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child meets a graphsplit that misbehaves."""
    package = tmp_path / "fake" / "graphsplit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class GraphsplitError(ValueError): pass\n")
    (package / "report.py").write_text("def inspect(plan): return plan\n")
    (package / "api.py").write_text("from graphsplit.fake import plan\n")
    (package / "fake.py").write_text(f"import os, time\ndef plan(*_, **__):\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    begin = time.monotonic()
    found = coverage.isolated(Model("Models", "x.onnx", small(tmp_path)), Way(2), 3)
    assert found.status == "FAILED"
    assert reason in found.reason
    assert time.monotonic() - begin < 30


def test_coverage_keeps_earlier_results_when_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [small(tmp_path / "models", name) for name in ("a", "b")]
    found = tmp_path / "found.json"
    write(found, [result("b.onnx", bytes=files[1].stat().st_size)])
    written: list[list[str]] = []

    def noted(file: Path, results: list[Result]) -> None:
        written.append(sorted(r.title for r in results))

    monkeypatch.setattr(coverage, "isolated", lambda model, way, limit: result(model.title, way=way))
    monkeypatch.setattr(coverage, "write", noted)
    assert coverage.main([str(tmp_path / "models"), "--json", str(found), "--resume"]) == 0
    assert written
    assert all("b.onnx" in titles for titles in written)


def test_coverage_takes_further_ways_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [("One", tmp_path / "one"), ("Two", tmp_path / "two")]
    for _, place in places:
        for name in "abc":
            small(place, name)
    monkeypatch.setattr(
        coverage, "isolated", lambda model, way, limit: result(model.title, section=model.section, way=way)
    )
    results = coverage.run(find(places), Way(2), [Way(3), Way(4)], {}, 1, 9)
    further = [(r.section, r.title[0], r.way.k) for r in results if r.way.k > 2]
    assert sorted(further) == [
        (section, name, k) for section in ("One", "Two") for name, k in zip("abc", (3, 4, 3), strict=True)
    ]


def test_coverage_tells_topologies_apart(tmp_path: Path) -> None:
    one = small(tmp_path, "one")
    assert topology(one) == topology(small(tmp_path, "renamed", seed=1))
    assert topology(one) != topology(small(tmp_path, "wider", width=8))
    assert topology(one) != topology(small(tmp_path, "other", op="Strange"))
    models = find([("Models", tmp_path)])
    assert [m.title for m in distinct(models)] == ["one.onnx", "other.onnx", "wider.onnx"]


def test_coverage_fails_when_something_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    monkeypatch.setattr(
        coverage, "isolated", lambda model, way, limit: result(model.title, "FAILED", reason="exact merge: off")
    )
    assert coverage.main([str(tmp_path), "--markdown", str(tmp_path / "table.md")]) == 1
    assert "exact merge: off" in (tmp_path / "table.md").read_text(encoding="utf-8").partition("## FAILED")[2]


@pytest.mark.parametrize("arguments", [["nowhere"], ["--resume", "."], ["--also", "many", "."], []])
def test_coverage_is_misused(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        coverage.main(arguments)
    assert stop.value.code == 2


def test_refusals_are_counted_without_names_and_numbers() -> None:
    assert kind("LSTM 'a' (version 7): there is no rule") == kind("LSTM 'b' (version 14): there is no rule")
    assert kind("LSTM 'a': there is no rule") == "LSTM: there is no rule"
    assert kind("main graph has no hidden layer for 2") == kind("x has no hidden layer for 3")
    assert kind("a [1, 2] b") == "a […] b"
    assert kind("it can't be: 'a', 'b' aren't") == "it can't be: …, … aren't"


@pytest.mark.parametrize(
    ("text", "way"), [("3", Way(3)), ("4:random", Way(4, "random")), ("2:random:7", Way(2, "random", 7))]
)
def test_ways(text: str, way: Way) -> None:
    assert ways_of(f"{text},2") == [way, Way(2)]


def test_the_command_in_the_document_names_no_place() -> None:
    arguments = coverage.parser().parse_args(
        ["--section", "Light", "/some/where/light", "-k", "3", "--distinct", "--json", "/tmp/x", "--also", "2:random:1"]
    )
    assert coverage.shown(arguments) == (
        "python tools/coverage.py --section Light light -k 3 --also 2:random:1 --distinct"
    )


def test_the_document_in_the_repository_has_no_failure_and_no_path() -> None:
    text = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert text.partition("## FAILED")[2].split("##")[0].strip() == "Nothing."
    for place in ("/work", "/tmp", "/home", "/root"):
        assert place not in text
    assert text.startswith("# Coverage\n\nGenerated by `tools/coverage.py`")


# -- random weights -------------------------------------------------------------------------------


def light(folder: Path) -> Path:
    """A convolution with weights as the onnx package's light models keep them: one number everywhere."""
    shape = numpy_helper.from_array(np.array([8, 3, 3, 3]), "shape")
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.02])
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["w"], name="fill", value=value),
            helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        ],
        "light",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
        [shape],
    )
    folder.mkdir(exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7), folder / "light.onnx"
    )
    return folder / "light.onnx"


def test_light_models_get_random_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    light(tmp_path / "light")
    for target in ("one", "same"):
        assert randomise_light.main([str(tmp_path / "light"), str(tmp_path / target)]) == 0
    assert randomise_light.main([str(tmp_path / "light"), str(tmp_path / "other"), "--seed", "1"]) == 0
    one, same, other = ((tmp_path / name / "light.onnx").read_bytes() for name in ("one", "same", "other"))
    assert one == same != other
    graph = onnx.load(tmp_path / "one" / "light.onnx").graph
    assert [node.op_type for node in graph.node] == ["Conv"]
    (tensor,) = graph.initializer
    weight = numpy_helper.to_array(tensor)
    assert (tensor.name, weight.shape) == ("w", (8, 3, 3, 3))
    assert float(weight.std()) == pytest.approx((2 / 27) ** 0.5, rel=0.2)
    assert capsys.readouterr().out.splitlines()[0] == "light.onnx: 1 initializers"


# -- rules ----------------------------------------------------------------------------------------


def test_the_rules_document_is_current() -> None:
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert text == document(registry()), "rewrite with: python tools/rules_table.py > docs/rules.md"


def test_every_rule_is_in_the_document() -> None:
    text = document(registry())
    for rule in registry():
        assert (f"`{str(rule).partition(' | ')[0]}`" if rule.refuse else f"\n{rule}\n") in text


def test_every_qualifier_and_sign_is_explained() -> None:
    from graphsplit.notation import line

    notation = document([]).partition("## Refused")[0]
    for word in line._QUALIFIERS:
        assert f"| `{word}" in notation, word


def test_every_program_says_what_it_is_for() -> None:
    for program in sorted((ROOT / "tools").glob("*.py")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        text = program.read_text(encoding="utf-8")
        assert f"python tools/{program.name}" in text.split('"""')[1], program.name
        if "argparse" in text:
            done = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("usage: ")
