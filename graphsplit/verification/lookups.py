"""Inputs of whole numbers that say which row of a table is meant: how many rows there are, for ops of every domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphsplit.facts import Facts
from graphsplit.graph import Graph, Node

__all__ = ["LOOKUPS", "MOVES", "Lookup", "rows_of"]


@dataclass(frozen=True, slots=True)
class Lookup:
    """An operand that holds positions along an axis of the operand `table`.

    `axis` is a number, or the attribute that holds it. In an op that is `listed`, the operands behind `index` hold
    positions along the axes behind `axis`. Where there is no table, the operand or attribute `count` says how many
    positions there are.
    """

    index: int
    table: int | None = 0
    axis: int | str = 0
    listed: bool = False
    count: int | str = ""


LOOKUPS: Mapping[str, Sequence[Lookup]] = {
    "Gather": (Lookup(1, axis="axis"),),
    "GatherElements": (Lookup(1, axis="axis"),),
    "EmbedLayerNormalization": (Lookup(0, 2), Lookup(1, 4), Lookup(8, 3)),
    "OneHot": (Lookup(0, None, count=1),),
    "embedding": (Lookup(1),),
    "embedding_bag": (Lookup(1),),
    "_embedding_bag": (Lookup(1),),
    "index": (Lookup(1, listed=True),),
    "_unsafe_index": (Lookup(1, listed=True),),
    "index_put": (Lookup(1, listed=True),),
    "index_select": (Lookup(1, axis="dim"),),
    "gather": (Lookup(1, axis="dim"),),
    "take_along_dim": (Lookup(1, axis="dim"),),
    "scatter": (Lookup(1, axis="dim"),),
    "scatter_add": (Lookup(1, axis="dim"),),
    "one_hot": (Lookup(0, None, count="num_classes"),),
}
"""By the name of the op, without its overload and the underscore of one that writes in place."""

MOVES = frozenset(
    {"Add", "Cast", "Clip", "Concat", "CumSum", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split"}
    | {"Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"}
    | {"_to_copy", "_unsafe_view", "add", "alias", "cat", "chunk", "clamp", "clone", "constant_pad_nd", "contiguous"}
    | {"cumsum", "detach", "expand", "flatten", "index_select", "lift_fresh_copy", "narrow", "pad", "permute", "repeat"}
    | {"reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "sub", "t", "to", "transpose"}
    | {"type_as", "unbind", "unflatten", "unsqueeze", "view", "where"}
)
"""Ops behind which numbers are still the positions that they were in front of it, or near them."""


def rows_of(graph: Graph, facts: Facts, name: str) -> int | None:
    """The rows of the smallest table that an input's elements are looked up in, None where they are in none."""
    found: list[int] = []
    seen, waiting = {name}, [name]
    while waiting:
        value = waiting.pop()
        for node in (graph.nodes[i] for i in graph.consumers.get(value, ())):
            sizes = _tables(node, value, facts)
            found += sizes
            if not sizes and _base(node.op) in MOVES:
                fresh = [o for o in node.outputs if o and o not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
    return min(found, default=None)


def _base(op: str) -> str:
    name = op.partition(".")[0]
    return name.removesuffix("_") if not name.endswith("__") else name


def _tables(node: Node, name: str, facts: Facts) -> list[int]:
    """The sizes of the tables that a node looks `name` up in."""
    found = []
    for lookup in LOOKUPS.get(_base(node.op), ()):
        last = len(node.inputs) if lookup.listed else lookup.index + 1
        for position in range(lookup.index, min(last, len(node.inputs))):
            if node.inputs[position] == name:
                size = _size(node, lookup, position - lookup.index, facts)
                found += [size] if size is not None else []
    return found


def _size(node: Node, lookup: Lookup, further: int, facts: Facts) -> int | None:
    if lookup.table is None:
        return _count(node, lookup.count, facts)
    fact = facts.get(node.inputs[lookup.table]) if lookup.table < len(node.inputs) else None
    axis = node.attributes.get(lookup.axis, 0) if isinstance(lookup.axis, str) else lookup.axis + further
    if fact is None or not fact.shape or not isinstance(axis, int) or not -len(fact.shape) <= axis < len(fact.shape):
        return None
    return max(1, fact.shape[axis])


def _count(node: Node, where: int | str, facts: Facts) -> int | None:
    if isinstance(where, int):
        fact = facts.get(node.inputs[where])
        return int(fact.data.reshape(-1)[0]) if fact is not None and fact.data is not None else None
    count = node.attributes.get(where)
    return count if isinstance(count, int) and count > 0 else None
