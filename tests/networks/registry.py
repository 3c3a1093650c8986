"""The networks by name. A function that builds one registers itself, under its own name or several variants."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import onnx

Builder = Callable[[], onnx.ModelProto]
P = ParamSpec("P")
NETWORKS: dict[str, Builder] = {}
EXACT_OR_REFUSED: dict[str, Builder] = {}
REFUSED: dict[str, tuple[Builder, str]] = {}


def _add(name: str, entry: Any, table: dict[str, Any]) -> None:
    assert name not in {**NETWORKS, **EXACT_OR_REFUSED, **REFUSED}, f"network {name} twice"
    table[name] = entry


def network(function: Builder) -> Builder:
    """Registers a network under its function's name."""
    _add(function.__name__, function, NETWORKS)
    return function


def exact_or_refused(function: Builder) -> Builder:
    """Registers a network that may be split exactly or refused, but never silently wrong."""
    _add(function.__name__, function, EXACT_OR_REFUSED)
    return function


def variants(**arguments: dict[str, Any]) -> Callable[[Callable[P, onnx.ModelProto]], Callable[P, onnx.ModelProto]]:
    """Registers one network for each keyword: its name, and the arguments that make it."""

    def register(function: Callable[P, onnx.ModelProto]) -> Callable[P, onnx.ModelProto]:
        for name, kwargs in arguments.items():
            _add(name, functools.partial(function, **kwargs), NETWORKS)
        return function

    return register


def refused(named: str) -> Callable[[Builder], Builder]:
    """Registers a network that must be refused, and a word that the refusal has to contain."""

    def register(function: Builder) -> Builder:
        _add(function.__name__, (function, named), REFUSED)
        return function

    return register
