"""From a plan to the groups and entries of its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphsplit.errors import ManifestError, UnsupportedError
from graphsplit.graph import Tensor
from graphsplit.labels import COMMON as COMMON_LABEL
from graphsplit.labels import OUTPUT as OUTPUT_LABEL
from graphsplit.labels import PRIVATE as PRIVATE_LABEL
from graphsplit.labels import UNUSED
from graphsplit.manifest.content import DTYPES, BlockedAxis, ParameterEntry, Scale, role_of
from graphsplit.manifest.kinds import Counts, count
from graphsplit.manifest.ranges import COMMON, OUTPUT, PRIVATE, Group, Ids
from graphsplit.planning import ParameterPlan, Plan

__all__ = ["GroupTable", "parameter_entries"]

Cuts = Mapping[str, Sequence[tuple[Ids | None, ...] | None]]


class GroupTable:
    """The groups found so far, each once."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._numbers: dict[Group, int] = {}

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._numbers)

    def add(self, group: Group) -> int:
        """The number of a group."""
        return self._numbers.setdefault(group, len(self._numbers))

    def add_labels(self, labels: Ids, owner: Ids) -> int:
        """The number of the group that a plan's labels give an axis: classes, with their owners, and codes."""
        labels = np.asarray(labels, np.int64)
        who = np.full(labels.shape, COMMON, np.int64)
        who[labels == PRIVATE_LABEL] = PRIVATE
        who[labels == OUTPUT_LABEL] = OUTPUT
        codes = (COMMON_LABEL, PRIVATE_LABEL, OUTPUT_LABEL, UNUSED)
        assert bool(((labels > 0) | np.isin(labels, codes)).all()), "an index has no decided label"
        mine = labels > 0
        who[mine] = owner[labels[mine]]
        assert bool((who[mine] >= 0).all()), "a vertex has no owner"
        return self.add(Group.of(who, self.parts))

    def add_vector(self, labels: Ids | None, owner: Ids) -> int | None:
        """As `add_labels`; None where the axis carries no vertices."""
        if labels is None or bool(np.isin(labels, (COMMON_LABEL, UNUSED)).all()):
            return None
        return self.add_labels(labels, owner)


def parameter_entries(
    plan: Plan, cuts: Cuts | None = None, *, table: GroupTable | None = None
) -> tuple[tuple[Group, ...], dict[str, ParameterEntry]]:
    """The groups and entries of a plan's parameters, and of the constants that narrowing cut.

    `cuts` gives for a constant, part by part, the indices that the part has along each axis (None: all of them); names
    that the source lacks (a part's own constants) are left out. With `table`, the groups are added to that one.

    Raises UnsupportedError for a constant of which some but not all parts share an index, and for a parameter that one
    op scales behind and another doesn't; ManifestError for an element type that a manifest can't name. O(indices).
    """
    table = table if table is not None else GroupTable(plan.parts)
    owner = plan.partition.owner
    tensors = plan.graph.tensors
    found: dict[str, ParameterEntry] = {}
    for name in sorted({*plan.parameters, *(cuts or {})} & tensors.keys()):
        if name in plan.parameters:
            parameter = plan.parameters[name]
            found[name] = _entry(parameter, tensors[name], table, owner, _scale(plan, name))
        else:
            assert cuts is not None
            found[name] = _constant(name, tensors[name], cuts[name], table)
    return table.groups, found


def _entry(parameter: ParameterPlan, tensor: Tensor, table: GroupTable, owner: Ids, scale: Scale) -> ParameterEntry:
    blocked = parameter.blocked
    axes = tuple(
        None if blocked is not None and axis == blocked.axis else table.add_vector(vector, owner)
        for axis, vector in enumerate(parameter.labels)
    )
    rows = None
    if blocked is not None:
        rows = BlockedAxis(blocked.axis, blocked.along, tuple(table.add_labels(row, owner) for row in blocked.labels))
    entry = ParameterEntry(
        parameter.name, parameter.shape, _dtype(parameter.name, tensor), "owned", axes, rows, "weights", Counts()
    )
    counts = count(*entry.layout(table.groups))
    if not parameter.shape and parameter.role in ("duplicated", "output"):  # one number has no axis to say it
        counts = Counts(**{parameter.role: 1})
    if not counts.output:
        scale = "weights"
    return ParameterEntry(
        entry.name, entry.shape, entry.dtype, role_of(counts), entry.axes, entry.blocked, scale, counts
    )


def _scale(plan: Plan, name: str) -> Scale:
    """Whether the ops that make output of a parameter are scaled behind; those are all or none of them."""
    giving = {
        claim.node
        for claim in plan.flowed.claims.get(name, ())
        if claim.node not in plan.part_nodes and bool((claim.core == OUTPUT_LABEL).any())
    }
    if giving and giving <= plan.activation:
        return "activation"
    if giving & plan.activation:
        nodes = plan.graph.nodes
        scaled, plain = (min(group) for group in (giving & plan.activation, giving - plan.activation))
        raise UnsupportedError(
            f"parameter {name!r} serves {nodes[scaled].title}, whose result is scaled, and another output layer "
            f"({nodes[plain].title if plain >= 0 else 'an output'}), whose weights are",
            hint="--keep one of these layers undivided",
        )
    return "weights"


def _constant(
    name: str, tensor: Tensor, parts: Sequence[tuple[Ids | None, ...] | None], table: GroupTable
) -> ParameterEntry:
    shape = tuple(tensor.shape)
    assert len(parts) == table.parts, f"{name}: one tuple for each part is wanted"
    axes: list[int | None] = []
    for axis, size in enumerate(shape):
        chosen = [None if indices is None else indices[axis] for indices in parts]
        if all(indices is None for indices in chosen):
            axes.append(None)
            continue
        who = np.full(size, -1, np.int64)
        holders = np.zeros(size, np.int64)
        for part, indices in enumerate(chosen):
            here = slice(None) if indices is None else indices
            who[here] = part
            holders[here] += 1
        if bool(((holders != 1) & (holders != table.parts)).any()):
            raise UnsupportedError(
                f"constant {name!r}: some parts share an index of axis {axis} that others lack, which no manifest says",
                hint="try another -k or --strategy",
            )
        who[holders == table.parts] = COMMON if table.parts > 1 else 0
        axes.append(None if bool((who == COMMON).all()) else table.add(Group.of(who, table.parts)))
    counts = Counts(constant=int(np.prod(shape, dtype=np.int64)))
    return ParameterEntry(name, shape, _dtype(name, tensor), "constant", tuple(axes), None, "weights", counts)


def _dtype(name: str, tensor: Tensor) -> str:
    if tensor.dtype.name not in DTYPES:
        raise ManifestError(f"parameter {name!r} has the type {tensor.dtype}, which a manifest can't name")
    return tensor.dtype.name
