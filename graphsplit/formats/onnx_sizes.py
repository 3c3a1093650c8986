"""Sizes to plan with for the dynamic axes of an ONNX graph.

The partition doesn't depend on them, but shapes must come out whole numbers: an encoder that halves an image five times needs
a multiple of 32, a dense layer behind a flatten needs exactly its own size. Candidates are tried until all shapes are known;
where one size for all axes doesn't do (an axis that holds 39 neighbours of each of a batch), what contradicts itself says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import combinations
from math import prod

from graphsplit.errors import FormatError
from graphsplit.facts import Fact, Facts
from graphsplit.graph import Graph

BATCHES = (2, 3, 1)
LENGTHS = (16, 32, 64, 96, 128, 224, 256, 48, 80, 320, 640, 100, 112, 299, 384, 512, 1000, 1024, 1280, 4000, 16000)


MOST_RATIOS = 16
"""How many proportions are tried of a node whose operands don't fit each other."""

Evaluate = Callable[[Mapping[str, int]], Facts]


def symbols(graph: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The dynamic axes of the inputs: those that stand first (batches), and the others. An unnamed one is `input:axis`."""
    first: dict[str, None] = {}
    other: dict[str, None] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                (other if axis else first)[dim if isinstance(dim, str) else f"{value.name}:{axis}"] = None
    return tuple(first), tuple(name for name in other if name not in first)


def choose_sizes(graph: Graph, evaluate: Evaluate, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """Sizes for every dynamic axis, such that as few shapes as possible stay unknown. `given` fixes some.

    Raises FormatError for an input without a rank, or a given name that is no dynamic axis.
    """
    for value in graph.inputs:
        if value.shape is None:
            raise FormatError(
                f"input {value.name!r} has no shape, not even a rank",
                hint="export the network with declared input shapes",
            )
    batches, lengths = symbols(graph)
    fixed = dict(given or {})
    for name in fixed:
        if name not in (*batches, *lengths):
            raise FormatError(
                f"{name!r} is no dynamic axis of the network", hint=f"its dynamic axes are {[*batches, *lengths]}"
            )
    best: tuple[int, dict[str, int]] | None = None
    for candidate in _candidates(batches, lengths):
        sizes = {**candidate, **fixed}
        unknown = unshaped(evaluate(sizes))
        if best is None or unknown < best[0]:
            best = unknown, sizes
        if best[0] == 0 or not (batches or lengths):
            break
    assert best is not None
    return mended(graph, evaluate, best[1], lambda name, _: name not in fixed) if best[0] else best[1]


def mended(
    graph: Graph, evaluate: Evaluate, sizes: dict[str, int], allowed: Callable[[str, int], bool]
) -> dict[str, int]:
    """The sizes with some changed, one at a time, so that fewer shapes stay unknown.

    What to try is read off the first node whose operands contradict each other: an axis is made longer or shorter by the
    proportion in which they do. `allowed` says which axis may get which size.
    """
    facts = evaluate(sizes)
    while unshaped(facts):
        wanted = [(name, sizes[name] * ratio) for ratio in _contradiction(graph, facts) for name in sizes]
        changes = [(name, int(size)) for name, size in wanted if size.denominator == 1 and allowed(name, int(size))]
        known = [evaluate({**sizes, name: size}) for name, size in changes]
        at = min(range(len(changes)), key=lambda i: unshaped(known[i]), default=None)
        if at is None or unshaped(known[at]) >= unshaped(facts):
            break
        sizes, facts = {**sizes, changes[at][0]: changes[at][1]}, known[at]
    return sizes


def unshaped(facts: Facts) -> int:
    """How many values have no shape, or no element."""
    return sum(fact.shape is None or 0 in fact.shape for fact in facts.values())


def _contradiction(graph: Graph, facts: Facts) -> list[Fraction]:
    """Proportions that would make the operands of a node fit: the first that has known operands and no known result."""
    for node in graph.nodes:
        known = [facts[name] for name in node.inputs if name]
        if all(facts[name].shape for name in node.outputs if name) or not all(f.shape for f in known):
            continue
        shapes = [fact.shape or () for fact in known]
        pairs = {(x, y) for a, b in combinations(shapes, 2) for x, y in zip(a[::-1], b[::-1], strict=False)}
        pairs |= {(prod(shapes[0]), abs(prod(_integers(f)))) for f in known[1:]}  # a Reshape keeps its elements
        ratios = {Fraction(x, y) for pair in pairs if 0 not in pair for x, y in (pair, pair[::-1])} - {Fraction(1)}
        return sorted(ratios, key=lambda ratio: (max(ratio, 1 / ratio), ratio))[:MOST_RATIOS]
    return []


def _integers(fact: Fact) -> list[int]:
    return (
        [int(n) for n in fact.data]
        if fact.data is not None and fact.data.ndim == 1 and fact.data.dtype.kind in "iu"
        else []
    )


def _candidates(batches: tuple[str, ...], lengths: tuple[str, ...]) -> list[dict[str, int]]:
    return [
        {**dict.fromkeys(batches, batch), **dict.fromkeys(lengths, length)}
        for batch in BATCHES
        for length in (LENGTHS if lengths else (1,))
    ]
