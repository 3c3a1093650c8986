"""Which tensors train, which values are made of them alone, and which nodes lie behind the output layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from graphsplit.errors import GraphsplitError
from graphsplit.graph import Graph, Node, Tensor
from graphsplit.notation import Rule

Lookup = Callable[[Node], tuple[Rule, ...]]


def operand_tag(rule: Rule, position: int) -> str | None:
    """The argument tag of a node's input (None for data), counting a repeated operand as often as it occurs."""
    if position < len(rule.operands):
        return rule.operands[position].tag
    last = rule.operands[-1] if rule.operands else None
    return last.tag if last is not None and last.repeated else None


def gives_sizes(rules: tuple[Rule, ...]) -> bool:
    """Whether the op gives nothing but shapes or sizes (Shape, Size)."""
    return bool(rules) and all(r.tag is not None for r in rules[0].results) and bool(rules[0].results)


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor's elements are real numbers of any width."""
    return np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def parameters(graph: Graph, lookup: Lookup, trainable: Iterable[str], constant: Iterable[str] = ()) -> frozenset[str]:
    """Names of the tensors that train.

    A file doesn't say: a float tensor of rank >= 1 and size > 1 that feeds arithmetic trains; one that only feeds shapes,
    bounds or sizes doesn't. `trainable` and `constant` override. Raises GraphsplitError for a name that is no tensor.
    """
    forced, barred = set(trainable), set(constant)
    for name in sorted(forced | barred):
        if name not in graph.tensors:
            raise GraphsplitError(
                f"{name!r} is not a tensor of the network", hint="`graphsplit inspect` lists its parameters"
            )
    arguments = _arguments(graph, lookup)
    found = {
        name
        for name, tensor in graph.tensors.items()
        if is_float(tensor) and len(tensor.shape) > 0 and int(np.prod(tensor.shape)) > 1 and name not in arguments
    }
    return frozenset((found | forced) - barred)


def _arguments(graph: Graph, lookup: Lookup) -> set[str]:
    """Values that are only ever sizes, bounds or indices: walked from the last node to the first."""
    outputs = {value.name for value in graph.outputs}
    arithmetic: set[str] = set(outputs)
    read: set[str] = set()
    for node in reversed(graph.nodes):
        rules = lookup(node)
        feeds = any(name in arithmetic for name in node.outputs) and not gives_sizes(rules)
        for position, name in enumerate(node.inputs):
            if not name:
                continue
            read.add(name)
            if feeds and (not rules or operand_tag(rules[0], position) is None):
                arithmetic.add(name)
    return read - arithmetic


@dataclass(frozen=True)
class Structure:
    """What the graph says without any label: values made of parameters alone, and the nodes behind the output layers."""

    derived: frozenset[str]
    tail: frozenset[int]
    frontier: frozenset[int]


def structure(graph: Graph, lookup: Lookup, trained: frozenset[str], hidden: frozenset[int]) -> Structure:
    """Find derived values, tail nodes and the frontier.

    A tail node has no trainable operand, except in a sum or a movement, and feeds only tail nodes and outputs; a frontier
    node is none but feeds only those. Nodes of whose results only sizes are read don't count. `hidden` nodes are taken out
    of the tail. O(nodes + edges).
    """
    derived = _derived(graph, lookup, trained)
    outputs = {value.name for value in graph.outputs}
    tail: set[int] = set()
    frontier: set[int] = set()
    measured: set[int] = set()
    for i in sorted(graph.alive, reverse=True):
        node = graph.nodes[i]
        readers = {j for name in node.outputs for j in graph.consumers.get(name, ())} & graph.alive
        readers = {j for j in readers if not gives_sizes(lookup(graph.nodes[j]))} - measured
        if not readers and not outputs & set(node.outputs):
            measured.add(i)
        if not readers <= tail or i in measured:
            continue
        rules = lookup(node)
        trains = [
            name in derived for p, name in enumerate(node.inputs) if name and rules and operand_tag(rules[0], p) is None
        ]
        plain = not any(trains) or ((rules[0].additive or rules[0].move) and not all(trains))
        if plain and i not in hidden:
            tail.add(i)
        else:
            frontier.add(i)
    return Structure(frozenset(derived), frozenset(tail), frozenset(frontier))


def _derived(graph: Graph, lookup: Lookup, trained: frozenset[str]) -> set[str]:
    derived = set(trained)
    for node in graph.nodes:
        rules = lookup(node)
        if not rules or gives_sizes(rules):
            continue
        operands = [name for p, name in enumerate(node.inputs) if name and operand_tag(rules[0], p) is None]
        known = [name in derived for name in operands]
        fixed = [name in graph.tensors for name in operands]
        if any(known) and all(k or f for k, f in zip(known, fixed, strict=True)):
            derived.update(name for name in node.outputs if name)
    return derived
