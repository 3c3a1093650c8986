"""A module of a zoo as its ONNX export: split, merged and verified as `tools/coverage.py` does with files."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from tools import coverage
from tools.shared.ways import Way
from tools.zoos.example import Example

TAKEN = ("status", "reason", "parameters", "share", "repeated", "private", "worst", "tolerance")


def examine_export(example: Example, way: Way) -> dict[str, Any]:
    """Export a module as users do, and examine the file. Raises nothing: not to be exported is an answer."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch, "model.onnx")
        try:
            torch.onnx.export(
                example.model.float(),
                example.args,
                path,
                kwargs=dict(example.kwargs),
                dynamo=True,
                optimize=True,  # as users export
                verbose=False,
            )
        except Exception as error:  # noqa: BLE001 - the exporter raises what it likes
            first = str(error).strip().partition("\n")[0]
            return {"status": "not exported", "reason": f"torch.onnx.export: {type(error).__name__}: {first}"}
        try:
            onnx.checker.check_model(path)
        except onnx.checker.ValidationError as error:
            first = str(error).strip().partition("\n")[0]
            return {"status": "not exported", "reason": f"torch.onnx.export wrote what onnx.checker refuses: {first}"}
        found = coverage.examine(str(path), Way(way.k, way.strategy, way.seed))
    return {name: found[name] for name in TAKEN if name in found} | {"planning": found.get("seconds", 0.0)}
