"""Resizing, and sampling at given places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, as_list

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_Setting = tuple[str, str, str, float, bool, bool, float]
"""Mode, coordinates, rounding of nearest, the cubic coefficient, exclude_outside, antialias, the value outside."""
_SMALL = 17
_LINES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def _places(size: int, result: int, scale: float, how: str, crop: tuple[float, float]) -> Floats:
    """Where each of `result` elements lies among the `size` that there are.

    In single precision, as onnxruntime reckons: which of two neighbours is nearer may hang on it.
    """
    x, step = np.arange(result, dtype=np.float32), np.float32(scale)
    length = np.float32(size) * step
    places: Any = (x + np.float32(0.5)) / step - np.float32(0.5)
    if how == "align_corners":  # onnx's own implementation reckons with a length that is no whole number
        places = x * np.float32(size - 1) / np.float32(result - 1) if result > 1 else np.zeros_like(x)
    elif how == "asymmetric":
        places = x / step
    elif how == "pytorch_half_pixel":
        places = places if length > 1 else np.zeros_like(x)
    elif how == "half_pixel_symmetric":
        places = places + np.float32(size / 2) * (1 - np.float32(result) / length)
    elif how == "tf_crop_and_resize":
        first, last = crop
        along = x * np.float32((last - first) * (size - 1)) / np.float32(max(result - 1, 1))
        places = (
            np.float32(first * (size - 1)) + along if result > 1 else np.full_like(x, 0.5 * (first + last) * (size - 1))
        )
    elif how == "tf_half_pixel_for_nn":
        places = (x + np.float32(0.5)) / step
    return np.asarray(places, np.float64)


def _rounded(places: Floats, how: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    if how == "round_prefer_floor":
        return np.ceil(places - 0.5).astype(np.int64)
    if how == "round_prefer_ceil":
        return np.floor(places + 0.5).astype(np.int64)
    return (np.ceil(places) if how == "ceil" else np.floor(places)).astype(np.int64)


def _kernel(x: Floats, mode: str, a: float) -> Floats:
    """How much an element counts that lies `x` away."""
    x = np.abs(x)
    if mode == "linear":
        return np.maximum(1 - x, 0)
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


@lru_cache(maxsize=256)
def _weights(
    size: int, result: int, scale: float, setting: _Setting, crop: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """What each new element takes of each old one, shape (result, size), or which one is nearest; and which lie outside."""
    mode, how, rounding, cubic, exclude, antialias, _ = setting
    places = _places(size, result, scale, how, crop)
    outside = torch.from_numpy((places < 0) | (places > size - 1))
    if mode == "nearest":
        return torch.from_numpy(np.clip(_rounded(places, rounding), 0, size - 1)), outside
    matrix = np.zeros((result, size))
    narrow = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / narrow)
    for row, place in enumerate(places):
        taken = np.arange(math.floor(place) - reach + 1, math.floor(place) + reach + 1)
        counts = _kernel((taken - place) * narrow, mode, cubic)
        if exclude:
            counts = np.where((taken < 0) | (taken >= size), 0, counts)
        if exclude or antialias:
            counts = counts / counts.sum()
        np.add.at(matrix[row], np.clip(taken, 0, size - 1), counts)
    return torch.from_numpy(matrix), outside


def _setting(a: Attributes) -> _Setting:
    old = a.version < 11
    return (
        a.get("mode", "nearest"),
        a.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel"),
        a.get("nearest_mode", "floor" if old else "round_prefer_floor"),
        a.get("cubic_coeff_a", -0.75),
        bool(a.get("exclude_outside", 0)),
        bool(a.get("antialias", 0)),
        a.get("extrapolation_value", 0.0),
    )


def _sizes(x: Tensor, axes: list[int], scales: Any, sizes: Any, policy: str) -> tuple[list[float], list[int]]:
    """The scale of each axis, and its new size."""
    old = [x.shape[axis] for axis in axes]
    if not sizes:
        # in single precision, as onnxruntime has it: 10 elements times 1.8 are 18, and not 17
        new_sizes = [int(np.float32(n) * np.float32(s)) for n, s in zip(old, scales, strict=True)]
        return [float(s) for s in scales], new_sizes
    if policy == "stretch":
        return [new / n for n, new in zip(old, sizes, strict=True)], [int(new) for new in sizes]
    pick = min if policy == "not_larger" else max
    scale = pick(new / n for n, new in zip(old, sizes, strict=True))
    return [scale] * len(old), [math.floor(n * scale + 0.5) for n in old]


def _library(setting: _Setting) -> Callable[[Tensor, Sequence[int]], Tensor] | None:
    """The function of torch's own for a setting, where it does the same for whole scales; None where it has none."""
    mode, how, rounding, _, exclude, antialias, _ = setting
    if exclude or antialias:
        return None
    if mode == "nearest" and how == "asymmetric" and rounding == "floor":
        return lambda x, sizes: nnf.interpolate(x, list(sizes), mode="nearest")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = how == "align_corners"
        return lambda x, sizes: nnf.interpolate(x, list(sizes), mode=_LINES[x.ndim], align_corners=corners)
    return None


