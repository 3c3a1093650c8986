"""Layers with fewer atoms than there are parts: their ambiguous places are read otherwise, or they become private."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphsplit.labels.arrays import Ids, squeeze_constant_axes
from graphsplit.labels.couplings import resolve
from graphsplit.labels.decisions import MODES, Decisions
from graphsplit.labels.flow import Pass


@dataclass(frozen=True)
class _Narrow:
    """Vertices that are to be in every part but have fewer atoms than there are parts: a layer, or a piece of one."""

    ids: Ids
    atoms: Ids
    title: str


def too_narrow(current: Pass, classes: Ids, decisions: Decisions) -> bool:
    """Layers and pieces with fewer atoms than parts: read their ambiguous places otherwise, else make the narrowest private."""
    found = _narrow_layers(current, classes, decisions) + _narrow_pieces(current, classes)
    if not found:
        return False
    if _switch_modes(current, classes, decisions, {int(atom) for item in found for atom in item.atoms}):
        return True
    changed = False
    settled: set[int] = set()
    for item in sorted(found, key=lambda item: (len(item.ids), int(item.ids[0]))):
        if settled.intersection(item.atoms.tolist()):
            continue
        settled.update(classes[item.ids].tolist())
        reason = f"{item.title} has fewer independent vertices than there are parts"
        news = [int(i) for i in item.ids if int(i) not in decisions.private]
        decisions.private.update(dict.fromkeys(news, reason))
        changed |= bool(news)
    return changed


def _narrow_layers(current: Pass, classes: Ids, decisions: Decisions) -> list[_Narrow]:
    found = []
    for block in current.blocks.values():
        ids = np.arange(block.start, block.start + block.size)
        ids = ids[[int(i) not in decisions.private for i in ids]] if decisions.private else ids
        atoms = np.unique(classes[ids])
        if 0 < len(atoms) < current.parts:
            found.append(_Narrow(ids, atoms, current.graph.nodes[block.node].title))
    return found


def _narrow_pieces(current: Pass, classes: Ids) -> list[_Narrow]:
    """Values that hold a few vertices of a layer only, such as the smaller half that a split cuts off."""
    found: list[_Narrow] = []
    seen: set[bytes] = set()
    for name, labels in current.labels.items():
        core = labels.core
        if name not in current.graph.producers or not (core > 0).any() or core.tobytes() in seen:
            continue
        seen.add(core.tobytes())
        atoms = np.unique(classes[core[core > 0]])
        if len(atoms) < current.parts:
            ids = np.flatnonzero(np.isin(classes, atoms) & (np.arange(len(classes)) > 0))
            found.append(_Narrow(ids, atoms, current.graph.nodes[current.graph.producers[name]].title))
    return found


def crossed_groups(current: Pass, classes: Ids, decisions: Decisions) -> bool:
    """Kept groups of which each takes other rows of a weight and other columns, which no slice says: they take the same rows."""
    changed = False
    for claims in current.claims.values():
        cores = [(found.node, squeeze_constant_axes(resolve(found.core, classes))) for found in claims]
        divided = [(node, core) for node, core in cores if (core > 0).any() and sum(n > 1 for n in core.shape) > 1]
        if len({tuple(n > 1 for n in core.shape) for _, core in divided}) > 1:
            for node in {node for node, _ in divided if decisions.modes.get((node, "group")) == 1}:
                decisions.modes[node, "group"] = MODES["group"].index("alike")
                changed = True
    return changed


def _switch_modes(current: Pass, classes: Ids, decisions: Decisions, atoms: set[int]) -> bool:
    wanted = np.fromiter(sorted(atoms), np.int64, len(atoms))
    changed = False
    for (node, kind), ids in sorted(current.sites.items(), key=lambda item: item[0]):
        at = decisions.modes.get((node, kind), 0)
        if at == 0 and np.isin(classes[ids], wanted).any():
            decisions.modes[node, kind] = at + 1
            changed = True
    return changed
