"""Trained tensors by name, from whatever file training leaves: ONNX, safetensors or a torch state dict.

torch is imported only when a torch file is read.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.files import atomic_file, inside
from graphsplit.formats.checkpoints import NESTS, renamed, state_dict
from graphsplit.formats.onnx_read import load
from graphsplit.formats.tensors import FileTensor, MappedFile, byte_size, raw_bytes
from graphsplit.graph import ArrayTensor, Tensor

__all__ = ["read_trained", "write_safetensors"]

_TYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
    "C64": np.dtype(np.complex64),
}
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_FOLDER = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""What Hugging Face's Trainer and Accelerate call a checkpoint's weights."""
_LIGHTNING = b"pytorch-lightning_version"
_PICKLED = 1 << 24


def read_trained(
    path: str | os.PathLike[str], *, names: Collection[str] = ()
) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """The tensors of a trained network by name, and the file's metadata (a torch file has none).

    Takes ONNX files (initializers and constants), safetensors, torch files that hold a state dict, by itself or in a
    trainer's checkpoint, and folders with such files as Hugging Face's Trainer writes them. `names` are the network's own:
    they tell which state dict is meant, and what wrappers put in front of names or into them, which is taken off. Tensors of
    ONNX data files and of safetensors stay memory-mapped.

    Raises FormatError for a file that is missing, damaged, of another kind or not a state dict, UnsupportedError for
    element types that numpy cannot hold and where torch is needed and missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path, names)
    if not path.is_file():
        raise FormatError(f"there is no file {str(path)!r}")
    if suffix == ".onnx":
        graph = load(path)
        return graph.tensors, graph.metadata
    if suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return renamed(tensors, names) if names else tensors, metadata
    if suffix == ".pt2":
        from graphsplit.formats.torch_archive import read_metadata, read_weights

        return read_weights(path), read_metadata(path)
    if suffix in _TORCH_SUFFIXES:
        return _read_torch(path, names), {}
    raise FormatError(
        f"{str(path)!r}: trained weights are read from .onnx, .safetensors, .pt2 and {', '.join(_TORCH_SUFFIXES)} files",
        hint="save them in one of these formats, under its usual name",
    )


def write_safetensors(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write tensors as a safetensors file that appears complete or not at all, reading one at a time.

    The same tensors and metadata give the same bytes. Raises UnsupportedError for an element type that the format
    lacks, and OutputError when the file exists and `force` is not set.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _TYPE_NAMES or name == "__metadata__":
            raise UnsupportedError(f"safetensors cannot hold the tensor {name!r} of type {tensor.dtype}")
        begin, end = end, end + byte_size(tensor.shape, tensor.dtype)
        header[name] = {
            "dtype": _TYPE_NAMES[tensor.dtype],
            "shape": [int(size) for size in tensor.shape],
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path, force=force) as staged, staged.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(raw_bytes(tensors[name].numpy()))
        assert file.tell() == 8 + len(text) + end, "a tensor has another size than its shape and type say"


def _read_safetensors(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """The library checks the file (no holes, no overlaps, sizes that fit); the offsets are read here, to map them."""
    try:
        with safe_open(path, framework="numpy") as checked:
            metadata = dict(checked.metadata() or {})
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} is not a safetensors file, or is damaged: {error}") from error
    start = path.stat().st_size - max(
        (entry["data_offsets"][1] for name, entry in header.items() if "dtype" in entry), default=0
    )
    mapped = MappedFile(path)
    tensors: dict[str, Tensor] = {}
    for name, entry in sorted(header.items()):
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise UnsupportedError(f"{str(path)!r}: tensor {name!r} has the type {entry['dtype']}, which numpy lacks")
        shape = tuple(int(size) for size in entry["shape"])
        tensors[name] = FileTensor(mapped, start + entry["data_offsets"][0], shape, _TYPES[entry["dtype"]])
    return tensors, metadata


def _read_torch(path: Path, names: Collection[str]) -> Mapping[str, Tensor]:
    """The state dict in a torch file, read with torch's safe loader."""
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            f"{str(path)!r} is a torch file, and torch is not installed",
            hint="pip install 'graphsplit[torch]', or save the weights as safetensors",
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FormatError(f"{str(path)!r} is not a torch file, or is damaged: {reason}") from error
    state = state_dict(loaded, lambda item: isinstance(item, torch.Tensor), names=names, title=repr(str(path)))
    if state is None:
        raise FormatError(
            f"{str(path)!r} holds no state dict (a mapping of names to tensors)",
            hint="save one: torch.save(model.state_dict(), path)",
        )
    return {name: _from_torch(name, tensor, path) for name, tensor in renamed(state, names).items()}


