"""Sizes to plan with for the dynamic axes of an ONNX graph.

The partition doesn't depend on them, but shapes must come out whole numbers: an encoder that halves an image five times needs
a multiple of 32, a dense layer behind a flatten needs exactly its own size. Candidates are tried until all shapes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphsplit.errors import FormatError
from graphsplit.facts import Facts
from graphsplit.graph import Graph

BATCHES = (2, 3, 1)
LENGTHS = (16, 32, 64, 96, 128, 224, 256, 48, 80, 320, 640, 100, 112, 299, 384, 512, 1000, 1024, 1280, 4000, 16000)


@dataclass(frozen=True)
class Candidate:
    """Sizes by symbol, and how many values they leave without a shape."""

    sizes: dict[str, int]
    unknown: int


def symbols(graph: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The dynamic axes of the inputs: those that stand first (batches), and the others. An unnamed one is `input:axis`."""
    first: dict[str, None] = {}
    other: dict[str, None] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                (other if axis else first)[dim if isinstance(dim, str) else f"{value.name}:{axis}"] = None
    return tuple(first), tuple(name for name in other if name not in first)


def choose_sizes(
    graph: Graph, evaluate: Callable[[Mapping[str, int]], Facts], given: Mapping[str, int] | None = None, skip: int = 0
) -> dict[str, int]:
    """Sizes for every dynamic axis, such that as few shapes as possible stay unknown.

    `given` fixes some; `skip` passes over that many distinct good answers, for a second opinion.
    Raises FormatError for an input without a rank, or a given name that is no dynamic axis.
    """
    for value in graph.inputs:
        if value.shape is None:
            raise FormatError(
                f"input {value.name!r} has no shape, not even a rank",
                hint="export the network with declared input shapes",
            )
    batches, lengths = symbols(graph)
    given = dict(given or {})
    for name in given:
        if name not in (*batches, *lengths):
            raise FormatError(
                f"{name!r} is no dynamic axis of the network", hint=f"its dynamic axes are {[*batches, *lengths]}"
            )
    best: Candidate | None = None
    good: list[dict[str, int]] = []
    for candidate in _candidates(batches, lengths):
        sizes = {**candidate, **given}
        facts = evaluate(sizes)
        unknown = sum(fact.shape is None or 0 in fact.shape for fact in facts.values())
        if best is None or unknown < best.unknown:
            best, good = Candidate(sizes, unknown), []
        if unknown == best.unknown and sizes not in good:
            good.append(sizes)
        if (best.unknown == 0 and len(good) > skip) or not (batches or lengths):
            break
    assert best is not None
    return good[min(skip, len(good) - 1)]


def _candidates(batches: tuple[str, ...], lengths: tuple[str, ...]) -> list[dict[str, int]]:
    return [
        {**dict.fromkeys(batches, batch), **dict.fromkeys(lengths, length)}
        for batch in BATCHES
        for length in (LENGTHS if lengths else (1,))
    ]
