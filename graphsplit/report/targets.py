"""What a name stands for: the vertices of a node, a parameter, a value, or of one axis or index of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphsplit.errors import GraphsplitError, UnsupportedError
from graphsplit.labels import Flowed
from graphsplit.labels.arrays import Ids
from graphsplit.labels.couplings import Couplings
from graphsplit.labels.flow import Pass
from graphsplit.labels.parameters import Claim
from graphsplit.report.content import Target
from graphsplit.report.reasons import kind_of, why_private

NO_IDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Found:
    """A target and its vertices, each once, in order."""

    target: Target
    ids: Ids


@dataclass(frozen=True)
class _Labelled:
    """One label array of something named: classes and codes, and the vertices themselves, in arrays of one shape."""

    classes: Ids
    vertices: Ids


class Names:
    """The names of a flowed network.

    A flow's labels hold classes; the vertices themselves come from its first pass, which is run once more.
    """

    def __init__(self, flowed: Flowed) -> None:
        self.flowed = flowed
        self.first = _first_pass(flowed)
        self.nodes = {node.name: i for i, node in reversed(list(enumerate(flowed.graph.nodes))) if node.name}
        self.values = {*flowed.labels, *flowed.last.derived}

    def find(self, asked: str) -> Found:
        """The vertices behind `name`, `name:axis` or `name:axis:index`.

        A node comes before a parameter of the same name, a parameter before a value.

        Raises GraphsplitError for a name that nothing has, or an axis that carries no vertices.
        """
        for name, place in _readings(asked):
            if name in self.nodes:
                return self._node(asked, self.nodes[name], place)
            if name in self.flowed.trained:
                return self._parameter(asked, name, place)
            if name in self.values:
                return self._value(asked, name, place)
        raise GraphsplitError(
            f"{asked}: no node, parameter or value of the network has this name",
            hint="`graphsplit inspect MODEL` lists them",
        )

    # -- the three things that have names ----------------------------------------------------------

    def _node(self, asked: str, index: int, place: tuple[int, ...]) -> Found:
        node = self.flowed.graph.nodes[index]
        name = next((n for n in node.outputs if n in self.flowed.labels), None)
        if name is None:
            made = next((n for n in node.outputs if n in self.flowed.last.derived), None)
            if made is None:
                raise GraphsplitError(f"{node.title} gives nothing that has vertices")
            return self._value(asked, made, place)
        shape = self.flowed.labels[name].shape
        found = self._target(asked, "node", node.title, shape, [self._labelled(name)], place)
        return self._with_reasons(found, index)

    def _value(self, asked: str, name: str, place: tuple[int, ...]) -> Found:
        graph = self.flowed.graph
        if name not in self.flowed.labels:
            leaves = [leaf.name for leaf in self.flowed.last.derived[name].leaves]
            if len(set(leaves)) == 1 and not place:
                return self._parameter(asked, leaves[0], place)
            raise GraphsplitError(
                f"{asked} is made of the parameters {', '.join(sorted(set(leaves)))} alone", hint="ask for one of them"
            )
        found = self._target(
            asked, "value", f"value {name!r}", self.flowed.labels[name].shape, [self._labelled(name)], place
        )
        if name in graph.producers:
            return self._with_reasons(found, graph.producers[name])
        whole = "it isn't trained" if name in graph.tensors else "it is an input of the network"
        return Found(replace(found.target, reason=f"{whole}: every part has all of it"), NO_IDS)

    def _parameter(self, asked: str, name: str, place: tuple[int, ...]) -> Found:
        claims = [c for c in self.flowed.claims.get(name, ()) if c.node >= 0]
        labelled = [self._claimed(name, c) for c in claims]
        if not place:  # the vertices that it makes, if it makes some, stand for the layer
            makes = [c for c, found in zip(claims, labelled, strict=True) if self._makes(c, found)]
            labelled = [found for c, found in zip(claims, labelled, strict=True) if c in makes] or labelled
        shape = self.flowed.graph.tensors[name].shape
        found = self._target(asked, "parameter", f"parameter {name!r}", shape, labelled, place)
        if not claims:
            return Found(replace(found.target, reason="nothing that is divided uses it"), NO_IDS)
        return self._with_reasons(found, claims[0].node)

    # -- label arrays ------------------------------------------------------------------------------

    def _labelled(self, name: str) -> _Labelled:
        known = self.flowed.labels[name].core
        first = self.first.labels.get(name)
        return self._paired(known, first.core if first is not None else known)

    def _claimed(self, name: str, claim: Claim) -> _Labelled:
        same = [c.core for c in self.first.claims.get(name, ()) if c.node == claim.node and c.axes == claim.axes]
        return self._paired(claim.core, same[0] if same else claim.core)

    def _paired(self, known: Ids, first: Ids) -> _Labelled:
        """Classes with the vertices behind them, from the first pass's labels where these are decided and agree."""
        classes = self.flowed.classes
        fits = all(1 in (a, b) or a == b for a, b in zip(first.shape, known.shape, strict=False))
        if first.ndim != known.ndim or not fits:
            return _Labelled(known, known)
        known, first = np.broadcast_arrays(known, first)
        usable = (first > 0) & (first < len(classes))
        agrees = usable & (classes[np.where(usable, first, 0)] == known)
        return _Labelled(known, np.where(agrees, first, known))

    def _makes(self, claim: Claim, found: _Labelled) -> bool:
        block = self.flowed.blocks.get(claim.node)
        if block is None:
            return False
        return bool(((found.vertices >= block.start) & (found.vertices < block.start + block.size)).any())

    # -- targets -----------------------------------------------------------------------------------

    def _target(
        self,
        asked: str,
        what: str,
        title: str,
        shape: tuple[int, ...] | None,
        labelled: list[_Labelled],
        place: tuple[int, ...],
    ) -> Found:
        axes = tuple(sorted({a for found in labelled for a in _carrying(found.classes)}))
        if place:
            axis = _checked(asked, title, shape, place)
            labelled = [_at(found, axis, place) for found in labelled if axis in _carrying(found.classes)]
            if not labelled:
                others = f"axis {axes[0]} does" if len(axes) == 1 else f"axes {', '.join(map(str, axes))} do"
                said = f"its {others}" if axes else "none does"
                raise GraphsplitError(f"{asked}: axis {axis} of {title} carries no vertices; {said}")
            axes = (axis,)
            title = ", ".join([title, f"axis {axis}", *(f"index {index}" for index in place[1:])])
        ids = [np.unique(found.vertices[found.classes > 0]) for found in labelled]
        vertices = np.unique(np.concatenate(ids)) if ids else NO_IDS
        kinds = [kind_of(found.classes) for found in labelled] or ["whole"]
        kind = next(k for k in ("divided", "private", "output", "whole") if k in kinds)
        atoms = len(np.unique(self.flowed.classes[vertices]))
        target = Target(asked, what, title, kind, len(vertices), atoms, axes, "", "")  # type: ignore[arg-type]
        return Found(target, vertices)

    def _with_reasons(self, found: Found, index: int) -> Found:
        kind, reason = found.target.kind, ""
        if kind == "private":
            reason = why_private(self.flowed, index)
        elif kind == "output":
            reason = "it lies behind an output layer: every part has all of it, and the merge averages it"
        elif kind == "whole":
            reason = "it is computed without parameters from what every part has: it is the same in every part"
        repeated = ""
        if self.flowed.parts > 1 and found.target.what == "node" and index in self.flowed.statistics:
            repeated = (
                "it takes statistics over the vertices of a part, so the merged network runs it once for each part"
            )
        return Found(replace(found.target, reason=reason, repeated=repeated), found.ids)


