"""What the flow decides between its passes: layers too narrow to divide, outputs that hidden layers read, shared weights.

`flow` is the entry: it runs passes to a fixed point, decides, and runs again until nothing is left to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphsplit.errors import GraphsplitError, UnsupportedError
from graphsplit.facts import Facts, same_numbers
from graphsplit.graph import Graph
from graphsplit.labels.arrays import COMMON, OUTPUT, PRIVATE, UNKNOWN, Ids, Labels, squeeze_constant_axes
from graphsplit.labels.couplings import resolve
from graphsplit.labels.flow import MODES, Block, Decisions, Dialect, Pass
from graphsplit.labels.parameters import UNUSED, Claim, axes_to_tie
from graphsplit.labels.settle import settle
from graphsplit.labels.trainable import structure

MAX_ROUNDS = 200

Outputs = Literal["auto", "mean", "concat"]


@dataclass(frozen=True)
class Flowed:
    """The labels of a network once everything is decided.

    `classes[id]` is the class of a vertex (its smallest id). `labels` and `claims` hold classes. `averaged` are the values
    whose copies the merge averages in front of the nodes behind the output layers.
    """

    graph: Graph
    facts: Facts
    others: Facts
    parts: int
    trained: frozenset[str]
    classes: Ids
    labels: dict[str, Labels]
    claims: dict[str, tuple[Claim, ...]]
    blocks: dict[int, Block]
    rows: tuple[tuple[int, Ids], ...]
    averaged: dict[str, Ids]
    last: Pass
    tail: frozenset[int]
    edges: tuple[Ids, Ids, Ids]
    private: dict[int, str]
    concatenated: bool

    def fixed(self, name: str) -> bool:
        """Whether a value's elements are known before anything runs, and the same for other sizes of the dynamic axes."""
        here, there = self.facts[name].data, self.others[name].data
        return here is not None and there is not None and same_numbers(here, there)

    @property
    def statistics(self) -> frozenset[int]:
        """Nodes that take statistics over labelled axes."""
        return frozenset(self.last.statistics)


def flow(
    graph: Graph,
    dialect: Dialect,
    facts: Facts,
    trained: frozenset[str],
    parts: int,
    *,
    keep: Iterable[str] = (),
    outputs: Outputs = "auto",
    others: Facts | None = None,
) -> Flowed:
    """Run the labels through a network for a split into `parts`.

    `others` are the facts for other sizes of the dynamic axes: what differs there isn't fixed. `keep` names nodes,
    parameters or values whose layer isn't divided. `outputs` says what becomes of an output that hidden
    layers read: each part's mean ("mean"), slices put side by side ("concat"), or whichever leaves the parts narrow.

    Raises UnsupportedError for an op without a rule or a network that can't be divided. Linear in the graph for each round.
    """
    kept = _kept(graph, keep)

    def run(concatenate: bool, undivided: frozenset[int] = frozenset()) -> Flowed:
        decisions = Decisions(concatenate=concatenate, undivided=undivided)
        return _decided(graph, dialect, (facts, others or facts), trained, parts, kept, decisions)

    best = run(outputs == "concat")
    contested = any("output" in reason for reason in best.private.values())
    if parts == 1:
        divided = any(bool((found.core > 0).any()) for found in best.labels.values())
        return best if divided or not contested or outputs != "auto" else run(True)  # nothing has to be averaged
    full, share = stored(best)
    if outputs == "auto" and share > full / parts and contested:
        joined = run(True)
        best, share = (joined, stored(joined)[1]) if stored(joined)[1] < share else (best, share)
    if share > full / parts and best.last.sharing:
        whole = run(best.concatenated, frozenset(node for node, _ in best.last.sharing))
        best = whole if stored(whole)[1] < share else best
    return best


def less_divided(flowed: Flowed, uneven: Iterable[tuple[int, Ids]]) -> Flowed | None:
    """The flow again, with vertices in every part that no part can take equally many of; None where that changes nothing.

    `uneven` holds the nodes that ask for equal counts, each with the classes of its vertices. Linear in the graph for each round.
    """
    current, classes = flowed.last, flowed.classes
    decisions = deepcopy(current.decisions)
    changed = False
    for node, atoms in uneven:
        reason = f"{current.graph.nodes[node].title} needs equally many vertices out of each row, which no whole numbers give"
        nearest = _nearest(current, node)
        changed |= _make_private(
            nearest[np.isin(classes[nearest], atoms)], classes, decisions, reason, alone=True
        ) or _make_private(atoms, classes, decisions, reason)
    if not changed:
        return None
    facts = flowed.facts, flowed.others
    return _decided(current.graph, current.dialect, facts, current.trained, current.parts, current.keep, decisions)


