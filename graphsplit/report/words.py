"""What a node does that keeps vertices together, in words read off its rule; no op is known by name here."""

from __future__ import annotations

import numpy as np

from graphsplit.labels import Flowed
from graphsplit.notation import Bound


def why_coupled(flowed: Flowed, index: int) -> str:
    """Why vertices that meet in a node must stay together."""
    node = flowed.graph.nodes[index]
    bound = flowed.last.bounds.get(index)
    rules = flowed.last.dialect.lookup(node)
    divided = [n for n in node.inputs if n in flowed.labels and bool((flowed.labels[n].core > 0).any())]
    weights = [n for n in node.inputs if n in flowed.last.derived]
    if bound is None:
        return _shared(flowed, index) or "it moves them onto one element"
    if bound.mix and _contracts_weights(bound, node.inputs, weights):
        if flowed.last.couplings.groupings.get(index):
            return "it works in groups: what a group reads and what it makes stay together"
        return _shared(flowed, index) or "one column of its weight serves several vertices, so they stay together"
    if len(divided) > 1 and bound.mix:
        return "it contracts two activations: what it sums over stays together"
    if bound.whole:
        return "it takes an axis whole: all vertices along it stay together"
    if len(divided) > 1:
        done = "adds" if rules and rules[0].additive else "combines"
        return f"it {done} them element by element: what meets in one element stays together"
    if bound.stat:
        return "it takes statistics over groups of vertices: each group stays together"
    return _shared(flowed, index) or "it makes one element of both"


def _contracts_weights(bound: Bound, inputs: tuple[str, ...], weights: list[str]) -> bool:
    for name, axes in zip(inputs, bound.operands, strict=False):
        if name in weights and axes is not None and any(f in bound.mix for names in axes for f in names):
            return True
    return False


def _shared(flowed: Flowed, index: int) -> str:
    """That the node uses a parameter which other nodes use too, "" where it doesn't."""
    for name in sorted(flowed.claims):
        users = {c.node for c in flowed.claims[name] if c.node >= 0}
        if index in users and sum(c.node >= 0 and bool(np.any(c.core > 0)) for c in flowed.claims[name]) > 1:
            others = sorted(users - {index})
            if others:
                other = flowed.graph.nodes[others[0]].title
                return f"it shares the parameter {name!r} with {other}, and a weight has one owner"
    return ""
