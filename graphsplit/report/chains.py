"""Chains of couplings: the fewest nodes through which two vertices come to belong together.

A node that couples a set of vertices is one link, whatever pairs it left behind: the pairs of one node are joined into
groups, and the search goes from vertex to group to vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from graphsplit.labels.arrays import Ids


@dataclass(frozen=True)
class Link:
    """One link of a chain: the node that couples, and the two vertices that it couples here."""

    node: int
    left: int
    right: int


@dataclass(frozen=True)
class Search:
    """What a search reached: `rank[id]` orders vertices by distance (-1: not reached), `before` leads back."""

    rank: Ids
    before: Ids

    def nearest(self, ids: Ids) -> int | None:
        """The vertex among these that is reached by the fewest links, None where none is."""
        reached = ids[self.rank[ids] >= 0]
        return int(reached[np.argmin(self.rank[reached])]) if len(reached) else None


class Chains:
    """The couplings of a flow, ready to be searched. Linear in vertices and pairs, all in arrays."""

    def __init__(self, edges: tuple[Ids, Ids, Ids], vertices: int) -> None:
        self.vertices = vertices
        left, right, node = edges
        both = np.concatenate([node * vertices + left, node * vertices + right])
        members, number = np.unique(both, return_inverse=True)
        ends = number[: len(left)], number[len(left) :]
        pairs = coo_array((np.ones(len(left), np.int8), ends), shape=(len(members),) * 2)
        self._groups: int = 0
        self._group: Ids = np.empty(0, np.int64)
        if len(members):
            self._groups, found = connected_components(pairs, directed=False)
            self._group = found.astype(np.int64)
        self._member = members % vertices
        self._node_of_group = np.zeros(self._groups, np.int64)
        self._node_of_group[self._group] = members // vertices

    @cached_property
    def _graph(self) -> csr_array:
        """Vertices and groups as one undirected graph; 0, which is no vertex, is left free for a search's start."""
        size = self.vertices + self._groups
        group = self._group + self.vertices
        ends = np.concatenate([self._member, group]), np.concatenate([group, self._member])
        return coo_array((np.ones(2 * len(group), np.int8), ends), shape=(size, size)).tocsr()

    def search(self, start: Ids) -> Search:
        """Everything that is coupled with any of these vertices."""
        size = self.vertices + self._groups
        rank = np.full(size, -1, np.int64)
        before = np.full(size, -1, np.int64)
        if not len(start):
            return Search(rank[: self.vertices], before)
        row = coo_array((np.ones(len(start), np.int8), (np.zeros(len(start), np.int64), start)), shape=(size, size))
        graph = (self._graph + row.tocsr()).tocsr()
        order, found = breadth_first_order(graph, 0, directed=True, return_predecessors=True)
        rank[order] = np.arange(len(order))
        rank[0] = -1
        before[order] = found[order]
        return Search(rank[: self.vertices], before)

    def before(self, search: Search, vertex: int) -> Link | None:
        """The link by which a vertex was reached, None for a start of the search."""
        group = int(search.before[vertex])
        if group <= 0:
            return None
        return Link(int(self._node_of_group[group - self.vertices]), int(search.before[group]), vertex)

    def chain(self, search: Search, end: int, limit: int | None = None) -> list[Link]:
        """The links from a start of the search to a vertex that it reached; [] where that is a start itself.

        With a `limit`, only so many links, the last ones.
        """
        found: list[Link] = []
        vertex = end
        while (link := self.before(search, vertex)) is not None and len(found) != limit:
            found.append(link)
            vertex = link.left
        return found[::-1]

    def length(self, search: Search, end: int, known: dict[int, int]) -> int:
        """How many links the chain to a vertex has. `known` remembers lengths, so that many questions cost one walk."""
        passed: list[int] = []
        vertex = end
        while vertex not in known and (group := int(search.before[vertex])) > 0:
            passed.append(vertex)
            vertex = int(search.before[group])
        length = known.setdefault(vertex, 0)
        for vertex in reversed(passed):
            length += 1
            known[vertex] = length
        return length
