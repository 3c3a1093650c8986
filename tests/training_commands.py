"""What tests of `graphsplit train` and `graphsplit run` start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphsplit
from tests.commands import Run, runner
from tests.training_tasks import PLAIN, ROOT, net

GLYPHS = ROOT / "models" / "glyphs_task.py"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return runner(monkeypatch)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A split and its task, in a folder."""
    (tmp_path / "task.py").write_text(PLAIN)
    graphsplit.split(net(), (torch.randn(3, 6),), k=2, out=tmp_path / "parts")
    return tmp_path
