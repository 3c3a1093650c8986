"""Quantised weights: integers of one byte that become numbers in the graph. They can't be trained, so they aren't split."""

from __future__ import annotations

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.facts import Facts
from graphsplit.graph import Graph


def refuse_quantised(graph: Graph, facts: Facts) -> None:
    """Raise UnsupportedError for a stored matrix of one-byte numbers that an op turns into wider floats."""
    for node in graph.nodes:
        result = facts[node.outputs[0]].dtype if node.outputs and node.outputs[0] in facts else None
        for name in node.inputs:
            tensor = graph.tensors.get(name)
            if tensor is None or len(tensor.shape) < 2 or tensor.dtype.itemsize > 1 or tensor.dtype == np.bool_:
                continue
            if result is not None and result.itemsize > 1 and result.kind not in "iub":
                raise UnsupportedError(
                    f"{node.title}: {name!r} holds quantised weights ({tensor.dtype.name})",
                    hint="split the float model, and quantise what is merged",
                )
