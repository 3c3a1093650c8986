"""Splitting: a network in, a folder of sub-models with their manifest out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar, Unpack

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.files import MANIFEST_NAME, OutputFolder
from graphsplit.formats.onnx_file import save, structure_digest, weightless
from graphsplit.graph import Graph, Tensor
from graphsplit.labels import OUTPUT, PRIVATE, Labels
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
from graphsplit.narrow import SubModel
from graphsplit.narrow.tensors import SlicedTensor
from graphsplit.network import Network, prepare, trained_record
from graphsplit.options import Choices, SplitOptions
from graphsplit.planning import Plan
from graphsplit.recombine.match import PART_KEY, SPLIT_KEY

SOURCE_NAME = "source.onnx"
Progress = Callable[[str, int, int], None]
SubModelT = TypeVar("SubModelT")


@dataclass(eq=False)
class Split(Generic[SubModelT]):
    """A split: which part owns what, its sub-models (files, or torch modules), and the way back.

    `folder` is where it lies on disk, if it does. A file is split into a `Split[Path]`, a module into a `ModuleSplit`.
    """

    folder: Path | None
    manifest: Manifest
    plan: Plan
    submodels: Sequence[SubModelT]

    @property
    def parts(self) -> int:
        """The number of sub-models."""
        return self.manifest.parts


def split(
    model: Graph | str | os.PathLike[str],
    k: int,
    *,
    out: str | os.PathLike[str],
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SplitOptions],
) -> Split[Path]:
    """Cut an ONNX network by width into `k` standalone sub-models, and write them with their manifest into `out`.

    Nothing is written unless everything is. Raises GraphsplitError for whatever can't be split exactly, with the reason.
    """
    chosen = Choices.of(options)
    network = prepare(model, **chosen.preparing)
    tell = progress or (lambda *_: None)
    plan, submodels = chosen.narrowed(network, k, report=lambda part: tell("narrowing", part, k))
    protect = [] if isinstance(model, Graph) else [model]
    with OutputFolder(out, force=force, protect=protect) as folder:
        manifest = write(network, plan, submodels, chosen.record(network, plan), folder, tell)
    return Split(Path(out), manifest, plan, tuple(Path(out) / entry.file for entry in manifest.submodels))


def write(
    network: Network, plan: Plan, submodels: Sequence[SubModel], options: Options, folder: Path, progress: Progress
) -> Manifest:
    """Write sub-models, the weightless source and the manifest into a folder."""
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


def describe(
    network: Network,
    plan: Plan,
    options: Options,
    submodels: Sequence[SubModel],
    *,
    source: str = SOURCE_NAME,
    suffix: str = ".onnx",
) -> Manifest:
    """The manifest of a planned and narrowed split; `source` and `suffix` name its files."""
    table = GroupTable(plan.parts)
    _, parameters = parameter_entries(plan, _cuts(submodels), table=table)
    outputs = [_output(plan, table, name) for name in dict.fromkeys(value.name for value in network.graph.outputs)]
    files = [
        SubModelFile(
            f"submodel_{submodel.part}{suffix}",
            structure_digest(submodel.graph, network.changing),
            sum(int(np.prod(submodel.graph.tensors[name].shape, dtype=np.int64)) for name in network.trained),
        )
        for submodel in submodels
    ]
    return Manifest.build(
        generator=f"graphsplit {version('graphsplit')}",
        options=options,
        source=Source(source, structure_digest(network.graph, network.changing)),
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
