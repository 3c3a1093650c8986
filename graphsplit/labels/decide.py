"""What the flow decides between its passes: layers too narrow to divide, outputs that hidden layers read, shared weights.

`flow` is the entry: it runs passes to a fixed point, decides, and runs again until nothing is left to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphsplit.errors import GraphsplitError, UnsupportedError
from graphsplit.facts import Facts, same_numbers
from graphsplit.graph import Graph
from graphsplit.labels.arrays import COMMON, OUTPUT, PRIVATE, UNKNOWN, Ids, Labels, squeeze_constant_axes, uniform
from graphsplit.labels.couplings import resolve
from graphsplit.labels.decisions import Block, Decisions
from graphsplit.labels.flow import Dialect, Pass
from graphsplit.labels.parameters import UNUSED, Claim, axes_to_tie, rows_of_uses
from graphsplit.labels.scarce import crossed_groups, too_narrow
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
    whole: frozenset[int] = frozenset(),
) -> Flowed:
    """Run the labels through a network for a split into `parts`.

    `others` are the facts for other sizes of the dynamic axes: what differs there isn't fixed. `keep` names nodes,
    parameters or values whose layer isn't divided. `outputs` says what becomes of outputs: all are the parts' mean ("mean"),
    all are slices put side by side ("concat"), or those that hidden layers read are whichever leaves the parts narrow.
    `whole` are nodes whose operands each part has whole.

    Raises UnsupportedError for an op without a rule, a network that can't be divided, or outputs that can't be what was asked.
    Linear in the graph for each round.
    """
    kept = _kept(graph, keep)

    def run(concatenate: bool, undivided: frozenset[int] = frozenset()) -> Flowed:
        decisions = Decisions(concatenate=concatenate, divided=outputs == "concat", undivided=undivided)
        return _decided(graph, dialect, (facts, others or facts), trained, parts, (kept, whole), decisions)

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
        one = run(best.concatenated, frozenset(node for node, _ in best.last.sharing))
        best = one if stored(one)[1] < share else best
    return best


def _all_divided(flowed: Flowed) -> Flowed:
    """The flow, with every output divided as was asked. Raises UnsupportedError for one that each part has whole."""
    for value in flowed.graph.outputs if flowed.parts > 1 else ():
        labels = flowed.labels.get(value.name)
        core = uniform(None, OUTPUT).core if labels is None else labels.core
        if not (core > 0).any() and not (core == COMMON).all():
            maker = flowed.graph.producers.get(value.name)
            reasons = [] if maker is None else [*_why_whole(flowed, maker)]
            raise UnsupportedError(
                f"--outputs concat: each part has {value.name!r} whole" + (f": {reasons[0]}" if reasons else ""),
                hint="ask for --outputs auto, or mean",
            )
    return flowed


def _why_whole(flowed: Flowed, maker: int) -> Iterator[str]:
    """Why layers on the way to a node's results aren't divided, the nearest first."""
    graph, waiting, seen = flowed.graph, [maker], {maker}
    for node in waiting:
        block = flowed.last.blocks.get(node)
        if node in flowed.last.narrow:
            yield f"{graph.nodes[node].title}: {flowed.last.narrow[node]}"
        elif block is not None:
            yield from (flowed.private[i] for i in range(block.start, block.start + block.size) if i in flowed.private)
        makers = [graph.producers[name] for name in graph.nodes[node].inputs if name in graph.producers]
        waiting.extend(i for i in dict.fromkeys(makers) if i not in seen)
        seen.update(makers)


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
    return _decided(
        current.graph, current.dialect, facts, current.trained, current.parts, (current.keep, current.whole), decisions
    )


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
    asked: tuple[frozenset[int], frozenset[int]],
    decisions: Decisions,
) -> Flowed:
    keep, whole = asked
    for _ in range(MAX_ROUNDS):
        layout = structure(graph, dialect.lookup, trained, frozenset(decisions.hidden))
        current, classes = settle(
            lambda couplings, known, layout=layout: Pass(  # type: ignore[misc]
                graph, dialect, facts, layout, trained, parts, keep, decisions, couplings, known, whole
            ),
            decisions,
        )
        if not (
            _needed_whole(current, classes, decisions)
            or _conflicting_ties(current, classes, decisions)
            or _contested_outputs(current, classes, decisions)
            or too_narrow(current, classes, decisions)
            or crossed_groups(current, classes, decisions)
        ):
            found = _result(current, classes, decisions, layout.tail, facts[1])
            return _all_divided(found) if decisions.divided else found
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
    rows = [(node, resolve(ids, classes)) for node, ids in current.rows]
    rows += [row for name in sorted(claims) for row in rows_of_uses(claims[name])]
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
        tuple(rows),
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
        changed = bool(news)
        for name in sorted(current.outputs & current.labels.keys()):
            core = current.labels[name].core
            if (core > 0).any() and (core == PRIVATE).any():  # what each part has for itself can't be put side by side
                changed |= _make_private(
                    core, classes, decisions, f"{name} is an output that parts have some of for themselves"
                )
        return changed
    changed = False
    for name, core in sorted(current.averaged.items()):
        if (core > 0).any():
            changed |= _make_private(core, classes, decisions, f"{name} is an output that hidden layers read too")
    return changed
