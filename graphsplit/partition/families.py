"""Atoms and families: which vertices move together, and which atoms are interchangeable."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from graphsplit.labels import Flowed
from graphsplit.labels.arrays import Ids


@dataclass(frozen=True)
class Layer:
    """Vertices that must not all go to other parts: those of one layer, or a piece of one. `classes` holds their atoms."""

    node: int
    classes: Ids


@dataclass(frozen=True)
class Family:
    """Atoms that touch the same layers equally often, in the order of their first vertex."""

    atoms: Ids


@dataclass(frozen=True)
class Structure:
    """What a strategy works on. `usage` rows are (family, layer, vertices an atom), `rows` (family, constraint, row, count).

    `offsets` rows are (constraint, row, elements of it that every part has).
    """

    layers: tuple[Layer, ...]
    families: tuple[Family, ...]
    usage: Ids
    rows: Ids
    offsets: Ids
    constraint_nodes: tuple[int, ...]


def families(flowed: Flowed) -> Structure:
    """Group atoms by what they touch. Linear in vertices (up to sorting)."""
    layers = _layers(flowed)
    constraints = _constraints(flowed)
    atom_parts, kinds, counts = [], [], []
    kind = 0
    for layer in layers:
        atoms, number = np.unique(layer.classes, return_counts=True)
        atom_parts.append(atoms)
        counts.append(number)
        kinds.append(np.full(len(atoms), kind, np.int64))
        kind += 1
    first_row = kind
    row_of: list[tuple[int, int]] = []
    offsets: list[tuple[int, int, int]] = []
    for index, (_, matrix) in enumerate(constraints):
        for row, labels in enumerate(matrix):
            atoms, number = np.unique(labels[labels > 0], return_counts=True)
            atom_parts.append(atoms)
            counts.append(number)
            kinds.append(np.full(len(atoms), kind, np.int64))
            row_of.append((index, row))
            offsets.append((index, row, int((labels <= 0).sum())))
            kind += 1
    if not layers:
        empty = np.empty((0, 3), np.int64)
        return Structure((), (), empty, np.empty((0, 4), np.int64), empty, ())
    atom = np.concatenate(atom_parts)
    what, count = np.concatenate(kinds), np.concatenate(counts)
    names, atom_index = np.unique(atom, return_inverse=True)
    family_of, representatives = _by_signature(atom_index, what, count, len(names))
    order = np.argsort(family_of, kind="stable")
    bounds = np.searchsorted(family_of[order], np.arange(len(representatives) + 1))
    found = tuple(Family(names[order[a:b]]) for a, b in pairwise(bounds))
    mine = np.isin(atom_index, representatives)
    entries = np.stack([family_of[atom_index[mine]], what[mine], count[mine]], axis=1)
    usage = entries[entries[:, 1] < first_row]
    tied = entries[entries[:, 1] >= first_row]
    where = np.array([row_of[k - first_row] for k in tied[:, 1]], np.int64).reshape(-1, 2)
    rows = (
        np.stack([tied[:, 0], where[:, 0], where[:, 1], tied[:, 2]], axis=1)
        if len(tied)
        else np.empty((0, 4), np.int64)
    )
    shared = np.array(offsets, np.int64).reshape(-1, 3)
    return Structure(layers, found, usage, rows, shared, tuple(node for node, _ in constraints))


def _layers(flowed: Flowed) -> tuple[Layer, ...]:
    """Every set of vertices that some value or parameter axis holds, each once: a half that a split cuts off counts as well."""
    found: list[Layer] = []
    seen: set[bytes] = set()
    known: set[bytes] = set()

    def add(node: int, core: Ids) -> None:
        raw = core.tobytes()
        if raw in seen:
            return
        seen.add(raw)
        vertices = np.sort(core[core > 0], axis=None)
        key = vertices.tobytes()
        if len(vertices) and key not in known:
            known.add(key)
            found.append(Layer(node, vertices))

    for node in sorted(flowed.blocks):
        block = flowed.blocks[node]
        ids = np.arange(block.start, block.start + block.size)
        if flowed.private:
            ids = ids[~np.isin(ids, np.fromiter(flowed.private, np.int64, len(flowed.private)))]
        add(node, flowed.classes[ids])
    for name, node in flowed.graph.producers.items():
        if name in flowed.labels and flowed.labels[name].varying:
            add(node, flowed.labels[name].core)
    for name in sorted(flowed.claims):
        for claim in flowed.claims[name]:
            if claim.core.size > 1 and claim.node >= 0:
                add(claim.node, claim.core)
    return tuple(found)


def _constraints(flowed: Flowed) -> list[tuple[int, Ids]]:
    """Matrices of labels out of whose rows every part must take as many elements, each once."""
    found: dict[tuple[int, bytes], tuple[int, Ids]] = {}
    candidates = [(node, matrix, True) for node, matrix in flowed.rows]
    for name, labels in flowed.labels.items():
        varying = labels.varying
        if len(varying) > 1 and name in flowed.graph.producers and _splits_an_axis(flowed, name):
            core = labels.core
            rows = core.shape[varying[0]]
            candidates.append((flowed.graph.producers[name], np.moveaxis(core, varying[0], 0).reshape(rows, -1), False))
    for node, matrix, asked in candidates:
        bound = flowed.last.bounds.get(node)
        kept = (
            asked and bound is not None and bool(bound.mix)
        )  # a kept group needs some of each, also if it is one atom
        whole_rows = not kept and (matrix == matrix[:, :1]).all()
        if whole_rows or (matrix == matrix[:1]).all() or not (matrix > 0).any():
            continue
        found.setdefault((len(matrix), np.sort(matrix, axis=1).tobytes()), (node, matrix))
    return list(found.values())


def _splits_an_axis(flowed: Flowed, name: str) -> bool:
    """Whether labels that changed along one axis change along several behind this node: only then do rows come to be."""
    node = flowed.graph.nodes[flowed.graph.producers[name]]
    return all(len(flowed.labels[n].varying) < 2 for n in node.inputs if n in flowed.labels)


def _by_signature(atom: Ids, what: Ids, count: Ids, atoms: int) -> tuple[Ids, Ids]:
    """The family of each atom, numbered by first appearance, and one atom of each; by exact comparison of signatures."""
    order = np.lexsort((what, atom))
    atom, what, count = atom[order], what[order], count[order]
    bounds = np.searchsorted(atom, np.arange(atoms + 1))
    pairs = np.stack([what, count], axis=1)
    numbers: dict[bytes, int] = {}
    family = np.empty(atoms, np.int64)
    representatives: list[int] = []
    for i in range(atoms):
        key = pairs[bounds[i] : bounds[i + 1]].tobytes()
        if key not in numbers:
            numbers[key] = len(numbers)
            representatives.append(i)
        family[i] = numbers[key]
    return family, np.array(representatives, np.int64)