def _readings(asked: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A name may hold colons itself: the whole text first, then with one and two whole numbers cut off."""
    yield asked, ()
    pieces = asked.rsplit(":", 2)
    for count in (1, 2):
        if len(pieces) > count and all(_whole_number(p) for p in pieces[-count:]):
            yield ":".join(pieces[:-count]), tuple(int(p) for p in pieces[-count:])


def _whole_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 19


def _carrying(core: Ids) -> tuple[int, ...]:
    return tuple(a for a, size in enumerate(core.shape) if size > 1) if bool((core > 0).any()) else ()


def _checked(asked: str, title: str, shape: tuple[int, ...] | None, place: tuple[int, ...]) -> int:
    rank = len(shape or ())
    if shape is None or not -rank <= place[0] < rank:
        raise GraphsplitError(f"{asked}: {title} has shape {shape}, and no axis {place[0]}")
    axis = place[0] % rank
    if len(place) > 1 and not -shape[axis] <= place[1] < shape[axis]:
        raise GraphsplitError(f"{asked}: axis {axis} of {title} has size {shape[axis]}, and no index {place[1]}")
    return axis


def _at(found: _Labelled, axis: int, place: tuple[int, ...]) -> _Labelled:
    if len(place) == 1:
        return found
    return _Labelled(found.classes.take([place[1]], axis=axis), found.vertices.take([place[1]], axis=axis))


def _first_pass(flowed: Flowed) -> Pass:
    """The flow's first pass over its final decisions: it knows no classes, so it holds the vertices themselves."""
    last = flowed.last
    decisions = replace(last.decisions, modes=dict(last.decisions.modes), blocks=dict(last.decisions.blocks))
    again = Pass(
        last.graph,
        last.dialect,
        (last.facts, last.others),
        last.layout,
        last.trained,
        last.parts,
        last.keep,
        decisions,
        Couplings(),
        None,
        last.whole,
    )
    try:
        return again.run()
    except UnsupportedError:
        return last
