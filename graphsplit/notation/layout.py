"""The axes of a node by the factors of its rule: how many each bundle has, as told by ranks and `at`.

It needs no sizes, so that all nodes of equal ranks share one layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from graphsplit.errors import RuleError
from graphsplit.notation.rule import ELLIPSIS, Operand, Rule

Axes = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A rule with its bundles counted: the factors of each axis, before anything is known of sizes."""

    operands: tuple[Axes | None, ...]
    results: tuple[Axes | None, ...]
    fixed: Mapping[str, int]
    mix: frozenset[str]
    whole: frozenset[str]
    stat: frozenset[str]
    tags: tuple[str | None, ...]


def misfit(rule: Rule, reason: str) -> NoReturn:
    """Refuse: the rule does not fit the node."""
    raise RuleError(f"the rule {rule.line!r} does not fit: {reason}")


@lru_cache(maxsize=4096)
def layout_of(
    rule: Rule,
    ranks_in: tuple[int | None, ...],
    ranks_out: tuple[int | None, ...],
    places: tuple[int, ...],
    counted: tuple[tuple[str, int], ...] = (),
) -> Layout:
    """Count the axes of each bundle, from ranks and from the positions in this node of the rule's `at` entries.

    `counted` are bundles whose length an attribute tells.
    """
    if rule.refuse and not rule.results:
        nothing = (None,) * len(ranks_in), (None,) * len(ranks_out)
        return Layout(*nothing, {}, frozenset(), frozenset(), frozenset(), nothing[0])
    operands, results = paired(rule, rule.operands, ranks_in, "input"), paired(rule, rule.results, ranks_out, "output")
    held = [(o, rank) for o, rank in zip(operands, ranks_in, strict=True) if rank is not None and o.axes is not None]
    made = [(o, rank) for o, rank in zip(results, ranks_out, strict=True) if rank is not None and o.axes is not None]
    lengths: dict[str, int] = dict(counted)
    for (name, _, _), place in zip(rule.at, places, strict=True):
        _count_before(rule, name, place, held, lengths)
    _count(rule, held, lengths)
    reach = [rank - _plain(o, lengths) for o, rank in held if any(f.name == ELLIPSIS for f in o.factors)]
    if reach:
        lengths[ELLIPSIS] = max(reach)
    _count(rule, made, lengths, results=True)

    def expanded(found: Iterable[Operand], ranks: Iterable[int | None]) -> tuple[Axes | None, ...]:
        return tuple(
            None if rank is None or o.axes is None else _expand(rule, o, rank, lengths)
            for o, rank in zip(found, ranks, strict=True)
        )

    def names(given: frozenset[str]) -> frozenset[str]:
        return frozenset(n for name in given for n in ((name,) if name in letters else _members(name, lengths)))

    factors = [f for o in (*rule.operands, *rule.results) for f in o.factors]
    letters = {f.name for f in factors if not f.many}
    return Layout(
        operands=expanded(operands, ranks_in),
        results=expanded(results, ranks_out),
        fixed={f.name: f.size for f in factors if f.size is not None},
        mix=names(rule.mix),
        whole=names(rule.whole),
        stat=names(rule.stat),
        tags=tuple(o.tag for o in operands),
    )


def paired(rule: Rule, operands: tuple[Operand, ...], ranks: Sequence[object], what: str) -> tuple[Operand, ...]:
    """The rule's operand for each of the node's."""
    if len(ranks) > len(operands):
        if not (operands and operands[-1].repeated):
            misfit(rule, f"the node has {len(ranks)} {what}s, the rule {len(operands)}")
        operands = operands + operands[-1:] * (len(ranks) - len(operands))
    return operands[: len(ranks)]


def _bundles(operand: Operand) -> list[str]:
    return [factor.name for factor in operand.factors if factor.many]


def _plain(operand: Operand, lengths: Mapping[str, int]) -> int:
    """How many axes an operand has besides `...`."""
    return sum(lengths[f.name] if f.many else 1 for (f, *_) in operand.axes or () if f.name != ELLIPSIS)


def _count_before(
    rule: Rule, name: str, place: int, held: Sequence[tuple[Operand, int]], lengths: dict[str, int]
) -> None:
    """Count the bundle in front of the axis `name` of the first operand that holds it, which sits at `place`."""
    for operand, rank in held:
        names = [axis[0].name if len(axis) == 1 else "" for axis in operand.axes or ()]
        if name not in names:
            continue
        position = place + rank if place < 0 else place
        before = [axis[0] for axis in (operand.axes or ())[: names.index(name)]]
        unknown = [f.name for f in before if f.many and f.name not in lengths]
        if len(unknown) == 1:
            rest = sum(lengths[f.name] if f.many else 1 for f in before if f.name != unknown[0])
            lengths[unknown[0]] = position - rest
        if not 0 <= position <= rank or min(lengths.values(), default=0) < 0:
            misfit(rule, f"axis {place} is out of range for an operand of rank {rank}")
        return


def _count(rule: Rule, held: Sequence[tuple[Operand, int]], lengths: dict[str, int], *, results: bool = False) -> None:
    """Count every bundle that ranks determine, until nothing changes; refuse what then disagrees."""
    pending = list(held)
    while pending:
        waiting = []
        for operand, rank in pending:
            bundles = _bundles(operand)
            unknown = [n for n in bundles if n not in lengths and (results or n != ELLIPSIS)]
            if len(unknown) > 1 or (unknown and not results and ELLIPSIS in bundles):
                waiting.append((operand, rank))
                continue
            known = sum(lengths.get(n, 0) for n in bundles if results or n != ELLIPSIS)
            rest = rank - known - (len(operand.axes or ()) - len(bundles))
            if unknown:
                lengths[unknown[0]] = rest
            if rest < 0 or (rest and not unknown and (results or ELLIPSIS not in bundles)):
                misfit(rule, f"{str(operand)!r} does not describe a value of rank {rank}")
        if len(waiting) == len(pending):
            misfit(rule, f"the ranks do not tell how many axes the bundles of {str(waiting[0][0])!r} have")
        pending = waiting


def _members(name: str, lengths: Mapping[str, int]) -> list[str]:
    return [f"{name}.{i}" for i in range(lengths.get(name, 0))]


def _expand(rule: Rule, operand: Operand, rank: int, lengths: Mapping[str, int]) -> Axes:
    """The factors of each axis, bundles expanded; `...` holds the last names when it is shorter than elsewhere."""
    axes: list[tuple[str, ...]] = []
    own = rank - _plain(operand, lengths)
    for axis in operand.axes or ():
        first = axis[0]
        if not first.many:
            axes.append(tuple(f.name for f in axis))
            continue
        names = _members(first.name, lengths)
        axes.extend((n,) for n in (names[len(names) - own :] if first.name == ELLIPSIS else names))
    assert len(axes) == rank, rule.line
    return tuple(axes)
