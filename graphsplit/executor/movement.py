"""Ops that move elements by shapes, bounds and axes."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Frame, Op, Run, Table, Tensor, as_list, number, torch_type


def _reshape(a: Attributes) -> Run:
    zero = a.get("allowzero", 0)

    def run(x: Tensor, shape: list[int]) -> Tensor:
        if not zero and 0 in shape:
            shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
        return x.reshape(shape)

    return run


def _flatten(a: Attributes) -> Run:
    axis = a["axis"]

    def run(x: Tensor) -> Tensor:
        first = axis if axis >= 0 else x.ndim + axis
        if first == 1 and x.ndim > 1:
            return x.flatten(1)
        rows = 1
        for size in x.shape[:first]:
            rows *= size
        return x.reshape(rows, -1) if x.numel() else x.reshape(rows, x[(0,) * first].numel() if rows else 0)

    return run


def _squeeze(x: Tensor, axes: Any = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    wanted = [axis if axis >= 0 else x.ndim + axis for axis in as_list(axes)]
    bad = [axis for axis in wanted if x.shape[axis] != 1]
    if bad:
        raise ValueError(f"an axis of size {x.shape[bad[0]]} can't be squeezed")  # torch would leave it, silently
    return x.squeeze(tuple(wanted))


def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    rank = x.ndim + len(as_list(axes))
    for axis in sorted(axis if axis >= 0 else rank + axis for axis in as_list(axes)):
        x = x.unsqueeze(axis)
    return x


def _transpose(a: Attributes) -> Run:
    order = a.get("perm")
    return (lambda x: x.permute(tuple(order))) if order else (lambda x: x.permute(*range(x.ndim - 1, -1, -1)))


def _expand(x: Tensor, shape: list[int]) -> Tensor:
    wide: tuple[int, ...] = torch.broadcast_shapes(x.shape, tuple(shape))  # type: ignore[no-untyped-call]
    return x.expand(wide)


def _concat(a: Attributes) -> Run:
    axis = a["axis"]
    return lambda *operands: torch.cat(operands, axis)


def _slice(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    starts, ends = as_list(starts), as_list(ends)
    axes = range(len(starts)) if axes is None else as_list(axes)
    steps = [1] * len(starts) if steps is None else as_list(steps)
    for first, last, axis, step in zip(starts, ends, axes, steps, strict=True):
        begin, end, _ = slice(first, last, step).indices(x.shape[axis])
        if step > 0:
            if begin != 0 or end < x.shape[axis] or step != 1:
                x = x[(*[slice(None)] * (axis if axis >= 0 else x.ndim + axis), slice(begin, max(begin, end), step))]
        else:
            chosen = torch.arange(begin, end, step, device=x.device)
            x = x.index_select(axis, chosen)
    return x


def _split(a: Attributes) -> Run:
    axis, count = a["axis"], len(a.node.outputs)

    def run(x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
        if sizes is not None:
            return torch.split(x, as_list(sizes), axis)
        return torch.split(x, -(-x.shape[axis] // count), axis)

    return run


def _pad(a: Attributes) -> Run:
    mode, old = a.get("mode", "constant"), a.get("value", 0.0)

    def run(x: Tensor, pads: list[int], value: Any = None, axes: Any = None) -> Tensor:
        if axes is not None:
            axes, given = as_list(axes), pads
            pads = [0] * (2 * x.ndim)
            for i, axis in enumerate(axes):
                pads[axis % x.ndim], pads[axis % x.ndim + x.ndim] = given[i], given[i + len(axes)]
        around = [pads[axis + end] for axis in range(x.ndim - 1, -1, -1) for end in (0, x.ndim)]
        if mode == "constant":
            fill = old if value is None else value
            fill = number(fill.tolist()) if isinstance(fill, Tensor) else fill
            return _padded_bool(x, around, fill) if x.dtype == torch.bool else nnf.pad(x, around, value=fill)
        return _padded_by_index(x, pads, mode)

    return run


def _padded_bool(x: Tensor, around: list[int], fill: Any) -> Tensor:
    return nnf.pad(x.to(torch.uint8), around, value=int(fill)).to(torch.bool)


def _padded_by_index(x: Tensor, pads: list[int], mode: str) -> Tensor:
    """Pads that repeat elements: along each axis, those at indices that are mirrored, held or taken around."""
    for axis in range(x.ndim):
        before, after, size = pads[axis], pads[axis + x.ndim], x.shape[axis]
        if not before and not after:
            continue
        index = torch.arange(-before, size + after, device=x.device)
        if mode == "edge":
            index = index.clamp(0, size - 1)
        elif mode == "wrap":
            index = index % size
        elif size > 1:  # reflect
            index = (index % (2 * size - 2)).sub(size - 1).abs().neg().add(size - 1)
        else:
            index = torch.zeros_like(index)
        x = x.index_select(axis, index)
    return x


def _tile(x: Tensor, repeats: Any) -> Tensor:
    return x.repeat(as_list(repeats))


def _trilu(a: Attributes) -> Run:
    function = torch.triu if a.get("upper", 1) else torch.tril
    return lambda x, k=None: function(x, number(k) if k is not None else 0)


def _centre(a: Attributes) -> Run:
    axes = a.get("axes")

    def run(x: Tensor, shape: list[int]) -> Tensor:
        for axis, size in zip(range(x.ndim) if axes is None else axes, shape, strict=True):
            more = size - x.shape[axis]
            before = more // 2 if more > 0 else -((-more) // 2)
            pads = [0] * (2 * x.ndim)
            at = 2 * (x.ndim - 1 - axis % x.ndim)
            pads[at], pads[at + 1] = before, more - before
            x = nnf.pad(x, pads)
        return x

    return run


def _depth_to_space(a: Attributes) -> Run:
    block, columns = a["blocksize"], a.get("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        if columns:
            return x.reshape(n, -1, block, block, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * block, w * block)
        return x.reshape(n, block, block, -1, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * block, w * block)

    return run


def _space_to_depth(a: Attributes) -> Run:
    block, columns = a["blocksize"], a.get("mode", "DCR") == "CRD"
    order = (0, 1, 3, 5, 2, 4) if columns else (0, 3, 5, 1, 2, 4)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block)
        return parts.permute(order).reshape(n, c * block * block, h // block, w // block)

    return run


def _shape(a: Attributes) -> Run:
    start, end = a.get("start", 0), a.get("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _eye_like(a: Attributes) -> Run:
    k, code = a["k"], a.get("dtype")
    dtype = torch_type(code, a) if code else None

    def run(frame: Frame, x: Tensor) -> Tensor:
        row, column = (torch.arange(size, device=x.device) for size in x.shape)
        hit: Tensor = row[:, None] + k == column
        return hit.to(x.dtype if dtype is None else frame.kind(dtype))

    return run


TABLE: Table = {
    "CenterCropPad": Op(_centre, host={1: ""}),
    "Concat": Op(_concat),
    "DepthToSpace": Op(_depth_to_space),
    "Expand": Op(lambda _: _expand, host={1: ""}),
    "EyeLike": Op(_eye_like, framed=True),
    "Flatten": Op(_flatten),
    "Pad": Op(_pad, host={1: "pads", 3: ""}, numbers={2: ""}),
    "Reshape": Op(_reshape, host={1: "shape"}),
    "Shape": Op(_shape, sizes=True),
    "Size": Op(lambda _: lambda x: torch.tensor(x.numel()), sizes=True),
    "Slice": Op(lambda _: _slice, host={1: "starts", 2: "ends", 3: "axes", 4: ""}),
    "SpaceToDepth": Op(_space_to_depth),
    "Split": Op(_split, host={1: "split"}, many=True),
    "Squeeze": Op(lambda _: _squeeze, host={1: "axes"}),
    "Tile": Op(lambda _: _tile, host={1: ""}),
    "Transpose": Op(_transpose),
    "Trilu": Op(_trilu, host={1: ""}),
    "Unsqueeze": Op(lambda _: _unsqueeze, host={1: "axes"}),
    "com.microsoft::Trilu": Op(_trilu, host={1: ""}),
}
