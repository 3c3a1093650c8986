"""What a step computes, counted by torch, and by us where torch doesn't know an op or counts it wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def flop_counter() -> Any:
    """A mode that counts floating-point operations, two to a multiply-add. Of masked attention the whole square counts.

    torch knows the attention of accelerators, and not the CPU's; and takes the gradients of a grouped convolution for those of a
    whole one, which stacked sub-models are full of.
    """
    aten: Any = torch.ops.aten
    own = {
        aten.convolution_backward: _convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def _convolution_backward(
    gradient: Shape,
    images: Shape,
    weight: Shape,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    out_shape: Any = None,
) -> int:
    """The gradients of images and of weights take as much as the forward each."""
    once = conv_flop_count(images, weight, gradient, transposed)  # type: ignore[arg-type]
    return (wanted[0] + wanted[1]) * int(once)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(
    gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]
