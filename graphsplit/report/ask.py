"""The questions that the command line asks, from a file or a folder to a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphsplit.facts import Facts
from graphsplit.formats.onnx_dialect import OnnxDialect
from graphsplit.formats.onnx_file import load
from graphsplit.formats.onnx_sizes import choose_sizes
from graphsplit.graph import Graph
from graphsplit.labels import Flowed, Outputs, flow, parameters
from graphsplit.network import Network, narrowed, prepare
from graphsplit.planning import Plan
from graphsplit.report.content import Comparison, Explanation, GraphInspection, Inspection, PairExplanation
from graphsplit.report.count import ReportDialect
from graphsplit.report.explain import explain, explain_pair
from graphsplit.report.facts import inspect
from graphsplit.report.folder import replan
from graphsplit.report.whole import compare, inspect_graph
from graphsplit.rules import registry
from graphsplit.verification.runtime import evaluation, runtime_of

Model = Graph | Network | str | os.PathLike[str]
"""A file, what was loaded from it, or a network that is ready to plan: then it has its options already."""


def inspect_model(
    model: Model,
    *,
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> GraphInspection:
    """What a network is made of, with every node that would be refused.

    Raises FormatError, RuleError, GraphsplitError.
    """
    return inspected(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)[-1]


def inspected(
    model: Model,
    *,
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> tuple[Graph, ReportDialect, Facts, GraphInspection]:
    """What `inspect_model` gives, with what it is read off."""
    if isinstance(model, Network):
        found = inspect_graph(model.graph, model.dialect, model.trained, model.facts, model.sizes)
        return model.graph, model.dialect, model.facts, found
    graph = model if isinstance(model, Graph) else load(model)
    lines = tuple(rules)
    dialect = OnnxDialect(registry("onnx").extended(lines) if lines else None)
    trained = parameters(graph, dialect.lookup, trainable, constant)
    chosen = choose_sizes(graph, lambda s: dialect.evaluate(graph, s, trained), sizes)
    facts = dialect.evaluate(graph, chosen, trained)
    return graph, dialect, facts, inspect_graph(graph, dialect, trained, facts, chosen)


def inspect_split(
    model: Model,
    k: int,
    *,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    outputs: Outputs = "auto",
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Inspection:
    """What a split into `k` parts would do; nothing is written. Raises what planning raises."""
    network = network_of(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    return inspect(narrowed(network, k, shares=shares, keep=keep, outputs=outputs)[0], network.dialect)


def inspect_folder(folder: str | os.PathLike[str]) -> Inspection:
    """What the split in a folder did. Raises ManifestError for a folder that holds none."""
    network, plan = replan(Path(folder))
    return inspect(plan, network.dialect)


def compare_splits(
    model: Model,
    numbers: Iterable[int] = range(1, 9),
    *,
    keep: Iterable[str] = (),
    outputs: Outputs = "auto",
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Comparison:
    """Sizes of the parts for several numbers of parts. Raises what loading raises; a refused split is a row."""
    network = network_of(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    kept = tuple(keep)

    def planned(k: int) -> Plan:
        return narrowed(network, k, keep=kept, outputs=outputs)[0]

    return compare(network.graph.name, planned, numbers, network.dialect)


def explain_model(
    model: Model,
    name: str,
    other: str | None = None,
    *,
    k: int = 2,
    keep: Iterable[str] = (),
    outputs: Outputs = "auto",
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Explanation | PairExplanation:
    """What couples with `name`, or through which chain of nodes two things are coupled, in a split into `k` parts.

    Raises GraphsplitError for a name that nothing has, and what the label flow raises.
    """
    network = network_of(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    half = evaluation(network, runtime_of(network))
    if half is not network:  # what both modes do is told once
        half = replace(half, trained=half.trained & half.graph.tensors.keys())
        named = {*half.graph.tensors, *half.graph.producers, *(node.name for node in half.graph.nodes)}
        if all(text.partition(":")[0] in named for text in (name, other) if text is not None):
            network = half
    flowed = _flowed(network, k, keep, outputs)
    return explain(flowed, name) if other is None else explain_pair(flowed, name, other)


def network_of(model: Model, **options: Any) -> Network:
    """A network that is ready to plan. Raises what loading raises."""
    return model if isinstance(model, Network) else prepare(model, **options)


def _flowed(network: Network, k: int, keep: Iterable[str], outputs: Outputs) -> Flowed:
    return flow(network.graph, network.dialect, network.facts, network.trained, k, keep=keep, outputs=outputs)
