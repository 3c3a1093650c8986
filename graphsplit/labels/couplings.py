"""Couplings: pairs of vertices that must end up in the same part, each with the node that made it."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphsplit.labels.arrays import Ids


class Couplings:
    """The pairs found so far. Only grows; classes are its connected components."""

    def __init__(self) -> None:
        self._left: list[Ids] = []
        self._right: list[Ids] = []
        self._node: list[Ids] = []
        self.groupings: dict[int, set[str]] = {}
        """For each grouped layer, the factors along which its inputs were different vertices before anything was coupled."""
        self.sites: dict[tuple[int, str], Ids] = {}
        """The vertices at each ambiguous place; they stay listed once a reading of the place has coupled them."""

    def add(self, left: Ids, right: Ids, node: int) -> None:
        """Couple two arrays of labels element by element (they broadcast); codes couple nothing."""
        if left is right or (left.size == 1 and left.flat[0] <= 0) or (right.size == 1 and right.flat[0] <= 0):
            return
        wanted = (left > 0) & (right > 0) & (left != right)
        if wanted.any():
            left, right = np.broadcast_arrays(left, right)
            pairs = (left[wanted] << 32) | right[wanted]
            if len(pairs) > 64:
                pairs = np.unique(pairs)
            self._left.append(pairs >> 32)
            self._right.append(pairs & 0xFFFFFFFF)
            self._node.append(np.full(len(pairs), node, np.int64))

    def along(self, array: Ids, axes: tuple[int, ...], node: int) -> None:
        """Couple all labels along some axes, for each position on the others."""
        for axis in axes:
            if array.shape[axis] > 1:
                self.add(array.take([0], axis=axis), array, node)
                array = array.max(axis=axis, keepdims=True)

    def align(self, array: Ids, node: int) -> None:
        """Couple labels that change along several axes so that they change along the longest of them only."""
        longest = max(range(array.ndim), key=lambda axis: (array.shape[axis], axis), default=0)
        self.along(array, tuple(axis for axis in range(array.ndim) if axis != longest), node)

    def edges(self) -> tuple[Ids, Ids, Ids]:
        """All pairs as three arrays: left id, right id, index of the node that couples them."""
        empty = np.empty(0, np.int64)
        if not self._left:
            return empty, empty, empty
        return np.concatenate(self._left), np.concatenate(self._right), np.concatenate(self._node)

    def classes(self, count: int) -> Ids:
        """For each id below `count` the smallest id of its class; `classes[0] == 0`. Linear in ids and pairs."""
        left, right, _ = self.edges()
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
        _, component = connected_components(graph, directed=False)
        first = np.full(int(component.max()) + 1 if count else 0, count, np.int64)
        np.minimum.at(first, component, np.arange(count))
        found: Ids = first[component]
        return found


def resolve(labels: Ids, classes: Ids) -> Ids:
    """Labels with each id replaced by its class's; codes stay, and so do ids that are newer than the classes."""
    known = (labels > 0) & (labels < len(classes))
    return np.where(known, classes[np.where(known, labels, 0)], labels)
