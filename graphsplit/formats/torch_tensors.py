"""Torch tensors as the graph holds them: read when asked for, and turned into numpy arrays and back without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch

from graphsplit.errors import UnsupportedError
from graphsplit.graph import Array

NUMPY: Mapping[torch.dtype, np.dtype[np.generic]] = {
    torch.bool: np.dtype(np.bool_),
    torch.uint8: np.dtype(np.uint8),
    torch.uint16: np.dtype(np.uint16),
    torch.uint32: np.dtype(np.uint32),
    torch.uint64: np.dtype(np.uint64),
    torch.int8: np.dtype(np.int8),
    torch.int16: np.dtype(np.int16),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: np.dtype(ml_dtypes.float8_e5m2),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}
TORCH = {there: here for here, there in NUMPY.items()}
_BITS = {1: torch.uint8, 2: torch.int16}


def numpy_dtype(dtype: torch.dtype) -> np.dtype[np.generic]:
    """The numpy type of a torch type. Raises UnsupportedError for quantised and packed ones."""
    if dtype not in NUMPY:
        raise UnsupportedError(f"tensors of type {dtype} can't be split", hint="split the float model")
    return NUMPY[dtype]


def is_real(dtype: np.dtype[np.generic]) -> bool:
    """Whether a type holds real or complex numbers, of any width."""
    return dtype.kind in "fcV" or dtype.name.startswith(("bfloat", "float8"))


def to_numpy(tensor: torch.Tensor) -> Array:
    """The elements of a tensor on the CPU, as a view where that is possible."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    dtype = numpy_dtype(tensor.dtype)
    if dtype.kind == "V" or dtype.name.startswith(("bfloat", "float8")):
        bits: Array = tensor.contiguous().view(_BITS[dtype.itemsize]).numpy()
        return bits.view(dtype)
    found: Array = tensor.numpy()
    return found


def to_torch(array: Array) -> torch.Tensor:
    """A tensor of the elements of an array; an axis of stride 0 stays one."""
    shape = array.shape
    if 0 in array.strides and array.size:
        array = array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)]
    dtype, core = TORCH[array.dtype], array.shape
    array = np.array(array, order="C", copy=True)  # torch wants memory that it may write to
    if dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        found = torch.from_numpy(array.view(np.int16 if array.dtype.itemsize == 2 else np.uint8)).view(dtype)
    else:
        found = torch.from_numpy(array)
    return found.reshape(core).expand(shape)


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor of a module or an exported program."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return numpy_dtype(self.tensor.dtype)

    def numpy(self) -> Array:
        return to_numpy(self.tensor)
