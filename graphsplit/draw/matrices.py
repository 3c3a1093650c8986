"""Weights as matrices of parts: which blocks are kept, which are cut, and how much of the weights' norm that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from graphsplit.draw.content import Matrix
from graphsplit.graph import Graph, WeightlessTensor
from graphsplit.labels.arrays import Ids
from graphsplit.planning import ParameterPlan, Plan

Energy = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


def matrices(plan: Plan, progress: Progress | None = None) -> tuple[Matrix, ...]:
    """Every parameter of which some axis belongs to parts and another isn't of size 1. Reads one weight at a time."""
    found = []
    wanted = [p for p in plan.parameters.values() if _axes(p) is not None]
    for done, parameter in enumerate(wanted):
        if progress is not None:
            progress("weights", done, len(wanted))
        found.append(_matrix(plan, parameter))
    return tuple(found)


def _axes(parameter: ParameterPlan) -> tuple[int, int] | None:
    """The axes drawn as rows and columns: those with vertices first, else the next."""
    labelled = [a for a, labels in enumerate(parameter.labels) if labels is not None and bool((labels > 0).any())]
    if parameter.blocked is not None and parameter.blocked.axis not in labelled:
        labelled.append(parameter.blocked.axis)
    others = [a for a, size in enumerate(parameter.shape) if a not in labelled and size > 1]
    if not labelled or len(labelled) + len(others) < 2 or parameter.role not in ("owned", "output", "duplicated"):
        return None
    others.sort(key=lambda axis: (parameter.labels[axis] is None, axis))
    row, column = sorted([*labelled, *others][:2])
    return row, column


def _matrix(plan: Plan, parameter: ParameterPlan) -> Matrix:
    axes = _axes(parameter)
    assert axes is not None
    owner, parts = plan.partition.owner, plan.parts
    who = [_owners(parameter, axis, owner, parts) for axis in axes]
    counts = parameter.counts(owner, parts)
    total = sum(counts.values())
    blocked = parameter.blocked
    groups = len(blocked.labels) if blocked is not None and {blocked.axis, blocked.along} == set(axes) else 1
    rows, columns = (np.bincount(numbers.reshape(-1), minlength=parts + 1) for numbers in who)
    return Matrix(
        parameter=parameter.name,
        axes=axes,
        rows=tuple(int(n) for n in rows),
        columns=tuple(int(n) for n in columns),
        groups=groups,
        kept=1 - counts["cut"] / total if total else 1.0,
        energy=_energy(plan.graph, parameter, axes, who, parts),
    )


def _owners(parameter: ParameterPlan, axis: int, owner: Ids, parts: int) -> Ids:
    """The part of each index of an axis, `parts` for those that all have; for a blocked axis one row a block."""
    labels = parameter.labels[axis]
    if parameter.blocked is not None and parameter.blocked.axis == axis:
        labels = parameter.blocked.labels
    if labels is None:
        return np.full(parameter.shape[axis], parts, np.int64)
    found: Ids = np.where(labels > 0, owner[np.maximum(labels, 0)], parts)
    return np.where(found < 0, parts, found)


def _energy(
    graph: Graph, parameter: ParameterPlan, axes: tuple[int, int], who: list[Ids], parts: int
) -> tuple[tuple[float, ...], ...] | None:
    """The share of the sum of squares in each block; None for a tensor without elements, or without a finite norm."""
    tensor = graph.tensors[parameter.name]
    if isinstance(tensor, WeightlessTensor) or any(numbers.ndim > 1 for numbers in who):
        return None
    array = np.asarray(tensor.numpy())
    if array.dtype.kind not in "fV" and not np.issubdtype(array.dtype, np.floating):
        return None
    others = tuple(a for a in range(array.ndim) if a not in axes)
    squares = np.square(array.astype(np.float64)).sum(axis=others)
    blocks: Energy = np.stack([squares[who[0] == part].sum(axis=0) for part in range(parts + 1)])
    blocks = np.stack([blocks[:, who[1] == part].sum(axis=1) for part in range(parts + 1)], axis=1)
    total = float(blocks.sum())
    if not np.isfinite(total) or total == 0:
        return None
    return tuple(tuple(float(value) for value in line) for line in blocks / total)


def cut_energy(found: Iterable[Matrix]) -> dict[str, float]:
    """The share of each parameter's sum of squares that is cut, where its weights are at hand."""
    return {one.parameter: _cut(one.energy) for one in found if one.energy is not None}


def _cut(energy: tuple[tuple[float, ...], ...]) -> float:
    parts = len(energy) - 1
    return sum(energy[r][c] for r in range(parts) for c in range(parts) if r != c)
