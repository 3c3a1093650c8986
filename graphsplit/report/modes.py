"""Graphs that hold both modes of a network: reports show evaluation mode, and of training mode what only it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol, TypeVar

from graphsplit.graph import TRAINING, Graph


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


@lru_cache(maxsize=8)
def _twins(names: tuple[str, ...]) -> frozenset[int]:
    known = set(names)
    return frozenset(
        i for i, name in enumerate(names) if name.startswith(TRAINING) and name.removeprefix(TRAINING) in known
    )


def twins(graph: Graph) -> frozenset[int]:
    """Indices of the nodes of training mode that evaluation mode has as well."""
    return _twins(tuple(node.name for node in graph.nodes))


def without_twins(items: Sequence[N]) -> tuple[N, ...]:
    """Inputs or outputs without those of training mode that evaluation mode has as well."""
    hidden = _twins(tuple(item.name for item in items))
    return tuple(item for i, item in enumerate(items) if i not in hidden)


def shown(graph: Graph, indices: Iterable[int]) -> list[int]:
    """Indices of nodes, in order, without those that evaluation mode has as well."""
    hidden = twins(graph)
    return [i for i in sorted(indices) if i not in hidden]
