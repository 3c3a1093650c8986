"""What the tests of the command line start from: a network in a folder, and a command in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.commands import Run, runner
from tests.networks import NETWORKS, REFUSED

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch)


@pytest.fixture
def lenet(tmp_path: Path) -> Path:
    path = tmp_path / "lenet.onnx"
    onnx.save(NETWORKS["lenet"](), path)
    return path


def saved(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETWORKS[name]() if name in NETWORKS else REFUSED[name][0](), path)
    return path


def start(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    code = "from graphsplit.cli import main; main(prog_name='graphsplit')"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)  # type: ignore[call-overload,no-any-return]
