"""The implementations of all ops, by name, domain and version: an entry `Op@13` holds from that version on."""

from __future__ import annotations

from functools import cache

from graphsplit.executor import (
    attention,
    elementwise,
    indexing,
    layers,
    microsoft,
    movement,
    norms,
    pools,
    recurrent,
    reductions,
    sampling,
    signals,
)
from graphsplit.executor.ops import Op, Table

_ROOMS = (
    attention,
    elementwise,
    indexing,
    layers,
    microsoft,
    movement,
    norms,
    pools,
    recurrent,
    reductions,
    sampling,
    signals,
)
DOMAINS = {"": "", "com.microsoft": "com.microsoft::"}


@cache
def table() -> Table:
    """All entries."""
    found: dict[str, Op] = {}
    for room in _ROOMS:
        twice = found.keys() & room.TABLE.keys()
        assert not twice, twice
        found.update(room.TABLE)
    return found


@cache
def _versions() -> dict[str, list[tuple[int, Op]]]:
    found: dict[str, list[tuple[int, Op]]] = {}
    for entry, op in table().items():
        name, _, since = entry.partition("@")
        found.setdefault(name, []).append((int(since or 1), op))
    return found


def implementation(domain: str, op: str, version: int) -> Op | None:
    """What runs an op of this version; None where there is nothing."""
    if domain not in DOMAINS:
        return None
    entries = [(since, found) for since, found in _versions().get(DOMAINS[domain] + op, ()) if since <= version]
    return max(entries, key=lambda entry: entry[0])[1] if entries else None
