"""Fourier transforms, and what goes with them."""

from __future__ import annotations

from typing import Any

import torch

from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor, number
from graphsplit.formats import onnx_eval
from graphsplit.formats.torch_tensors import to_numpy, to_torch


def _fourier(x: Tensor, length: int | None, axis: int, inverse: bool, onesided: bool) -> Tensor:
    """A transform of (…, 1 or 2), real and imaginary parts in the last axis; `axis` counts from the front."""
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if onesided and inverse:
        real: Tensor = torch.fft.irfft(signal, length, axis)
        return real.unsqueeze(-1)
    if onesided:
        return torch.view_as_real(torch.fft.rfft(signal.real if signal.is_complex() else signal, length, axis))
    function = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(function(signal, length, axis))


def _dft(a: Attributes) -> Run:
    inverse, onesided, old = bool(a["inverse"]), bool(a["onesided"]), a.get("axis", -2)

    def run(x: Tensor, length: Any = None, axis: Any = None) -> Tensor:
        dim = int(number(axis)) if axis is not None else old
        size = None if length is None else int(number(length))
        return _fourier(x, size, dim % x.ndim, inverse, onesided)

    return run


def _stft(a: Attributes) -> Run:
    onesided = bool(a["onesided"])

    def run(x: Tensor, step: Any, window: Tensor | None = None, length: Any = None) -> Tensor:
        size = int(number(length)) if length is not None else window.shape[0] if window is not None else 0
        signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0] if x.ndim == 3 else x
        frames = signal.unfold(1, size, int(number(step)))
        frames = frames if window is None else frames * window
        found = torch.fft.rfft(frames) if onesided else torch.fft.fft(frames)
        return torch.view_as_real(found)

    return run


def _reference(a: Attributes) -> Run:
    """The implementation that comes with onnx, for what is computed from constants once."""
    return lambda *operands: to_torch(onnx_eval.run(a.node, [None if o is None else to_numpy(o) for o in operands])[0])


TABLE: Table = {
    "DFT": Op(_dft, host={1: ""}),
    "DFT@20": Op(_dft, host={1: "", 2: ""}),
    "MelWeightMatrix": Op(_reference),
    "STFT": Op(_stft, host={1: "", 3: ""}),
}
