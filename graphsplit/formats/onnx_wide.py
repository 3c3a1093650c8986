"""An ONNX network in single precision instead of half: the same nodes, over the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphsplit.graph import Array, AttributeValue, Graph, Node, Tensor, Value

__all__ = ["WideTensor", "is_half", "widened"]

TYPES = ("to", "dtype")
"""Attributes that name an element type by its number."""
HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
SINGLE = np.dtype(np.float32)


def is_half(dtype: np.dtype[np.generic]) -> bool:
    """Whether a type is one of 16 bits for real numbers."""
    return dtype.name in ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class WideTensor:
    """A tensor of half precision, its elements as single ones: the same numbers."""

    base: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return SINGLE

    def numpy(self) -> Array:
        return self.base.numpy().astype(SINGLE)


def widened(graph: Graph) -> Graph | None:
    """The network with everything of half precision in single precision; None where nothing is."""
    if not any(is_half(tensor.dtype) for tensor in graph.tensors.values()):
        return None
    return graph.replace(
        tensors={n: WideTensor(t) if is_half(t.dtype) else t for n, t in graph.tensors.items()},
        nodes=tuple(_node(node) for node in graph.nodes),
        inputs=tuple(_value(value) for value in graph.inputs),
        outputs=tuple(_value(value) for value in graph.outputs),
        values={name: _value(value) for name, value in graph.values.items()},
    )


def _value(value: Value) -> Value:
    return replace(value, dtype=SINGLE) if is_half(value.dtype) else value


def _node(node: Node) -> Node:
    changed: dict[str, AttributeValue] = {}
    for name, held in node.attributes.items():
        if name in TYPES and isinstance(held, int) and held in HALF:
            changed[name] = int(onnx.TensorProto.FLOAT)
        elif isinstance(held, np.ndarray) and is_half(held.dtype):
            changed[name] = held.astype(SINGLE)
    return replace(node, attributes={**node.attributes, **changed}) if changed else node
