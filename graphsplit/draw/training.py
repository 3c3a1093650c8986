"""What a trainer left in a split's folder, as curves: losses of the sub-models, and of the merged network behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphsplit.draw.content import Curve, Training

FOLDER, METRICS, PART = "training", "metrics.jsonl", "part_"


def training_of(folder: Path, parts: int) -> Training | None:
    """The metrics in a split's folder, and where that is a run's, those of its merged network; None where there are none."""
    files = [(f"part {part}", folder / FOLDER / f"{PART}{part}" / METRICS) for part in range(parts)]
    files.append(("merged", folder.parent / FOLDER / METRICS))
    curves = [_curve(name, _lines(file)) for name, file in files if file.is_file()]
    found = tuple(curve for curve in curves if curve.epochs)
    return Training(found) if found else None


def _lines(file: Path) -> Iterable[Mapping[str, Any]]:
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the last line of a training that was killed
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            yield line


def _curve(name: str, lines: Iterable[Mapping[str, Any]]) -> Curve:
    by_epoch = {int(line["epoch"]): line for line in lines}
    epochs = sorted(by_epoch)
    held = [by_epoch[epoch].get("validation") for epoch in epochs]
    return Curve(
        name,
        tuple(epochs),
        tuple(_loss(by_epoch[epoch]) for epoch in epochs),
        tuple(_loss(line) if isinstance(line, dict) else None for line in held),
    )


def _loss(line: Mapping[str, Any]) -> float | None:
    value = line.get("loss")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
