"""What a rule says of one node before any label is looked at: whether it may be split at all, and what its arguments are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact
from graphsplit.graph import Array, Node
from graphsplit.labels.arrays import Labels
from graphsplit.labels.site import Site
from graphsplit.notation import Rule


def argument_value(tag: str, fact: Fact) -> Array | None:
    """What a movement op gets as an argument when it runs on labels."""
    if tag == "fill":
        return np.zeros((), np.int64)
    return np.atleast_1d(fact.data) if tag == "shape" and fact.data is not None else fact.data


def beside(shape: tuple[int, ...], other: Labels, result: tuple[int, ...] | None) -> bool:
    """Whether labels change along axes only on which operand and result have the same size: side by side along another."""
    if result is None or other.shape is None or not len(shape) == len(other.shape) == len(result):
        return False
    return all(shape[a] == other.shape[a] == result[a] for a in other.varying)


def stays(rule: Rule) -> bool:
    """Whether a movement op leaves every element where it is: nothing needs to run to see where labels go."""
    return rule.move and rule.operands[0].axes is not None and rule.operands[:1] == rule.results[:1]


def unplaced(site: Site) -> bool:
    """Whether a movement op's elements go where only running tells: it needs all of its operands in each part."""
    data = zip(site.operands, site.bound.tags, site.bound.operands, strict=False)
    return site.bound.rule.move and any(o is not None and tag is None and axes is None for o, tag, axes in data)


def refuse_unrelated(site: Site, is_read: Callable[[str], bool]) -> None:
    """Raise UnsupportedError where the rule says nothing of an operand or of a result that is read."""
    rule, node = site.bound.rule, site.node
    if rule.refuse:
        raise UnsupportedError(f"{node.title}: {rule.refuse}")
    for position, operand in enumerate(site.operands):
        if operand is not None and site.bound.tags[position] is None and site.bound.operands[position] is None:
            raise UnsupportedError(
                f"{node.title}: where its elements go depends on {node.inputs[position]!r} and on arguments that are only known "
                "when it runs",
                hint="export the network with fixed sizes, or --keep the layer in front of it",
            )
    for name, axes, shape in zip(node.outputs, site.bound.results, site.shapes, strict=False):
        if name and axes is None and shape is not None and is_read(name):
            raise UnsupportedError(
                f"{node.title}: nothing is known of how its result {name!r} depends on a divided layer",
                hint="--keep the layer in front of it",
            )


def refuse_unknown(node: Node, rules: tuple[Rule, ...]) -> None:
    """Raise UnsupportedError for a node that holds a sub-graph, has no rule, or has one that says no."""
    if rules and rules[0].refuse:
        raise UnsupportedError(f"{node.title}: {rules[0].refuse}")
    if node.has_body:
        raise UnsupportedError(
            f"{node.title} holds a sub-graph: control flow can't be split", hint="export the network without it"
        )
    if not rules:
        raise UnsupportedError(
            f"{node.title} (version {node.version}): there is no rule for this op, and its axes are never guessed",
            hint="describe its axes in a line of a rules file and pass it with --rules FILE",
        )
