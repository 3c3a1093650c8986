"""ONNX files, read and written; the one door to `onnx` and `onnx_ir` for the rest of the package."""

from __future__ import annotations

import os
from collections.abc import Mapping

from graphsplit.formats.onnx_read import load, read
from graphsplit.formats.onnx_write import save
from graphsplit.formats.structure import is_weight, structure_digest, weightless
from graphsplit.graph import Graph

__all__ = ["is_weight", "load", "load_weightless", "save", "save_weightless", "structure_digest", "weightless"]


def save_weightless(
    graph: Graph, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None, force: bool = False
) -> None:
    """Write `weightless(graph)`. Raises what `save` raises."""
    save(weightless(graph), path, metadata=metadata, external=False, force=force)


def load_weightless(path: str | os.PathLike[str]) -> Graph:
    """Read a weightless copy: what it holds as stubs stays so, constants that it kept are there. Raises what `load` raises."""
    return read(path, weights=False)