def _refused(path: Path, reason: str) -> FormatError:
    """Why torch's safe loader refuses a file, and what to do; the file's own code is never run."""
    named = re.search(r"GLOBAL (\S+)", reason)
    text = _pickled(path)
    whole = b"_modules" in text  # then a module is in it, and no state dict can be taken out
    key = "" if whole else next((key for key in NESTS if len(key).to_bytes(4, "little") + key.encode() in text), "")
    trusted = (
        f"torch.save(torch.load({str(path)!r}, weights_only=False)[{key!r}], 'weights.pt') does so with a file that you "
        "trust: it runs the code in it"
    )
    lightning = "Lightning keeps hyperparameters beside the weights. " if _LIGHTNING in text else ""
    return FormatError(
        f"{str(path)!r} holds more than tensors{f' ({named[1]})' if named else ''}, and torch's safe loader refuses it",
        hint=f"{lightning}save the weights alone: torch.save(model.state_dict(), path)"
        + (f"; {trusted}" if key else ""),
    )


def _pickled(path: Path) -> bytes:
    """The beginning of a torch file's pickle, as bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            return archive.open(name).read(_PICKLED) if name else b""
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        with path.open("rb") as file:
            return file.read(_PICKLED)


# -- folders ----------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, names: Collection[str]) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """The weights in a folder that a trainer left: one file, or several with an index."""
    for name in _FOLDER:
        if (folder / name).is_file():
            if name.endswith(".json"):
                return _read_shards(folder, name, names)
            return read_trained(folder / name, names=names)
    inner = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    last = max(inner, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    files = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", *_TORCH_SUFFIXES))
    hint = f"give one of the files in it: {', '.join(files[:4])}{', …' if files[4:] else ''}" if files else ""
    raise FormatError(
        f"{str(folder)!r} is a folder without manifest.json (a split), and without weights of a trainer "
        f"({', '.join(_FOLDER[:2])})",
        hint=f"give the checkpoint in it: {str(last)!r}" if last else hint or "give a file, or the folder of a split",
    )


def _read_shards(folder: Path, index: str, names: Collection[str]) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    try:
        held = json.loads((folder / index).read_bytes())["weight_map"]
        shards = {str(name): str(file) for name, file in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{str(folder / index)!r} is no index of weights: it has no 'weight_map'") from error
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in sorted(set(shards.values())):
        wanted = [name for name, shard in shards.items() if shard == file]
        path = inside(folder, file)
        if path.is_dir() or path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
            raise FormatError(f"{str(folder / index)!r} names {file!r}, which is no file of weights")
        found, more = read_trained(path, names=wanted)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise FormatError(f"{str(folder / file)!r} lacks {missing[0]!r}, which {index!r} says it holds")
        tensors.update((name, found[name]) for name in wanted)
        metadata.update(more)
    return renamed(tensors, names), metadata


def _from_torch(name: str, tensor: Any, path: Path) -> Tensor:
    """A torch tensor as numpy sees it, sharing its memory."""
    import torch

    tensor = tensor.detach()
    if tensor.is_sparse or tensor.is_quantized or tensor.device.type != "cpu":
        raise UnsupportedError(f"{str(path)!r}: tensor {name!r} is not a plain dense tensor")
    # numpy lacks these: the bits go through an integer of the same width
    short = {
        torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
        torch.float8_e4m3fn: (torch.int8, ml_dtypes.float8_e4m3fn),
        torch.float8_e5m2: (torch.int8, ml_dtypes.float8_e5m2),
    }
    if tensor.dtype in short:
        integer, dtype = short[tensor.dtype]
        return ArrayTensor(tensor.contiguous().view(integer).numpy().view(dtype))
    try:
        return ArrayTensor(tensor.numpy())
    except (TypeError, RuntimeError) as error:
        raise UnsupportedError(
            f"{str(path)!r}: tensor {name!r} has the type {tensor.dtype}, which numpy lacks"
        ) from error
