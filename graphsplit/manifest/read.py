"""A manifest's pieces read from strict JSON, each checked by itself; `document` checks how they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from graphsplit.errors import FormatError, ManifestError
from graphsplit.files import MANIFEST_NAME, inside
from graphsplit.manifest.content import (
    DTYPES,
    BlockedAxis,
    Note,
    Options,
    OutputEntry,
    ParameterEntry,
    Source,
    SubModelFile,
    role_of,
)
from graphsplit.manifest.kinds import Counts
from graphsplit.manifest.ranges import Group, Ranges
from graphsplit.manifest.strict import Field

__all__ = [
    "read_entry",
    "read_file",
    "read_group",
    "read_notes",
    "read_options",
    "read_output",
    "read_source",
    "read_submodel",
    "refuse_duplicates",
]

MAX_RANK = 32
ROLES = ("owned", "output", "duplicated", "constant", "unused")
COUNTS = ("owned", "output", "duplicated", "unused", "cut", "constant")
_NOWHERE = Path("/graphsplit-has-no-such-folder")


def read_options(field: Field, parts: int) -> Options:
    """The options of a split into `parts`."""
    keys = ("strategy", "seed", "shares", "init", "keep", "trainable", "constant", "outputs", "rules", "sizes")
    found = field.object(keys)
    shares = tuple(item.number() for item in found["shares"].items())
    if len(shares) != parts:
        found["shares"].refuse(f"there are {len(shares)} shares for {parts} parts")
    for item, share in zip(found["shares"].items(), shares, strict=True):
        if not 0 < share <= 1:
            item.refuse(f"the share {share!r} is not in 0 … 1")
    if abs(sum(shares) - 1) > 1e-9:
        found["shares"].refuse(f"the shares add up to {sum(shares)!r}, not to 1")
    return Options(
        shares=shares,
        strategy=found["strategy"].name(),
        seed=found["seed"].integer(),
        init=found["init"].choice(("keep", "rescale")),
        keep=found["keep"].sorted_names(),
        trainable=found["trainable"].sorted_names(),
        constant=found["constant"].sorted_names(),
        outputs=found["outputs"].choice(("auto", "mean", "concat")),
        rules=tuple(item.name() for item in found["rules"].items()),
        sizes={name: item.integer(1) for name, item in found["sizes"].members().items()},
    )


def read_file(field: Field, folder: Path | None) -> str:
    """The path of a file that lies in the manifest's folder."""
    text = field.name()
    try:
        inside(folder if folder is not None else _NOWHERE, text)
    except FormatError as error:
        field.refuse(error.message, error.hint)
    if str(PurePosixPath(text)) != text:
        field.refuse(f"the path {text!r} has a shorter form: {str(PurePosixPath(text))!r}")
    if text.casefold() == MANIFEST_NAME:
        field.refuse(f"{text!r} is the manifest itself")
    return text


def read_source(field: Field, folder: Path | None) -> Source:
    """The weightless copy of the source."""
    found = field.object(("file", "digest"))
    return Source(read_file(found["file"], folder), found["digest"].digest())


def read_submodel(field: Field, folder: Path | None) -> SubModelFile:
    """One sub-model's file."""
    found = field.object(("file", "digest", "elements"))
    return SubModelFile(read_file(found["file"], folder), found["digest"].digest(), found["elements"].integer())


def read_notes(field: Field) -> tuple[Note, ...]:
    """A list of nodes with reasons."""
    notes = []
    for item in field.items():
        found = item.object(("node", "reason"))
        notes.append(Note(found["node"].text(), found["reason"].text()))
    return tuple(notes)


def read_group(field: Field, parts: int) -> Group:
    """One vertex group: its ranges cover 0 … size, and no index occurs twice."""
    found = field.object(("size", "parts", "common", "private", "output"))
    size = found["size"].integer()
    owned = tuple(item.ranges(size) for item in found["parts"].items())
    if len(owned) != parts:
        found["parts"].refuse(f"there are ranges of {len(owned)} parts, and the split has {parts}")
    shared = [found[name].ranges(size) for name in ("common", "private", "output")]
    _covers(field, size, [*owned, *shared])
    return Group(size, owned, *shared)


def _covers(field: Field, size: int, sets: Sequence[Ranges]) -> None:
    pairs = np.concatenate([ranges.pairs for ranges in sets])
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts, ends = np.r_[pairs[:, 0], size], np.r_[0, pairs[:, 1]]
    wrong = np.flatnonzero(starts != ends)
    if wrong.size:
        start, end = int(starts[wrong[0]]), int(ends[wrong[0]])
        if start > end:
            field.refuse(f"the index {end} belongs to nobody: the ranges must cover 0:{size}")
        field.refuse(f"the index {start} belongs to two: the ranges must be disjoint")


