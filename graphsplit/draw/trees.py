"""Why vertices stay together, for every family: its first atom as a tree of couplings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphsplit.draw.content import CouplingTree, Knot, Why
from graphsplit.labels.arrays import Ids
from graphsplit.planning import Plan
from graphsplit.report.chains import Chains, Search
from graphsplit.report.words import shared_parameters, why_coupled


def coupling_trees(plan: Plan, box_of: Mapping[int, int]) -> tuple[CouplingTree, ...]:
    """The tree of each family's first atom, with a knot for each layer that it touches and those on the way there.

    Any two knots are coupled through the path between them. Linear in vertices and couplings, for all families together.
    """
    flowed = plan.flowed
    families = plan.partition.structure.families
    blocks = sorted(flowed.blocks.values(), key=lambda block: block.start)
    starts = np.array([block.start for block in blocks], np.int64)
    nodes = np.array([block.node for block in blocks], np.int64)
    if not families or not blocks:
        return ()
    first = np.array([family.atoms[0] for family in families], np.int64)
    family_of = np.full(len(flowed.classes), -1, np.int64)
    family_of[first] = np.arange(len(first))
    chains = Chains(flowed.edges, len(flowed.classes))
    search = chains.search(first)
    ids = np.concatenate([np.arange(block.start, block.start + block.size) for block in blocks])
    ids = ids[family_of[flowed.classes[ids]] >= 0]
    layer = nodes[np.searchsorted(starts, ids, side="right") - 1]
    order = np.lexsort((search.rank[ids], layer, family_of[flowed.classes[ids]]))
    ids, layer = ids[order], layer[order]
    key = np.stack([family_of[flowed.classes[ids]], layer], axis=1)
    fresh = np.ones(len(ids), bool)
    fresh[1:] = (key[1:] != key[:-1]).any(axis=1)
    ids = ids[fresh]
    owners = family_of[flowed.classes[ids]]
    tree = _Tree(plan, chains, search, box_of)
    found = (tree.of(family, ids[owners == family]) for family in np.unique(owners).tolist())
    return tuple(one for one in found if len(one.knots) > 1)


class _Tree:
    def __init__(self, plan: Plan, chains: Chains, search: Search, box_of: Mapping[int, int]) -> None:
        self.chains, self.search, self.box_of = chains, search, box_of
        blocks = {b.start: b.node for b in (*plan.flowed.last.decisions.blocks.values(), *plan.flowed.blocks.values())}
        self.starts = np.array(sorted(blocks), np.int64)
        self.nodes = [blocks[start] for start in sorted(blocks)]

    def of(self, family: int, vertices: Ids) -> CouplingTree:
        """The knots of these vertices and of all on the way to them, each behind the one that it came from."""
        knots: list[Knot] = []
        place: dict[int, int] = {}
        for vertex in vertices[np.argsort(self.search.rank[vertices], kind="stable")].tolist():
            way = []
            link = self.chains.before(self.search, vertex)
            at = vertex
            while at not in place:
                way.append((at, link))
                if link is None:
                    break
                at = link.left
                link = self.chains.before(self.search, at)
            for one, how in reversed(way):
                before, via = (-1, -1) if how is None else (place[how.left], self.box_of.get(how.node, -1))
                place[one] = len(knots)
                knots.append(Knot(*self._where(one), before, via))
        return CouplingTree(family, tuple(knots))

    def _where(self, vertex: int) -> tuple[int, int]:
        at = int(np.searchsorted(self.starts, vertex, side="right")) - 1
        return self.box_of.get(self.nodes[at], -1), vertex - int(self.starts[at])


def whys(plan: Plan, trees: tuple[CouplingTree, ...], box_of: Mapping[int, int]) -> tuple[Why, ...]:
    """What each node on a tree does that couples, in words."""
    shared = shared_parameters(plan.flowed)
    wanted = {knot.via for tree in trees for knot in tree.knots if knot.via >= 0}
    return tuple(
        Why(box, why_coupled(plan.flowed, node, shared)) for node, box in sorted(box_of.items()) if box in wanted
    )
