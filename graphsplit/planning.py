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
    repeated, claims = set(part_nodes), flowed.claims.get(name, ())
    said = {c.node for c in claims if not c.weak and ((c.core > 0) | (c.core == OUTPUT)).any()}
    return [
        replace(c, core=np.where(c.core == OUTPUT, PRIVATE, c.core)) if c.node in repeated else c
        for c in claims
        if not (c.weak and c.node in said)
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
            if _has_copies(labels, blocked) or _holds(claims, flowed.graph.tensors[name].shape, PRIVATE):
                found.update(c.node for c in claims if c.node >= 0)
        found |= _around_moving_axes(flowed, found)
        if len(found) == before:
            return frozenset(found)


def _around_moving_axes(flowed: Flowed, repeated: set[int]) -> set[int]:
    """What makes or reads values of repeated nodes that are divided along an axis whose size is only known at run time.

    Such an axis is a batch and heads in one: no fixed positions take a part's elements out of it or put them back, so that has
    to happen in front of and behind the reshapes that make it.
    """
    found: set[int] = set()
    outputs = {value.name for value in flowed.graph.outputs}
    for i in repeated:
        node = flowed.graph.nodes[i]
        for name in (*node.inputs, *node.outputs):
            if not name or not _moving(flowed, name):
                continue
            if name in outputs:
                raise UnsupportedError(
                    f"{node.title}: its result {name!r} is divided along an axis whose size is only known at run time",
                    hint="export the network with fixed sizes",
                )
            found.update(flowed.graph.consumers.get(name, ()))
            found.update({flowed.graph.producers[name]} if name in flowed.graph.producers else ())
    return found & flowed.graph.alive - flowed.tail


def _moving(flowed: Flowed, name: str) -> bool:
    """Whether a value is divided along an axis that changes its size with the dynamic ones."""
    labels = flowed.labels.get(name)
    if labels is None or not (labels.core > 0).any():
        return False
    here, there = flowed.facts[name].shape, flowed.others[name].shape
    if here is None or there is None or len(here) != len(there):
        return here != there
    return any(here[axis] != there[axis] for axis in labels.varying)


def _computed_weights(flowed: Flowed) -> set[int]:
    """Nodes whose weights are computed from others: neither 1/K nor the zero of a cut element goes through that.

    A statistic over an axis that is divided doesn't either; where only rows are divided, and each looks at itself, all is well.
    """
    computed = {name for name, derived in flowed.last.derived.items() if not derived.moved}
    found: set[int] = set()
    for i in sorted(flowed.graph.alive):
        for name in dict.fromkeys(n for n in flowed.graph.nodes[i].inputs if n in computed):
            leaves = flowed.last.derived[name].leaves
            mine = [(leaf, c) for leaf in leaves for c in flowed.claims.get(leaf.name, ()) if c.node == i]
            divided = [(leaf, c) for leaf, c in mine if (c.core > 0).any()]
            if (
                any((c.core == OUTPUT).any() for _, c in mine)
                or len({c.contracted for _, c in divided}) > 1
                or any(leaf.name == other.name and c.axes != d.axes for leaf, c in divided for other, d in divided)
                or any(c.core.shape[axis] > 1 for leaf, c in divided for axis in leaf.taken)
            ):
                found.add(i)
    return found


def _data(flowed: Flowed, node: Node) -> list[str]:
    return [name for name in node.inputs if name in flowed.labels]


def _holds(claims: Iterable[Claim], shape: tuple[int, ...], code: int) -> bool:
    """Whether a tensor of one number, which has no axis to hold a label, is claimed with this code."""
    return not shape and any(bool((c.core == code).any()) for c in claims)


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
        contracted = {n for n in giving if n in flowed.last.bounds and flowed.last.bounds[n].mix}
        if output_scale == "activation" or (others and contracted):
            found |= contracted
    return frozenset(found)


def _axis_labels(
    name: str, shape: tuple[int, ...], claims: list[Claim]
) -> tuple[tuple[Ids | None, ...], Blocked | None]:
    vectors: list[Ids | None] = [None] * len(shape)
    matrices: dict[tuple[int, ...], Ids] = {}
    for found in claims:
        varying = tuple(a for a, size in enumerate(found.core.shape) if size > 1)
        if len(varying) > 2:
            raise UnsupportedError(
                f"{name}: its owners change along {len(varying)} axes at once, which no slice expresses"
            )
        if len(varying) == 2:  # several uses may each read some of the rows
            known = matrices.get(varying, np.full_like(found.core, UNUSED))
            matrices[varying] = _combine(name, known, found.core)
            continue
        single = [a for a, size in enumerate(shape) if size == 1 and (found.core > 0).any()]  # a layer of one vertex
        for axis in varying or found.axes or single or range(len(shape)):
            vector = np.ascontiguousarray(np.broadcast_to(found.core.reshape(-1), (shape[axis],)))
            vectors[axis] = vector if vectors[axis] is None else _combine(name, vectors[axis], vector)  # type: ignore[arg-type]
    if len(matrices) > 1:
        raise UnsupportedError(
            f"{name}: two uses of it divide its groups differently", hint="--keep one of the layers that use it"
        )
    blocked = next((_block(core, varying) for varying, core in matrices.items()), None)
    return tuple(None if v is None or (v == COMMON).all() else v for v in vectors), blocked


def _combine(name: str, a: Ids, b: Ids) -> Ids:
    if ((a > 0) & (b > 0) & (a != b)).any():
        raise UnsupportedError(
            f"{name}: two uses of it divide the same axis differently", hint="--keep one of the layers that use it"
        )
    order = {UNUSED: 0, COMMON: 1, OUTPUT: 2, PRIVATE: 3}
    rank = np.vectorize(lambda v: order.get(int(v), 4), otypes=[np.int64])
    return np.where(rank(b) > rank(a), b, a)


def _block(core: Ids, varying: tuple[int, ...]) -> Blocked:
    along, axis = varying
    matrix = core.reshape(core.shape[along], core.shape[axis])
    unread = (matrix == UNUSED).all(axis=1)
    matrix = np.where(unread[:, None], matrix[np.argmin(unread)], matrix)  # what nobody reads goes with the rest
    starts = np.flatnonzero(np.r_[True, (matrix[1:] != matrix[:-1]).any(axis=1)])
    height = int(np.gcd.reduce(np.r_[starts, len(matrix)]))
    return Blocked(axis, along, matrix[::height])


def _parameter_plan(flowed: Flowed, name: str, part_nodes: frozenset[int], activation: frozenset[int]) -> ParameterPlan:
    shape = flowed.graph.tensors[name].shape
    claims = _uses(flowed, name, part_nodes)
    labels, blocked = _axis_labels(name, shape, claims)
    role: Role = "owned"
    if not claims:
        role = "unused"
    elif _has_copies(labels, blocked) or _holds(claims, shape, PRIVATE):
        role = "duplicated"
    elif _holds(claims, shape, OUTPUT):
        role = "output"
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
        for number, (vector, slot) in enumerate(zip(plan.labels, leaf.slots, strict=True)):
            if vector is not None and not (number in leaf.taken and slot.size == 1):
                yield np.where(slot >= 0, keeps(vector, owner, part)[np.maximum(slot, 0)], True)
        if plan.blocked is not None:
            along, axis = leaf.slots[plan.blocked.along], leaf.slots[plan.blocked.axis]
            height = plan.shape[plan.blocked.along] // len(plan.blocked.labels)
            yield keeps(plan.blocked.labels[np.maximum(along, 0) // height, np.maximum(axis, 0)], owner, part)
