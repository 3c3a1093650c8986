"""`explain`: what couples with a layer, and through which chain of nodes two things come to belong together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from graphsplit.labels import Flowed
from graphsplit.labels.arrays import Ids
from graphsplit.labels.decisions import Block
from graphsplit.report.chains import Chains, Link, Search
from graphsplit.report.content import Coupled, Explanation, PairExplanation, Step, Vertex
from graphsplit.report.reasons import node_name
from graphsplit.report.targets import Names
from graphsplit.report.words import shared_parameters, why_coupled

MAX_STEPS = 12


def explain(flowed: Flowed, name: str) -> Explanation:
    """What couples with a node, parameter or value, or with one axis or index of it (`name:axis`, `name:axis:index`).

    Raises GraphsplitError for a name that nothing has.
    """
    return Explainer(flowed).one(name)


def explain_pair(flowed: Flowed, first: str, second: str) -> PairExplanation:
    """Whether two things must stay together, and the shortest chain of nodes that couples them.

    Exact for single vertices: that some vertices are coupled doesn't say that all are.
    Raises GraphsplitError as `explain`.
    """
    return Explainer(flowed).two(first, second)


class Explainer:
    """A flow with its couplings made ready to search; answers any number of questions."""

    def __init__(self, flowed: Flowed) -> None:
        self.flowed = flowed
        self.names = Names(flowed)
        self.chains = Chains(flowed.edges, len(flowed.classes))
        blocks = {block.start: block for block in (*flowed.last.decisions.blocks.values(), *flowed.blocks.values())}
        self._blocks: list[Block] = [blocks[start] for start in sorted(blocks)]
        self._starts = np.array(sorted(blocks), np.int64)
        shared = shared_parameters(flowed)
        self._why = lru_cache(maxsize=None)(lambda node: why_coupled(flowed, node, shared))

    def one(self, name: str) -> Explanation:
        """What couples with one thing."""
        found = self.names.find(name)
        search = self.chains.search(found.ids)
        return Explanation(
            report="explanation",
            parts=self.flowed.parts,
            target=found.target,
            inside=self._inside(found.ids),
            coupled=self._coupled(found.ids, search),
        )

    def two(self, first: str, second: str) -> PairExplanation:
        """Whether and how two things are coupled."""
        a, b = self.names.find(first), self.names.find(second)
        of_a, of_b = self._together(a.ids, b.ids), self._together(b.ids, a.ids)
        search = self.chains.search(of_a)
        end = search.nearest(of_b) if len(of_a) else None
        links = self.chains.chain(search, end) if end is not None else []
        start = links[0].left if links else end
        return PairExplanation(
            report="pair",
            parts=self.flowed.parts,
            first=a.target,
            second=b.target,
            coupled=len(of_a) > 0,
            coupled_vertices=(len(of_a), len(of_b)),
            start=self.vertex(start) if start is not None else None,
            chain=tuple(self._step(link) for link in links),
        )

    # -- pieces ------------------------------------------------------------------------------------

    def vertex(self, number: int) -> Vertex:
        """The layer that makes a vertex, and its index there."""
        block = self._blocks[int(np.searchsorted(self._starts, number, side="right")) - 1]
        node = self.flowed.graph.nodes[block.node]
        return Vertex(node_name(node), node.title, number - block.start)

    def _step(self, link: Link) -> Step:
        node = self.flowed.graph.nodes[link.node]
        return Step(node_name(node), node.title, self._why(link.node), self.vertex(link.left), self.vertex(link.right))

    def _together(self, ids: Ids, others: Ids) -> Ids:
        """Those of some vertices that are coupled with one of the others."""
        marked = np.zeros(len(self.flowed.classes), bool)
        marked[self.flowed.classes[others]] = True
        return ids[marked[self.flowed.classes[ids]]]

    def _inside(self, ids: Ids) -> tuple[Step, ...]:
        """Where vertices of the thing itself are coupled with each other: the chain between the first two."""
        classes = self.flowed.classes[ids]
        _, first, count = np.unique(classes, return_index=True, return_counts=True)
        several = first[count > 1]
        if not len(several):
            return ()
        begin = int(several.min())
        mates = ids[classes == classes[begin]]
        search = self.chains.search(mates[:1])
        end = search.nearest(mates[1:])
        return tuple(self._step(link) for link in self.chains.chain(search, end)) if end is not None else ()

    def _coupled(self, ids: Ids, search: Search) -> tuple[Coupled, ...]:
        """The layers with vertices coupled to these, in the order of the network."""
        marked = np.zeros(len(self.flowed.classes), bool)
        marked[self.flowed.classes[ids]] = True
        own = np.zeros(len(self.flowed.classes), bool)
        own[ids] = True
        lengths: dict[int, int] = {}
        found = []
        for index in sorted(self.flowed.blocks):
            block = self.flowed.blocks[index]
            theirs = np.arange(block.start, block.start + block.size)
            mine = theirs[marked[self.flowed.classes[theirs]]]
            if not len(mine) or bool(own[mine].all()):
                continue
            end = search.nearest(mine[~own[mine]])
            assert end is not None, "a class is connected"
            steps = tuple(self._step(link) for link in self.chains.chain(search, end, MAX_STEPS))
            links = self.chains.length(search, end, lengths)
            node = self.flowed.graph.nodes[index]
            found.append(Coupled(node_name(node), node.title, len(mine), block.size, links, steps))
        return tuple(found)
