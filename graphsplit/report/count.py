"""Multiply-adds of a network's contractions, read off the bound rules; no function here knows the name of an op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Protocol

import numpy as np

from graphsplit.errors import RuleError
from graphsplit.facts import Facts
from graphsplit.graph import Graph, Node
from graphsplit.labels import Dialect
from graphsplit.labels.trainable import operand_tag
from graphsplit.narrow import NarrowDialect
from graphsplit.notation import Bound, Rule, bind
from graphsplit.report.modes import twins


class ReportDialect(NarrowDialect, Protocol):
    """What the reports need of a front end besides narrowing's needs."""

    def evaluate(self, graph: Graph, sizes: Mapping[str, int], parameters: frozenset[str]) -> Facts: ...


def multiply_adds(graph: Graph, dialect: Dialect, facts: Facts) -> list[int]:
    """The multiply-adds of every node, in order; 0 where nothing is contracted or shapes depend on data.

    What both modes of a network do counts in evaluation mode only.
    """
    found, hidden = [], twins(graph)
    for index, node in enumerate(graph.nodes):
        if index in hidden:
            found.append(0)
            continue
        rules = dialect.lookup(node)
        contracts = any(rule.mix or rule.equation or rule.work for rule in rules)
        bound = bound_of(node, rules, dialect, facts) if contracts else None
        found.append(work(bound) if bound is not None else 0)
    return found


def bound_of(node: Node, rules: Sequence[Rule], dialect: Dialect, facts: Facts) -> Bound | None:
    """The first of a node's rules that fits its shapes, None where none does, or the one that does refuses."""
    bound = fitting(node, rules, dialect, facts)
    return None if bound is None or bound.rule.refuse else bound


def fitting(node: Node, rules: Sequence[Rule], dialect: Dialect, facts: Facts) -> Bound | None:
    """The first of a node's rules that fits its shapes, whatever it says, None where none does."""
    inputs = [facts[name].shape if name in facts else None for name in node.inputs]
    outputs = [facts[name].shape if name in facts else None for name in node.outputs]
    if (
        not outputs
        or outputs[0] is None
        or any(name and shape is None for name, shape in zip(node.inputs, inputs, strict=True))
    ):
        return None
    attributes = dict(dialect.attributes(node))
    for position, name in enumerate(node.inputs):
        if name and operand_tag(rules[0], position) == "axes" and facts[name].data is not None:
            attributes["axes"] = tuple(int(a) for a in np.ravel(facts[name].data))  # type: ignore[arg-type]
    for rule in rules:
        try:
            return bind(rule, inputs, outputs, attributes)
        except RuleError:
            continue
    return None


def work(bound: Bound) -> int:
    """The multiply-adds of one node.

    They are the product of the sizes of all factors of the result and of the operands that a `mix` contracts: of a
    matrix product n · i · o. A window that slides (a factor of the result that no operand has: `*t` of a convolution)
    meets each of the kernel's elements (`*k`) once for each position of the result or of the input (`*s`), whichever
    are fewer: a convolution counts its results, a transposed one its inputs. The border that a padding adds is counted.
    What a recurrent layer feeds back is contracted once more, and what an op contracts inside, its rule's `work` says.
    """
    return _contracted(bound) + sum(_product(bound, factors) for factors in bound.rule.work)


def _contracted(bound: Bound) -> int:
    holders = _holders(bound)
    if len(holders) < 2:
        return 0
    results = _names(bound.results[0] or ())
    names = results.union(*(_names(bound.operands[j] or ()) for j in holders))
    sliding = _sliding(bound.rule, holders)
    gone = {letter for letters in sliding.values() for letter in letters}
    total = prod(bound.sizes[name] for name in names if _letter(name) not in gone)
    for axis in range(max(map(len, sliding.values()), default=0)):
        here = {role: letters[axis] for role, letters in sliding.items() if axis < len(letters)}
        for place in sorted({_place(name) for name in bound.sizes if _letter(name) in here.values()}) or [""]:
            sizes = {role: _size(bound, letter, place) for role, letter in here.items()}
            windows = [size for role, size in sizes.items() if role != "kernel"]
            total *= sizes.get("kernel", 1) * min(windows, default=1)
    return total + _fed_back(bound, results)


def _product(bound: Bound, factors: str) -> int:
    """The product of the sizes of factors written `n*q*d`; a bundle counts all its axes, a factor of no operand given none."""
    found = 1
    for factor in factors.split("*"):
        found *= prod(size for name, size in bound.sizes.items() if factor in (name, _letter(name)))
    return found


def _fed_back(bound: Bound, results: set[str]) -> int:
    """The multiply-adds of recurrent weights: each step's results are contracted with them."""
    total = 0
    for letter, _ in bound.rule.back:
        operands = [names for names in (_names(axes or ()) for axes in bound.operands) if letter in names]
        total += sum(prod(bound.sizes[name] for name in results | names) for names in operands)
    return total


def _holders(bound: Bound) -> list[int]:
    """The operands that are contracted. Read off the line, for a contracted axis of size 1 is in no bound operand."""
    present = [j for j, axes in enumerate(bound.operands) if axes is not None]
    if bound.rule.equation:
        return present
    lines = bound.rule.operands
    return [j for j in present if j < len(lines) and {f.name for f in lines[j].factors} & bound.rule.mix]


def _sliding(rule: Rule, holders: Sequence[int]) -> dict[str, list[str]]:
    """The letters of a sliding window by their roles (position in the result, in the input, in the kernel), axis by axis."""
    if rule.equation or not rule.results or rule.results[0].axes is None:
        return {}
    letters = [[f.name for f in operand.factors] for operand in rule.operands]
    result = [f.name for f in rule.results[0].factors]
    made = [letter for letter in result if not any(letter in found for found in letters)]
    if not made:
        return {}
    gone = {"result": made}
    for number, j in enumerate(holders):
        others = {letter for i, found in enumerate(letters) if i != j for letter in found}
        own = [letter for letter in letters[j] if letter not in others and letter not in result]
        gone["kernel" if number else "input"] = [letter for letter in own if letter not in rule.mix]
    return gone


def _names(axes: Sequence[Sequence[str]]) -> set[str]:
    return {name for factors in axes for name in factors}


def _letter(name: str) -> str:
    """The letter of an expanded factor: `s` of `s.0`, `...` of `....0`."""
    head, dot, number = name.rpartition(".")
    return head if dot and number.isdigit() else name


def _place(name: str) -> str:
    return name[len(_letter(name)) :]


def _size(bound: Bound, letter: str, place: str) -> int:
    return int(bound.sizes.get(letter + place, 1))
