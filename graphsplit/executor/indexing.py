"""Ops that read or write elements at indices."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, number

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _from_front(index: Tensor, size: int) -> Tensor:
    """Indices with the negative ones counted from the end, as whole numbers that torch takes."""
    index = index if index.dtype == torch.int64 else index.long()
    return torch.where(index < 0, index + size, index)


def _gather(a: Attributes) -> Run:
    axis = a["axis"]

    def run(x: Tensor, index: Any) -> Tensor:
        if not isinstance(index, Tensor):
            return x.select(axis, index)
        first = axis if axis >= 0 else x.ndim + axis
        index = _from_front(index, x.shape[first])
        if first == 0 and x.ndim == 2 and x.dtype.is_floating_point:
            return nnf.embedding(index, x)
        if index.ndim == 1:
            return x.index_select(first, index)
        return x.index_select(first, index.reshape(-1)).reshape(x.shape[:first] + index.shape + x.shape[first + 1 :])

    return run


def _gather_elements(a: Attributes) -> Run:
    axis = a["axis"]
    return lambda x, index: x.gather(axis, _from_front(index, x.shape[axis]))


def _coordinates(index: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """The last axis of an index as one index for each axis of a tensor."""
    return tuple(_from_front(part, size) for part, size in zip(index.unbind(-1), shape, strict=False))


def _gather_nd(a: Attributes) -> Run:
    batch = a.get("batch_dims", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        lead = x.shape[:batch]
        places = _coordinates(index, x.shape[batch:])
        grids: list[Tensor] = []
        for axis, size in enumerate(lead):
            shape = [1] * (index.ndim - 1)
            shape[axis] = size
            grids.append(torch.arange(size, device=x.device).reshape(shape))
        return x[(*grids, *places)]

    return run


def _scatter_elements(a: Attributes) -> Run:
    axis, reduction = a["axis"], a.get("reduction", "none")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index = _from_front(index, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, index, updates)
        return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])

    return run


def _scatter_nd(a: Attributes) -> Run:
    reduction = a.get("reduction", "none")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        places = _coordinates(index, x.shape)
        if reduction in ("none", "add"):
            return x.index_put(places, updates, accumulate=reduction == "add")
        depth = index.shape[-1]
        flat = torch.zeros_like(places[0])
        for part, size in zip(places, x.shape, strict=False):
            flat = flat * size + part
        rest = x.shape[depth:].numel()
        rows, values = x.reshape(-1, rest), updates.reshape(-1, rest)
        where = flat.reshape(-1, 1).expand_as(values)
        return rows.scatter_reduce(0, where, values, _REDUCTIONS[reduction]).reshape(x.shape)

    return run


def _one_hot(a: Attributes) -> Run:
    axis = a["axis"]

    def run(index: Tensor, depth: Any, values: Tensor) -> Tensor:
        count = int(number(depth))
        index = index.long()
        hit = torch.where(index < 0, index + count, index).unsqueeze(-1) == torch.arange(count, device=index.device)
        return torch.where(hit, values[1], values[0]).movedim(-1, axis)

    return run


def _compress(a: Attributes) -> Run:
    axis = a.get("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        kept = condition.nonzero()[:, 0]
        return x.reshape(-1).index_select(0, kept) if axis is None else x.index_select(axis, kept)

    return run


def _unique(a: Attributes) -> Run:
    axis, in_order = a.get("axis"), a["sorted"]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x = x.reshape(-1) if axis is None else x
        dim = 0 if axis is None else axis % x.ndim
        _, inverse, counts = torch.unique(x.detach(), return_inverse=True, return_counts=True, dim=dim)
        position = torch.arange(len(inverse), device=x.device)
        first = torch.full_like(counts, len(inverse)).scatter_reduce(0, inverse, position, "amin")
        if in_order:
            return x.index_select(dim, first), first, inverse, counts
        order = first.argsort()
        return x.index_select(dim, first[order]), first[order], order.argsort()[inverse], counts[order]

    return run


def _reverse_sequence(a: Attributes) -> Run:
    batch, time = a["batch_axis"], a["time_axis"]

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        rows = x.movedim((batch, time), (0, 1))
        steps = torch.arange(rows.shape[1], device=x.device)
        ends = lengths.to(x.device)[:, None]
        index = torch.where(steps < ends, ends - 1 - steps, steps)
        return reversed_rows(rows, index).movedim((0, 1), (batch, time))

    return run


def reversed_rows(rows: Tensor, index: Tensor) -> Tensor:
    """The elements of (batch, time, …) at the indices (batch, time) along time."""
    wide = index.reshape(*index.shape, *[1] * (rows.ndim - 2)).expand_as(rows)
    return rows.gather(1, wide)


def _tensor_scatter(a: Attributes) -> Run:
    axis, around = a.get("axis", -2), a.get("mode", "linear") == "circular"

    def run(cache: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
        at = axis % cache.ndim
        steps = torch.arange(update.shape[at], device=cache.device)
        first = torch.zeros(cache.shape[0], dtype=torch.int64, device=cache.device) if starts is None else starts
        index = first[:, None] + steps
        index = index % cache.shape[at] if around else index
        shape = [1] * cache.ndim
        shape[0], shape[at] = index.shape
        return cache.scatter(at, index.reshape(shape).expand_as(update), update)

    return run


def _top_k(a: Attributes) -> Run:
    axis, largest = a["axis"], bool(a.get("largest", 1))

    def run(x: Tensor, k: Any) -> tuple[Tensor, Tensor]:
        values, index = torch.sort(
            x, dim=axis, descending=largest, stable=True
        )  # of equal elements the first comes first
        count = int(number(k))
        return values.narrow(axis, 0, count), index.narrow(axis, 0, count)

    return run


def _suppressed(a: Attributes) -> Run:
    centred = bool(a["center_point_box"])

    def run(boxes: Tensor, scores: Tensor, most: Any = None, overlap: Any = None, least: Any = None) -> Tensor:
        limit = int(number(most)) if most is not None else 0
        allowed = float(number(overlap)) if overlap is not None else 0.0
        bound = float(number(least)) if least is not None else None
        found: list[list[int]] = []
        for n in range(scores.shape[0]):
            for c in range(scores.shape[1]):
                chosen = _chosen(_corners(boxes[n], centred), scores[n, c], limit, allowed, bound)
                found += [[n, c, i] for i in chosen]
        return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)

    return run


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    """Boxes as the smaller and the larger coordinates of their corners."""
    if centred:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat([middle - half, middle + half], 1)
    one, two = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(one, two), torch.maximum(one, two)], 1)


def _chosen(boxes: Tensor, scores: Tensor, limit: int, overlap: float, least: float | None) -> list[int]:
    """The boxes of one class that are kept, the best first."""
    order = torch.sort(scores, descending=True, stable=True)[1]
    if least is not None:
        order = order[scores[order] > least]
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (high - low).clamp(min=0).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        order = order[common <= overlap * (area[best] + area[order] - common)]
    return kept


TABLE: Table = {
    "Compress": Op(_compress, ragged=True),
    "Gather": Op(_gather, numbers={1: ""}),
    "GatherElements": Op(_gather_elements),
    "GatherND": Op(_gather_nd),
    "NonMaxSuppression": Op(_suppressed, host={2: "", 3: "", 4: ""}, ragged=True),
    "NonZero": Op(lambda _: lambda x: x.nonzero().t(), ragged=True),
    "OneHot": Op(_one_hot, host={1: ""}),
    "ReverseSequence": Op(_reverse_sequence),
    "Scatter": Op(_scatter_elements),
    "ScatterElements": Op(_scatter_elements),
    "ScatterND": Op(_scatter_nd),
    "TensorScatter": Op(_tensor_scatter),
    "TopK": Op(_top_k, host={1: "k"}, many=True),
    "Unique": Op(_unique, many=True, ragged=True),
}
