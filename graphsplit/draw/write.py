"""Drawings as files: pages, figures, and their facts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from graphsplit.draw.content import Drawing
from graphsplit.draw.figure import figure
from graphsplit.draw.page import page
from graphsplit.errors import GraphsplitError
from graphsplit.files import atomic_file
from graphsplit.report import plain


def facts(drawing: Drawing) -> str:
    """The drawing as JSON, which `docs/drawing.schema.json` describes."""
    return json.dumps(plain(drawing), indent=1, allow_nan=False) + "\n"


WRITERS: dict[str, Callable[[Drawing], str]] = {".html": page, ".svg": figure, ".json": facts}


def writer(path: str | os.PathLike[str]) -> Callable[[Drawing], str]:
    """What writes a file of this name. Raises GraphsplitError for an ending that none writes."""
    found = WRITERS.get(Path(path).suffix.lower())
    if found is None:
        raise GraphsplitError(
            f"-o {os.fspath(path)!r}: there is no drawing of that kind",
            hint=f"give the file a name that ends with {', '.join(WRITERS)}",
        )
    return found


def write(drawing: Drawing, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a drawing as what its file's name says, complete or not at all.

    Raises GraphsplitError for an unknown ending, OutputError for a file that is there already.
    """
    text = writer(path)(drawing)
    with atomic_file(path, force=force) as staged:
        staged.write_text(text, encoding="utf-8")
