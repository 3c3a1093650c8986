"""Folds of a graph that is drawn: by module scope, runs of alike blocks, and long stretches cut where few edges cross.

Every fold's boxes can be drawn as one without a cycle: what is behind a fold never comes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import networkx as nx

from graphsplit.draw.content import Fold, FoldKind

DEPTH = 24
"""Scopes are nested no deeper, whatever names say."""
CHILDREN = 40
"""More of them in one fold are gathered into stretches."""
STRETCH = 24
ALIKE = 3
"""So many siblings in a row of the same structure become one fold."""


@dataclass(frozen=True)
class Item:
    """A box as folding sees it: the scopes that it is in, its own name there, and what makes it like another box."""

    path: tuple[str, ...]
    label: str
    kind: str


def fold(items: Sequence[Item], edges: Iterable[tuple[int, int]]) -> tuple[Fold, list[str]]:
    """The tree of folds over boxes in topological order, and each box's label there. Linear in the graph for each level.

    The root holds everything.
    """
    ahead: list[list[int]] = [[] for _ in items]
    for one, other in edges:
        ahead[one].append(other)
    folder = _Folder(items, ahead)
    return folder.level(list(range(len(items))), 0, "", "scope"), folder.labels


def scoped(name: str) -> tuple[tuple[str, ...], str]:
    """The scopes in a node's name, and what is left of it: `/layer1/layer1.0/conv1/Conv`, `encoder.layer.0.add_`.

    A number has the word in front of it for a scope, and is told with it: `layer`, `layer.0`.
    """
    if "/" in name:
        words = [word for word in name.split("/") if word]
    else:
        words = []
        for word in (word for word in name.split(".") if word):
            words.append(f"{words[-1]}.{word}" if word.isdigit() and words else word)
    return tuple(words[:-1]), words[-1] if words else name


class _Folder:
    def __init__(self, items: Sequence[Item], ahead: Sequence[Sequence[int]]) -> None:
        self.items, self.ahead = items, ahead
        self.labels = [item.label for item in items]

    def level(self, boxes: list[int], depth: int, label: str, kind: FoldKind) -> Fold:
        """One scope: its boxes, in order, become its children."""
        children: list[int | Fold] = []
        for name, run in self._runs(boxes, depth):
            if name is None:
                children.extend(run)
                continue
            if len(run) < 3:  # a fold of two boxes hides nothing
                self._spell(run, depth)
                children.extend(run)
                continue
            inner = self.level(run, depth + 1, name, "scope")
            if len(inner.children) == 1 and isinstance(inner.children[0], Fold):
                only = inner.children[0]
                label = only.label if _tells(only.label, name) else f"{name}/{only.label}"
                children.append(Fold(label, only.kind, only.children))
            else:
                children.append(inner)
        gathered = self._stretches(self._alike(children))
        same = {self._structure(child) for child in gathered}
        alike = len(gathered) >= ALIKE and len(same) == 1 and None not in same
        return Fold(label, "alike" if alike and kind == "scope" and label else kind, gathered)

    def _spell(self, run: Sequence[int], depth: int) -> None:
        """Boxes outside their scope have its name in their label; one alone has it for a label."""
        for box in run:
            path, label = self.items[box].path[depth:], self.items[box].label
            words = path if len(run) == 1 and not _tells(label, path[-1]) else (*path, label)
            self.labels[box] = "/".join(a for a, b in pairwise((*words, "")) if not _tells(b, a))

    def _runs(self, boxes: list[int], depth: int) -> list[tuple[str | None, list[int]]]:
        """Boxes by their scope at this depth, in the order of the graph; scopes that would make a cycle are cut into runs."""
        group = {box: self._scope(box, depth) for box in boxes}
        of = {name: number for number, name in enumerate(dict.fromkeys(n for n in group.values() if n is not None))}
        number = {box: of[name] if name is not None else -1 - box for box, name in group.items()}
        quotient: nx.DiGraph[int] = nx.DiGraph()
        quotient.add_nodes_from(number.values())
        quotient.add_edges_from(
            (number[box], number[other])
            for box in boxes
            for other in self.ahead[box]
            if other in number and number[box] != number[other]
        )
        tangled: dict[int, int] = {}
        for index, members in enumerate(nx.strongly_connected_components(quotient)):
            if len(members) > 1:
                tangled.update(dict.fromkeys(members, index))
        found: dict[tuple[int, int], list[int]] = {}
        latest: dict[int, tuple[int, int]] = {}
        for box in boxes:
            mine = number[box]
            knot = tangled.get(mine)
            if knot is not None and latest.get(knot, (mine, 0))[0] != mine:
                latest[knot] = (mine, latest[knot][1] + 1)
            elif knot is not None:
                latest.setdefault(knot, (mine, 0))
            found.setdefault((mine, latest[knot][1] if knot is not None else 0), []).append(box)
        titles = list(of)
        return [(titles[mine] if mine >= 0 else None, found[mine, run]) for mine, run in self._in_order(found)]

    def _in_order(self, groups: Mapping[tuple[int, int], list[int]]) -> list[tuple[int, int]]:
        """Groups so that none reads what a later one makes, else by their first boxes: runs of neighbours make no cycle."""
        of = {box: key for key, run in groups.items() for box in run}
        order: nx.DiGraph[tuple[int, int]] = nx.DiGraph()
        order.add_nodes_from(groups)
        order.add_edges_from(
            (key, of[other]) for box, key in of.items() for other in self.ahead[box] if other in of and of[other] != key
        )
        return list(nx.lexicographical_topological_sort(order, key=lambda key: groups[key][0]))

    def _scope(self, box: int, depth: int) -> str | None:
        path = self.items[box].path
        return path[depth] if depth < min(len(path), DEPTH) else None

    def _alike(self, children: list[int | Fold]) -> list[int | Fold]:
        """Siblings in a row of the same structure, as one fold; where that leaves one fold alone, they stay as they are."""
        found: list[int | Fold] = []
        for known, run in groupby(children, key=self._structure):
            same = list(run)
            folds = [child for child in same if isinstance(child, Fold)]
            if known is not None and len(folds) >= ALIKE:
                found.append(Fold(f"{folds[0].label} … {folds[-1].label}", "alike", tuple(folds)))
            else:
                found.extend(same)
        return found if len(found) > 1 else children

    def _structure(self, child: int | Fold) -> object:
        """What two alike folds have in common: their kinds of boxes in order, and the edges between these."""
        if isinstance(child, int):
            return None
        boxes = leaves(child)
        place = {box: at for at, box in enumerate(boxes)}
        edges = tuple((at, place[other]) for box, at in place.items() for other in self.ahead[box] if other in place)
        return tuple(self.items[box].kind for box in boxes), edges

    def _stretches(self, children: list[int | Fold]) -> tuple[int | Fold, ...]:
        """Too many children gathered into stretches, cut where the fewest edges cross."""
        while len(children) > CHILDREN:
            cuts = self._cuts(children)
            children = [
                Fold(self._ends(run), "stretch", tuple(run)) if len(run) > 1 else run[0]
                for run in (children[a:b] for a, b in pairwise(cuts))
            ]
        return tuple(children)

    def _cuts(self, children: Sequence[int | Fold]) -> list[int]:
        """Where to cut a row of children: near every STRETCH, where the fewest edges cross."""
        place = {box: at for at, child in enumerate(children) for box in leaves(child)}
        change = [0] * (len(children) + 1)
        for box, at in place.items():
            last = max((place[other] for other in self.ahead[box] if other in place), default=at)
            if last > at:
                change[at + 1] += 1
                change[last + 1] -= 1
        crossing, width = [], 0
        for value in change:
            width += value
            crossing.append(width)
        cuts = [0]
        while len(children) - cuts[-1] > 3 * STRETCH // 2:
            near = range(cuts[-1] + STRETCH // 2, cuts[-1] + 3 * STRETCH // 2 + 1)
            cuts.append(min(near, key=lambda at: (crossing[at], abs(at - cuts[-1] - STRETCH))))
        return [*cuts, len(children)]

    def _ends(self, run: Sequence[int | Fold]) -> str:
        first, last = (self._label(child) for child in (run[0], run[-1]))
        return f"{first} … {last}"

    def _label(self, child: int | Fold) -> str:
        if isinstance(child, int):
            return self.labels[child]
        return child.label.partition(" … ")[0]


def _tells(word: str, scope: str) -> bool:
    """Whether a name says the scope that it is in: `layer.0` in `layer`."""
    return word.startswith(f"{scope}.")


def leaves(child: int | Fold) -> list[int]:
    """The boxes in a fold, in order."""
    found: list[int] = []
    waiting = [child]
    while waiting:
        one = waiting.pop()
        if isinstance(one, int):
            found.append(one)
        else:
            waiting.extend(reversed(one.children))
    return found


def places(
    names: Sequence[str], parameters: Sequence[Sequence[str]], producers: Sequence[Sequence[int]]
) -> list[tuple[tuple[str, ...], str]]:
    """The scopes and the label of every node: from its name, or where names say nothing, from those of its parameters.

    Nodes without parameters then stand in the scope of what they read.
    """
    found = [scoped(name) for name in names]
    if sum(bool(path) for path, _ in found) * 2 < len(found):
        found = _by_parameters(found, parameters, producers)
    known = {path[:depth] for path, _ in found for depth in range(1, len(path) + 1)}
    # what a module returns may bear the module's own name: it is in there
    return [((*path, label), label) if (*path, label) in known else (path, label) for path, label in found]


def _by_parameters(
    found: Sequence[tuple[tuple[str, ...], str]],
    parameters: Sequence[Sequence[str]],
    producers: Sequence[Sequence[int]],
) -> list[tuple[tuple[str, ...], str]]:
    around: list[tuple[str, ...]] = []
    result = []
    for index, (_, label) in enumerate(found):
        own = scoped(parameters[index][0])[0] if parameters[index] else ()
        path = own or max((around[i] for i in producers[index]), key=len, default=())
        around.append(own[:-1] if own else path)
        result.append((path, label))
    return result
