"""A network of a zoo made ready to be tried: random weights, values that aren't degenerate, small inputs."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

CALIBRATION = 3
"""Forward passes in training mode, from which batch norms take their statistics."""

_KEPT: list[object] = []


@dataclass
class Example:
    """A model with what it is called with."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class LeftOutError(Exception):
    """A model that isn't tried, with the reason."""


def declare_vision() -> None:
    """Let torchvision be imported where its compiled ops don't fit this torch: its modules name two of them."""
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError):
        fragments: Any = torch.library.Library
        library = fragments("torchvision", "FRAGMENT")
        _KEPT.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def ready(example: Example) -> Example:
    """The model with its gains away from zero, its statistics calibrated, in evaluation mode and in double precision."""
    shaken(example.model)
    calibrated(example)
    example.model.eval()
    return example


def shaken(model: nn.Module) -> None:
    """Move vectors that are all one number: a gain of zero or next to it hides what lies behind it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2 or parameter.is_meta:
                continue
            low, high = parameter.min(), parameter.max()
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.dtype)
            if low == high and parameter.dim() < 2:
                base = 0.5 if float(high.abs()) < 1e-2 and float(high) != 0 else float(high)
                parameter.copy_(base + 0.1 * noise)
            elif low == high:
                parameter.copy_(float(high) + 0.05 * noise)


def calibrated(example: Example) -> None:
    """Give batch norms the statistics of random inputs; a model that can't run in training mode keeps its own."""
    model = example.model
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    model.train()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(CALIBRATION):
                args, kwargs = redrawn((example.args, dict(example.kwargs)), seed)
                model(*args, **kwargs)
    except (RuntimeError, ValueError, AssertionError, TypeError):
        for norm in norms:
            norm.reset_running_stats()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()
        if norm.running_var is not None:
            norm.running_var.clamp_(min=1e-2)


def redrawn(values: Any, seed: int, extra: int = 0) -> Any:
    """The same tree of inputs with other random numbers, and `extra` more in each batch; whole numbers are permuted."""
    generator = torch.Generator().manual_seed(seed)

    def other(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim():
            return value
        order = torch.arange(len(value) + extra) % len(value)
        if value.is_floating_point():
            noise = torch.randn((len(order), *value.shape[1:]), generator=generator, dtype=torch.float32)
            return noise.to(value.dtype)
        return value[order].roll(seed, -1) if value.dim() > 1 else value[order]

    return pytree.tree_map(other, values)


def in_double(example: Example) -> Example:
    """The model and its inputs in double precision."""

    def wide(value: Any) -> Any:
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return Example(example.model.double(), *pytree.tree_map(wide, (example.args, dict(example.kwargs))))
