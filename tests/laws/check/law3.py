"""Law 3: identity."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from graphsplit.formats.onnx_file import load
from tests.laws.check.law2 import claimed
from tests.laws.check.making import Case, Found


def same_network(one: Path, other: Path) -> Found:
    """Node by node and bit by bit the same network."""
    found = Found()
    a, b = load(one), load(other)
    for node, twin in itertools.zip_longest(a.nodes, b.nodes):
        same = node is not None and twin is not None and _node_key(node) == _node_key(twin)
        found.check(same, f"{node.title if node else twin.title if twin else ''}: not the same node")
    for what in ("inputs", "outputs", "opsets", "constant_nodes", "tensor_inputs"):
        found.check(getattr(a, what) == getattr(b, what), f"other {what}")
    found.check(a.tensors.keys() == b.tensors.keys(), "other tensors")
    for name in a.tensors.keys() & b.tensors.keys():
        x, y = a.tensors[name].numpy(), b.tensors[name].numpy()
        same = x.dtype == y.dtype and x.shape == y.shape and np.ascontiguousarray(x).tobytes() == y.tobytes()
        found.check(same, f"tensor {name!r} has other bits")
    return found


def _node_key(node: Any) -> tuple[object, ...]:
    attributes = sorted((key, repr(value)) for key, value in node.attributes.items())
    return (node.name, node.op, node.domain, node.version, node.inputs, node.outputs, attributes)


def untrained_merge(case: Case) -> Found:
    """Law 3 for a merge without training: owned elements come back bit for bit, output elements by Eq. 1, cut ones zero."""
    found = Found()
    merged = {name: tensor.numpy() for name, tensor in load(case.merged).tensors.items()}
    for name, entry in case.split.manifest.parameters.items():
        source = case.plan.graph.tensors[name].numpy()
        if name not in merged or entry.role == "constant":
            continue
        kinds, owners = claimed(case, entry)
        shared = (kinds == "output") & (owners < 0)
        back = np.isin(kinds, ["owned", "duplicated", "unused"]) | (shared & (entry.scale == "weights"))
        found.check(merged[name][back].tobytes() == source[back].tobytes(), f"{name}: an element didn't come back")
        found.check(not merged[name][kinds == "cut"].any(), f"{name}: a cut element isn't zero")
        alone = (kinds == "output") & (owners >= 0)
        total = len(case.parts) if entry.scale == "activation" else 1  # behind the op, 1/K comes later
        for which, weight in ((alone, 1 / len(case.parts)), (shared, 1.0)):
            expected = (source[which].astype(np.float64) * (weight * total)).astype(source.dtype)
            found.check(merged[name][which].tobytes() == expected.tobytes(), f"{name}: an output element isn't Eq. 1's")
    return found
