"""Movement ops run on labels, which are the same all along most axes: those are left out while the op runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphsplit.formats.torch_arguments import VIEWS, base
from graphsplit.graph import Node

RESHAPING = (*VIEWS, "reshape", "flatten", "unflatten")
ALONG = ("cat", "slice_scatter")
"""Ops that act along the axis `dim` only, on operands of one rank."""


def moved(
    node: Node, tensors: Sequence[Any], sizes: Sequence[Any], run: Callable[[Sequence[Any]], list[Any]]
) -> list[Any]:
    """The results of a movement op; an axis along which nothing changes stays one of stride 0. `run` runs the op itself."""
    name = base(node.op)
    if any(tensor is not None and tensor.numel() == 0 for tensor in tensors):
        return run([*tensors, *sizes])
    if name in RESHAPING:
        shape = run([torch.empty(tensors[0].shape, device="meta"), *sizes])[0].shape
        return [reshaped(tensors[0], tuple(shape))]
    if name in ALONG:
        return [_along(node, tensors, sizes, run)]
    return run([*tensors, *sizes])


def reshaped(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A reshape that copies only those runs of axes along which something changes."""
    before = tuple(tensor.shape)
    target: list[int] = []
    core = tensor
    for (start, end), (first, last) in _runs(before, shape):
        constant = all(tensor.stride(axis) == 0 or before[axis] == 1 for axis in range(start, end))
        for axis in range(start, end) if constant else ():
            core = core.narrow(axis, 0, 1)
        target.extend(1 if constant else size for size in shape[first:last])
    return core.reshape(target).expand(shape)


def _runs(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The shortest runs of axes, before and after a reshape, that hold the same elements."""
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, first = i, j
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        found.append(((start, i), (first, j)))
    return found


def _along(node: Node, tensors: Sequence[Any], sizes: Sequence[Any], run: Callable[[Sequence[Any]], list[Any]]) -> Any:
    given = [tensor for tensor in tensors if tensor is not None]
    rank, dim = given[0].dim(), node.attributes.get("dim", 0)
    assert isinstance(dim, int)
    if any(tensor.dim() != rank for tensor in given):
        return run([*tensors, *sizes])[0]
    still = [
        axis
        for axis in range(rank)
        if axis != dim % rank and all(t.stride(axis) == 0 and t.shape[axis] == given[0].shape[axis] for t in given)
    ]
    shape = [size if axis in still else -1 for axis, size in enumerate(given[0].shape)]
    for axis in still:
        tensors = [None if tensor is None else tensor.narrow(axis, 0, 1) for tensor in tensors]
    return run([*tensors, *sizes])[0].expand(shape)
