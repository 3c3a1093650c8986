"""The merged network's graph: the source's, with the stretches that only hold part by part repeated for each part.

A value is known *whole* (under its own name) or *per leaf* (under `name.part_k`). Nodes that must be repeated run per leaf,
all others whole; in between, a part's slice is taken, and slices are put back in order, or averaged behind an output layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.graph import ArrayTensor, Graph, Node, Tensor
from graphsplit.labels import OUTPUT, PRIVATE
from graphsplit.labels.arrays import Ids
from graphsplit.narrow import NarrowDialect
from graphsplit.selection import Selected, Selection


@dataclass(frozen=True)
class Leaf:
    """A sub-model as the assembly sees it, with everything stated relative to the source.

    `path` holds the part numbers from the root, `weight` is the product of 1/K along it. `origin[i]` is the source node of the
    leaf's node `i`; `selected` tells what the leaf has of each value, `slices` of each parameter.
    """

    path: tuple[int, ...]
    weight: float
    graph: Graph
    origin: tuple[int, ...]
    selected: Mapping[str, Selected]
    slices: Mapping[str, Selection]
    differing: frozenset[str] = frozenset()

    @property
    def suffix(self) -> str:
        """What is added to the names of this leaf's copies."""
        return "part_" + ".".join(str(p) for p in self.path)


@dataclass(frozen=True)
class Assembly:
    """The merged network without its weights.

    `whole` names the parameters that are one merged tensor, `copies` gives for each copy the leaf and the tensor's name there.
    """

    graph: Graph
    whole: frozenset[str]
    copies: Mapping[str, tuple[int, str]]
    repeated: tuple[int, ...]


