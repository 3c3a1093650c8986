"""What a training came to, as text that fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphsplit.report.tables import number, say, table
from graphsplit.training.loop import Outcome
from graphsplit.training.method import Result

if TYPE_CHECKING:
    from rich.console import Console

GIGA = 1_000_000_000


def show_outcomes(console: Console, found: Sequence[Outcome], *, split: bool) -> None:
    """A row for each network that was trained."""
    rows = [(f"part {one.part}" if split else "network", *_amounts(one), _last(one)) for one in found]
    columns = [("", "left"), ("epochs", "right"), ("samples", "right"), ("seconds", "right"), ("G mult-adds", "right")]
    say(console, table([*columns, ("at the end", "name")], rows))
    for together in {one.together for one in found if one.together > 1}:
        say(console, f"{together} parts were trained as one: seconds and multiply-adds are theirs together")


def show_result(console: Console, found: Result) -> None:
    """The whole method: what each piece took, and how good the networks were."""
    rows = [(f"part {one.part}", *_amounts(one)) for one in found.parts if one.together == 1]
    for together in {one.together for one in found.parts if one.together > 1}:
        stacked = [one for one in found.parts if one.together == together]
        joint = replace(stacked[0], samples=sum(one.samples for one in stacked))
        rows.append((f"parts {stacked[0].part} to {stacked[-1].part}, stacked", *_amounts(joint)))
    rows.append(("merged", *_amounts(found.merged)))
    columns = [("", "left"), ("epochs", "right"), ("samples", "right"), ("seconds", "right"), ("G mult-adds", "right")]
    say(console, table(columns, rows))
    names = list(dict.fromkeys(name for score in found.scores.values() for name in score))
    scored = [(title, *(f"{score[name]:.4f}" for name in names)) for title, score in found.scores.items()]
    if scored:
        say(console, "", table([("", "left"), *((name, "right") for name in names)], scored))
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.seconds.items())
    say(console, "", f"merged at epoch {found.merged_at}" + f"; besides training: {spent}" * bool(spent))
    say(console, f"the trained network: {found.file}")


def _amounts(one: Outcome) -> tuple[str, str, str, str]:
    return str(one.epochs), number(one.samples), f"{one.seconds:.1f}", f"{one.multiply_adds / GIGA:,.1f}"


def _last(one: Outcome) -> str:
    """The last line of the history: loss, and what validation said."""
    if not one.history:
        return ""
    line = one.history[-1]
    held: Mapping[str, float] = line.get("validation", {})
    return ", ".join([f"loss {line['loss']:.4f}", *(f"validation {name} {value:.4f}" for name, value in held.items())])
