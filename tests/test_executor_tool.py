"""The program that counts which networks the executor runs: right from wrong, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from graphsplit.executor.ops import Attributes
from tests.executor_nets import LENET, affine
from tests.laws.check import write
from tools import executor_coverage


def test_the_coverage_tool_tells_right_from_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = executor_coverage.examine(LENET)
    assert (found["status"], found["trains"]) == ("right", True)
    held = Attributes.__getitem__
    monkeypatch.setattr(Attributes, "__getitem__", lambda a, name: 0.97 if name == "alpha" else held(a, name))
    assert executor_coverage.examine(LENET)["status"] == "wrong"
    monkeypatch.undo()
    model = onnx.load(affine(["w"], tmp_path))
    model.graph.node[0].op_type = "Strange"
    found = executor_coverage.examine(write(model, tmp_path))
    assert found["status"] == "refused"
    assert "Strange 'node0'" in str(found["reason"])


def test_the_coverage_tool_counts_and_gives_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_coverage, "isolated", lambda path, limit: executor_coverage.examine(path))
    affine(["w"], tmp_path)
    written = tmp_path / "found.json"
    assert executor_coverage.main([str(tmp_path), "--json", str(written)]) == 0
    assert "| all | 1 | 1 | 1 | 0 | 0 | 0 |" in capsys.readouterr().out
    (result,) = json.loads(written.read_text())["results"]
    assert result["title"] == "odd.onnx"
    tried: list[Path] = []
    monkeypatch.setattr(executor_coverage, "isolated", lambda path, limit: tried.append(path) or {"status": "FAILED"})
    assert executor_coverage.main([str(tmp_path), "--json", str(written), "--resume"]) == 0
    assert tried == []  # what was right isn't tried again
    assert executor_coverage.main([str(tmp_path), "--json", str(written)]) == 1
    assert len(tried) == 1
    assert executor_coverage.main([str(tmp_path), "--json", str(written), "--resume"]) == 1
    assert len(tried) == 2  # what failed is
    assert executor_coverage.main([str(tmp_path), "--largest", "0"]) == 2
