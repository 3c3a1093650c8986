"""Parameters on their way to the op that uses them, and the claims that uses make on their elements.

A parameter may be transposed, reshaped, cut up and concatenated before an op reads it. Its elements are followed as
*slots*: for each axis of the parameter, the index along it, as an array over the derived tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphsplit.labels.arrays import Ids, squeeze_constant_axes

UNUSED = -4
"""The claim of an element that a use never reads."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where the elements of a derived tensor come from in one parameter: an index array for each of its axes.

    An array broadcasts to the derived shape; -1 marks elements that come from elsewhere.
    """

    name: str
    slots: tuple[Ids, ...]


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
    """

    node: int
    axes: tuple[int, ...]
    core: Ids
    contracted: bool = False


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
                    leaves[i].append(Leaf(leaf.name, tuple(slots)))
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
        leaves.extend(Leaf(leaf.name, tuple(s.reshape(pad + s.shape) for s in leaf.slots)) for leaf in operand.leaves)
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
    for leaf in derived.leaves:
        shape = shapes[leaf.name]
        touched = tuple(a for a, slot in enumerate(leaf.slots) if any(slot.shape[d] > 1 for d in claimed.axes))
        core = _pull_back(leaf, shape, claimed.core, several)
        found.append((leaf.name, Claim(claimed.node, touched, core, claimed.contracted)))
    return found


def _pull_back(leaf: Leaf, shape: tuple[int, ...], core: Ids, several: int) -> Ids:
    varying = {axis for axis, size in enumerate(core.shape) if size > 1}
    used = [a for a, slot in enumerate(leaf.slots) if any(slot.shape[d] > 1 for d in varying)]
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
