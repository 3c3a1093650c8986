"""Tests that take turns: what runs each time, and what is left to `-m slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def every_other(values: Iterable[tuple[Any, ...]], first: int = 0) -> list[Any]:
    """Parameters of which half are slow: for what is tried on many networks, each of which takes long."""
    return [pytest.param(*value, marks=() if i % 2 == first else pytest.mark.slow) for i, value in enumerate(values)]


def one_each(names: Iterable[str], choices: tuple[Any, ...]) -> list[Any]:
    """Each name with all choices, of which one isn't slow: for each name the next."""
    return [
        pytest.param(name, choice, marks=() if place == number % len(choices) else pytest.mark.slow)
        for number, name in enumerate(names)
        for place, choice in enumerate(choices)
    ]
