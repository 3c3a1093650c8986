"""The parsed form of a rule line, and its normal form in print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ELLIPSIS = "..."
FLAGS = ("sum", "move", "reduce", "equation", "opaque", "draws", "window")


@dataclass(frozen=True, slots=True)
class Factor:
    """What an axis is made of: a letter, a bundle of zero or more axes (`many`), or a number of fixed `size`."""

    name: str
    many: bool = False
    size: int | None = None

    def __str__(self) -> str:
        return f"*{self.name}" if self.many and self.name != ELLIPSIS else self.name


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand or result. `axes` is None for `_` and for arguments, `tag` is None for data."""

    axes: tuple[tuple[Factor, ...], ...] | None
    tag: str | None = None
    repeated: bool = False

    @property
    def factors(self) -> tuple[Factor, ...]:
        """All factors in the order of the line."""
        return tuple(factor for axis in self.axes or () for factor in axis)

    def __str__(self) -> str:
        if self.tag is not None:
            text = f"#{self.tag}"
        elif self.axes is None:
            text = "_"
        else:
            axes = (str(axis[0]) if len(axis) == 1 else f"({' '.join(map(str, axis))})" for axis in self.axes)
            text = " ".join(axes) or "()"
        return text + "+" * self.repeated


@dataclass(frozen=True, slots=True)
class Rule:
    """One parsed line. `line` is its normal form, which parses to an equal rule."""

    op: str
    domain: str = ""
    since: int = 1
    guard: tuple[tuple[str, int | str], ...] = ()
    operands: tuple[Operand, ...] = ()
    results: tuple[Operand, ...] = ()
    mix: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    stat: frozenset[str] = frozenset()
    move: bool = False
    reduce: bool = False
    equation: bool = False
    opaque: bool = False
    additive: bool = False
    draws: bool = False
    window: bool = False
    refuse: str = ""
    at: tuple[tuple[str, str, int], ...] = ()
    counts: tuple[tuple[str, str], ...] = ()
    back: tuple[tuple[str, str], ...] = ()
    work: tuple[str, ...] = ()
    fused: str = ""
    line: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", _print(self))

    def __str__(self) -> str:
        return self.line

    @property
    def bundles(self) -> frozenset[str]:
        """The factors that stand for zero or more axes."""
        return frozenset(f.name for o in (*self.operands, *self.results) for f in o.factors if f.many)

    def holds(self, attributes: Mapping[str, object]) -> bool:
        """Whether a node with these attributes (defaults filled in) is one that the guard lets through; `none`: without it."""
        for name, wanted in self.guard:
            value = attributes.get(name, "none")
            if (value.decode() if isinstance(value, bytes) else value) != wanted:
                return False
        return True

    def __hash__(self) -> int:
        return hash(self.line)


def _print(rule: Rule) -> str:
    """The normal form: single spaces, sorted guard, qualifiers in a fixed order, factors as they first occur."""
    key = f"{rule.domain}::{rule.op}" if rule.domain else rule.op
    if rule.since != 1:
        key += f"@{rule.since}"
    if rule.guard:
        key += f"[{','.join(f'{name}={value}' for name, value in rule.guard)}]"
    text = key
    if rule.results:
        text += (
            f"{' ' * bool(rule.operands)}{', '.join(map(str, rule.operands))} -> {', '.join(map(str, rule.results))}"
        )
    order = dict.fromkeys(factor.name for operand in rule.operands for factor in operand.factors)
    for word, names in (("mix", rule.mix), ("whole", rule.whole), ("stat", rule.stat)):
        if names:
            text += f" | {word} {' '.join(name for name in order if name in names)}"
    flags = (rule.additive, rule.move, rule.reduce, rule.equation, rule.opaque, rule.draws, rule.window)
    text += "".join(f" | {word}" for word, held in zip(FLAGS, flags, strict=True) if held)
    if rule.at:
        text += " | at " + " ".join(f"{factor}={attribute}:{default}" for factor, attribute, default in rule.at)
    if rule.counts:
        text += " | set " + " ".join(f"{attribute}={factor}" for attribute, factor in rule.counts)
    if rule.back:
        text += " | back " + " ".join(f"{letter}={fed}" for letter, fed in rule.back)
    if rule.work:
        text += f" | work {' '.join(rule.work)}"
    text += f" | fused {rule.fused}" if rule.fused else ""
    return text + (f" | refuse {rule.refuse}" if rule.refuse else "")
