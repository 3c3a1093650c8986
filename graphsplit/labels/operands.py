"""What a rule says of one node before any label is looked at: whether it may be split at all, and what its arguments are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact, Facts, same_numbers
from graphsplit.graph import Array, Node
from graphsplit.labels.arrays import Labels, squeeze_constant_axes
from graphsplit.labels.site import Site
from graphsplit.labels.trainable import operand_tag
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


PLACES = ("starts", "ends", "steps", "index", "sizes")
"""Arguments that say which elements a movement op takes."""


def moves_with_sizes(
    node: Node,
    rule: Rule,
    operands: Sequence[object],
    here: Facts,
    there: Facts,
    move: Callable[[Node, Sequence[Array | None]], list[Any]],
) -> bool:
    """Whether a movement op takes other vertices at other sizes of the dynamic axes: then no part can have a slice of them.

    It is run on the labels with the arguments from `here`, with those from `there`, and with half of what moves: an end may
    lie behind the last vertex in both.
    """
    labels: list[Any] = []
    arguments: list[tuple[Array | None, Array | None, Array | None]] = []
    moving = False
    for position, (name, operand) in enumerate(zip(node.inputs, operands, strict=True)):
        tag, shape = operand_tag(rule, position), there[name].shape if name else ()
        labels.append(None)
        arguments.append((None, None, None))
        if isinstance(operand, Labels):
            if shape is None or len(shape) != operand.core.ndim:
                return False
            sizes = [mine if mine > 1 else other for mine, other in zip(operand.core.shape, shape, strict=True)]
            labels[-1] = np.broadcast_to(operand.core, sizes)
        elif name and tag is not None:
            one, other = argument_value(tag, here[name]), argument_value(tag, there[name])
            moves = tag in PLACES and (one is None or other is None or not same_numbers(one, other))
            arguments[-1] = one, other, _halved(one, other) if moves else one
            moving |= moves
    if not moving or all(array is None or squeeze_constant_axes(array).size == 1 for array in labels):
        return False

    def run(which: int) -> list[Any]:
        given = [b[which] if a is None else a for a, b in zip(labels, arguments, strict=True)]
        return [squeeze_constant_axes(a) for a in move(node, given)]

    try:
        now, then = run(0), run(1)
    except UnsupportedError:
        return True
    try:
        half = run(2)
    except UnsupportedError:  # half of the pieces don't make the whole
        half = now
    return any(not np.array_equal(a, b) for other in (then, half) for a, b in zip(now, other, strict=True))


def _halved(one: Array | None, other: Array | None) -> Array | None:
    """An argument with half of each number that isn't the same in the other."""
    if one is None or other is None or one.shape != other.shape:
        return one
    found: Array = np.where(one == other, one, one // 2)
    return found


def unplaced(site: Site) -> bool:
    """Whether a movement op's elements go where only running tells: it needs all of its operands in each part."""
    data = zip(site.operands, site.bound.tags, site.bound.operands, strict=False)
    return site.bound.rule.move and any(o is not None and tag is None and axes is None for o, tag, axes in data)


def unrelated(site: Site, read: Collection[str]) -> bool:
    """Whether a rule says nothing of a result that is read: the node needs all of its operands in each part.

    Raises UnsupportedError where it says no, or nothing of an operand.
    """
    node = site.node
    if site.bound.rule.refuse:
        raise UnsupportedError(f"{node.title}: {site.bound.rule.refuse}")
    for position, operand in enumerate(site.operands):
        if operand is not None and site.bound.tags[position] is None and site.bound.operands[position] is None:
            raise UnsupportedError(
                f"{node.title}: where its elements go depends on {node.inputs[position]!r} and on arguments that are only known "
                "when it runs",
                hint="export the network with fixed sizes, or --keep the layer in front of it",
            )
    results = zip(node.outputs, site.bound.results, site.shapes, strict=False)
    return any(name in read and axes is None and shape is not None for name, axes, shape in results)


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
