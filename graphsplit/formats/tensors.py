"""Stored tensors of ONNX files: element types, data in the file or beside it, and their bytes.

Nothing is read before it is asked for: data outside the file is memory-mapped, one mapping a file.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers the element types that numpy lacks)
import numpy as np
import onnx
import onnx_ir as ir

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.files import inside
from graphsplit.formats.wire import IN_FILE
from graphsplit.graph import Array, Tensor, WeightlessTensor

STUB_LOCATION = "graphsplit-weightless"

_FIELDS: dict[str, tuple[int, ...]] = {
    "float_data": (1, 14),
    "int32_data": (2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28),
    "string_data": (8,),
    "int64_data": (7,),
    "double_data": (11, 15),
    "uint64_data": (12, 13),
}
_FIELD_OF = {code: name for name, codes in _FIELDS.items() for code in codes}


def numpy_type(code: int) -> np.dtype[np.generic]:
    """The numpy type of an ONNX element type. Raises FormatError for one that is undefined or unknown."""
    try:
        if code:
            return np.dtype(ir.DataType(code).numpy())
    except (ValueError, TypeError):
        pass
    raise FormatError(f"{code} is not an ONNX element type that graphsplit knows")


def onnx_type(dtype: np.dtype[np.generic]) -> ir.DataType:
    """The ONNX element type of a numpy type. Raises UnsupportedError where there is none."""
    try:
        return ir.DataType.from_numpy(dtype)
    except TypeError as error:
        raise UnsupportedError(f"ONNX has no element type for numpy's {dtype}") from error


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Whether a type holds real floating-point numbers, the short ones included."""
    return np.issubdtype(dtype, np.floating) or (dtype.kind == "V" and onnx_type(dtype).is_floating_point())


class MappedFile:
    """A file that is mapped into memory, and watched: bytes that someone changed meanwhile are not given out."""

    def __init__(self, path: Path) -> None:
        """Raises FormatError when the file cannot be read."""
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            self.size, self._changed = self._state()
            self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) if self.size else b""
        except FileNotFoundError as error:
            hint = "it belongs beside the model: copy it there"
            raise FormatError(f"the data file {str(path)!r} is missing", hint=hint) from error
        except (OSError, ValueError) as error:
            raise FormatError(f"cannot read {str(path)!r}: {error}") from error

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self._descriptor)
        return state.st_size, state.st_mtime_ns

    def bytes(self) -> mmap.mmap | bytes:
        """All of the file. Raises FormatError when it was written to since it was opened; replacing it does no harm."""
        if self._state() != (self.size, self._changed):
            raise FormatError(f"{str(self.path)!r} was changed while it was in use", hint="load it again")
        return self._map


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor that lies in a file, little-endian and densely packed, from a byte on."""

    file: MappedFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def numpy(self) -> Array:
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        nbytes = byte_size(self.shape, self.dtype)
        if self.offset + nbytes > self.file.size:
            raise FormatError(f"{str(self.file.path)!r} ends before the tensor at byte {self.offset}")
        if onnx_type(self.dtype).bitwidth < 8:
            raw = self.file.bytes()[self.offset : self.offset + nbytes]
            proto = onnx.TensorProto(data_type=onnx_type(self.dtype).value, dims=self.shape, raw_data=raw)
            return ir.serde.TensorProtoTensor(proto).numpy()
        stored = self.dtype if sys.byteorder == "little" else self.dtype.newbyteorder("<")
        array = np.frombuffer(self.file.bytes(), stored, math.prod(self.shape), self.offset)
        return array.reshape(self.shape).astype(self.dtype, copy=self.offset % self.dtype.alignment != 0)


@dataclass(frozen=True, slots=True)
class ProtoTensor:
    """A tensor whose data is part of the model file."""

    proto: onnx.TensorProto
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def numpy(self) -> Array:
        if self.dtype.kind == "O":
            return np.array(list(self.proto.string_data), object).reshape(self.shape)
        return ir.serde.TensorProtoTensor(self.proto).numpy()


def byte_size(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> int:
    """Bytes of a tensor's elements in a file; sub-byte types are packed."""
    return math.ceil(math.prod(shape) * onnx_type(dtype).bitwidth / 8)


