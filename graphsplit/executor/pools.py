"""Pools: windows that slide over the spatial axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.layers import padding, same_pads, spatial
from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, plain

_MAX: dict[int, Callable[..., Any]] = {3: nnf.max_pool1d, 4: nnf.max_pool2d, 5: nnf.max_pool3d}
_MEAN: dict[int, Callable[..., Any]] = {3: nnf.avg_pool1d, 4: nnf.avg_pool2d, 5: nnf.avg_pool3d}


@dataclass(frozen=True)
class _Windows:
    """Where windows lie: their sizes and steps, the pads that count, and what must be added at the ends."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    ends: list[int]

    @property
    def around(self) -> list[int]:
        """The pads that make a pool without pads come out right."""
        return [*self.pads[: len(self.kernel)], *self.ends]


def _windows(a: Attributes, sizes: Sequence[int]) -> _Windows:
    rank = len(sizes)
    kernel, strides, dilations = list(a["kernel_shape"]), spatial(a, "strides", rank), spatial(a, "dilations", rank)
    mode = a.get("auto_pad", "NOTSET")
    pads = spatial(a, "pads", 2 * rank, 0) if mode == "NOTSET" else [0] * (2 * rank)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = same_pads(sizes, kernel, strides, dilations, mode)
    ends = []
    for i, size in enumerate(sizes):
        reach = (kernel[i] - 1) * dilations[i] + 1
        space = size + pads[i] + pads[i + rank] - reach
        count = (math.ceil if a.get("ceil_mode", 0) else math.floor)(space / strides[i]) + 1
        if a.get("ceil_mode", 0) and (count - 1) * strides[i] >= size + pads[i]:
            count -= 1  # a window that starts behind the data isn't one
        ends.append((count - 1) * strides[i] + reach - size - pads[i])
    return _Windows(kernel, strides, dilations, pads, ends)


