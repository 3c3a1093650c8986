"""Parameters on their way to the op that uses them, and the claims that uses make on their elements.

A parameter may be transposed, reshaped, cut up and concatenated before an op reads it. Its elements are followed as
*slots*: for each axis of the parameter, the index along it, as an array over the derived tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphsplit.labels.arrays import Ids, from_factors, squeeze_constant_axes, to_factors

Axes = Sequence[tuple[str, ...]]

UNUSED = -4
"""The claim of an element that a use never reads."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where the elements of a derived tensor come from in one parameter: an index array for each of its axes.

    An array broadcasts to the derived shape; -1 marks elements that come from elsewhere. `taken` are the axes of the parameter
    over which a statistic was taken on the way: each element depends on all along them, and they may have no slots.
    """

    name: str
    slots: tuple[Ids, ...]
    taken: frozenset[int] = frozenset()

    def along(self, dims: Iterable[int]) -> tuple[int, ...]:
        """The axes of the parameter that change along these of the derived tensor."""
        wanted = tuple(dims)
        return tuple(a for a, slot in enumerate(self.slots) if any(slot.shape[d] > 1 for d in wanted))


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor made of parameters alone. `moved` says that nothing but movement lies between."""

    shape: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    moved: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """What one use says of a parameter: a label for each element, as a core array over the parameter's axes.

    `axes` are the axes that the labels belong to, also where they change nothing; `contracted` says that the use sums over them.
    `weak` ones count only where the same use says nothing else: labels that change along axes which the parameter hasn't.
    """

    node: int
    axes: tuple[int, ...]
    core: Ids
    contracted: bool = False
    weak: bool = False


def whole_use(node: int, derived: Derived, code: int) -> Claim:
    """The claim of a use that needs all of a tensor, whatever its axes are."""
    return Claim(node, tuple(range(len(derived.shape))), np.full((1,) * len(derived.shape), code, np.int64))


def axes_to_tie(claimed: Claim) -> tuple[tuple[int, ...], ...]:
    """The sets of axes on which a claim agrees with others index by index: its own, and each axis on which alone it varies."""
    varying = {axis for axis, size in enumerate(claimed.core.shape) if size > 1}
    alone = tuple((axis,) for axis in claimed.axes if varying <= {axis})
    return tuple(dict.fromkeys((claimed.axes, *alone)))


def rows_of_uses(claims: Iterable[Claim]) -> list[tuple[int, Ids]]:
    """Matrices of the labels of a parameter whose rows several uses share among them, each with the last use's node."""
    found: dict[tuple[int, ...], list[Claim]] = {}
    for claimed in claims:
        varying = tuple(axis for axis, size in enumerate(claimed.core.shape) if size > 1)
        if len(varying) == 2:
            found.setdefault(varying, []).append(claimed)
    matrices = []
    for varying, uses in found.items():
        core = uses[0].core
        for use in uses[1:]:
            core = np.where(core == UNUSED, use.core, core)
        matrix = core.reshape(core.shape[varying[0]], -1)
        matrices.append((uses[-1].node, matrix[(matrix != UNUSED).any(axis=1)]))
    return matrices