def read_output(field: Field, groups: Sequence[Group]) -> OutputEntry:
    """How one output is merged."""
    found = field.object(("name", "merge", "axis", "group"))
    merge = found["merge"].choice(("mean", "concat", "common"))
    axis = group = None
    if merge == "concat":
        axis = found["axis"].integer(0, MAX_RANK - 1)
        group = _group_number(found["group"], groups)
    for name in ("axis", "group"):
        if merge != "concat" and found[name].value is not None:
            found[name].refuse(f"an output that is merged by {merge!r} has no {name}")
    return OutputEntry(found["name"].name(), merge, axis, group)  # type: ignore[arg-type]


def _group_number(field: Field, groups: Sequence[Group]) -> int:
    number = field.integer()
    if number >= len(groups):
        field.refuse(f"there is no group {number}: there are {len(groups)}")
    return number


def read_entry(name: str, field: Field, groups: Sequence[Group], parts: int) -> ParameterEntry:
    """One parameter: its layout fits its shape, each part has a rectangle of it, its counts are those of its layout."""
    found = field.object(("shape", "dtype", "role", "axes", "blocked", "scale", "counts"))
    shape = tuple(item.integer() for item in found["shape"].items())
    if len(shape) > MAX_RANK:
        found["shape"].refuse(f"there are {len(shape)} axes: at most {MAX_RANK} are allowed")
    axes = _read_axes(found["axes"], shape, groups)
    counts = Counts(**{key: item.integer() for key, item in found["counts"].object(COUNTS).items()})
    entry = ParameterEntry(
        name,
        shape,
        found["dtype"].choice(tuple(DTYPES)),
        found["role"].choice(ROLES),  # type: ignore[arg-type]
        axes,
        _read_blocked(found["blocked"], shape, axes, groups),
        found["scale"].choice(("weights", "activation")),  # type: ignore[arg-type]
        counts,
    )
    _check_entry(found, entry, groups, parts)
    return entry


def _read_axes(field: Field, shape: tuple[int, ...], groups: Sequence[Group]) -> tuple[int | None, ...]:
    items = field.items()
    if len(items) != len(shape):
        field.refuse(f"there are {len(items)} axes for a tensor of shape {list(shape)}")
    axes = tuple(None if item.value is None else _group_number(item, groups) for item in items)
    for item, index, size in zip(items, axes, shape, strict=True):
        if index is not None and groups[index].size != size:
            item.refuse(f"group {index} has {groups[index].size} indices, the axis {size}")
    return axes


def _read_blocked(
    field: Field, shape: tuple[int, ...], axes: tuple[int | None, ...], groups: Sequence[Group]
) -> BlockedAxis | None:
    if field.value is None:
        return None
    found = field.object(("axis", "along", "groups"))
    axis, along = found["axis"].integer(), found["along"].integer()
    for name, value in (("axis", axis), ("along", along)):
        if value >= len(shape):
            found[name].refuse(f"there is no axis {value} in a tensor of shape {list(shape)}")
    if axis == along:
        found["along"].refuse(f"the axis {axis} cannot be blocked along itself")
    if axes[axis] is not None:
        found["axis"].refuse(f"axis {axis} has a group of its own as well")
    numbers = tuple(_group_number(item, groups) for item in found["groups"].items())
    if not numbers or shape[along] % len(numbers):
        found["groups"].refuse(f"{len(numbers)} blocks do not divide an axis of {shape[along]} evenly")
    for item, number in zip(found["groups"].items(), numbers, strict=True):
        if groups[number].size != shape[axis]:
            item.refuse(f"group {number} has {groups[number].size} indices, the axis {shape[axis]}")
    return BlockedAxis(axis, along, numbers)


def _check_entry(found: dict[str, Field], entry: ParameterEntry, groups: Sequence[Group], parts: int) -> None:
    if entry.counts.total != entry.elements:
        found["counts"].refuse(
            f"the counts add up to {entry.counts.total}, and a tensor of shape {list(entry.shape)} "
            f"has {entry.elements} elements"
        )
    expected = entry.recount(groups)
    for key in COUNTS:
        told, real = getattr(entry.counts, key), getattr(expected, key)
        if told != real and (entry.shape or entry.counts.total != 1):
            found["counts"].members()[key].refuse(f"the manifest says {told}, and the layout has {real} such elements")
    if entry.role != "constant" and entry.role != role_of(entry.counts):
        found["role"].refuse(f"the role {entry.role!r} does not fit the counts: {role_of(entry.counts)!r} does")
    if entry.scale == "activation" and not entry.counts.output:
        found["scale"].refuse("only a tensor with output elements is scaled behind its op")
    for part in range(parts):
        for axis, (sizes, size) in enumerate(zip(entry.widths(groups, part), entry.shape, strict=True)):
            if len(sizes) > 1:
                several = " and ".join(map(str, sorted(sizes)))
                found["blocked"].refuse(f"part {part} has {several} indices of axis {axis} in different blocks")
            if size and sizes in (set(), {0}):
                found["axes"].refuse(f"part {part} has nothing of axis {axis}")


def refuse_duplicates(field: Field, names: Sequence[str], what: str) -> None:
    """Refuse an array in which a name occurs twice."""
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise ManifestError(f"{field.origin}: {field.where}[{i}]: the {what} {name!r} occurs twice")
        seen.add(name)
