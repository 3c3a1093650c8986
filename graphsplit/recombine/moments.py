"""Optimizer state put back together, such that the pending update of a parameter merges like the parameter.

An optimizer that divides by the root of a second moment updates by m / sqrt(v). Where one part has an element, both
come back as they are, m weighted as the element is; where several have it, v is their mean by their weights, and m =
sqrt(v) * the merge of m_k / sqrt(v_k). What was cut has m = 0, and v is the tensor's mean: with v = 0 at a large step
count its first step would be several times too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from graphsplit.graph import Array, ArrayTensor
from graphsplit.manifest import Group, ParameterEntry
from graphsplit.recombine.tensors import Leaf, merged_tensor

__all__ = ["Adaptive", "merge_adaptive", "merge_linear", "rescaled_moment"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Adaptive:
    """One leaf's state for a tensor: averages of the gradient and of its square, by the optimizer's names.

    `divisor` names the second moment that the update divides by. A leaf that has no state yet isn't `held`, and its zeros
    count for no average of squares.
    """

    first: Mapping[str, Array]
    second: Mapping[str, Array]
    divisor: str
    held: bool = True


def merge_linear(
    entry: ParameterEntry, groups: Sequence[Group], leaves: Sequence[Leaf], arrays: Sequence[Array]
) -> Floats:
    """State that is an update already (momentum): it merges like its weight."""
    held = [
        replace(leaf, tensor=ArrayTensor(np.asarray(a, np.float64))) for leaf, a in zip(leaves, arrays, strict=True)
    ]
    return np.asarray(merged_tensor(replace(entry, dtype="float64"), groups, held), np.float64)


def merge_adaptive(
    entry: ParameterEntry, groups: Sequence[Group], leaves: Sequence[Leaf], states: Sequence[Adaptive]
) -> dict[str, Floats]:
    """The merged averages of a tensor, all by name. All leaves have the same names."""
    ones = [np.full(np.shape(next(iter(state.second.values()))), float(state.held)) for state in states]
    holders = _sum(entry, groups, leaves, ones)
    merged: dict[str, Floats] = {}
    for name in states[0].second:
        total = _sum(entry, groups, leaves, [state.second[name] for state in states])
        mean = np.divide(total, holders, out=np.zeros_like(total), where=holders > 0)
        typical = mean[holders > 0].mean() if bool((holders > 0).any()) else 0.0
        merged[name] = np.where(holders > 0, mean, typical)
    for name in states[0].first:
        ratios = [_ratio(state.first[name], state.second[state.divisor]) for state in states]
        merged[name] = np.sqrt(merged[states[0].divisor]) * merge_linear(entry, groups, leaves, ratios)
    return merged


def _sum(entry: ParameterEntry, groups: Sequence[Group], leaves: Sequence[Leaf], arrays: Sequence[Array]) -> Floats:
    """What the leaves have of each element, added up over output elements, each by its weight; of copies their mean.

    The weights are relative to the smallest, so that equal leaves weigh 1 and nothing is rounded.
    """
    least = min(leaf.fraction for leaf in leaves)
    return merge_linear(entry, groups, [replace(leaf, output_weight=leaf.fraction / least) for leaf in leaves], arrays)


def _ratio(first: Array, second: Array) -> Floats:
    root = np.sqrt(np.asarray(second, np.float64))
    return np.divide(np.asarray(first, np.float64), root, out=np.zeros(root.shape), where=root > 0)


def rescaled_moment(array: Array, decay: float, before: float, after: float, *, onto: float | None = None) -> Floats:
    """A running average after `before` steps as one of `after` steps that is corrected to the same value.

    `onto` is the decay that it will be corrected by, if that is another.
    """
    onto = decay if onto is None else onto
    if before <= 0 or (before == after and decay == onto):
        return np.asarray(array, np.float64)
    corrected: Floats = np.asarray(array, np.float64) * ((1 - onto**after) / (1 - decay**before))
    return corrected