def _resize(a: Attributes) -> Run:
    setting, policy, named = _setting(a), a.get("keep_aspect_ratio_policy", "stretch"), a.get("axes")
    library, crops = _library(setting), setting[1] == "tf_crop_and_resize"

    def run(x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
        axes = [axis % x.ndim for axis in named] if named else list(range(x.ndim))
        factors, wanted = _sizes(x, axes, scales, sizes, policy)
        scaled = [i for i, axis in enumerate(axes) if x.shape[axis] != wanted[i] or factors[i] != 1 or crops]
        whole = all(x.shape[axes[i]] * factors[i] == wanted[i] and wanted[i] > 1 for i in scaled)
        if setting[0] == "nearest":  # torch reckons places in single precision, which small factors don't notice
            whole = whole and all(factors[i] in range(1, _SMALL) for i in scaled)
        if library is not None and whole and 3 <= x.ndim <= 5 and all(axes[i] > 1 for i in scaled) and scaled:
            by_axis = dict(zip(axes, wanted, strict=True))
            return library(x, [by_axis.get(axis, x.shape[axis]) for axis in range(2, x.ndim)])
        beyond: list[tuple[int, Tensor]] = []
        for i in scaled:
            crop = (float(roi[i]), float(roi[i + len(axes)])) if crops else (0.0, 1.0)
            matrix, outside = _weights(x.shape[axes[i]], wanted[i], factors[i], setting, crop)
            x = _applied(x, matrix, axes[i], nearest=setting[0] == "nearest")
            beyond += [(axes[i], outside)] if crops else []
        for axis, outside in beyond:
            shape = [-1 if other == axis else 1 for other in range(x.ndim)]
            x = x.masked_fill(outside.to(x.device).reshape(shape), setting[6])
        return x

    return run


def _applied(x: Tensor, matrix: Tensor, axis: int, *, nearest: bool) -> Tensor:
    """Rows of weights, or the nearest elements, along an axis."""
    if nearest:
        return x.index_select(axis, matrix.to(x.device))
    y: Tensor = torch.tensordot(x, matrix.to(x.device, x.dtype), dims=([axis], [1]))
    return y.movedim(-1, axis)


def _resize_old(a: Attributes) -> Run:
    resize = _resize(a)
    return lambda x, scales: resize(x, None, as_list(scales))


_WAYS = {"linear": "bilinear", "cubic": "bicubic"}


def _grid_sample(a: Attributes) -> Run:
    mode, around, corners = a["mode"], a["padding_mode"], bool(a["align_corners"])
    mode = _WAYS.get(mode, mode)

    def run(x: Tensor, grid: Tensor) -> Tensor:
        return nnf.grid_sample(x, grid.to(x.dtype), mode, around, corners)

    return run


def _affine_grid(a: Attributes) -> Run:
    corners = bool(a["align_corners"])
    return lambda theta, size: nnf.affine_grid(theta, as_list(size), corners)


def _bilinear(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The four neighbours' shares of (channels, height, width) at the points of (y, x): channels and points, four of each."""
    height, width = plane.shape[1:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    shares = torch.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across])
    taken = torch.stack([plane[:, top, left], plane[:, top, right], plane[:, bottom, left], plane[:, bottom, right]])
    return taken * (shares * inside).unsqueeze(1)


def _roi_align(a: Attributes) -> Run:
    rows, columns, scale, ratio = a["output_height"], a["output_width"], a["spatial_scale"], a["sampling_ratio"]
    shift = 0.5 if a.get("coordinate_transformation_mode", "output_half_pixel") == "half_pixel" else 0.0
    largest = a["mode"] == "max"

    def one(plane: Tensor, box: Tensor) -> Tensor:
        left, top, right, bottom = (box * scale - shift).unbind()
        width, height = right - left, bottom - top
        if not shift:
            width, height = width.clamp(min=1), height.clamp(min=1)
        down = ratio if ratio > 0 else max(math.ceil(float(height) / rows), 1)
        across = ratio if ratio > 0 else max(math.ceil(float(width) / columns), 1)
        steps = (
            torch.arange(rows * down, device=box.device, dtype=box.dtype),
            torch.arange(columns * across, device=box.device, dtype=box.dtype),
        )
        y = top + (steps[0] + 0.5) * height / (rows * down)
        x = left + (steps[1] + 0.5) * width / (columns * across)
        shares = _bilinear(plane, y[:, None].expand(-1, len(x)), x[None].expand(len(y), -1))
        values = shares.amax(0) if largest else shares.sum(0)
        cells = values.reshape(-1, rows, down, columns, across)
        return cells.amax((2, 4)) if largest else cells.mean((2, 4))

    def run(x: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
        if not len(boxes):
            return x.new_zeros((0, x.shape[1], rows, columns))
        return torch.stack([one(x[n], box) for n, box in zip(index.tolist(), boxes, strict=True)])

    return run


def _max_roi_pool(a: Attributes) -> Run:
    rows, columns = a["pooled_shape"]
    scale = a["spatial_scale"]

    def edges(first: int, last: int, count: int, size: int) -> list[tuple[int, int]]:
        step = max(last - first + 1, 1) / count
        bounds = [(first + math.floor(i * step), first + math.ceil((i + 1) * step)) for i in range(count)]
        return [(min(max(low, 0), size), min(max(high, 0), size)) for low, high in bounds]

    def run(x: Tensor, boxes: Tensor) -> Tensor:
        found = []
        for n, left, top, right, bottom in boxes.tolist():
            across = edges(round(left * scale), round(right * scale), columns, x.shape[3])
            down = edges(round(top * scale), round(bottom * scale), rows, x.shape[2])
            plane = x[int(n)]
            cells = [
                plane[:, t:b, l:r].amax((1, 2)) if b > t and r > l else plane.new_zeros(plane.shape[0])
                for t, b in down
                for l, r in across  # noqa: E741 - left
            ]
            found.append(torch.stack(cells, 1).reshape(-1, rows, columns))
        return torch.stack(found)

    return run


_SCALES = {2: "scales", 3: ""}
TABLE: Table = {
    "AffineGrid": Op(_affine_grid, host={1: ""}),
    "GridSample": Op(_grid_sample),
    "MaxRoiPool": Op(_max_roi_pool),
    "Resize": Op(_resize_old, host={1: ""}),
    "Resize@11": Op(_resize, host={1: "", **_SCALES}),
    "RoiAlign": Op(_roi_align),
    "Upsample": Op(_resize_old, host={1: "scales"}),
}
