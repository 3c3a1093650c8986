"""Random manifests, and what the specification says of their elements, one at a time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np

from graphsplit.manifest import BlockedAxis, Group, ParameterEntry
from graphsplit.manifest.ranges import COMMON, OUTPUT, PRIVATE
from tests.manifests.make import parameter

Layout = tuple[int, list[Group], list[ParameterEntry]]


@st.composite
def vectors(draw: st.DrawFn, parts: int, size: int, codes: tuple[int, ...] = (COMMON, PRIVATE, OUTPUT)) -> list[int]:
    """Whose each index of an axis is; every part has one at least."""
    who = draw(st.lists(st.sampled_from([*range(parts), *range(parts), *codes]), min_size=size, max_size=size))
    if any(part not in who for part in range(parts)) and not any(w < 0 for w in who):
        who[:parts] = range(parts) if size >= parts else [COMMON] * size
    return who


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Parts, groups and entries of a random manifest."""
    parts = draw(st.integers(1, 3))
    groups: list[Group] = []
    entries: list[ParameterEntry] = []

    def group(who: list[int]) -> int:
        groups.append(Group.of(np.array(who, np.int64), parts))
        return len(groups) - 1

    for number in range(draw(st.integers(1, 3))):
        rank = draw(st.integers(0, 3))
        shape = [draw(st.integers(1, 5)) for _ in range(rank)]
        axes = [group(draw(vectors(parts, size))) if draw(st.booleans()) else None for size in shape]
        blocked = None
        if rank > 1 and draw(st.booleans()):
            axis, along = draw(st.permutations(range(rank)))[:2]
            blocks = draw(st.integers(1, 3))
            shape[along] *= blocks
            if axes[along] is not None:
                axes[along] = group(draw(vectors(parts, shape[along])))
            base = draw(vectors(parts, shape[axis]))
            rows = [draw(st.permutations(base)) for _ in range(blocks)]
            axes[axis] = None
            blocked = BlockedAxis(axis, along, tuple(group(list(row)) for row in rows))
        constant = draw(st.integers(0, 5)) == 0
        found = parameter(groups, f"p{number}", tuple(shape), *axes, blocked=blocked, constant=constant)
        if found.counts.output and draw(st.booleans()):
            found = replace(found, scale="activation")
        entries.append(found)
    return parts, groups, entries


def owners_at(entry: ParameterEntry, groups: Sequence[Group], index: tuple[int, ...]) -> list[int]:
    """Whose an element's index is along each axis."""
    owners = [COMMON if g is None else int(groups[g].who()[i]) for g, i in zip(entry.axes, index, strict=True)]
    if entry.blocked is not None:
        b = entry.blocked
        height = entry.shape[b.along] // len(b.groups)
        owners[b.axis] = int(groups[b.groups[index[b.along] // height]].who()[index[b.axis]])
    return owners


def dense_kinds(entry: ParameterEntry, groups: Sequence[Group]) -> np.ndarray[Any, np.dtype[np.str_]]:
    """The kind of every element."""
    found = np.empty(entry.shape, "U10")
    for index in np.ndindex(*entry.shape):
        found[index] = "constant" if entry.role == "constant" else brute_kind(owners_at(entry, groups, index))
    return found


def brute_kind(owners: list[int]) -> str:
    """The definition in docs/manifest.md, in its own words."""
    parts = {who for who in owners if who >= 0}
    if len(parts) > 1:
        return "cut"
    if OUTPUT in owners and (parts or PRIVATE not in owners):
        return "output"
    if parts:
        return "owned"
    return "duplicated" if PRIVATE in owners else "unused"
