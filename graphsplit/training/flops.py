"""What a step computes, counted by torch, and by us where torch doesn't know an op or counts it wrong."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def flop_counter() -> Any:
    """A mode that counts floating-point operations, two to a multiply-add. Of masked attention the whole square counts.

    torch knows the attention of accelerators, and not the CPU's; takes the gradients of a grouped convolution for those of a
    whole one, which stacked sub-models are full of; and knows no fused recurrent layer and no product with a vector.
    """
    aten: Any = torch.ops.aten
    own = {
        aten.convolution_backward: _convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten.mkldnn_rnn_layer: _recurrent_layer,
        aten.mkldnn_rnn_layer_backward: _recurrent_layer_backward,
        aten._cudnn_rnn: _recurrent_stack,
        aten._cudnn_rnn_backward: _recurrent_stack_backward,
        aten.miopen_rnn: _recurrent_stack,
        aten.miopen_rnn_backward: _recurrent_stack_backward,
        aten.mv: _vector,
        aten.addmv: _added_vector,
        aten.dot: _vector,
        aten.vdot: _vector,
        aten._trilinear: _bilinear,
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


def _recurrent_layer(steps: Shape, of_input: Shape, of_state: Shape, *_: Any, out_shape: Any = None) -> int:
    """One layer in one direction: every step of every sequence meets each element of both weights."""
    return _recurrent_stack(steps, (of_input, of_state))


def _recurrent_layer_backward(steps: Shape, of_input: Shape, of_state: Shape, *_: Any, out_shape: Any = None) -> int:
    """It computes all gradients, also those that nobody asked for."""
    return 2 * _recurrent_layer(steps, of_input, of_state)


def _recurrent_stack(steps: Shape, weights: Sequence[Shape], *_: Any, out_shape: Any = None) -> int:
    """All layers in all directions; biases, of one axis, aren't contracted."""
    return 2 * prod(steps[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _recurrent_stack_backward(steps: Shape, weights: Sequence[Shape], *rest: Any, out_shape: Any = None) -> int:
    """The gradients of steps and states are always computed, those of weights where the mask behind all wants them."""
    return (1 + bool(rest[-1][-1])) * _recurrent_stack(steps, weights)


def _vector(matrix: Shape, _vector: Shape, out_shape: Any = None) -> int:
    return 2 * prod(matrix)


def _added_vector(_added: Shape, matrix: Shape, _vector: Shape, out_shape: Any = None, **_: Any) -> int:
    return 2 * prod(matrix)


def _bilinear(first: Shape, second: Shape, third: Shape, *axes: Any, out_shape: Any = None) -> int:
    """Axes of size 1 are put in where the three lists say; all elements of the product of the three are added up."""
    shapes: list[list[int]] = []
    for shape, new in zip((first, second, third), axes, strict=False):
        wide = list(shape)
        for axis in sorted(new):
            wide.insert(axis, 1)
        shapes.append(wide)
    return 2 * prod([int(max(sizes)) for sizes in zip(*shapes, strict=True)])
