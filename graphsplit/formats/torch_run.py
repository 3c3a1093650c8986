"""Running a neutral graph of torch ops, one node at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphsplit.formats.torch_nodes import call
from graphsplit.formats.torch_tensors import to_torch
from graphsplit.graph import Graph


def run(graph: Graph, inputs: Mapping[str, Any], tensors: Mapping[str, torch.Tensor] | None = None) -> list[Any]:
    """The outputs of a graph for these inputs; `tensors` stand in for the graph's own."""
    values: dict[str, Any] = dict(inputs)
    for name, tensor in graph.tensors.items():
        values[name] = tensors[name] if tensors is not None and name in tensors else to_torch(tensor.numpy())
    for node in graph.nodes:
        results = call(node, operands(values, node.inputs))
        values.update((name, result) for name, result in zip(node.outputs, results, strict=False) if name)
    return [values[output.name] for output in graph.outputs]


def operands(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Values by name, None for those that are left out."""
    return [values[name] if name else None for name in names]
