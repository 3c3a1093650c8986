"""`load` and `plan`: a network and its partition without writing anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from graphsplit.formats.onnx_file import load
from graphsplit.graph import Graph
from graphsplit.labels.decide import Outputs
from graphsplit.network import make, prepare
from graphsplit.plan import Plan

__all__ = ["load", "plan"]


def plan(
    model: Graph | str | os.PathLike[str],
    k: int,
    *,
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    outputs: Outputs = "auto",
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Compute how a network would be split into `k` parts; nothing is written. Raises GraphsplitError."""
    network = prepare(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    return make(network, k, strategy=strategy, seed=seed, shares=shares, keep=keep, outputs=outputs)
