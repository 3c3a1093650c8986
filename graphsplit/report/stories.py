"""Explanations as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from graphsplit.report.content import Explanation, PairExplanation, Step, Target, Vertex
from graphsplit.report.tables import number, say

MAX_COUPLED = 25
APART = "nothing couples them; each may go to another part"
ALONE = "nothing couples its vertices; each may go to another part"
ALONE_TOGETHER = "no other layer couples with it"


def show_explanation(console: Console, found: Explanation) -> None:
    """What couples with one thing."""
    target = found.target
    say(console, _target(target))
    if target.repeated:
        say(console, f"  {target.repeated}")
    if target.vertices == 0:
        return
    if found.inside:
        say(console, "", "its own vertices are coupled with each other:")
        _chain(console, found.inside)
    if not found.coupled:
        say(console, "", ALONE_TOGETHER if found.inside else ALONE)
    for coupled in found.coupled[:MAX_COUPLED]:
        say(
            console, "", f"{coupled.title}: {number(coupled.vertices)} of its {_vertices(coupled.of)} must stay with it"
        )
        if coupled.links > len(coupled.chain):
            say(console, f"  … behind {_count(coupled.links - len(coupled.chain), 'step')} more")
        _chain(console, coupled.chain)
    if len(found.coupled) > MAX_COUPLED:
        say(console, "", f"… and {number(len(found.coupled) - MAX_COUPLED)} more layers (--json lists all)")


def show_pair(console: Console, found: PairExplanation) -> None:
    """Whether two things must stay together."""
    first, second = found.first, found.second
    say(console, _target(first), _target(second), "")
    if not found.coupled:
        whole = [t for t in (first, second) if t.vertices == 0]
        say(console, f"nothing couples them: {whole[0].title} isn't divided" if whole else APART)
        return
    a, b = found.coupled_vertices
    say(
        console,
        f"they must stay together: {number(a)} of the first one's {_vertices(first.vertices)} "
        f"with {number(b)} of the second one's {_vertices(second.vertices)}",
    )
    if not found.chain:
        assert found.start is not None
        say(console, f"  they have {_vertex(found.start)} in common")
    _chain(console, found.chain)


def _chain(console: Console, chain: Sequence[Step]) -> None:
    for step in chain:
        say(console, f"  {step.title}: {step.why}", f"    {_vertex(step.left)} with {_vertex(step.right)}")


def _target(target: Target) -> str:
    if target.kind == "divided":
        atoms = f" in {_count(target.atoms, 'atom')}" if target.atoms != target.vertices else ""
        axes = (
            f" along {'axis' if len(target.axes) == 1 else 'axes'} {', '.join(map(str, target.axes))}"
            if target.axes
            else ""
        )
        return f"{target.title}: {_vertices(target.vertices)}{atoms}{axes}"
    kinds = {
        "private": "private, each part has its own",
        "output": "an output of every part",
        "whole": "not divided",
    }
    return f"{target.title}: {kinds[target.kind]}" + f" ({target.reason})" * bool(target.reason)


def _vertex(vertex: Vertex) -> str:
    return f"vertex {number(vertex.index)} of {vertex.title}"


def _vertices(count: int) -> str:
    return "1 vertex" if count == 1 else f"{number(count)} vertices"


def _count(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{number(count)} {what}s"