def _kept(graph: Graph, names: Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for name in names:
        nodes = {
            i for i, node in enumerate(graph.nodes) if name == node.name or name in node.outputs or name in node.inputs
        }
        if not nodes:
            raise GraphsplitError(
                f"--keep {name}: no node, parameter or value has this name", hint="`graphsplit inspect` lists them"
            )
        found |= nodes
    return frozenset(found)


def stored(flowed: Flowed) -> tuple[float, float]:
    """Parameter elements of the network, and about how many a part holds."""
    full = share = 0.0
    for name in sorted(flowed.trained):
        shape = flowed.graph.tensors[name].shape
        size = float(np.prod(shape))
        full += size
        fractions: dict[tuple[int, ...], float] = {}
        for claim in flowed.claims.get(name, ()):
            fraction = float(np.where(claim.core > 0, 1 / flowed.parts, 1.0).mean())
            fractions[claim.axes] = min(fraction, fractions.get(claim.axes, 1.0))
        share += size * float(np.prod(list(fractions.values())))
    return full, share


def _decided(
    graph: Graph,
    dialect: Dialect,
    facts: tuple[Facts, Facts],
    trained: frozenset[str],
    parts: int,
    keep: frozenset[int],
    decisions: Decisions,
) -> Flowed:
    for _ in range(MAX_ROUNDS):
        layout = structure(graph, dialect.lookup, trained, frozenset(decisions.hidden))
        current, classes = settle(
            lambda couplings, known, layout=layout: Pass(  # type: ignore[misc]
                graph, dialect, facts[0], layout, trained, parts, keep, decisions, couplings, known
            ),
            decisions,
        )
        if not (
            _needed_whole(current, classes, decisions)
            or _conflicting_ties(current, classes, decisions)
            or _contested_outputs(current, classes, decisions)
            or _too_narrow(current, classes, decisions)
        ):
            return _result(current, classes, decisions, layout.tail, facts[1])
    raise UnsupportedError(f"the labels of {graph.name!r} don't settle in {MAX_ROUNDS} rounds")


def _result(current: Pass, classes: Ids, decisions: Decisions, tail: frozenset[int], others: Facts) -> Flowed:
    def settled(core: Ids) -> Ids:
        """Classes instead of vertices: along an axis that one atom fills nothing changes any more."""
        return squeeze_constant_axes(resolve(core, classes))

    labels = {name: Labels(found.shape, settled(found.core)) for name, found in current.labels.items()}
    undecided = [name for name, found in labels.items() if (found.core == UNKNOWN).any()]
    assert not undecided, f"labels left undecided: {undecided[:3]}"
    claims = {name: tuple(replace(c, core=settled(c.core)) for c in found) for name, found in current.claims.items()}
    averaged = {name: resolve(core, classes) for name, core in current.averaged.items()}
    rows = tuple((node, resolve(ids, classes)) for node, ids in current.rows)
    return Flowed(
        current.graph,
        current.facts,
        others,
        current.parts,
        current.trained,
        classes,
        labels,
        claims,
        dict(current.blocks),
        rows,
        averaged,
        current,
        tail,
        current.couplings.edges(),
        dict(decisions.private),
        decisions.concatenate,
    )


def _make_private(ids: Ids, classes: Ids, decisions: Decisions, reason: str, *, alone: bool = False) -> bool:
    """Make whole classes private, or these vertices `alone`; True where that is news."""
    wanted = ids if alone else np.flatnonzero(np.isin(classes, np.unique(classes[ids[ids > 0]])))
    news = [int(i) for i in wanted if i > 0 and int(i) not in decisions.private]
    decisions.private.update(dict.fromkeys(news, reason))
    return bool(news)


def _needed_whole(current: Pass, classes: Ids, decisions: Decisions) -> bool:
    """Vertices that a node needs all of in each part, and those that share a weight which isn't to be copied for them.

    Where it can be, only the layers right in front of the node: what is coupled with them behind it stays divided.
    """
    changed = False
    for node, ids in current.needed + [item for item in current.sharing if item[0] in decisions.undivided]:
        reason = f"{current.graph.nodes[node].title} needs all of its vertices in each part"
        nearest = _nearest(current, node)
        changed |= _make_private(nearest, classes, decisions, reason, alone=True) or _make_private(
            ids, classes, decisions, reason
        )
    return changed


def _nearest(current: Pass, node: int) -> Ids:
    """The vertices of the layers that a node's operands come from, and of those in front that such a layer couples its own with.

    A grouped layer does that, and one that is applied to each of several vertices: its results are theirs.
    """
    graph, found = current.graph, [np.empty(0, np.int64)]
    left, right, makers = current.couplings.edges()
    waiting, seen = list(graph.nodes[node].inputs), set()
    while waiting:
        name = waiting.pop()
        maker = graph.producers.get(name)
        if maker is None or maker in seen or name not in current.labels or not (current.labels[name].core > 0).any():
            continue
        seen.add(maker)
        block = current.blocks.get(maker)
        if block is not None:
            found.append(np.arange(block.start, block.start + block.size))
        if block is None or current.couplings.groupings.get(maker) or _inherits(current, block, left, right, makers):
            waiting.extend(graph.nodes[maker].inputs)
    return np.concatenate(found)


def _inherits(current: Pass, block: Block, left: Ids, right: Ids, makers: Ids) -> bool:
    """Whether a layer itself couples its vertices with those of its data (not with other uses of its weight)."""
    mine = makers == block.node
    pairs = np.stack([left[mine], right[mine]])
    inside = (pairs >= block.start) & (pairs < block.start + block.size)
    others = pairs[:, inside[0] != inside[1]][~inside[:, inside[0] != inside[1]]]
    data = [current.labels[n].core for n in current.graph.nodes[block.node].inputs if n in current.labels]
    return any(bool(np.isin(core, others).any()) for core in data)


def _conflicting_ties(current: Pass, classes: Ids, decisions: Decisions) -> bool:
    """A parameter index that is divided in one use and whole in another: the vertices become private."""
    changed = False
    for name, claims in sorted(current.claims.items()):
        seen: dict[tuple[int, ...], Ids] = {}
        for found, axes in ((c, axes) for c in claims if not c.weak for axes in axes_to_tie(c)):
            core = found.core
            if found.contracted:  # a part can take its own columns' share of common data
                core = np.where(core == COMMON, UNUSED, core)
            other = seen.setdefault(axes, core)
            a, b = np.broadcast_arrays(other, core)
            whole = ((a > 0) & _whole(b)) | ((b > 0) & _whole(a))
            if whole.any():
                ids = np.where(a > 0, a, b)[whole]
                changed |= _make_private(ids, classes, decisions, f"{name} is used elsewhere by an undivided layer")
    return changed


def _whole(labels: Ids) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.isin(labels, (COMMON, PRIVATE, OUTPUT))
    return found


def _contested_outputs(current: Pass, classes: Ids, decisions: Decisions) -> bool:
    """Outputs that hidden layers read as well: private, or left divided and put side by side."""
    if decisions.concatenate:
        readers = {
            i
            for i in current.layout.tail
            for name in current.graph.nodes[i].inputs
            if name in current.labels and bool((current.labels[name].core > 0).any())
        }
        news = readers - decisions.hidden
        decisions.hidden |= news
        return bool(news)
    changed = False
    for name, core in sorted(current.averaged.items()):
        if (core > 0).any():
            changed |= _make_private(core, classes, decisions, f"{name} is an output that hidden layers read too")
    return changed


@dataclass(frozen=True)
class _Narrow:
    """Vertices that are to be in every part but have fewer atoms than there are parts: a layer, or a piece of one."""

    ids: Ids
    atoms: Ids
    title: str


def _too_narrow(current: Pass, classes: Ids, decisions: Decisions) -> bool:
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


def _switch_modes(current: Pass, classes: Ids, decisions: Decisions, atoms: set[int]) -> bool:
    wanted = np.fromiter(sorted(atoms), np.int64, len(atoms))
    changed = False
    for (node, kind), ids in sorted(current.sites.items(), key=lambda item: item[0]):
        at = decisions.modes.get((node, kind), 0)
        if at + 1 < len(MODES[kind]) and np.isin(classes[ids], wanted).any():
            decisions.modes[node, kind] = at + 1
            changed = True
    return changed
