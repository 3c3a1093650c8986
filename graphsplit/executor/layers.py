"""Ops that contract data with weights: convolutions and products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, plain

_CONV = {3: nnf.conv1d, 4: nnf.conv2d, 5: nnf.conv3d}
_TRANSPOSED = {3: nnf.conv_transpose1d, 4: nnf.conv_transpose2d, 5: nnf.conv_transpose3d}


def padding(pads: Sequence[int]) -> list[int]:
    """ONNX's pads (all begins, then all ends) in torch's order: the last axis first, begin and end together."""
    half = len(pads) // 2
    return [pads[axis + end] for axis in range(half - 1, -1, -1) for end in (0, half)]


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], mode: str
) -> list[int]:
    """The pads of `auto_pad` for a window that slides: as many results as strides fit into the size."""
    total = [
        max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
        for size, k, step, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *more] if mode == "SAME_UPPER" else [*more, *less]


def spatial(a: Attributes, name: str, rank: int, default: int = 1) -> list[int]:
    """An attribute with a number for each spatial axis."""
    value = a.get(name)
    return list(value) if value else [default] * rank


def _conv(a: Attributes) -> Run:
    mode, group = a.get("auto_pad", "NOTSET"), a["group"]
    pads, strides, dilations = a.get("pads"), a.get("strides"), a.get("dilations")
    rank = next(
        (len(v) // n for v, n in ((strides, 1), (dilations, 1), (a.get("kernel_shape"), 1), (pads, 2)) if v), None
    )
    half = len(pads) // 2 if pads else 0
    even = mode in ("NOTSET", "VALID") and (not pads or mode == "VALID" or tuple(pads[:half]) == tuple(pads[half:]))
    if rank is not None and rank not in (1, 2, 3):
        raise a.refused(f"a convolution over {rank} axes", "torch has those over one to three")
    if even and rank is not None:
        convolve, fixed = (
            _CONV[rank + 2],
            (tuple(strides or [1] * rank), tuple(pads[:half]) if pads and mode == "NOTSET" else 0),
        )
        spread = tuple(dilations or [1] * rank)
        return lambda x, w, b=None: convolve(x, w, b, *fixed, spread, group)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        size = x.ndim - 2
        steps, far = spatial(a, "strides", size), spatial(a, "dilations", size)
        around = [0] * (2 * size)
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            around = same_pads(x.shape[2:], w.shape[2:], steps, far, mode)
        elif mode == "NOTSET" and pads:
            around = list(pads)
        if around[:size] != around[size:]:
            x, around = nnf.pad(x, padding(around)), [0] * (2 * size)
        return _CONV[x.ndim](x, w, b, steps, around[:size], far, group)

    return run


def _conv_transpose(a: Attributes) -> Run:
    mode, group, wanted = a.get("auto_pad", "NOTSET"), a["group"], a.get("output_shape")

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        steps, far, extra = (
            spatial(a, "strides", rank),
            spatial(a, "dilations", rank),
            spatial(a, "output_padding", rank, 0),
        )
        pads = spatial(a, "pads", 2 * rank, 0) if mode == "NOTSET" else [0] * (2 * rank)
        reach = [s * (n - 1) + (k - 1) * d + 1 for s, n, k, d in zip(steps, x.shape[2:], w.shape[2:], far, strict=True)]
        if wanted or mode in ("SAME_UPPER", "SAME_LOWER"):
            sizes = list(wanted)[-rank:] if wanted else [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
            total = [r + e - o for r, e, o in zip(reach, extra, sizes, strict=True)]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = [*less, *more] if mode == "SAME_UPPER" else [*more, *less]
        even = pads[:rank] == pads[rank:] and min(pads) >= 0
        if even and all(e < max(s, d) for e, s, d in zip(extra, steps, far, strict=True)):
            return _TRANSPOSED[x.ndim](x, w, b, steps, pads[:rank], extra, group, far)
        y = _TRANSPOSED[x.ndim](x, w, None, steps, 0, 0, group, far)
        y = nnf.pad(y, padding([-p for p in pads[:rank]] + [e - p for p, e in zip(pads[rank:], extra, strict=True)]))
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    return run


def _gemm(a: Attributes) -> Run:
    alpha, beta, left, right = a["alpha"], a["beta"], a["transA"], a["transB"]
    simple = alpha == 1 and beta == 1 and not left

    def run(x: Tensor, w: Tensor, c: Tensor | None = None) -> Tensor:
        if simple and (c is None or c.ndim == 1):
            return nnf.linear(x, w if right else w.t(), c)
        x, w = x.t() if left else x, w.t() if right else w
        if not x.dtype.is_floating_point:
            product = int(alpha) * (x @ w)
            return product if c is None else product + int(beta) * c
        if c is None:
            scaled: Tensor = (x @ w) * alpha
            return scaled
        return torch.addmm(c, x, w, beta=beta, alpha=alpha)

    return run


def _fused_matmul(a: Attributes) -> Run:
    if a.get("transBatchA", 0) or a.get("transBatchB", 0):
        raise a.refused("it moves batch axes as it contracts", "save the model unoptimised")
    left, right, alpha = a.get("transA", 0), a.get("transB", 0), a.get("alpha", 1.0)

    def run(x: Tensor, w: Tensor) -> Tensor:
        y = torch.matmul(x.mT if left and x.ndim > 1 else x, w.mT if right and w.ndim > 1 else w)
        return y if alpha == 1 else y * alpha

    return run


def _einsum(a: Attributes) -> Run:
    equation = a["equation"]
    return lambda *operands: torch.einsum(equation, *operands)


def _causal_conv(a: Attributes) -> Run:
    active = a.get("activation", "none") != "none"

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        size = w.shape[-1] - 1
        x = nnf.pad(x, (size, 0)) if past is None else torch.cat([past, x], -1)
        y = nnf.conv1d(x, w, b, groups=w.shape[0])
        return nnf.silu(y) if active else y, x[..., x.shape[-1] - size :]

    return run


def _deform_conv(a: Attributes) -> Run:
    """Each element of the kernel is sampled where its offset says, all at once; then the kernel is a product of matrices."""
    group, groups = a["group"], a["offset_group"]

    def run(x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if x.ndim != 4:
            raise a.refused(f"its data has {x.ndim} axes", "two spatial axes are what it does")
        n, _, height, width = x.shape
        (rows, columns), (down, across) = w.shape[2:], offset.shape[2:]
        steps, far, pads = spatial(a, "strides", 2), spatial(a, "dilations", 2), spatial(a, "pads", 4, 0)
        moved = offset.reshape(n * groups, rows, columns, 2, down, across)
        start = [torch.arange(c, device=x.device) * s - p for c, s, p in zip((down, across), steps, pads, strict=False)]
        inner = [torch.arange(k, device=x.device) * d for k, d in zip((rows, columns), far, strict=True)]
        y = moved[:, :, :, 0] + inner[0].reshape(-1, 1, 1, 1) + start[0].reshape(-1, 1)
        z = moved[:, :, :, 1] + inner[1].reshape(-1, 1, 1) + start[1]
        grid = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], -1).reshape(n * groups, -1, across, 2)
        taken = nnf.grid_sample(x.reshape(n * groups, -1, height, width), grid.to(x.dtype), align_corners=False)
        taken = taken.reshape(n, groups, -1, rows * columns, down * across)
        if mask is not None:
            taken = taken * mask.reshape(n, groups, 1, rows * columns, down * across)
        patches = taken.reshape(n, group, -1, down * across)
        result = (w.reshape(group, w.shape[0] // group, -1) @ patches).reshape(n, -1, down, across)
        return result if b is None else result + b.reshape(-1, 1, 1)

    return run


TABLE: Table = {
    "CausalConvWithState": Op(_causal_conv, many=True),
    "Conv": Op(_conv),
    "ConvTranspose": Op(_conv_transpose),
    "DeformConv": Op(_deform_conv),
    "Einsum": Op(_einsum),
    "Gemm": Op(_gemm),
    "MatMul": plain(torch.matmul),
    "com.microsoft::FusedMatMul": Op(_fused_matmul),
    "com.microsoft::TransposeMatMul": Op(_fused_matmul),
}
