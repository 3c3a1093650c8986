"""From atoms to parts: families, strategies, balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphsplit.errors import PlanError
from graphsplit.labels import Flowed
from graphsplit.labels.arrays import Ids
from graphsplit.partition.balance import counts
from graphsplit.partition.families import Family, Layer, Structure, families

__all__ = ["STRATEGIES", "Family", "Layer", "Partition", "Structure", "families", "partition"]

Strategy = Callable[[int, Ids, np.random.Generator], Ids]


def _contiguous(atoms: int, sizes: Ids, rng: np.random.Generator) -> Ids:
    """The first atoms to part 0, the next to part 1, and so on."""
    return np.repeat(np.arange(len(sizes)), sizes)


def _interleaved(atoms: int, sizes: Ids, rng: np.random.Generator) -> Ids:
    """Parts take turns, as often as their shares say."""
    parts = _contiguous(atoms, sizes, rng)
    turn = np.concatenate([(np.arange(n) + 0.5) / n if n else np.empty(0) for n in sizes])
    return parts[np.lexsort((parts, turn))]


def _random(atoms: int, sizes: Ids, rng: np.random.Generator) -> Ids:
    """A random assignment with the same counts; the same for the same seed."""
    return rng.permutation(_contiguous(atoms, sizes, rng))


STRATEGIES: dict[str, Strategy] = {"contiguous": _contiguous, "interleaved": _interleaved, "random": _random}


@dataclass(frozen=True)
class Partition:
    """Which part owns each atom: `owner[class]` is a part, or -1 for ids that no part owns alone."""

    parts: int
    shares: tuple[float, ...]
    owner: Ids
    structure: Structure
    counts: Ids


def partition(
    flowed: Flowed, *, strategy: str = "contiguous", seed: int = 0, shares: Sequence[float] | None = None
) -> Partition:
    """Divide the atoms of a network over its parts, every family as evenly as whole numbers allow.

    Raises PlanError for an unknown strategy, bad shares, nothing to divide, or constraints without a solution.
    """
    parts = flowed.parts
    if strategy not in STRATEGIES:
        raise PlanError(f"there is no strategy {strategy!r}", hint=f"choose one of {', '.join(STRATEGIES)}")
    weights = np.asarray(shares if shares is not None else [1.0] * parts, np.float64)
    if weights.shape != (parts,) or not np.isfinite(weights).all() or not (weights > 0).all():
        raise PlanError(f"the shares {list(weights)} don't fit {parts} parts", hint=f"give {parts} positive numbers")
    weights = weights / weights.sum()
    structure = families(flowed)
    if not structure.layers:
        reason, hint = _why(flowed)
        raise PlanError(
            f"{flowed.graph.name or 'the network'} has no hidden layer that can be divided into {parts} parts, "
            f"so there is nothing to split{reason}",
            hint=hint,
        )
    names = [flowed.graph.nodes[node].title for node in structure.constraint_nodes]
    numbers = counts(structure, weights, names)
    owner = np.full(len(flowed.classes), -1, np.int64)
    rng = np.random.default_rng(seed)
    for family, sizes in zip(structure.families, numbers, strict=True):
        owner[family.atoms] = STRATEGIES[strategy](len(family.atoms), sizes, rng)
    return Partition(parts, tuple(float(w) for w in weights), owner, structure, numbers)


def _why(flowed: Flowed) -> tuple[str, str]:
    """Why nothing can be divided, as far as it is known, and what to do."""
    reasons = list(flowed.private.values())
    if reasons:
        return f" ({reasons[0]})", "try a smaller -k"
    facts = flowed.facts
    for node in (flowed.graph.nodes[i] for i in sorted(flowed.graph.alive)):
        if any(facts[n].shape is None for n in node.outputs if n) and all(facts[n].shape for n in node.inputs if n):
            reason = f" (the size of what {node.title} gives is only known when it runs)"
            return reason, "export the network with this size as a constant"
    return "", "try a smaller -k"
