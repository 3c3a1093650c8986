"""Networks that the tests of reports report on, and the text of a report."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from graphsplit.report import Report
from graphsplit.report.tables import show
from tests.networks import NETWORKS, REFUSED


@pytest.fixture
def saved(tmp_path: Path):
    def save(name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(NETWORKS[name]() if name in NETWORKS else REFUSED[name][0](), path)
        return path

    return save


def text_of(report: Report, width: int = 80) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, markup=False, highlight=False, emoji=False), report)
    return out.getvalue()