def _plain(a: Attributes) -> tuple[Any, ...] | None:
    """Kernel, strides and pads where torch's own pools do the same; None where they don't."""
    kernel = list(a["kernel_shape"])
    rank = len(kernel)
    pads, mode = spatial(a, "pads", 2 * rank, 0), a.get("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = [0] * (2 * rank)
    fits = mode in ("NOTSET", "VALID") and pads[:rank] == pads[rank:] and rank in (1, 2, 3)
    if not fits or any(2 * p > k for p, k in zip(pads, kernel, strict=False)):
        return None
    return kernel, spatial(a, "strides", rank), pads[:rank]


def _max_pool(a: Attributes) -> Run:
    simple, ceil = _plain(a), bool(a.get("ceil_mode", 0))
    indexed, columns = a.wants(1), a.get("storage_order", 0)
    if simple is not None and not indexed:
        function, dilations = _MAX[len(simple[0]) + 2], spatial(a, "dilations", len(simple[0]))
        return lambda x: (function(x, *simple, dilations, ceil),)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        w = _windows(a, x.shape[2:])
        low = float("-inf") if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
        real = x if x.dtype.is_floating_point else x.to(torch.float32)  # torch pools no short whole numbers
        padded = nnf.pad(real, padding(w.around), value=low)
        y, index = _MAX[x.ndim](padded, w.kernel, w.strides, 0, w.dilations, False, return_indices=True)
        return y.to(x.dtype), _positions(index, padded.shape[2:], x.shape, w.pads, bool(columns))

    return run


def _positions(index: Tensor, padded: Sequence[int], shape: Sequence[int], pads: list[int], columns: bool) -> Tensor:
    """Indices into a padded plane as indices into the whole tensor."""
    places = []
    for axis in range(len(padded) - 1, -1, -1):
        places.append(index % padded[axis] - pads[axis])
        index = index // padded[axis]
    axes = list(zip(shape[2:], reversed(places), strict=True))
    flat = torch.zeros_like(index)
    for size, place in reversed(axes) if columns else axes:
        flat = flat * size + place
    plane = torch.arange(shape[0] * shape[1], device=index.device).reshape(shape[0], shape[1], *[1] * len(padded))
    return flat + plane * math.prod(shape[2:])


def _average_pool(a: Attributes) -> Run:
    simple, ceil, counted = _plain(a), bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    near = all(d == 1 for d in a.get("dilations") or ())
    if simple is not None and near:
        function = _MEAN[len(simple[0]) + 2]
        return lambda x: function(x, *simple, ceil, counted)

    def run(x: Tensor) -> Tensor:
        w = _windows(a, x.shape[2:])
        ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if counted:  # the pads that the file asks for count, those that only round up don't
            ones, missing = (
                nnf.pad(ones, padding(w.pads), value=1.0),
                [e - p for e, p in zip(w.ends, w.pads[len(w.ends) :], strict=True)],
            )
            ones = nnf.pad(ones, padding([0] * len(missing) + missing))
        else:
            ones = nnf.pad(ones, padding(w.around))
        return _sums(nnf.pad(x, padding(w.around)), w) / _sums(ones, w)

    return run


def _sums(x: Tensor, w: _Windows) -> Tensor:
    """The sum over each window of a tensor that is padded already."""
    if all(d == 1 for d in w.dilations):
        return _MEAN[x.ndim](x, w.kernel, w.strides) * math.prod(w.kernel)  # type: ignore[no-any-return]
    total: Tensor | None = None
    for offset in itertools.product(*map(range, w.kernel)):
        part = x
        for i, (at, step, far) in enumerate(zip(offset, w.strides, w.dilations, strict=True)):
            size = x.shape[i + 2]
            last = size - (w.kernel[i] - 1 - at) * far
            part = part[(*[slice(None)] * (i + 2), slice(at * far, last, step))]
        total = part if total is None else total + part
    assert total is not None
    return total


def _lp_pool(a: Attributes) -> Run:
    p = a["p"]

    def run(x: Tensor) -> Tensor:
        w = _windows(a, x.shape[2:])
        return _sums(nnf.pad(x.abs().pow(p), padding(w.around)), w).pow(1 / p)

    return run


def _spatial_axes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _global_lp(a: Attributes) -> Run:
    p = a["p"]
    return lambda x: torch.linalg.vector_norm(x, p, _spatial_axes(x), keepdim=True)


def _max_unpool(a: Attributes) -> Run:
    def run(x: Tensor, index: Tensor, shape: Any = None) -> Tensor:
        rank = x.ndim - 2
        kernel, strides, pads = list(a["kernel_shape"]), spatial(a, "strides", rank), spatial(a, "pads", 2 * rank, 0)
        sizes = [
            (n - 1) * s + k - pads[i] - pads[i + rank]
            for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
        ]
        # as in onnxruntime the indices are those of a MaxPool of the wanted shape
        whole = [*x.shape[:2], *sizes] if shape is None else list(shape)
        flat = torch.zeros(math.prod(whole), dtype=x.dtype, device=x.device)
        return flat.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(whole)

    return run


def _col2im(a: Attributes) -> Run:
    def run(x: Tensor, image: list[int], block: list[int]) -> Tensor:
        rank = len(image)
        strides, dilations = spatial(a, "strides", rank), spatial(a, "dilations", rank)
        pads = spatial(a, "pads", 2 * rank, 0)
        whole = [size + pads[i] + pads[i + rank] for i, size in enumerate(image)]
        counts = [(w - (k - 1) * d - 1) // s + 1 for w, k, d, s in zip(whole, block, dilations, strides, strict=True)]
        columns = x.reshape(x.shape[0], -1, *block, *counts)
        y = torch.zeros((x.shape[0], columns.shape[1], *whole), dtype=x.dtype, device=x.device)
        for offset in itertools.product(*(range(size) for size in block)):
            place: list[Any] = [
                slice(o * d, o * d + (c - 1) * s + 1, s)
                for o, d, c, s in zip(offset, dilations, counts, strides, strict=True)
            ]
            source: list[Any] = [*offset]
            y[:, :, *place] += columns[:, :, *source]
        return nnf.pad(y, padding([-p for p in pads]))

    return run


TABLE: Table = {
    "AveragePool": Op(_average_pool),
    "Col2Im": Op(_col2im, host={1: "", 2: ""}),
    "GlobalAveragePool": plain(lambda x: x.mean(_spatial_axes(x), keepdim=True)),
    "GlobalLpPool": Op(_global_lp),
    "GlobalMaxPool": plain(lambda x: x.amax(_spatial_axes(x), keepdim=True)),
    "LpPool": Op(_lp_pool),
    "MaxPool": Op(_max_pool, many=True),
    "MaxUnpool": Op(_max_unpool, host={2: ""}),
}