@dataclass
class _State:
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    per_leaf: dict[tuple[str, int], str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    copies: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """What the assembly needs to know of the source: the labels' codes, parameters, and which nodes are repeated."""

    codes: Mapping[str, frozenset[int]]
    parameters: frozenset[str]
    derived: frozenset[str]
    copied: frozenset[str]
    repeated: frozenset[int]
    activation: frozenset[int]
    averaged: frozenset[str]
    dtypes: Mapping[str, np.dtype[np.generic]] = field(default_factory=dict)


def assemble(source: Graph, dialect: NarrowDialect, layout: Layout, leaves: Sequence[Leaf]) -> Assembly:
    """Write out the merged network with its repeated layers.

    Raises UnsupportedError where parts can't be put back in order.
    """
    return _Assembler(source, dialect, layout, sorted(leaves, key=lambda leaf: leaf.path)).run()


class _Assembler:
    def __init__(self, source: Graph, dialect: NarrowDialect, layout: Layout, leaves: list[Leaf]) -> None:
        self.source, self.dialect, self.layout, self.leaves = source, dialect, layout, leaves
        self.state = _State()
        self.state.known.update(v.name for v in source.inputs)
        self.by_origin: list[dict[int, list[Node]]] = []
        for leaf in leaves:
            found: dict[int, list[Node]] = {}
            for node, origin in zip(leaf.graph.nodes, leaf.origin, strict=True):
                found.setdefault(origin, []).append(node)
            self.by_origin.append(found)
        self.repeated = self._stretch()
        self.produced_per_leaf = {o for i in self.repeated for o in source.nodes[i].outputs if o}

    # -- which nodes run per leaf --------------------------------------------------------------------------------

    def _stretch(self) -> frozenset[int]:
        """The nodes that must be repeated, those behind them whose operands can't be put together, and what lies between."""
        found = set(self.layout.repeated)
        if not found:
            return frozenset()
        apart: set[str] = set()
        for i, node in enumerate(self.source.nodes):
            if i not in found and any(n in apart and not self._joins(n) for n in node.inputs if n):
                found.add(i)
            if i in found:
                apart.update(o for o in node.outputs if o)
        outputs = {v.name for v in self.source.outputs}
        for i in range(len(self.source.nodes) - 1, -1, -1):
            node = self.source.nodes[i]
            readers = {j for o in node.outputs for j in self.source.consumers.get(o, ())}
            inputs = [n for n in node.inputs if n and n not in self.source.tensors]
            inside = bool(inputs) and all(n in apart for n in inputs) and bool(readers) and readers <= found
            if inside and not outputs & set(node.outputs) and not any(n in self.layout.parameters for n in node.inputs):
                found.add(i)
        return frozenset(found)

    def _joins(self, name: str) -> bool:
        """Whether a value that leaves hold in pieces can be put together."""
        codes = self.layout.codes.get(name, frozenset())
        if name in self.layout.averaged:
            return True
        if PRIVATE in codes or name in self.layout.derived:
            return False
        return all(not leaf.selected[name].ragged for leaf in self.leaves if name in leaf.selected)

    # -- the walk ------------------------------------------------------------------------------------------------

    def run(self) -> Assembly:
        for i, node in enumerate(self.source.nodes):
            if len(self.leaves) > 1 and i not in self.source.alive:
                continue
            if i in self.repeated:
                for k in range(len(self.leaves)):
                    self._repeat(i, k)
            elif len(self.leaves) == 1 or not all(o in self.layout.derived for o in node.outputs if o):
                self._whole_node(i, node)
        for value in self.source.outputs:
            self.whole(value.name)
        for name in self.source.tensors.keys() - self.layout.copied:
            unused = name in self.layout.parameters and name not in self.source.consumers
            if unused or name not in self.source.consumers:
                self._store_whole(name)
        graph = self.source.replace(
            nodes=self._needed(),
            tensors=self.state.tensors,
            values={n: v for n, v in self.source.values.items() if n in self.state.known or n in self.state.tensors},
            constant_nodes={n: c for n, c in self.source.constant_nodes.items() if n in self.state.tensors},
            tensor_inputs=tuple(n for n in self.source.tensor_inputs if n in self.state.tensors),
        )
        return Assembly(graph, frozenset(self.state.whole), self.state.copies, tuple(sorted(self.repeated)))

    def _needed(self) -> tuple[Node, ...]:
        """The nodes that an output depends on; all of them where there is one part."""
        if len(self.leaves) == 1:
            return tuple(self.state.nodes)
        needed = {value.name for value in self.source.outputs}
        kept = []
        for node in reversed(self.state.nodes):
            if any(o in needed for o in node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        return tuple(reversed(kept))

    def _emit(self, node: Node) -> None:
        self.state.nodes.append(node)
        self.state.known.update(o for o in node.outputs if o)

    def _whole_node(self, index: int, node: Node) -> None:
        inputs = tuple(self.whole(name) if name else "" for name in node.inputs)
        if index not in self.layout.activation:
            self._emit(replace(node, inputs=inputs))
            return
        result = node.outputs[0]
        self._emit(replace(node, inputs=inputs, outputs=(f"{result}.sum", *node.outputs[1:])))
        dtype = self.layout.dtypes.get(result) or self._dtype(node)
        scale = self._constant(f"{result}.scale", np.asarray(self.leaves[0].weight, dtype))
        self._emit(self.dialect.multiply(self.source, f"{result}.mean", (f"{result}.sum", scale), result))

    def _dtype(self, node: Node) -> np.dtype[np.generic]:
        weights = [self.source.tensors[n].dtype for n in node.inputs if n in self.layout.parameters]
        derived = [self.source.tensors[n].dtype for n in self.layout.parameters]
        return (weights or derived or [np.dtype(np.float32)])[0]

    def _constant(self, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        self.state.tensors.setdefault(name, ArrayTensor(array))
        return name

    def _repeat(self, index: int, k: int) -> None:
        """One leaf's copy of a node, with what narrowing put around it."""
        leaf = self.leaves[k]
        for node in self.by_origin[k].get(index, ()):
            if all((o, k) in self.state.per_leaf for o in node.outputs if o):
                continue
            outputs = tuple(f"{o}.{leaf.suffix}" if o else "" for o in node.outputs)
            inputs = tuple(self.piece(name, k) if name else "" for name in node.inputs)
            name = f"{node.name}.{leaf.suffix}" if node.name else ""
            self._emit(replace(node, name=name, inputs=inputs, outputs=outputs))
            for name, renamed in zip(node.outputs, outputs, strict=True):
                if name:
                    self.state.per_leaf[name, k] = renamed

    # -- values as leaves have them ------------------------------------------------------------------------------

    def piece(self, name: str, k: int) -> str:
        """The name of a leaf's version of a value."""
        if (name, k) in self.state.per_leaf:
            return self.state.per_leaf[name, k]
        leaf = self.leaves[k]
        if name in self.layout.parameters:
            result = self._parameter_piece(name, k)
        elif name in leaf.graph.tensors:
            result = self._constant_piece(name, k)
        elif name in self.source.producers and self._only_repeats(name, leaf):
            self._repeat(self.source.producers[name], k)
            return self.state.per_leaf[name, k]
        else:
            result = self._cut(self.whole(name), name, leaf.selected[name].axes if name in leaf.selected else (), leaf)
        self.state.per_leaf[name, k] = result
        return result

    def _only_repeats(self, name: str, leaf: Leaf) -> bool:
        """Whether a leaf's version of a value is no slice of the whole one: it must be computed again from the leaf's."""
        ragged = name in leaf.selected and leaf.selected[name].ragged
        return ragged or name in self.layout.derived or name in leaf.differing

    def _parameter_piece(self, name: str, k: int) -> str:
        leaf = self.leaves[k]
        slices = leaf.slices[name]
        if name in self.layout.copied or slices.blocked is not None:
            copy = f"{name}.{leaf.suffix}"
            self.state.copies[copy] = (k, name)
            self.state.tensors[copy] = leaf.graph.tensors[name]
            return copy
        self._store_whole(name)
        return self._cut(name, name, slices.axes, leaf)

    def _constant_piece(self, name: str, k: int) -> str:
        tensor = self.leaves[k].graph.tensors[name]
        source = self.source.tensors.get(name)
        if source is not None and (tensor is source or _same(tensor, source)):
            self._store_whole(name)
            return name
        copy = f"{name}.{self.leaves[k].suffix}"
        self.state.tensors[copy] = tensor
        return copy

    def _cut(self, value: str, name: str, axes: Sequence[Ids | None], leaf: Leaf) -> str:
        """A leaf's slice of a whole value."""
        for axis, chosen in enumerate(axes):
            if chosen is None:
                continue
            result = f"{name}.{leaf.suffix}" + ("" if sum(a is not None for a in axes) == 1 else f".axis{axis}")
            index = self._constant(f"{result}.index", chosen.astype(np.int64))
            self._emit(self.dialect.pick(self.source, f"{result}.take", value, index, result, axis))
            value = result
        return value

    # -- whole values --------------------------------------------------------------------------------------------

    def whole(self, name: str) -> str:
        """Make sure that a value is known whole, and give its name, which is its own."""
        if name in self.source.tensors:
            self._store_whole(name)
        elif name in self.state.known:
            pass
        elif name in self.layout.derived and name not in self.produced_per_leaf:
            self._whole_node(self.source.producers[name], self.source.nodes[self.source.producers[name]])
        else:
            self._put_together(name)
        return name

    def _store_whole(self, name: str) -> None:
        self.state.tensors.setdefault(name, self.source.tensors[name])
        if name in self.layout.parameters:
            self.state.whole.add(name)

    def _put_together(self, name: str) -> None:
        pieces = [self.state.per_leaf[name, k] for k in range(len(self.leaves))]
        codes = self.layout.codes.get(name, frozenset())
        divided = [leaf.selected[name].axes for leaf in self.leaves]
        axes = sorted({a for leaf in divided for a, chosen in enumerate(leaf) if chosen is not None})
        if name in self.layout.averaged or (OUTPUT in codes and not axes):
            self._average(name, pieces)
        elif not axes:
            self._emit(self.dialect.same(self.source, f"{name}.first", pieces[0], name))
        elif len(axes) == 1:
            self._join(name, pieces, axes[0])
        else:
            raise UnsupportedError(f"{name} is divided along several axes, and can't be put together")

    def _average(self, name: str, pieces: Sequence[str]) -> None:
        """The leaves' mean, each with its weight."""
        weights = {leaf.weight for leaf in self.leaves}
        dtype = self.layout.dtypes.get(name) or self._dtype(self.source.nodes[self.source.producers[name]])
        if len(weights) == 1:
            self._emit(self.dialect.add(self.source, f"{name}.add", pieces, f"{name}.sum"))
            scale = self._constant(f"{name}.scale", np.asarray(weights.pop(), dtype))
            self._emit(self.dialect.multiply(self.source, f"{name}.average", (f"{name}.sum", scale), name))
            return
        scaled = []
        for leaf, piece in zip(self.leaves, pieces, strict=True):
            scale = self._constant(f"{piece}.scale", np.asarray(leaf.weight, dtype))
            self._emit(self.dialect.multiply(self.source, f"{piece}.weigh", (piece, scale), f"{piece}.weighted"))
            scaled.append(f"{piece}.weighted")
        self._emit(self.dialect.add(self.source, f"{name}.average", scaled, name))

    def _join(self, name: str, pieces: Sequence[str], axis: int) -> None:
        """Slices side by side, and back in the source's order where that isn't theirs."""
        held = [leaf.selected[name].axes[axis] for leaf in self.leaves]
        shapes = [leaf.selected[name].shape for leaf in self.leaves]
        positions = [
            chosen if chosen is not None else np.arange((shape or ())[axis])
            for chosen, shape in zip(held, shapes, strict=True)
        ]
        joined = np.concatenate(positions)
        size = int(joined.max()) + 1
        order = np.full(size, -1, np.int64)
        order[joined[::-1]] = np.arange(len(joined))[::-1]  # the first leaf that has an element gives it
        assert (order >= 0).all(), f"{name}: elements that no part has"
        ordered = np.array_equal(order, np.arange(len(joined)))
        together = name if ordered else f"{name}.joined"
        self._emit(self.dialect.join(self.source, f"{name}.join", pieces, together, axis))
        if not ordered:
            index = self._constant(f"{name}.order", order)
            self._emit(self.dialect.pick(self.source, f"{name}.sort", together, index, name, axis))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a.numpy(), b.numpy()))
