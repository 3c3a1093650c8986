"""Ops that take something over axes: sums, means, extremes and what runs along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, as_list, number

Dims = tuple[int, ...]


def _reduction(function: Callable[[Tensor, Dims, bool], Tensor], each: Callable[[Tensor], Tensor] = lambda x: x) -> Op:
    """A reduction; `each` is what is left of it where no axis is reduced."""

    def make(a: Attributes) -> Run:
        keep, nothing = bool(a["keepdims"]), bool(a.get("noop_with_empty_axes", 0))

        def run(x: Tensor, axes: Any = None) -> Tensor:
            if not axes and axes != 0:
                return each(x) if nothing else function(x, tuple(range(x.ndim)), keep)
            return function(x, tuple(as_list(axes)), keep)

        return run

    return Op(make, host={1: "axes"})


def _product(x: Tensor, dims: Dims, keep: bool) -> Tensor:
    for dim in sorted((d % max(x.ndim, 1) for d in dims), reverse=True):
        x = x.prod(dim, keepdim=keep, dtype=x.dtype) if x.ndim else x
    return x


def _edges(dtype: torch.dtype) -> tuple[Any, Any]:
    """The largest and the smallest number of a type: what the extremes of nothing are."""
    if dtype == torch.bool:
        return True, False
    if dtype.is_floating_point:
        return float("inf"), float("-inf")
    return torch.iinfo(dtype).max, torch.iinfo(dtype).min


def _extreme(least: bool) -> Callable[[Tensor, Dims, bool], Tensor]:
    function = torch.amin if least else torch.amax

    def run(x: Tensor, dims: Dims, keep: bool) -> Tensor:
        if x.numel():
            return function(x, dims, keep)
        shape = x.sum(dims, keepdim=keep).shape
        return torch.full(shape, _edges(x.dtype)[0 if least else 1], dtype=x.dtype, device=x.device)

    return run


def _mean(x: Tensor, dims: Dims, keep: bool) -> Tensor:
    if x.dtype.is_floating_point:
        return x.mean(dims, keepdim=keep)
    total = x.sum(dims, keepdim=keep, dtype=x.dtype)
    return torch.div(total, x.numel() // max(total.numel(), 1), rounding_mode="trunc")


def _sum(x: Tensor, dims: Dims, keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep, dtype=x.dtype) if dims or x.ndim == 0 else x


def _norm(x: Tensor, dims: Dims, keep: bool) -> Tensor:
    if x.dtype.is_floating_point:
        norm: Tensor = torch.linalg.vector_norm(x, 2, dims, keep)
        return norm
    return _sum(x * x, dims, keep).double().sqrt().to(x.dtype)


def _log_sum_exp(x: Tensor, dims: Dims, keep: bool) -> Tensor:
    return torch.logsumexp(x if x.dtype.is_floating_point else x.double(), dims, keep).to(x.dtype)


def _argument(function: Callable[..., Tensor]) -> Op:
    def make(a: Attributes) -> Run:
        axis, keep, last = a["axis"], bool(a["keepdims"]), a.get("select_last_index", 0)

        def run(x: Tensor) -> Tensor:
            if not x.numel():
                return x.sum(axis, keepdim=keep).long()  # nothing, where no element is left either
            if last:
                behind: Tensor = x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
                return behind
            return function(x, axis, keepdim=keep)

        return run

    return Op(make)


def _running(function: Callable[..., Tensor], neutral: int) -> Op:
    def make(a: Attributes) -> Run:
        exclusive, backwards = a["exclusive"], a["reverse"]

        def run(x: Tensor, axis: Any) -> Tensor:
            dim = int(number(axis))
            y = function(x.flip(dim) if backwards else x, dim, dtype=x.dtype)
            if exclusive:
                first = torch.full_like(y.narrow(dim, 0, 1), neutral)
                y = torch.cat([first, y.narrow(dim, 0, y.shape[dim] - 1)], dim)
            return y.flip(dim) if backwards else y

        return run

    return Op(make, host={1: ""})


TABLE: Table = {
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
    "CumProd": _running(torch.cumprod, 1),
    "CumSum": _running(torch.cumsum, 0),
    "Det": Op(lambda _: torch.linalg.det),
    "ReduceL1": _reduction(lambda x, dims, keep: _sum(x.abs(), dims, keep), torch.abs),
    "ReduceL2": _reduction(_norm, torch.abs),
    "ReduceLogSum": _reduction(lambda x, dims, keep: _sum(x, dims, keep).log(), torch.log),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_extreme(least=False)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_extreme(least=True)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, dims, keep: _sum(x * x, dims, keep), torch.square),
}
