"""Drawings of a model, of a split that is planned, and of one that was made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

from graphsplit.draw.content import Drawing
from graphsplit.draw.graph import Drawn, GraphValues, SplitValues, drawn
from graphsplit.draw.matrices import matrices
from graphsplit.draw.slices import slices
from graphsplit.draw.training import training_of
from graphsplit.draw.trees import coupling_trees, whys
from graphsplit.labels import Outputs
from graphsplit.manifest import Manifest
from graphsplit.network import Network, narrowed
from graphsplit.planning import Plan
from graphsplit.report import compare, inspect
from graphsplit.report.ask import Model, inspected, network_of
from graphsplit.report.content import Comparison, GraphInspection, Inspection
from graphsplit.report.cost import costs
from graphsplit.report.facts import layer_nodes
from graphsplit.report.folder import replan
from graphsplit.report.reasons import node_name

COMPARED = 8
Progress = Callable[[str, int, int], None]


def draw_model(
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
    progress: Progress | None = None,
) -> Drawing:
    """What a split into `k` parts would do, as a drawing; nothing is written. Raises what planning raises."""
    network = network_of(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    kept = tuple(keep)

    def planned(number: int) -> Plan:
        return narrowed(network, number, keep=kept, outputs=outputs)[0]

    plan = narrowed(network, k, shares=shares, keep=kept, outputs=outputs)[0]
    return draw_plan(network, plan, _compared(network, planned, progress), progress)


def draw_folder(folder: str | os.PathLike[str], *, progress: Progress | None = None) -> Drawing:
    """What the split in a folder did, with the curves of its training. Raises ManifestError for a folder that holds none."""
    place = Path(folder)
    network, plan = replan(place)
    options = Manifest.read(place).options

    def planned(number: int) -> Plan:
        return narrowed(network, number, keep=options.keep, outputs=cast(Outputs, options.outputs))[0]

    found = draw_plan(network, plan, _compared(network, planned, progress), progress)
    return replace(found, training=training_of(place.resolve(), plan.parts))


def draw_graph(
    model: Model,
    *,
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> Drawing:
    """A network as it is, with what would be refused. Raises what loading raises."""
    graph, _, facts, found = inspected(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    parameters = {layer.node: layer.parameters for layer in found.layers}
    picture = drawn(graph, facts, GraphValues(graph, facts, found), parameters)
    return _drawing(found, picture)


def draw_plan(
    network: Network, plan: Plan, compared: Comparison | None = None, progress: Progress | None = None
) -> Drawing:
    """A plan as a drawing. Linear in the graph and its weights, which are read one at a time."""
    known = costs(plan, network.dialect)
    found = inspect(plan, network.dialect, known)
    layers = layer_nodes(plan.flowed, network.dialect)
    parameters = {node_name(plan.graph.nodes[index]): names for index, names in layers.items()}
    picture = drawn(plan.graph, plan.flowed.facts, SplitValues(plan, layers, known), parameters)
    trees = coupling_trees(plan, picture.box_of)
    return replace(
        _drawing(found, picture),
        trees=trees,
        whys=whys(plan, trees, picture.box_of),
        matrices=matrices(plan, progress),
        slices=slices(plan),
        comparison=compared,
    )


def _drawing(found: Inspection | GraphInspection, picture: Drawn) -> Drawing:
    return Drawing(
        report="drawing",
        version=version("graphsplit"),
        title=found.network.name or "network",
        facts=found,
        boxes=picture.boxes,
        edges=picture.edges,
        fold=picture.fold,
        hidden=picture.hidden,
        trees=(),
        whys=(),
        matrices=(),
        slices=(),
        comparison=None,
        training=None,
    )


def _compared(network: Network, planned: Callable[[int], Plan], progress: Progress | None) -> Comparison:
    def numbers() -> Iterator[int]:
        for done in range(COMPARED):
            if progress is not None:
                progress(f"K = 1 to {COMPARED}", done, COMPARED)
            yield done + 1

    return compare(network.graph.name, planned, numbers(), network.dialect)
