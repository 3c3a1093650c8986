"""Shapes of a torch graph: each op run on tensors that hold nothing (device `meta`), and on small constants as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Fact, Facts
from graphsplit.formats.torch_arguments import VIEWS, base
from graphsplit.formats.torch_labels import moved
from graphsplit.formats.torch_nodes import OWN, SYM, call, overload, size_names
from graphsplit.formats.torch_tensors import TORCH, numpy_dtype, to_numpy, to_torch
from graphsplit.graph import Array, Graph, Node

KNOWN_LIMIT = 1 << 20
"""Largest number of elements that is computed rather than only given a shape."""

UNDEFINED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
"""Ops whose result holds anything."""

FILL = {"pad": "value", "constant_pad_nd": "value"}
"""Attributes that hold the element a movement op fills up with: on labels that is "common", which is 0."""


def evaluate(graph: Graph, sizes: Mapping[str, int], unknown: frozenset[str]) -> Facts:
    """Shape, type and, where it is small and known, content of every value, for sizes of the symbolic dims.

    The content of an `unknown` tensor (one that trains, or that running the module changes) is never looked at.
    """
    facts: Facts = {}
    for value in graph.inputs:
        dims = [dim if isinstance(dim, int) else sizes.get(str(dim)) for dim in value.shape or ()]
        shape = None if any(d is None for d in dims) else tuple(d for d in dims if d is not None)
        facts[value.name] = Fact(shape, value.dtype)
    for name, tensor in graph.tensors.items():
        small = name not in unknown and int(np.prod(tensor.shape, dtype=np.int64)) <= KNOWN_LIMIT
        facts[name] = Fact(tensor.shape, tensor.dtype, tensor.numpy() if small else None)
    for node in graph.nodes:
        results = step(node, [facts.get(name) for name in node.inputs])
        for name, result in zip(node.outputs, results, strict=False):
            if name:
                facts[name] = result
        for name in node.outputs:
            facts.setdefault(name, Fact(None, None)) if name else None
    return facts


def step(node: Node, inputs: Sequence[Fact | None]) -> list[Fact]:
    """Facts of one node's results from those of its inputs."""
    unknown = [Fact(None, None)] * len(node.outputs)
    named = len(size_names(node))
    sizes = list(inputs[len(inputs) - named :]) if named else []
    tensors = list(inputs[: len(inputs) - named])
    if any(fact is not None and fact.shape is None for fact in inputs):
        return unknown
    if node.domain == SYM:
        return _sizes(node, inputs)
    if any(fact is None or fact.data is None for fact in sizes):
        return unknown
    numbers = [_number(fact) for fact in sizes]
    if _computable(node, tensors):
        known = _run(node, [None if fact is None else to_torch(_data(fact)) for fact in tensors] + numbers, None)
        if known is not None:
            return known
    return _shapes(node, tensors, numbers) or unknown


def _shapes(node: Node, tensors: Sequence[Fact | None], numbers: Sequence[Any]) -> list[Fact] | None:
    """A node run on tensors that hold nothing; networks repeat their blocks, and the same question has the same answer."""
    given = tuple(None if fact is None else (fact.shape, fact.dtype) for fact in tensors)
    # by their texts: 1, 1.0 and True are one key, and different arguments
    key = (node.domain, node.op, repr(tuple(node.attributes.items())), given, repr(numbers))
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        held = [None if fact is None else _meta(fact) for fact in tensors]
        _KNOWN[key] = _run(node, [*held, *numbers], "meta")
    return _KNOWN[key]


_KNOWN: dict[object, list[Fact] | None] = {}
_MOST_KNOWN = 1 << 14


def _data(fact: Fact) -> Array:
    assert fact.data is not None
    return np.asarray(fact.data)


def _number(fact: Fact | None) -> Any:
    assert fact is not None
    assert fact.data is not None
    return fact.data.item()


def _meta(fact: Fact) -> torch.Tensor:
    assert fact.shape is not None
    assert fact.dtype is not None
    return torch.empty(fact.shape, dtype=TORCH[fact.dtype], device="meta")


def _sizes(node: Node, inputs: Sequence[Fact | None]) -> list[Fact]:
    operands: list[Any] = []
    for fact in inputs:
        if fact is None or (fact.data is None and fact.shape is not None and fact.shape != ()):
            operands.append(None if fact is None else _meta(fact))
        elif fact.data is None:
            return [Fact((), fact.dtype)]
        else:
            operands.append(fact.data.item() if fact.data.ndim == 0 else torch.empty(fact.data.shape, device="meta"))
    data = np.asarray(call(node, operands)[0])
    return [Fact((), data.dtype, data)]


def _computable(node: Node, tensors: Sequence[Fact | None]) -> bool:
    """Whether the content of a node's results is known, and small."""
    if any(fact is not None and fact.data is None for fact in tensors) or base(node.op) in UNDEFINED:
        return False
    if node.domain == OWN:
        return True
    if torch.Tag.nondeterministic_seeded in overload(node.domain, node.op).tags:
        return False
    return sum(fact.data.size for fact in tensors if fact is not None and fact.data is not None) <= KNOWN_LIMIT


def _run(node: Node, operands: Sequence[Any], device: str | None) -> list[Fact] | None:
    if device is None and not any(operand is not None for operand in operands):
        shapes = _run(node, operands, "meta")  # what is made of nothing may be huge
        if shapes is None or any(int(np.prod(fact.shape or ())) > KNOWN_LIMIT for fact in shapes):
            return shapes
    try:
        with torch.no_grad():
            results = call(node, operands, device or "cpu")
    except Exception:  # noqa: BLE001 - an op that can't run on these sizes: its shapes stay unknown
        return None
    return [_fact(result, known=device is None) for result in results]


def _fact(result: Any, known: bool) -> Fact:
    if not isinstance(result, torch.Tensor):
        return Fact(None, None)
    shape = tuple(int(size) for size in result.shape)
    keep = known and result.numel() <= KNOWN_LIMIT and result.device.type == "cpu"
    return Fact(shape, numpy_dtype(result.dtype), to_numpy(result) if keep else None)


def move(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Run a movement op on integer label arrays. Raises UnsupportedError when it can't run on those."""
    fill = FILL.get(base(node.op))
    if fill is not None and fill in node.attributes:
        node = replace(node, attributes={**node.attributes, fill: 0})
    if base(node.op) in VIEWS:  # labels have strides of their own, which no view needs to fit
        size = node.attributes["size"]
        node = replace(node, op="reshape.default", attributes={"shape": size})
    named = len(size_names(node))
    tensors = [None if array is None else to_torch(np.asarray(array)) for array in arrays[: len(arrays) - named]]
    sizes = [np.asarray(array).item() for array in arrays[len(arrays) - named :]] if named else []
    try:
        with torch.no_grad():
            results = moved(node, tensors, sizes, lambda given: _called(node, given))
    except Exception as error:
        raise UnsupportedError(f"{node.title}: its movement of elements cannot be followed ({error})") from error
    return [to_numpy(result).astype(np.int64, copy=False) for result in results]


def _called(node: Node, operands: Sequence[Any]) -> list[Any]:
    try:
        return call(node, operands)
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
    floats = [x.double() if i == 0 else x for i, x in enumerate(operands)]
    return [result.long() for result in call(node, floats)]