def read_tensor(proto: onnx.TensorProto, folder: Path, files: dict[str, MappedFile]) -> Tensor:
    """The tensor that a message describes; `files` holds what was opened before, by its name in the message.

    A weightless stub comes back as a WeightlessTensor. Raises FormatError when shape, type and data disagree, or when
    data outside the file is missing, too short or outside the folder.
    """
    shape = tuple(proto.dims)
    if any(size < 0 for size in shape):
        raise FormatError(f"tensor {proto.name!r} has the impossible shape {shape}")
    dtype = numpy_type(proto.data_type)
    if proto.HasField("segment"):
        raise UnsupportedError(f"tensor {proto.name!r} is stored in segments")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        return _external(proto, shape, dtype, folder, files)
    place = next((entry.value for entry in reversed(proto.external_data) if entry.key == IN_FILE), None)
    if place is None:
        _check_data(proto, shape)
        return ProtoTensor(proto, shape, dtype)
    offset, length = (int(number) for number in place.split(":"))
    _check_data(proto, shape, length)
    return FileTensor(files[IN_FILE], offset, shape, dtype)


def _check_data(proto: onnx.TensorProto, shape: tuple[int, ...], raw: int | None = None) -> None:
    """Elements in the message itself, or `raw` bytes of them in the file, must be as many as the shape says."""
    size = math.prod(shape)
    kind = ir.DataType(proto.data_type)
    where = f"tensor {proto.name!r} of shape {shape} and type {kind.name}"
    if proto.HasField("raw_data"):
        raw = len(proto.raw_data)
    if raw is not None:
        if kind == ir.DataType.STRING:
            raise FormatError(f"{where} has raw data, which strings cannot have")
        found, wanted, unit = raw, math.ceil(size * kind.bitwidth / 8), "bytes"
    else:
        found, wanted, unit = len(getattr(proto, _FIELD_OF[proto.data_type])), size, "elements"
        if kind in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
            wanted *= 2
        elif kind != ir.DataType.STRING and kind.bitwidth in (2, 4):
            wanted = math.ceil(size * kind.bitwidth / 8)
    if found != wanted:
        raise FormatError(f"{where} should have {wanted} {unit} and has {found}: the file is damaged")


def _external(
    proto: onnx.TensorProto,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    folder: Path,
    files: dict[str, MappedFile],
) -> Tensor:
    where: Mapping[str, str] = {entry.key: entry.value for entry in proto.external_data}
    location = where.get("location", "")
    if location == STUB_LOCATION:
        return WeightlessTensor(shape, dtype)
    if dtype == np.dtype(object):
        raise FormatError(f"tensor {proto.name!r} keeps strings outside the file, which ONNX does not allow")
    nbytes = byte_size(shape, dtype)
    try:
        offset, length = int(where.get("offset") or 0), int(where.get("length") or nbytes)
        if location not in files:
            files[location] = MappedFile(inside(folder, location))
    except ValueError as error:
        message = error.message if isinstance(error, FormatError) else "its offset or length is not a number"
        hint = error.hint if isinstance(error, FormatError) else ""
        raise FormatError(f"tensor {proto.name!r} with data outside the file: {message}", hint=hint) from error
    file = files[location]
    if length != nbytes or offset < 0 or offset + nbytes > file.size:
        raise FormatError(
            f"tensor {proto.name!r} of shape {shape} and type {dtype} needs {nbytes} bytes and should lie in "
            f"{location!r} at byte {offset} with length {length}; that file has {file.size} bytes",
            hint="the data file is damaged, or belongs to another model",
        )
    return FileTensor(file, offset, shape, dtype)


def raw_bytes(array: Array) -> bytes | memoryview:
    """The elements as ONNX and safetensors store them: little-endian, row-major, sub-byte types packed."""
    kind = onnx_type(array.dtype)
    array = np.ascontiguousarray(array)
    if kind.bitwidth < 8 or sys.byteorder != "little":
        return ir.Tensor(array, dtype=kind).tobytes()
    return array.reshape(-1).view(np.uint8).data
