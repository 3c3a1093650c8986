"""Trained weights back into the ONNX file that they came from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from graphsplit.errors import FormatError
from graphsplit.executor.module import OnnxModule
from graphsplit.formats.onnx_file import load, save
from graphsplit.formats.structure import structure_digest
from graphsplit.formats.tensors import FileTensor
from graphsplit.formats.torch_tensors import TorchTensor
from graphsplit.graph import ArrayTensor, Graph, Tensor


def write_weights(
    module: OnnxModule, path: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, force: bool = False
) -> Path:
    """Write a module's parameters and running statistics into its ONNX file, which is replaced as a whole or not at all.

    The file keeps its graph, metadata and element types: weights of another type, of a module moved to `double()`, are rounded to
    the file's. Large tensors stay beside the file where they were. With `out` another file is written, which must not exist
    unless `force` is set, and `path` stays as it is. Gives the path written.

    Raises FormatError for a file that is no longer the network that the module was made of, and OutputError.
    """
    path = Path(path)
    graph = load(path)
    held: Mapping[str, Tensor] = {name: TorchTensor(tensor) for name, tensor in module.state_dict().items()}
    _check(graph, module.graph, held.keys(), path)
    tensors = {name: _stored(held[name], tensor) if name in held else tensor for name, tensor in graph.tensors.items()}
    target = path if out is None else Path(out)
    outside = any(isinstance(t, FileTensor) and t.file.path.resolve() != path.resolve() for t in graph.tensors.values())
    save(graph.replace(tensors=tensors), target, external=outside or None, force=force or out is None)
    return target


def _stored(trained: Tensor, tensor: Tensor) -> Tensor:
    """A trained tensor with the file's element type."""
    if trained.dtype == tensor.dtype:
        return trained
    with np.errstate(over="ignore"):
        return ArrayTensor(trained.numpy().astype(tensor.dtype))


def _check(graph: Graph, own: Graph, trained: Collection[str], path: Path) -> None:
    """Raise FormatError where a file holds another network than the module does."""
    missing = sorted(trained - graph.tensors.keys())
    if missing:
        raise FormatError(f"{str(path)!r} has no tensor {missing[0]!r}: it is not the file that the module was made of")
    if structure_digest(graph, trained) != structure_digest(own, trained):
        raise FormatError(
            f"{str(path)!r} holds another network than the module: its graph or its constants differ",
            hint="write into the file that the module was made of, or into a copy of it",
        )
