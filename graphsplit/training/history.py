"""The lines of a metrics file: one for each epoch of each sub-model, as JSON that every reader takes.

A number that JSON has no word for (a validation loss of an overflow) is a text there, "nan", "inf" or "-inf", as in what the
commands print; it is a number again where it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphsplit.files import finite

WORDS = ("nan", "inf", "-inf")


def written(lines: Iterable[Mapping[str, Any]]) -> str:
    """Lines as the text of a metrics file."""
    return "".join(json.dumps(finite(dict(line)), allow_nan=False) + "\n" for line in lines)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file."""
    return [json.loads(line, object_hook=_numbers) for line in path.read_text(encoding="utf-8").splitlines()]


def _numbers(line: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if value in WORDS else value for name, value in line.items()}
