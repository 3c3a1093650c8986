"""Passes over one set of decisions, to a fixed point."""

from __future__ import annotations

from collections.abc import Callable

from graphsplit.labels.arrays import Ids
from graphsplit.labels.couplings import Couplings
from graphsplit.labels.decisions import Decisions
from graphsplit.labels.flow import Pass
from graphsplit.labels.parameters import Claim, axes_to_tie


def settle(make: Callable[[Couplings, Ids | None], Pass], decisions: Decisions) -> tuple[Pass, Ids]:
    """Passes over one set of decisions until the classes stay as they are."""
    couplings = Couplings()
    current = make(couplings, None).run()
    tie(current)
    classes = couplings.classes(decisions.next_id)
    while True:
        current = make(couplings, classes).run()
        tie(current)
        after = couplings.classes(decisions.next_id)
        if len(after) == len(classes) and bool((after == classes).all()):
            return current, classes
        classes = after


def tie(current: Pass) -> None:
    """Couple several uses of one parameter index by index."""
    for claims in current.claims.values():
        first: dict[tuple[int, ...], Claim] = {}
        for found in claims:
            for axes in axes_to_tie(found) if (found.core > 0).any() and not found.weak else ():
                other = first.setdefault(axes, found)
                current.couplings.add(other.core, found.core, found.node)
