"""Norms, softmax, dropout and losses."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Frame, Op, Run, Table, Tensor, number


def _batch_norm(a: Attributes) -> Run:
    """In training mode the batch's statistics, and the running ones move towards them (torch's way: unbiased variance)."""
    epsilon, momentum, tracked = a["epsilon"], 1 - a["momentum"], a.tracked
    if not a.get("spatial", 1):
        raise a.refused("a batch norm with a scale for every pixel", "convert the file to opset 9 or later")
    if a.get("training_mode", 0):
        return _batch_norm_of_batches(a)
    if any(a.wants(i) for i in range(1, 5)):
        raise a.refused("its running statistics are results", "export the network for inference")

    def run(frame: Frame, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor]:
        training = tracked and frame.training
        if mean.requires_grad or variance.requires_grad:  # computed from data: it is no batch norm, but spelled as one
            shape = (-1, *[1] * (x.ndim - 2))
            gain = (scale * torch.rsqrt(variance + epsilon)).reshape(shape)
            return ((x - mean.reshape(shape)) * gain + bias.reshape(shape),)
        return (nnf.batch_norm(x, mean, variance, scale, bias, training, momentum, epsilon),)

    return run


def _batch_norm_of_batches(a: Attributes) -> Run:
    """One that takes its batch's statistics in both modes; the running ones, with a biased variance, are results."""
    epsilon, momentum, tracked = a["epsilon"], a["momentum"], a.tracked

    def run(frame: Frame, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        y = nnf.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
        spread, centre = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        means = (mean * momentum + centre * (1 - momentum)).to(mean.dtype)
        variances = (variance * momentum + spread * (1 - momentum)).to(variance.dtype)
        if frame.training and tracked:
            mean.copy_(means.detach())
            variance.copy_(variances.detach())
        return y, means, variances

    return run


def _instance_norm(a: Attributes) -> Run:
    epsilon = a["epsilon"]

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if x[0, 0].numel() > 1:
            return nnf.instance_norm(x, weight=scale, bias=bias, eps=epsilon)
        return torch.zeros_like(x) + bias.reshape(-1, *[1] * (x.ndim - 2))  # torch refuses a single element

    return run


def _group_norm(a: Attributes) -> Run:
    groups, epsilon, per_group = a["num_groups"], a["epsilon"], a.version < 21

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if per_group:
            each = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return nnf.group_norm(x, groups, scale, bias, epsilon)

    return run


def _layer_norm(a: Attributes, least: float = 1e-5) -> Run:
    axis, epsilon, single = a.get("axis", -1), a.get("epsilon", least), not (a.wants(1) or a.wants(2))

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        shape = x.shape[axis if axis >= 0 else x.ndim + axis :]
        if single and scale.shape == shape and (bias is None or bias.shape == shape):
            return (nnf.layer_norm(x, shape, scale, bias, epsilon),)
        dims = tuple(range(x.ndim - len(shape), x.ndim))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = wide.mean(dims, keepdim=True)
        inverse = torch.rsqrt((wide - mean).square().mean(dims, keepdim=True) + epsilon)
        y = ((wide - mean) * inverse).to(x.dtype) * scale
        return y if bias is None else y + bias, mean, inverse

    return run


def _rms_norm(a: Attributes, least: float = 1e-5) -> Run:
    axis, epsilon = a.get("axis", -1), a.get("epsilon", least)

    def run(x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        dims = tuple(range(axis if axis >= 0 else x.ndim + axis, x.ndim))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        inverse = torch.rsqrt(wide.square().mean(dims, keepdim=True) + epsilon)
        return (wide * inverse).to(x.dtype) * scale, inverse

    return run


def _local_response(a: Attributes) -> Run:
    size, alpha, beta, bias = a["size"], a["alpha"], a["beta"], a["bias"]
    before, after = (size - 1) // 2, size // 2

    def run(x: Tensor) -> Tensor:
        squares = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
        mean = nnf.avg_pool2d(nnf.pad(squares, (0, 0, before, after)), (size, 1), stride=1)
        return x / torch.pow(mean.reshape(x.shape) * alpha + bias, beta)

    return run


def _lp_norm(a: Attributes) -> Run:
    axis, p = a["axis"], a["p"]

    def run(x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
        return torch.where(size == 0, x, x / torch.where(size == 0, torch.ones_like(size), size))

    return run


def _mean_variance(a: Attributes) -> Run:
    axes = tuple(a["axes"])

    def run(x: Tensor) -> Tensor:
        mean = x.mean(axes, keepdim=True)
        deviation = (x.square().mean(axes, keepdim=True) - mean.square()).clamp(min=0).sqrt()
        return (x - mean) / (deviation + 1e-9)

    return run


def _softmax(function: Any) -> Op:
    def make(a: Attributes) -> Run:
        axis = a["axis"]
        if a.version >= 13:
            return lambda x: function(x, axis)

        def run(x: Tensor) -> Tensor:
            first = axis if axis >= 0 else x.ndim + axis
            result: Tensor = (
                function(x.flatten(first), -1).reshape(x.shape)
                if first < x.ndim
                else function(x.unsqueeze(-1), -1)[..., 0]
            )
            return result

        return run

    return Op(make)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _dropout(a: Attributes) -> Run:
    """Active in training mode, whatever the file was exported for; the ratio is the file's."""
    old = a.get("ratio", 0.5)

    def run(frame: Frame, x: Tensor, ratio: Any = None, training: Any = None) -> tuple[Tensor, ...]:
        p = float(old if ratio is None else number(ratio))
        if not (frame.training or training) or p == 0:
            return x, torch.ones_like(x, dtype=torch.bool)
        kept = torch.rand_like(x) >= p
        return x * kept / (1 - p), kept

    def fast(frame: Frame, x: Tensor, ratio: Any = None, training: Any = None) -> tuple[Tensor, ...]:
        return (nnf.dropout(x, float(old if ratio is None else number(ratio)), bool(frame.training or training)),)

    return run if a.wants(1) else fast


def _nll(a: Attributes) -> Run:
    """Written out, since torch's own has no gradient for the classes' weights."""
    reduction, ignored = a["reduction"], a.get("ignore_index")

    def run(x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        target = target.long()
        counted = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
        target = torch.where(counted, target, 0)
        shares = counted.to(x.dtype) if weight is None else weight[target] * counted
        loss = -x.gather(1, target.unsqueeze(1)).squeeze(1) * shares
        if reduction == "none":
            return loss
        return loss.sum() if reduction == "sum" else loss.sum() / shares.sum()

    return run


def _cross_entropy(a: Attributes) -> Run:
    loss = _nll(a)

    def run(x: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logs = torch.log_softmax(x, 1)
        return loss(logs, target, weight), logs

    return run


def _skip_norm(a: Attributes) -> Run:
    norm = _layer_norm(a, _SKIP_EPSILON)

    def run(
        x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Any, ...]:
        total = x + skip if bias is None else x + skip + bias
        return *(*norm(total, scale, shift), None, None)[:3], total

    return run


def _skip_rms_norm(a: Attributes) -> Run:
    norm = _rms_norm(a, _SKIP_EPSILON)

    def run(x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Any, ...]:
        total = x + skip if bias is None else x + skip + bias
        y, inverse = norm(total, scale)
        return y, None, inverse, total

    return run


_SKIP_EPSILON = 1e-12
_TWO = {1: "", 2: ""}
TABLE: Table = {
    "BatchNormalization": Op(_batch_norm, many=True, framed=True, statistics=(3, 4), fixed=False),
    "Dropout": Op(_dropout, numbers=_TWO, many=True, framed=True, fixed=False),
    "GroupNormalization": Op(_group_norm),
    "Hardmax": _softmax(_hardmax),
    "InstanceNormalization": Op(_instance_norm),
    "LRN": Op(_local_response),
    "LayerNormalization": Op(_layer_norm, many=True),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": Op(_lp_norm),
    "MeanVarianceNormalization": Op(_mean_variance),
    "NegativeLogLikelihoodLoss": Op(_nll),
    "RMSNormalization": Op(_rms_norm, many=True),
    "SimplifiedLayerNormalization": Op(_rms_norm, many=True),
    "Softmax": _softmax(torch.softmax),
    "SoftmaxCrossEntropyLoss": Op(_cross_entropy, many=True),
    "com.microsoft::SimplifiedLayerNormalization": Op(_rms_norm, many=True),
    "com.microsoft::SkipLayerNormalization": Op(_skip_norm, many=True),
    "com.microsoft::SkipSimplifiedLayerNormalization": Op(_skip_rms_norm, many=True),
}
