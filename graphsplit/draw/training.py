"""What a trainer left in a split's folder: losses by epoch, and how sure each sub-model was of what is right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphsplit.draw.content import Curve, Training

FOLDER, METRICS, CONFIDENCE, PART = "training", "metrics.jsonl", "confidence.json", "part_"
SAMPLES = 500
"""So many of a part's samples at most are shown."""


def training_of(folder: Path, parts: int) -> Training | None:
    """The metrics in a split's folder, and where that is a run's, those of its merged network; None where there are none."""
    files = [(f"part {part}", folder / FOLDER / f"{PART}{part}" / METRICS) for part in range(parts)]
    files.append(("merged", folder.parent / FOLDER / METRICS))
    curves = [_curve(name, _lines(file)) for name, file in files if file.is_file()]
    found = tuple(curve for curve in curves if curve.epochs)
    sure = [_numbers(folder / FOLDER / f"{PART}{part}" / CONFIDENCE) for part in range(parts)]
    samples = min(map(len, sure), default=0)
    confidence = tuple(tuple(numbers[:samples]) for numbers in sure) if samples else ()
    return Training(found, confidence) if found or confidence else None


def _numbers(file: Path) -> list[float]:
    """The first numbers of a file, none where there is no such file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    fits = isinstance(found, list) and all(isinstance(x, int | float) and math.isfinite(x) for x in found)
    return [float(x) for x in found[:SAMPLES]] if fits else []


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
