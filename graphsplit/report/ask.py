"""The questions that the command line asks, from a file or a folder to a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from graphsplit.formats.onnx_dialect import OnnxDialect
from graphsplit.formats.onnx_file import load
from graphsplit.formats.onnx_sizes import choose_sizes
from graphsplit.graph import Graph
from graphsplit.labels import Flowed, flow, parameters
from graphsplit.network import Network, make, prepare
from graphsplit.planning import Plan
from graphsplit.report.content import Comparison, Explanation, GraphInspection, Inspection, PairExplanation
from graphsplit.report.explain import explain, explain_pair
from graphsplit.report.facts import inspect
from graphsplit.report.folder import replan
from graphsplit.report.whole import compare, inspect_graph
from graphsplit.rules import registry

Model = Graph | str | os.PathLike[str]


def inspect_model(
    model: Model, *, trainable: Iterable[str] = (), constant: Iterable[str] = (), rules: Iterable[str] = ()
) -> GraphInspection:
    """What a network is made of, with every node that would be refused.

    Raises FormatError, RuleError, GraphsplitError.
    """
    graph = model if isinstance(model, Graph) else load(model)
    lines = tuple(rules)
    dialect = OnnxDialect(registry("onnx").extended(lines) if lines else None)
    trained = parameters(graph, dialect.lookup, trainable, constant)
    sizes = choose_sizes(graph, lambda s: dialect.evaluate(graph, s, trained))
    return inspect_graph(graph, dialect, trained, dialect.evaluate(graph, sizes, trained), sizes)


def inspect_split(
    model: Model,
    k: int,
    *,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
) -> Inspection:
    """What a split into `k` parts would do; nothing is written. Raises what planning raises."""
    network = prepare(model, trainable=trainable, constant=constant, rules=rules)
    return inspect(make(network, k, shares=shares, keep=keep), network.dialect)


def inspect_folder(folder: str | os.PathLike[str]) -> Inspection:
    """What the split in a folder did. Raises ManifestError for a folder that holds none."""
    network, plan = replan(Path(folder))
    return inspect(plan, network.dialect)


def compare_splits(
    model: Model,
    numbers: Iterable[int] = range(1, 9),
    *,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
) -> Comparison:
    """Sizes of the parts for several numbers of parts. Raises what loading raises; a refused split is a row."""
    network = prepare(model, trainable=trainable, constant=constant, rules=rules)
    kept = tuple(keep)

    def planned(k: int) -> Plan:
        return make(network, k, keep=kept)

    return compare(network.graph.name, planned, numbers, network.dialect)


def explain_model(
    model: Model,
    name: str,
    other: str | None = None,
    *,
    k: int = 2,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
) -> Explanation | PairExplanation:
    """What couples with `name`, or through which chain of nodes two things are coupled, in a split into `k` parts.

    Raises GraphsplitError for a name that nothing has, and what the label flow raises.
    """
    network = prepare(model, trainable=trainable, constant=constant, rules=rules)
    flowed = _flowed(network, k, keep)
    return explain(flowed, name) if other is None else explain_pair(flowed, name, other)


def _flowed(network: Network, k: int, keep: Iterable[str]) -> Flowed:
    return flow(network.graph, network.dialect, network.facts, network.trained, k, keep=keep)
