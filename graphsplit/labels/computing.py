"""Values that are made of parameters alone: weight norms, standardisation, products of weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from graphsplit.labels.arrays import COMMON, PRIVATE, Labels, uniform
from graphsplit.labels.parameters import Claim, Derived, computed, elementwise, whole_use
from graphsplit.labels.site import Flow, Site


def made_of_weights(site: Site, tensors: Collection[str]) -> bool:
    """Whether nothing but parameters goes into a node, and constants (of `tensors`) where it sums over no axis."""
    data = [name for name, o in zip(site.node.inputs, site.operands, strict=True) if isinstance(o, Labels)]
    if not data or site.bound.mix or _looks_up(site):
        return not data
    return all(name in tensors for name in data)


def combined(flow: Flow, site: Site) -> list[Labels | Derived | None] | None:
    """What parameters make of each other: followed as far as the rule tells of axes, else their value is private."""
    weights = [o for o in site.operands if isinstance(o, Derived)]
    if picks_matrices(site) and flow.mode(site.index, "lookup", np.empty(0, np.int64)) == "weights":
        return [_picked(flow, site)]
    shape, bound = site.shapes[0], site.bound
    plain = not (bound.mix or bound.stat or bound.whole) and shape is not None
    if plain and all(f.startswith("...") for names in bound.results[0] or () for f in names):
        return [elementwise(weights, shape or ())]
    held = [(o, axes) for o, axes in zip(site.operands, bound.operands, strict=False) if isinstance(o, Derived)]
    known = [(o, axes) for o, axes in held if axes is not None]
    results = [
        (axes, s) for axes, s in zip(bound.results, site.shapes, strict=True) if axes is not None and s is not None
    ]
    if not _looks_up(site) and len(known) == len(held) and len(results) == len(bound.results):
        whole = frozenset(bound.stat | bound.whole)
        return [computed(known, axes, s, dict(bound.sizes), whole) for axes, s in results]
    inside = {f for axes in bound.results if axes is not None for names in axes for f in names}
    if bound.mix or bound.whole or bound.stat & inside or bound.rule.reduce:
        for derived in weights:
            flow.claim(derived, whole_use(site.index, derived, PRIVATE))
        return [uniform(s, PRIVATE) for s in site.shapes]
    return None


def picks_matrices(site: Site) -> bool:
    """Whether a node picks matrices out of a parameter by indices that are only known as it runs: weights, or vertices."""
    operand, axes, result = site.operands[0], site.bound.operands[0], site.bound.results[0]
    if not (isinstance(operand, Derived) and site.bound.rule.move and _looks_up(site) and axes and result):
        return False
    kept = {f for names in axes for f in names} & {f for names in result for f in names}
    return sum(site.bound.sizes[f] > 1 for f in kept) > 1


def _picked(flow: Flow, site: Site) -> Derived:
    """What is picked, as weights: their slots along the axes that go on. Along the others each part needs all."""
    operand, axes, result, shape = site.operands[0], site.bound.operands[0], site.bound.results[0], site.shapes[0]
    assert isinstance(operand, Derived)
    assert axes is not None
    assert result is not None
    assert shape is not None
    kept = {f for names in result for f in names}
    looked_up = tuple(a for a, names in enumerate(axes) if not set(names) & kept)
    flow.claim(operand, Claim(site.index, looked_up, np.full((1,) * len(axes), COMMON, np.int64)))
    return replace(computed([(operand, axes)], result, shape, dict(site.bound.sizes), frozenset()), moved=operand.moved)


def _looks_up(site: Site) -> bool:
    """Whether a node takes elements by indices, or has other arguments than axes."""
    tags: Sequence[str | None] = site.bound.tags
    return any(name and tag not in (None, "axes") for name, tag in zip(site.node.inputs, tags, strict=False))
