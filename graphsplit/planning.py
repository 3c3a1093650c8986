"""The plan: which slice of which tensor belongs to whom, and which nodes the merged network repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphsplit.errors import UnsupportedError
from graphsplit.graph import Graph, Node
from graphsplit.labels import COMMON, OUTPUT, PRIVATE, UNUSED, Flowed, Labels
from graphsplit.labels.arrays import Ids
from graphsplit.labels.parameters import Claim, Derived
from graphsplit.partition import Partition
from graphsplit.selection import Selected, Selection, keeps, select

Role = Literal["owned", "output", "duplicated", "constant", "unused"]
KINDS = ("owned", "output", "duplicated", "unused", "cut")


@dataclass(frozen=True)
class Blocked:
    """An axis whose owners change with the block along another axis: the inputs of a grouped convolution that keeps its groups.

    `labels` has one row a block; blocks divide the axis `along` evenly.
    """

    axis: int
    along: int
    labels: Ids


@dataclass(frozen=True)
class ParameterPlan:
    """One tensor: for each axis the class or code of every index (None: it carries no vertices), and its role in the merge."""

    name: str
    shape: tuple[int, ...]
    labels: tuple[Ids | None, ...]
    blocked: Blocked | None
    role: Role

    def selection(self, owner: Ids, part: int) -> Selection:
        """What one part takes of it."""
        axes = tuple(None if v is None else _kept(v, owner, part) for v in self.labels)
        if self.blocked is None:
            return Selection(axes)
        rows = tuple(np.flatnonzero(keeps(row, owner, part)) for row in self.blocked.labels)
        return Selection(axes, (self.blocked.axis, self.blocked.along, rows))

    def counts(self, owner: Ids, parts: int) -> dict[str, int]:
        """How many elements are owned, output, duplicated, unused or cut; they add up to the size."""
        if self.role in ("constant", "unused"):
            return {**dict.fromkeys(KINDS, 0), "unused": int(np.prod(self.shape, dtype=np.int64))}
        found = dict.fromkeys(KINDS, 0)
        rows = self.blocked.labels if self.blocked is not None else [None]
        for number, row in enumerate(rows):
            tables = []
            for axis, (vector, size) in enumerate(zip(self.labels, self.shape, strict=True)):
                labels = np.zeros(size, np.int64) if vector is None else vector
                if self.blocked is not None and axis == self.blocked.along:
                    height = size // len(rows)
                    labels = labels[number * height : (number + 1) * height]
                if self.blocked is not None and axis == self.blocked.axis:
                    assert row is not None
                    labels = row
                tables.append(_tally(labels, owner, parts))
            _count(tables, parts, found)
        return found


def _tally(labels: Ids, owner: Ids, parts: int) -> dict[int, int]:
    """Indices of an axis by owner: a part's number, or a code."""
    who = np.where(labels > 0, owner[np.maximum(labels, 0)], labels - 1)  # codes move below the parts: -1 is common
    values, number = np.unique(who, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, number, strict=True)}


def _count(tables: list[dict[int, int]], parts: int, found: dict[str, int]) -> None:
    for combination in product(*(t.items() for t in tables)):
        who = {value for value, _ in combination}
        size = int(np.prod([n for _, n in combination], dtype=np.int64))
        owners = {w for w in who if w >= 0}
        if len(owners) > 1:
            found["cut"] += size
        elif OUTPUT - 1 in who and (owners or PRIVATE - 1 not in who):
            found["output"] += size
        elif owners:
            found["owned"] += size
        elif PRIVATE - 1 in who:
            found["duplicated"] += size
        else:
            found["unused"] += size


def _kept(labels: Ids, owner: Ids, part: int) -> Ids | None:
    mask = keeps(labels, owner, part)
    return None if mask.all() else np.flatnonzero(mask)


@dataclass(frozen=True)
class Plan:
    """Everything that narrowing, merging and the manifest need.

    `part_nodes` are the nodes that the merged network repeats for each part; `activation` those whose result is scaled
    by 1/K behind them, because a weight of theirs serves elsewhere unscaled.
    """

    flowed: Flowed
    partition: Partition
    parameters: dict[str, ParameterPlan]
    part_nodes: frozenset[int]
    activation: frozenset[int]

    @property
    def graph(self) -> Graph:
        return self.flowed.graph

    @property
    def parts(self) -> int:
        return self.partition.parts

    def select(self, labels: Labels, part: int) -> Selected:
        """What a part has of a value."""
        return select(labels, self.partition.owner, part)


