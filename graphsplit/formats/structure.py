"""A graph without its weights: the weightless copy, and the digest that identifies a structure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection

import numpy as np

from graphsplit.formats.tensors import is_float, raw_bytes
from graphsplit.graph import Array, Graph, Tensor, WeightlessTensor

KEPT_ELEMENTS = 64


def is_weight(tensor: Tensor) -> bool:
    """Whether training may change a tensor: floats, of rank one at least and more than one of them."""
    return is_float(tensor.dtype) and len(tensor.shape) > 0 and math.prod(tensor.shape) > 1


def weightless(graph: Graph, names: Collection[str] | None = None) -> Graph:
    """A copy of a graph in which a WeightlessTensor stands for each tensor in `names`.

    By default those are the float tensors of more than 64 elements: what shapes, bounds, sizes and scales are computed
    from stays, and the copy is small.
    """
    if names is None:
        names = {
            name
            for name, tensor in graph.tensors.items()
            if is_weight(tensor) and math.prod(tensor.shape) > KEPT_ELEMENTS
        }
    return graph.replace(
        tensors={
            name: WeightlessTensor(tensor.shape, tensor.dtype) if name in names else tensor
            for name, tensor in graph.tensors.items()
        }
    )


def structure_digest(graph: Graph, trainable: Collection[str] = ()) -> str:
    """SHA-256 of what training leaves alone: nodes, attributes, names, shapes, types, and tensors that are no weights.

    The elements of weights (`is_weight`, and the tensors named in `trainable`) do not count, and neither do metadata,
    the IR version, the intermediate values' recorded shapes, or the place where a tensor is kept. So a network and its
    weightless copy have one digest, before and after training.
    """
    digest = hashlib.sha256()

    def add(*content: object) -> None:
        digest.update(json.dumps(content, separators=(",", ":"), sort_keys=True, default=_described).encode())
        digest.update(b"\n")

    add("graphsplit structure 1", dict(graph.opsets))
    for role, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            add(role, value.name, value.dtype.name, value.shape)
    for node in graph.nodes:
        add(node.name, node.op, node.domain, node.inputs, node.outputs, dict(node.attributes), node.has_body)
    for name in sorted(graph.tensors):
        tensor = graph.tensors[name]
        fixed = name not in trainable and not is_weight(tensor)
        add("tensor", name, tensor.dtype.name, tensor.shape, _elements(tensor.numpy()) if fixed else None)
    return digest.hexdigest()


def _described(value: object) -> object:
    """What JSON cannot say of an attribute."""
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.name, value.shape, _elements(value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    raise TypeError(f"an attribute cannot be a {type(value).__name__}")


def _elements(array: Array) -> str:
    if array.dtype.kind in "OSU":
        texts = [item.hex() if isinstance(item, bytes) else str(item).encode().hex() for item in array.ravel().tolist()]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return hashlib.sha256(raw_bytes(array)).hexdigest()
