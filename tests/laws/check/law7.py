"""Law 7: narrowness."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphsplit.formats.onnx_file import load
from graphsplit.manifest import ParameterEntry
from graphsplit.manifest.ranges import Group
from graphsplit.splitting import Split
from tests.laws.check.making import Case, Found


def narrowness(case: Case) -> Found:
    """Law 7: each tensor in the files is within its share and an atom a family on every divided axis; the rest is listed."""
    found = Found()
    for done, number, file in _nodes_of_tree(case):
        tensors = load(file).tensors if file is not None else None
        for name, entry in done.manifest.parameters.items():
            if tensors is None or name not in tensors:
                continue
            _axes_within_share(done, number, entry, tuple(tensors[name].shape), found)
    for done in {id(done): done for part in case.parts for done, _ in part.chain}.values():
        _listed(done, found)
    return found


def _nodes_of_tree(case: Case) -> list[tuple[Split, int, Path | None]]:
    return [(*part.chain[-1], part.file) for part in case.parts]


def _axes_within_share(done: Split, part: int, entry: ParameterEntry, shape: tuple[int, ...], found: Found) -> None:
    groups, share = done.manifest.groups, done.plan.partition.shares[part]
    axes: list[tuple[int, int]] = [(axis, number) for axis, number in enumerate(entry.axes) if number is not None]
    if entry.blocked is not None:
        axes.extend((entry.blocked.axis, number) for number in dict.fromkeys(entry.blocked.groups))
    for axis, number in axes:
        group = groups[number]
        vertices = sum(group.width(p) - _common(group) for p in range(done.manifest.parts))
        most = vertices * share + _slack(done, entry.name, axis) + _common(group)
        found.check(
            shape[axis] <= most + 1e-9,
            f"{entry.name} axis {axis}: part {part} has {shape[axis]} of {entry.shape[axis]}, and its share is {most:.1f}",
        )


def _common(group: Group) -> int:
    """How many indices every part has."""
    return int(group.shared.size)


def _slack(done: Split, name: str, axis: int) -> int:
    """An atom a family: for each family with vertices on the axis, how many of them its atoms have there."""
    plan = done.plan
    parameter = plan.parameters.get(name)
    if parameter is None:
        return 0
    vectors = [parameter.labels[axis]]
    if parameter.blocked is not None and parameter.blocked.axis == axis:
        vectors = list(parameter.blocked.labels)
    total = 0
    for vector in vectors:
        if vector is None:
            continue
        classes, number = np.unique(vector[vector > 0], return_counts=True)
        of = dict(zip(classes.tolist(), number.tolist(), strict=True))
        slack = sum(max((of.get(int(a), 0) for a in f.atoms), default=0) for f in plan.partition.structure.families)
        total = max(total, slack)
    return total


def _listed(done: Split, found: Found) -> None:
    """A tensor that is copied, or whole in every part for another reason than an output's, belongs to a listed node."""
    manifest, flowed = done.manifest, done.plan.flowed
    notes = {note.node: note.reason for note in (*manifest.repeated, *manifest.private)}
    found.check(all(notes.values()), "a node is listed without a reason")
    divided = False
    for name, entry in manifest.parameters.items():
        divided |= entry.role == "owned"
        if entry.role != "duplicated":
            continue
        nodes = {flowed.graph.nodes[c.node].title for c in flowed.claims.get(name, ()) if c.node >= 0}
        found.check(
            bool(nodes & notes.keys()), f"{name} is copied, and none of {sorted(nodes)} is listed with a reason"
        )
    found.check(divided, "no layer is divided")