def make_plan(
    flowed: Flowed, partition: Partition, *, output_scale: Literal["weights", "activation"] = "weights"
) -> Plan:
    """Read the plan of every tensor off the claims of its uses.

    Raises UnsupportedError for a tensor that is divided in a way that no slice expresses.
    """
    part_nodes = _part_nodes(flowed)
    activation = _scaled_behind(flowed, part_nodes, output_scale)
    plans = {name: _parameter_plan(flowed, name, part_nodes, activation) for name in sorted(flowed.trained)}
    return Plan(flowed, partition, plans, part_nodes, activation)


def _uses(flowed: Flowed, name: str, part_nodes: Iterable[int]) -> list[Claim]:
    """The claims on a tensor; what a repeated node calls output is private to each copy."""
    repeated = set(part_nodes)
    return [
        replace(c, core=np.where(c.core == OUTPUT, PRIVATE, c.core)) if c.node in repeated else c
        for c in flowed.claims.get(name, ())
    ]


def _part_nodes(flowed: Flowed) -> frozenset[int]:
    """Nodes that each part must compute for itself also in the merged network."""
    if flowed.parts == 1:
        return frozenset()
    found = set(flowed.statistics)
    for i, node in enumerate(flowed.graph.nodes):
        values = _data(flowed, node) + [name for name in node.outputs if name in flowed.labels]
        if i not in flowed.tail and any((flowed.labels[name].core == PRIVATE).any() for name in values):
            found.add(i)
    found |= _computed_weights(flowed)
    while True:
        before = len(found)
        for name in sorted(flowed.trained):
            claims = _uses(flowed, name, found)
            labels, blocked = _axis_labels(name, flowed.graph.tensors[name].shape, claims)
            if _has_copies(labels, blocked):
                found.update(c.node for c in claims if c.node >= 0)
        if len(found) == before:
            return frozenset(found)


def _computed_weights(flowed: Flowed) -> set[int]:
    """Nodes whose weights are computed element by element: neither 1/K nor the zero of a cut element goes through that."""
    computed = {name for name, derived in flowed.last.derived.items() if not derived.moved}
    found: set[int] = set()
    for i in sorted(flowed.graph.alive):
        leaves = [
            leaf.name for n in flowed.graph.nodes[i].inputs if n in computed for leaf in flowed.last.derived[n].leaves
        ]
        for name in leaves:
            mine = [c.core for c in flowed.claims.get(name, ()) if c.node == i]
            if any((core == OUTPUT).any() for core in mine) or sum(bool((core > 0).any()) for core in mine) > 1:
                found.add(i)
    return found


def _data(flowed: Flowed, node: Node) -> list[str]:
    return [name for name in node.inputs if name in flowed.labels]


def _has_copies(labels: tuple[Ids | None, ...], blocked: Blocked | None) -> bool:
    shared = [v is None or bool((v <= 0).any()) for v in labels]
    if blocked is not None:
        shared[blocked.axis] = bool((blocked.labels <= 0).any())
    return all(shared) and any(v is not None and bool((v == PRIVATE).any()) for v in labels)


def _scaled_behind(flowed: Flowed, part_nodes: frozenset[int], output_scale: str) -> frozenset[int]:
    """Output layers whose result, not whose weights, is scaled: on request, or where a weight also serves a hidden layer."""
    found: set[int] = set()
    if flowed.parts == 1:
        return frozenset()  # 1/K is 1
    for name in sorted(flowed.trained):
        claims = _uses(flowed, name, part_nodes)
        giving = {c.node for c in claims if (c.core == OUTPUT).any()}
        others = {c.node for c in claims} - giving
        contracted = {n for n in giving if n >= 0 and flowed.last.bounds[n].mix}
        if output_scale == "activation" or (others and contracted):
            found |= contracted
    return frozenset(found)


def _axis_labels(
    name: str, shape: tuple[int, ...], claims: list[Claim]
) -> tuple[tuple[Ids | None, ...], Blocked | None]:
    vectors: list[Ids | None] = [None] * len(shape)
    blocked: Blocked | None = None
    for found in claims:
        varying = [a for a, size in enumerate(found.core.shape) if size > 1]
        if len(varying) > 2:
            raise UnsupportedError(
                f"{name}: its owners change along {len(varying)} axes at once, which no slice expresses"
            )
        if len(varying) == 2:
            blocked = _block(name, found.core, varying, blocked)
            continue
        single = [a for a, size in enumerate(shape) if size == 1 and (found.core > 0).any()]  # a layer of one vertex
        for axis in varying or found.axes or single or range(len(shape)):
            vector = np.ascontiguousarray(np.broadcast_to(found.core.reshape(-1), (shape[axis],)))
            vectors[axis] = vector if vectors[axis] is None else _combine(name, vectors[axis], vector)  # type: ignore[arg-type]
    return tuple(None if v is None or (v == COMMON).all() else v for v in vectors), blocked


