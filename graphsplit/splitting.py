"""Splitting: a network in, a folder of sub-models with their manifest out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from graphsplit.errors import PlanError, UnsupportedError
from graphsplit.files import MANIFEST_NAME, OutputFolder
from graphsplit.formats.onnx_file import save, structure_digest, weightless
from graphsplit.graph import Graph, Tensor
from graphsplit.labels import OUTPUT, PRIVATE, Labels
from graphsplit.labels.decide import Outputs
from graphsplit.manifest import (
    GroupTable,
    Manifest,
    Note,
    Options,
    OutputEntry,
    Source,
    SubModelFile,
    parameter_entries,
)
from graphsplit.narrow import SubModel, narrow
from graphsplit.narrow.tensors import SlicedTensor
from graphsplit.network import Network, make, prepare, trained_record
from graphsplit.planning import Plan
from graphsplit.recombine.match import PART_KEY, SPLIT_KEY

SOURCE_NAME = "source.onnx"
Progress = Callable[[str, int, int], None]
Init = Literal["keep", "rescale"]


@dataclass(frozen=True)
class Split:
    """A split on disk: its folder, its manifest, and the plan that it was made from."""

    folder: Path
    manifest: Manifest
    plan: Plan

    @property
    def submodels(self) -> tuple[Path, ...]:
        """The files of the sub-models, in part order."""
        return tuple(self.folder / entry.file for entry in self.manifest.submodels)


def split(
    model: Graph | str | os.PathLike[str],
    k: int,
    *,
    out: str | os.PathLike[str],
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    outputs: Outputs = "auto",
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
    init: Init = "keep",
    force: bool = False,
    progress: Progress | None = None,
) -> Split:
    """Cut an ONNX network by width into `k` standalone sub-models, and write them with their manifest into `out`.

    `init="rescale"` multiplies each hidden weight by the square root of how much its fan-in shrinks, so that signals keep
    their size; "keep" leaves slices as they are. Nothing is written unless everything is.

    Raises GraphsplitError for whatever can't be split exactly, with the reason.
    """
    if init not in ("keep", "rescale"):
        raise PlanError(f"there is no initialisation {init!r}", hint="choose keep or rescale")
    keep, trainable, constant, rules = tuple(keep), tuple(trainable), tuple(constant), tuple(rules)
    network = prepare(model, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    plan = make(network, k, strategy=strategy, seed=seed, shares=shares, keep=keep, outputs=outputs)
    options = Options(
        plan.partition.shares, strategy, seed, init, keep, trainable, constant, outputs, rules, dict(network.sizes)
    )
    protect = [] if isinstance(model, Graph) else [model]
    with OutputFolder(out, force=force, protect=protect) as folder:
        manifest = write(network, plan, options, folder, progress or (lambda *_: None))
    return Split(Path(out), manifest, plan)


def write(network: Network, plan: Plan, options: Options, folder: Path, progress: Progress) -> Manifest:
    """Write sub-models, the weightless source and the manifest into a folder."""
    submodels = []
    for part in range(plan.parts):
        progress("narrowing", part, plan.parts)
        submodels.append(narrow(plan, network.dialect, part))
    manifest = describe(network, plan, options, submodels)
    for part, submodel in enumerate(submodels):
        progress("writing", part, plan.parts)
        graph = rescaled(plan, submodel.graph, part) if options.init == "rescale" else submodel.graph
        metadata = {PART_KEY: str(part), SPLIT_KEY: manifest.split}
        metadata |= trained_record(graph, network.dialect.lookup, network.trained)
        save(graph, folder / manifest.submodels[part].file, metadata=metadata)
    save(weightless(network.graph, network.trained), folder / SOURCE_NAME, external=False)
    (folder / MANIFEST_NAME).write_text(manifest.dumps(), encoding="utf-8")
    progress("writing", plan.parts, plan.parts)
    return manifest


def describe(network: Network, plan: Plan, options: Options, submodels: Sequence[SubModel]) -> Manifest:
    """The manifest of a planned and narrowed split."""
    table = GroupTable(plan.parts)
    _, parameters = parameter_entries(plan, _cuts(submodels), table=table)
    outputs = [_output(plan, table, value.name) for value in network.graph.outputs]
    files = [
        SubModelFile(
            f"submodel_{submodel.part}.onnx",
            structure_digest(submodel.graph, network.trained),
            sum(int(np.prod(submodel.graph.tensors[name].shape, dtype=np.int64)) for name in network.trained),
        )
        for submodel in submodels
    ]
    return Manifest.build(
        generator=f"graphsplit {version('graphsplit')}",
        options=options,
        source=Source(SOURCE_NAME, structure_digest(network.graph, network.trained)),
        submodels=files,
        groups=table.groups,
        parameters=parameters,
        outputs=outputs,
        taps=taps(plan),
        repeated=[Note(plan.graph.nodes[i].title, why_repeated(plan, i)) for i in sorted(plan.part_nodes)],
        private=private_layers(plan),
        averaged=sorted(plan.flowed.averaged),
    )


def _cuts(submodels: Sequence[SubModel]) -> dict[str, list[tuple[np.ndarray | None, ...] | None]]:
    names = sorted({name for submodel in submodels for name in submodel.constants})
    return {name: [submodel.constants.get(name) for submodel in submodels] for name in names}


def _output(plan: Plan, table: GroupTable, name: str) -> OutputEntry:
    labels = plan.flowed.labels.get(name)
    if labels is None or not (labels.core > 0).any():
        codes = set() if labels is None else {int(c) for c in np.unique(labels.core)}
        averaged = bool(codes & {OUTPUT, PRIVATE}) or name in plan.flowed.averaged
        return OutputEntry(name, "mean" if averaged and plan.parts > 1 else "common" if not averaged else "mean")
    axis = _only_axis(plan, name, labels)
    vector = np.broadcast_to(labels.core.reshape(-1), ((labels.shape or ())[axis],))
    return OutputEntry(name, "concat", axis, table.add_labels(vector, plan.partition.owner))


def _only_axis(plan: Plan, name: str, labels: Labels) -> int:
    if len(labels.varying) != 1:
        raise UnsupportedError(
            f"output {name!r} would be divided along {len(labels.varying)} axes at once, and parts put side by side along one",
            hint="--keep the layers that it comes from, or export the network without this output",
        )
    return labels.varying[0]


def taps(plan: Plan) -> list[str]:
    """The values at which the merged network is the mean of the parts: behind output layers, and averaged copies."""
    graph, flowed = plan.graph, plan.flowed
    found = dict.fromkeys(name for name in flowed.averaged if name in graph.producers)
    for i in sorted(flowed.last.layout.frontier):
        for name in graph.nodes[i].outputs:
            if name in flowed.labels and bool((flowed.labels[name].core == OUTPUT).any()):
                found[name] = None
    return sorted(found, key=lambda name: (graph.producers[name], name))


def why_repeated(plan: Plan, index: int) -> str:
    """Why the merged network computes a node once for each part."""
    flowed, node = plan.flowed, plan.graph.nodes[index]
    if index in flowed.statistics:
        return "its result depends on all the vertices of a layer together, and each part has its own"
    for name in node.inputs:
        if name in flowed.labels and bool((flowed.labels[name].core == PRIVATE).any()):
            return f"each part has its own {name}"
    copies = [name for name in node.inputs if name in plan.parameters and plan.parameters[name].role == "duplicated"]
    if copies:
        return f"each part has its own {copies[0]}"
    return "its result is each part's own"


def private_layers(plan: Plan) -> list[Note]:
    """Layers that every part has whole, and why."""
    flowed = plan.flowed
    found: dict[str, str] = {}
    for block in flowed.blocks.values():
        reasons = [flowed.private[i] for i in range(block.start, block.start + block.size) if i in flowed.private]
        if reasons:
            found[plan.graph.nodes[block.node].title] = reasons[0]
    for node in sorted(flowed.last.narrow):
        found[plan.graph.nodes[node].title] = flowed.last.narrow[node]
    return [Note(node, reason) for node, reason in found.items()]


def rescaled(plan: Plan, graph: Graph, part: int) -> Graph:
    """A sub-model whose hidden weights make up for their smaller fan-in: times sqrt(full fan-in / the part's)."""
    tensors: dict[str, Tensor] = dict(graph.tensors)
    for name, parameter in plan.parameters.items():
        selection = parameter.selection(plan.partition.owner, part)
        gain = 1.0
        for claim in plan.flowed.claims.get(name, ()):
            if not claim.contracted or parameter.role not in ("owned", "duplicated"):
                continue
            before = np.prod([parameter.shape[a] for a in claim.axes])
            after = np.prod([selection.shape(parameter.shape)[a] for a in claim.axes])
            outside = [c for c in plan.flowed.claims[name] if c.node == claim.node and not c.contracted]
            if not any((c.core == OUTPUT).any() for c in outside):
                gain = float(np.sqrt(before / after))
        if gain != 1.0:
            tensors[name] = SlicedTensor(plan.graph.tensors[name], selection, gain)
    return graph.replace(tensors=tensors)
