"""The zoos of torch modules in tools/: each network in a process of its own, results that are taken up again, and the page."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import coverage_page, zoo
from tools.shared.results import Result, write
from tools.shared.ways import Way


def zoo_result(model: str, status: zoo.Status, **changes: object) -> zoo.ZooResult:
    return zoo.ZooResult("torchvision", model, 2, "contiguous", status, **changes)  # type: ignore[arg-type]


def test_the_page_of_a_zoo() -> None:
    exact = {"parameters": 1000, "share": 0.251, "worst": 1e-15, "tolerance": 1e-8, "export": 2.0, "planning": 1.0}
    text = zoo.markdown(
        [zoo_result("a", "exact", **exact), zoo_result("b", "refused", reason="no rule | here\n  hint: none")],
        "python tools/zoo.py torchvision",
    )
    assert "| K=2 | 1 | 1 | 0 | 0 | 0 |" in text
    assert "Planning takes 0.50 times as long as torch.export (median)." in text
    assert "| a | 1,000 | 25.1% | 0 | 0 | 1.0e-15 | 1.0e-08 | 2.0 | 1.0 |  |" in text
    assert "| b | K=2 | no rule \\| here |" in text
    assert "hint" not in text


def test_results_of_a_zoo_are_taken_up_again(tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    results = [zoo_result("a", "exact", worst=1e-15, tolerance=1e-8), zoo_result("b", "FAILED", reason="it took long")]
    zoo.write(file, results)
    assert zoo.read(file) == results
    assert list(tmp_path.iterdir()) == [file]


def test_each_exact_network_of_a_zoo_is_tried_in_one_further_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns by its place in the zoo: what was known, or is refused, doesn't shift the others."""
    names = ["a", "b", "c", "d"]

    def attempt(_: str, model: str, way: Way) -> dict[str, object]:
        return {"status": "refused" if model == "b" else "exact", "worst": 0.0, "tolerance": 1.0, "share": 0.3}

    monkeypatch.setattr(zoo, "attempt", attempt)
    monkeypatch.setattr(zoo, "module_of", lambda _: SimpleNamespace(names=lambda: names))
    file, table = tmp_path / "zoo.json", tmp_path / "zoo.md"
    zoo.write(file, [zoo_result("a", "exact", share=0.9, worst=0.0, tolerance=1.0)])
    arguments = ["torchvision", "--also", "3,2:random:7,2:onnx", "--json", str(file), "--resume", str(file)]
    assert zoo.main([*arguments, "--markdown", str(table)]) == 0
    found = {r.key: r.share for r in zoo.read(file)}
    assert found["a", Way(2)] == 0.9
    ways = {model: way for model, way in found if way != Way(2)}
    assert ways == {"a": Way(3), "c": Way(2, onnx=True), "d": Way(3)}
    text = table.read_text()
    assert "--also 3,2:random:7,2:onnx" in text
    assert "| K=2 through ONNX: exact 30.0% |" in text


def test_a_module_of_a_zoo_goes_through_its_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    from tools.zoos.example import Example
    from tools.zoos.through_onnx import examine_export

    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).eval()
    found = examine_export(Example(net, (torch.randn(2, 6),)), Way(2, onnx=True))
    assert (found["status"], found["reason"]) == ("exact", "")
    assert found["share"] == pytest.approx(48 / 92)
    broken = examine_export(Example(net, (torch.randn(2, 7),)), Way(2, onnx=True))
    assert broken["status"] == "not exported"


def test_a_network_that_dies_or_takes_too_long_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(name: str, model: str, way: Way) -> dict[str, object]:
        if model == "dies":
            os._exit(3)
        if model == "sleeps":
            time.sleep(60)
        return {"status": "exact", "worst": 0.0, "tolerance": 1.0}

    monkeypatch.setattr(zoo, "attempt", attempt)
    todo = [(name, Way(2)) for name in ("dies", "sleeps", "works")]
    found = {r.model: r for r in zoo.run("torchvision", todo, 3, 2.0)}
    assert found["works"].status == "exact"
    assert found["dies"].reason == "its process died (exit code 3)"
    assert found["sleeps"].reason == "it took longer than 2 s"


def test_the_page_of_all_coverage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo, "module_of", lambda _: SimpleNamespace(names=lambda: ["a", "b"]))
    write(tmp_path / "onnx.json", [Result("Models", "x.onnx", 1, Way(2), "exact", share=0.25)])
    known = [zoo_result(n, "exact", worst=0.0, tolerance=1.0, share=0.25) for n in ("b", "a", "gone")]
    known += [zoo.ZooResult("torchvision", "a", 4, "contiguous", "refused", reason="too narrow")]
    zoo.write(tmp_path / "zoo.json", known)
    arguments = [
        "--onnx",
        str(tmp_path / "onnx.json"),
        "--onnx-command",
        "python it",
        "--zoo",
        str(tmp_path / "zoo.json"),
    ]
    assert coverage_page.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Coverage\n")
    assert "    python it" in text
    assert "| torchvision | K=2 | 2 | 0 | 0 | 0 | 0 |\n| torchvision | K=4 | 0 | 1 | 0 | 0 | 0 |" in text
    assert "python tools/zoo.py torchvision -k 2 --also 4" in text
    assert (
        text.index("| torchvision | K=2")
        < text.index("x.onnx")
        < text.index("| a | 0 | 25.0%")
        < text.index("| b | 0 ")
    )
    assert "gone" not in text
