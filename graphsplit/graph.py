"""The neutral computation graph: nodes, values and tensors, whatever file or framework they came from.

Everything here is frozen: a stage makes a new graph and never edits the one that it was given.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import networkx as nx
import numpy as np
import numpy.typing as npt

from graphsplit.errors import FormatError

Dim = int | str | None
Array = npt.NDArray[np.generic]
TRAINING = "training:"
"""In front of the names that training mode's half has in a graph that holds both modes of a network."""
AttributeValue = int | float | str | bytes | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array


class Tensor(Protocol):
    """A stored tensor whose elements are read only when asked for (a file may hold them)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[np.generic]: ...

    def numpy(self) -> Array:
        """The elements, shape `shape`; memory-mapped where the file allows it."""
        ...


@dataclass(frozen=True, slots=True)
class ArrayTensor:
    """A tensor held in memory."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.array.dtype

    def numpy(self) -> Array:
        return self.array


@dataclass(frozen=True, slots=True)
class WeightlessTensor:
    """A tensor of which only shape and type are kept: what a weightless copy of a graph holds in a weight's place."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def numpy(self) -> Array:
        raise FormatError("this graph is a weightless copy: it holds the shape of a tensor, not its elements")


@dataclass(frozen=True, slots=True)
class Value:
    """A named tensor that flows along an edge. A dim is a size, a symbol such as "batch", or None when unknown."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `inputs` and `outputs` are value names, "" where an optional one is left out.

    `version` is the op's own (the opset that last changed it), `has_body` says that an attribute holds a sub-graph.
    """

    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    has_body: bool = False

    @property
    def title(self) -> str:
        """How messages call this node: `Conv 'layer1.conv'`."""
        return f"{self.qualified_op} {self.name or '-> ' + next((o for o in self.outputs if o), '?')!r}"

    @property
    def qualified_op(self) -> str:
        return f"{self.domain}::{self.op}" if self.domain else self.op


@dataclass(frozen=True)
class Graph:
    """A network: nodes in topological order, over named values and stored tensors.

    `tensors` holds initializers and constants by value name; `constant_nodes` gives, for those that the source keeps in
    a node of their own, that node's name; `tensor_inputs` names those that the source also lists among its inputs.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Value] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)
    constant_nodes: Mapping[str, str] = field(default_factory=dict)
    tensor_inputs: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    ir_version: int = 10

    @cached_property
    def producers(self) -> Mapping[str, int]:
        """Index of the node that computes each value."""
        return {out: i for i, node in enumerate(self.nodes) for out in node.outputs if out}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the nodes that read each value, in order."""
        found: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs):
                if name:
                    found.setdefault(name, []).append(i)
        return {name: tuple(indices) for name, indices in found.items()}

    @cached_property
    def alive(self) -> frozenset[int]:
        """Indices of the nodes that an output depends on."""
        found: set[int] = set()
        wanted = [value.name for value in self.outputs]
        while wanted:
            index = self.producers.get(wanted.pop())
            if index is not None and index not in found:
                found.add(index)
                wanted.extend(name for name in self.nodes[index].inputs if name)
        return frozenset(found)

    def replace(self, **changes: object) -> Graph:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def network(self) -> nx.DiGraph[object]:
        """The layer-level graph: one vertex a node, named by its index, and the graph's inputs and outputs by name."""
        graph: nx.DiGraph[object] = nx.DiGraph()
        graph.add_nodes_from(value.name for value in self.inputs)
        for i, node in enumerate(self.nodes):
            graph.add_node(i, op=node.qualified_op, name=node.name)
            for name in node.inputs:
                if name in self.producers:
                    graph.add_edge(self.producers[name], i, value=name)
                elif graph.has_node(name):
                    graph.add_edge(name, i, value=name)
        for value in self.outputs:
            if value.name in self.producers:
                graph.add_edge(self.producers[value.name], ("output", value.name), value=value.name)
        return graph


def topological(nodes: Sequence[Node], known: Iterable[str]) -> tuple[Node, ...]:
    """The nodes in an order in which every value is computed before it is read; as given where that already holds.

    Raises FormatError when a value has no producer or the nodes form a cycle. O((nodes + edges) log nodes).
    """
    available = {*known, ""}
    producer = {out: i for i, node in enumerate(nodes) for out in node.outputs if out}
    waiting: list[set[int]] = []
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        needs = {name for name in node.inputs if name not in available}
        missing = sorted(needs - producer.keys())
        if missing:
            raise FormatError(f"{node.title} reads {missing[0]!r}, which nothing computes")
        waiting.append({producer[name] for name in needs})
        for j in sorted(waiting[i]):
            readers.setdefault(j, []).append(i)
    ready = [i for i, needs_nodes in enumerate(waiting) if not needs_nodes]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in readers.get(i, ()):
            waiting[j].discard(i)
            if not waiting[j]:
                heapq.heappush(ready, j)
    if len(order) != len(nodes):
        stuck = next(node for i, node in enumerate(nodes) if waiting[i])
        raise FormatError(f"the nodes form a cycle through {stuck.title}")
    return tuple(nodes[i] for i in order)


def fresh_names(taken: Iterable[str]) -> Generator[str, str, None]:
    """A generator to `send` wished names to: gives each back, with a suffix where it is taken already."""
    used = set(taken)
    wish = yield ""
    while True:
        name, count = wish, 1
        while name in used:
            count += 1
            name = f"{wish}.{count}"
        used.add(name)
        wish = yield name
