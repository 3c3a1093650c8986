"""An ONNX network in evaluation mode: a file that was exported for training may have its dropout switched on."""

from __future__ import annotations

from dataclasses import replace

from graphsplit.graph import Graph, Node

__all__ = ["active_dropout", "without_dropout"]

SWITCH = 2
"""Which input of a Dropout says whether it is active; without it, it isn't."""


def active_dropout(graph: Graph) -> list[Node]:
    """The nodes that drop values whenever they run, or if an input of the network says so."""
    return [node for node in graph.nodes if _active(graph, node)]


def _active(graph: Graph, node: Node) -> bool:
    if (
        node.op != "Dropout"
        or node.domain not in ("", "ai.onnx")
        or len(node.inputs) <= SWITCH
        or not node.inputs[SWITCH]
    ):
        return False
    tensor = graph.tensors.get(node.inputs[SWITCH])
    return tensor is None or bool(tensor.numpy().any())


def without_dropout(graph: Graph) -> Graph:
    """The network with its dropout switched off; the graph itself where none is active."""
    if not active_dropout(graph):
        return graph
    nodes = [replace(n, inputs=n.inputs[:SWITCH]) if _active(graph, n) else n for n in graph.nodes]
    return graph.replace(nodes=tuple(nodes))
