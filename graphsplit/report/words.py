"""What a node does that keeps vertices together, in words read off its rule; no op is known by name here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphsplit.labels import Flowed
from graphsplit.notation import Bound


def why_coupled(flowed: Flowed, index: int, shared: Mapping[int, str]) -> str:
    """Why vertices that meet in a node must stay together; `shared` is what `shared_parameters` found."""
    node = flowed.graph.nodes[index]
    bound = flowed.last.bounds.get(index)
    rules = flowed.last.dialect.lookup(node)
    divided = [n for n in node.inputs if n in flowed.labels and bool((flowed.labels[n].core > 0).any())]
    weights = [n for n in node.inputs if n in flowed.last.derived]
    if bound is None:
        return shared.get(index) or "it moves them onto one element"
    if bound.mix and contracts_weights(bound, node.inputs, weights):
        if flowed.last.couplings.groupings.get(index):
            return "it works in groups: what a group reads and what it makes stay together"
        return shared.get(index) or "one column of its weight serves several vertices, so they stay together"
    if len(divided) > 1 and bound.mix:
        return "it contracts two activations: what it sums over stays together"
    if bound.whole:
        return "it takes an axis whole: all vertices along it stay together"
    if len(divided) > 1:
        done = "adds" if rules and rules[0].additive else "combines"
        return f"it {done} them element by element: what meets in one element stays together"
    if bound.stat:
        return "it takes statistics over groups of vertices: each group stays together"
    return shared.get(index) or "it makes one element of both"


def contracts_weights(bound: Bound, inputs: tuple[str, ...], weights: list[str]) -> bool:
    """Whether a node sums over an axis of one of its weights."""
    for name, axes in zip(inputs, bound.operands, strict=False):
        if name in weights and axes is not None and any(f in bound.mix for names in axes for f in names):
            return True
    return False


def shared_parameters(flowed: Flowed) -> dict[int, str]:
    """For nodes that use a parameter which other nodes use too, a sentence that says so. Linear in the claims."""
    found: dict[int, str] = {}
    for name in sorted(flowed.claims):
        users = sorted({c.node for c in flowed.claims[name] if c.node >= 0 and bool(np.any(c.core > 0))})
        for user in users if len(users) > 1 else ():
            other = flowed.graph.nodes[users[0] if user != users[0] else users[1]].title
            found.setdefault(user, f"it shares the parameter {name!r} with {other}, and a weight has one owner")
    return found
