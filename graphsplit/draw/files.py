"""The files that a page is made of."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def asset(name: str) -> str:
    """The text of a file under `web`."""
    return files("graphsplit.draw").joinpath("web", *name.split("/")).read_text(encoding="utf-8")