def parameter(name: str, shape: tuple[int, ...]) -> Derived:
    """A parameter as it is stored."""
    slots = tuple(
        np.arange(size, dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        for axis, size in enumerate(shape)
    )
    return Derived(shape, (Leaf(name, slots),))


def moved(
    operands: Sequence[Derived | None], run: Callable[[list[Ids | None]], list[Ids]], outputs: int
) -> list[Derived | None]:
    """Run a movement op on parameters: on each slot array of each leaf, -1 in the places of the other operands."""
    leaves: list[list[Leaf]] = [[] for _ in range(outputs)]
    shapes: list[tuple[int, ...] | None] = [None] * outputs
    for position, operand in enumerate(operands):
        for leaf in operand.leaves if operand is not None else ():
            found: list[list[Ids]] = [[] for _ in range(outputs)]
            for slot in leaf.slots:
                results = run([_stand_in(o, slot if i == position else None) for i, o in enumerate(operands)])
                for i, result in enumerate(results[:outputs]):
                    shapes[i] = tuple(result.shape)
                    found[i].append(squeeze_constant_axes(result))
            for i, slots in enumerate(found):
                if slots and not all((s == -1).all() for s in slots):
                    leaves[i].append(Leaf(leaf.name, tuple(slots), leaf.taken))
    exact = all(o.moved for o in operands if o is not None)
    return [
        Derived(shape, tuple(found), exact) if shape is not None else None
        for shape, found in zip(shapes, leaves, strict=True)
    ]


def _stand_in(operand: Derived | None, slot: Ids | None) -> Ids | None:
    if operand is None:
        return None
    return np.broadcast_to(slot if slot is not None else np.int64(-1), operand.shape)


def elementwise(operands: Sequence[Derived], shape: tuple[int, ...]) -> Derived:
    """Parameters combined element by element: every element comes from one element of each."""
    leaves: list[Leaf] = []
    for operand in operands:
        pad = (1,) * (len(shape) - len(operand.shape))
        leaves.extend(
            Leaf(leaf.name, tuple(s.reshape(pad + s.shape) for s in leaf.slots), leaf.taken) for leaf in operand.leaves
        )
    return Derived(shape, tuple(leaves), moved=False)


def computed(
    operands: Sequence[tuple[Derived, Axes]],
    result: Axes,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    statistic: frozenset[str],
) -> Derived:
    """Parameters combined by an op with axes: a statistic, a norm, a product of weights.

    Where an axis of a parameter goes on in the result its slots do; where it is summed up or looked at as a whole, it is taken.
    """
    order = [f for f, size in sizes.items() if size > 1]
    kept = {f for names in result for f in names}
    gone = tuple(i for i, f in enumerate(order) if f not in kept)
    whole = tuple(i for i, f in enumerate(order) if f in statistic)
    leaves: list[Leaf] = []
    for operand, axes in operands:
        for leaf in operand.leaves:
            slots, taken = [], set(leaf.taken)
            for axis, slot in enumerate(leaf.slots):
                array = to_factors(slot, axes, sizes, order)
                if any(array.shape[i] > 1 for i in (*gone, *whole)):
                    taken.add(axis)
                if any(array.shape[i] > 1 for i in gone):
                    array = np.zeros((1,) * len(order), np.int64)
                slots.append(squeeze_constant_axes(from_factors(array, result, sizes, order)))
            leaves.append(Leaf(leaf.name, tuple(slots), frozenset(taken)))
    return Derived(shape, tuple(leaves), moved=False)


def claim(
    derived: Derived,
    shapes: Mapping[str, tuple[int, ...]],
    claimed: Claim,
    several: int,
) -> list[tuple[str, Claim]]:
    """What a claim on a derived tensor says of the parameters behind it: a claim on each.

    An element that meets different labels gets the code `several`.
    """
    found = []
    varying = [axis for axis, size in enumerate(claimed.core.shape) if size > 1]
    for leaf in derived.leaves:
        shape = shapes[leaf.name]
        touched = leaf.along(claimed.axes)
        if not touched and any(derived.shape[axis] == 1 for axis in claimed.axes):  # an axis of one vertex
            touched = tuple(axis for axis, size in enumerate(shape) if size == 1)[:1]
        core = _pull_back(leaf, shape, claimed.core, several)
        over = varying or claimed.axes
        weak = bool(over) and not derived.moved and not leaf.along(over)
        found.append((leaf.name, Claim(claimed.node, touched, core, claimed.contracted, weak)))
    return found


def _pull_back(leaf: Leaf, shape: tuple[int, ...], core: Ids, several: int) -> Ids:
    varying = {axis for axis, size in enumerate(core.shape) if size > 1}
    used = leaf.along(varying)
    if not used and core.size > 1:
        distinct = np.unique(core)
        code = int(distinct[0]) if len(distinct) == 1 else several
        return np.full((1,) * len(shape), code, np.int64)
    if not used:
        return np.full((1,) * len(shape), int(core.flat[0]), np.int64)
    slots = np.broadcast_arrays(core, *[leaf.slots[a] for a in used])
    labels, indices = slots[0].ravel(), [s.ravel() for s in slots[1:]]
    here = np.all([i >= 0 for i in indices], axis=0)
    sizes = [shape[a] for a in used]
    flat = np.ravel_multi_index([i[here] for i in indices], sizes)
    low = np.full(int(np.prod(sizes)), np.iinfo(np.int64).max, np.int64)
    high = np.full(low.size, np.iinfo(np.int64).min, np.int64)
    np.minimum.at(low, flat, labels[here])
    np.maximum.at(high, flat, labels[here])
    result = np.where(low == high, low, np.where(low > high, UNUSED, several))
    result = result.reshape([size if a in used else 1 for a, size in enumerate(shape)])
    return squeeze_constant_axes(result)