def _combine(name: str, a: Ids, b: Ids) -> Ids:
    if ((a > 0) & (b > 0) & (a != b)).any():
        raise UnsupportedError(
            f"{name}: two uses of it divide the same axis differently", hint="--keep one of the layers that use it"
        )
    order = {UNUSED: 0, COMMON: 1, OUTPUT: 2, PRIVATE: 3}
    rank = np.vectorize(lambda v: order.get(int(v), 4), otypes=[np.int64])
    return np.where(rank(b) > rank(a), b, a)


def _block(name: str, core: Ids, varying: list[int], other: Blocked | None) -> Blocked:
    along, axis = varying
    matrix = core.reshape(core.shape[along], core.shape[axis])
    starts = np.flatnonzero(np.r_[True, (matrix[1:] != matrix[:-1]).any(axis=1)])
    height = int(np.gcd.reduce(np.r_[starts, len(matrix)]))
    found = Blocked(axis, along, matrix[::height])
    if other is not None and not (other.axis == axis and np.array_equal(other.labels, found.labels)):
        raise UnsupportedError(
            f"{name}: two uses of it divide its groups differently", hint="--keep one of the layers that use it"
        )
    return found


def _parameter_plan(flowed: Flowed, name: str, part_nodes: frozenset[int], activation: frozenset[int]) -> ParameterPlan:
    shape = flowed.graph.tensors[name].shape
    claims = _uses(flowed, name, part_nodes)
    labels, blocked = _axis_labels(name, shape, claims)
    role: Role = "owned"
    if not claims:
        role = "unused"
    elif _has_copies(labels, blocked):
        role = "duplicated"
    elif any(v is not None and (v == OUTPUT).any() for v in labels):
        giving = {c.node for c in claims if (c.core == OUTPUT).any()}
        role = "owned" if giving <= activation and blocked is None and _owned_everywhere(labels) else "output"
    elif all(v is None or not (v > 0).any() for v in labels) and blocked is None:
        role = "unused"
    return ParameterPlan(name, shape, labels, blocked, role)


def _owned_everywhere(labels: tuple[Ids | None, ...]) -> bool:
    return any(v is not None and bool((v > 0).all()) for v in labels)


def derived_selection(derived: Derived, plans: dict[str, ParameterPlan], owner: Ids, part: int) -> Selected:
    """What a part has of a tensor made of parameters. Linear in its axes, unless a parameter's axis was folded into several."""
    rank = len(derived.shape)
    masks = list(_derived_masks(derived, plans, owner, part))
    folded = [m for m in masks if sum(size > 1 for size in m.shape) > 1]
    if not folded:
        along: list[npt.NDArray[np.bool_] | None] = [None] * rank
        for mask in masks:
            for axis in (a for a, size in enumerate(mask.shape) if size > 1):
                before = along[axis]
                along[axis] = mask.ravel() if before is None else before & mask.ravel()
        axes = tuple(None if m is None or m.all() else np.flatnonzero(m) for m in along)
        return Selected(axes, tuple(n if a is None else len(a) for a, n in zip(axes, derived.shape, strict=True)))
    whole = np.ones((1,) * rank, bool)
    for mask in masks:
        whole = whole & mask
    # 1 stands for "the part has it", any class that another part owns for "it hasn't"
    stand_in = np.where(whole, COMMON, 1).astype(np.int64)
    return select(Labels(derived.shape, stand_in), np.array([-1, -1]), 0)


def _derived_masks(
    derived: Derived, plans: dict[str, ParameterPlan], owner: Ids, part: int
) -> Iterator[npt.NDArray[np.bool_]]:
    """For each divided axis of each parameter behind a tensor: which of the tensor's elements the part keeps."""
    for leaf in derived.leaves:
        plan = plans[leaf.name]
        for vector, slot in zip(plan.labels, leaf.slots, strict=True):
            if vector is not None:
                yield np.where(slot >= 0, keeps(vector, owner, part)[np.maximum(slot, 0)], True)
        if plan.blocked is not None:
            along, axis = leaf.slots[plan.blocked.along], leaf.slots[plan.blocked.axis]
            height = plan.shape[plan.blocked.along] // len(plan.blocked.labels)
            yield keeps(plan.blocked.labels[np.maximum(along, 0) // height, np.maximum(axis, 0)], owner, part)
