"""Merging: trained sub-models back into one network, through as many levels of splits as there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from graphsplit.assemble import Assembly, Layout, assemble
from graphsplit.assemble import Leaf as GraphLeaf
from graphsplit.errors import MergeError
from graphsplit.files import MANIFEST_NAME, inside
from graphsplit.formats.onnx_file import load_weightless, save, structure_digest
from graphsplit.formats.weights import read_trained
from graphsplit.graph import Graph, Tensor
from graphsplit.labels import PRIVATE
from graphsplit.manifest import Manifest, ParameterEntry, parameter_entries
from graphsplit.narrow import SubModel
from graphsplit.network import Network, prepare
from graphsplit.options import Choices, Scale
from graphsplit.planning import Plan
from graphsplit.recombine.compose import compose
from graphsplit.recombine.match import match_parts
from graphsplit.recombine.tensors import LazyMerged
from graphsplit.recombine.tensors import Leaf as TensorLeaf
from graphsplit.recombine.watched import reporting
from graphsplit.selection import Selected, Selection
from graphsplit.torch_network import prepare_torch

Layers = Literal["duplicated", "original"]
Progress = Callable[[str, int, int], None]
Trained = tuple[str, Mapping[str, Tensor], Mapping[str, str]]


@dataclass(frozen=True)
class Opened:
    """A split's folder, planned again from its weightless source; what comes out must be what the manifest says.

    `base` are weights whose values cut elements keep in a merge; without them they are zero.
    """

    folder: Path
    manifest: Manifest
    network: Network
    plan: Plan
    submodels: tuple[SubModel, ...]
    entries: Mapping[str, ParameterEntry]
    base: Mapping[str, Tensor] = field(default_factory=dict)

    def over(self, base: Mapping[str, Tensor] | None) -> Opened:
        """The same, with weights for the elements that are cut. Raises MergeError where they aren't those of the network."""
        if base is None:
            return self
        for name, entry in self.entries.items():
            found = base.get(name)
            if found is None:
                raise MergeError(f"the base lacks {name!r}", hint="give the network that was split, or its weights")
            if tuple(found.shape) != entry.shape or found.dtype.name != entry.dtype:
                raise MergeError(
                    f"the base has {name!r} as {found.dtype}{list(found.shape)}, and the network that was split as "
                    f"{entry.dtype}{list(entry.shape)}",
                    hint="give the network that was split, or its weights",
                )
        return replace(self, base=base)


@dataclass(frozen=True)
class Needs:
    """What a level of the tree keeps apart, in the terms of the level above: nodes, private values, averaged values."""

    repeated: frozenset[int] = frozenset()
    private: frozenset[str] = frozenset()
    averaged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LeafModel:
    """A trained sub-model without further splits, in the terms of the root: its place in the tree, its graph, its tensors."""

    path: tuple[int, ...]
    weight: Fraction
    label: str
    tensors: Mapping[str, Tensor]
    graph: GraphLeaf
    needs: Needs


@dataclass(frozen=True)
class Merge:
    """A merged network: its graph with lazily merged tensors, and the file, if one was written.

    `repeated` counts the nodes that it computes for each part; `difference` is how far original layers are from the mean.
    """

    graph: Graph
    path: Path | None
    opened: Opened
    leaves: tuple[LeafModel, ...]
    repeated: int
    layers: Layers
    difference: float | None = None

    @property
    def parts(self) -> int:
        """The number of parts of the (outermost) split."""
        return self.opened.manifest.parts


def open_split(folder: str | os.PathLike[str], *, output_scale: Scale = "weights") -> Opened:
    """Read a split's folder and plan it again.

    Raises ManifestError or MergeError where the folder isn't what a split wrote, or was changed since.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    chosen = Choices.recorded(manifest.options)
    network = _network(inside(folder, manifest.source.file), chosen)
    _check_digest(
        structure_digest(network.graph, network.changing), manifest.source.digest, manifest.source.file, folder
    )
    plan, submodels = chosen.narrowed(network, manifest.parts, output_scale=output_scale)
    for submodel, entry in zip(submodels, manifest.submodels, strict=True):
        _check_digest(structure_digest(submodel.graph, network.changing), entry.digest, entry.file, folder)
    return Opened(folder, manifest, network, plan, submodels, _entries(manifest, plan, submodels, folder))


def _network(path: Path, chosen: Choices) -> Network:
    """The source of a split, without its weights, ready to be planned again."""
    if path.suffix != ".json":
        return prepare(load_weightless(path), **chosen.preparing)
    from graphsplit.formats.torch_archive import load_source

    return prepare_torch(load_source(path), **chosen.preparing)


def _entries(
    manifest: Manifest, plan: Plan, submodels: Sequence[SubModel], folder: Path
) -> Mapping[str, ParameterEntry]:
    """The manifest's entries, with the scales of this plan; the layouts must agree."""
    names = sorted({name for submodel in submodels for name in submodel.constants})
    cuts = {name: [submodel.constants.get(name) for submodel in submodels] for name in names}
    _, found = parameter_entries(plan, cuts)
    same = found.keys() == manifest.parameters.keys() and all(
        found[name].counts == entry.counts and found[name].shape == entry.shape
        for name, entry in manifest.parameters.items()
    )
    if not same:
        raise MergeError(
            f"{str(folder)!r} was split in another way than this version of graphsplit splits its source",
            hint=f"merge it with the version that its manifest names: {manifest.generator}",
        )
    return {name: replace(entry, scale=found[name].scale) for name, entry in manifest.parameters.items()}


def _check_digest(found: str, wanted: str, file: str, folder: Path) -> None:
    if found != wanted:
        raise MergeError(
            f"{file!r} in {str(folder)!r}: its structure is not the one that the split wrote (digest {found[:12]}, "
            f"manifest {wanted[:12]})",
            hint="train the sub-models' weights only, and leave source.onnx as it is; or split again",
        )


def merge(
    folder: str | os.PathLike[str],
    trained: Sequence[str | os.PathLike[str]] = (),
    *,
    out: str | os.PathLike[str] | None = None,
    layers: Layers = "duplicated",
    output_scale: Scale = "weights",
    allow_nonfinite: bool = False,
    base: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Merge:
    """Put trained sub-models back together, and write the merged network to `out` if it is given.

    `trained` are files (ONNX, safetensors, torch state dicts) or folders of further splits, one for each part; by default
    the sub-models in `folder` as they stand. `layers="duplicated"` repeats what each part must compute for itself, and
    equals the mean of the sub-models; "original" has the source's topology, and doesn't where a layer is repeated. `base` is the
    file of the network that was split, whose values the cut weights then keep: what is merged is no mean of the parts any more.

    Raises ManifestError, FormatError or MergeError, with nothing written.
    """
    report = progress or (lambda *_: None)
    report("planning", 0, 1)
    opened = open_split(folder, output_scale=output_scale)
    leaves = read_leaves(opened, trained, allow_nonfinite=allow_nonfinite)
    if base is not None:
        opened = opened.over(read_trained(base, names=opened.network.graph.tensors)[0])
    graph, repeated = merged_graph(opened, leaves, layers=layers)
    if out is not None:
        graph_with_progress = graph.replace(tensors=reporting(graph.tensors, report))
        save(graph_with_progress, out, force=force)
    return Merge(graph, None if out is None else Path(out), opened, tuple(leaves), repeated, layers)


# -- the tree ---------------------------------------------------------------------------------------------------


def read_leaves(
    opened: Opened, trained: Sequence[str | os.PathLike[str]] = (), *, allow_nonfinite: bool = False
) -> list[LeafModel]:
    """The trained sub-models at the ends of the tree, in order; files that are folders are splits of a sub-model."""
    paths = [Path(p) for p in trained] or [inside(opened.folder, entry.file) for entry in opened.manifest.submodels]
    if len(paths) != opened.manifest.parts:
        raise MergeError(
            f"{len(paths)} trained sub-models were given, and the split has {opened.manifest.parts} parts",
            hint="give one file for each part, or none to take those in the folder",
        )
    given = [_read(path, opened.network.graph.tensors) for path in paths]
    known = [name for name in opened.network.graph.tensors if name not in opened.network.trained]
    constants = {name for submodel in opened.submodels for name in submodel.graph.tensors} | set(known)
    matched = match_parts(
        opened.manifest, [item for item, _ in given], known=constants, allow_nonfinite=allow_nonfinite
    )
    nested = {item[0]: child for item, child in given if child is not None}
    leaves: list[LeafModel] = []
    for part, one in enumerate(matched):
        submodel = opened.submodels[part]
        weight = Fraction(1, opened.manifest.parts)
        if one.label in nested:
            inner = nested[one.label]
            _check_digest(
                inner[0].manifest.source.digest, opened.manifest.submodels[part].digest, one.label, opened.folder
            )
            leaves.extend(outward(opened, part, weight, inner[0], leaf) for leaf in inner[1])
            continue
        _check_constants(one.label, submodel, one.tensors, opened)
        slices = {name: _slices(opened, name, part) for name in opened.entries}
        graph = submodel.graph
        graph_leaf = GraphLeaf(
            (part,), float(weight), graph, submodel.origin, submodel.selected, slices, submodel.differing
        )
        leaves.append(LeafModel((part,), weight, one.label, one.tensors, graph_leaf, Needs()))
    return leaves


def _slices(opened: Opened, name: str, part: int) -> Selection:
    return opened.manifest.selection(name, part)


def _read(path: Path, names: Collection[str]) -> tuple[Trained, tuple[Opened, list[LeafModel]] | None]:
    if not (path / MANIFEST_NAME).exists():
        tensors, metadata = read_trained(path, names=names)
        return (str(path), tensors, metadata), None
    opened = open_split(path)
    leaves = read_leaves(opened)
    merged = {name: merged_tensor_of(opened, name, leaves) for name in opened.entries}
    for name, tensor in opened.network.graph.tensors.items():
        merged.setdefault(name, tensor)  # type: ignore[arg-type]
    return (str(path), merged, opened.network.graph.metadata), (opened, leaves)


def _check_constants(label: str, submodel: SubModel, tensors: Mapping[str, Tensor], opened: Opened) -> None:
    """What doesn't train must come back unchanged."""
    for name, tensor in submodel.graph.tensors.items():
        if name in opened.network.trained or name not in tensors:
            continue
        found = tensors[name]
        if found.shape != tensor.shape or not np.array_equal(found.numpy(), tensor.numpy()):
            raise MergeError(
                f"{label!r}: the constant {name!r} has changed, and a constant belongs to all parts",
                hint=f"split with --trainable {name} if it is to train",
            )


def outward(opened: Opened, part: int, weight: Fraction, child: Opened, leaf: LeafModel) -> LeafModel:
    """A leaf of a part's own split, in the terms of the split above."""
    outer, inner = opened.submodels[part], leaf.graph
    selected = {
        name: _compose_selected(chosen, inner.selected[name]) if name in inner.selected else chosen
        for name, chosen in outer.selected.items()
    }
    slices: dict[str, Selection] = {}
    for name in opened.entries:
        mine = _slices(opened, name, part)
        shape = opened.entries[name].shape
        slices[name] = compose(mine, inner.slices[name], shape) if name in inner.slices else mine
    graph = GraphLeaf(
        (part, *leaf.path),
        float(weight * leaf.weight),
        inner.graph,
        tuple(outer.origin[i] for i in inner.origin),
        selected,
        slices,
        inner.differing | outer.differing,
    )
    flowed = child.plan.flowed
    private = {name for name, labels in flowed.labels.items() if bool((labels.core == PRIVATE).any())}
    needs = Needs(
        frozenset(outer.origin[i] for i in child.plan.part_nodes | leaf.needs.repeated),
        frozenset(private) | leaf.needs.private,
        frozenset(flowed.averaged) | leaf.needs.averaged,
    )
    return LeafModel(graph.path, weight * leaf.weight, leaf.label, leaf.tensors, graph, needs)


def _compose_selected(outer: Selected, inner: Selected) -> Selected:
    if outer.ragged or inner.ragged:
        return Selected(outer.axes, inner.shape, ragged=True)
    axes = tuple(b if a is None else a if b is None else a[b] for a, b in zip(outer.axes, inner.axes, strict=True))
    return Selected(axes, inner.shape)


# -- the merged network -----------------------------------------------------------------------------------------


def merged_graph(opened: Opened, leaves: Sequence[LeafModel], *, layers: Layers = "duplicated") -> tuple[Graph, int]:
    """The merged network, its tensors computed when they are read, and how many nodes of it are repeated."""
    source = opened.network.graph
    if layers == "original" and opened.plan.activation and opened.manifest.parts > 1:
        node = source.nodes[min(opened.plan.activation)]
        raise MergeError(
            f"{node.title}: what it computes is scaled by 1/{opened.manifest.parts}, and the original layers can't hold that",
            hint="merge with duplicated layers; with --output-scale weights where no weight of it serves another layer",
        )
    if layers == "original":
        tensors = {
            n: merged_tensor_of(opened, n, leaves) if n in opened.network.trained else t
            for n, t in source.tensors.items()
        }
        return source.replace(tensors=tensors), 0
    if layers != "duplicated":
        raise MergeError(f"there are no {layers!r} layers to merge into", hint="choose duplicated or original")
    found = assemble(source, opened.network.dialect, _layout(opened, leaves), [leaf.graph for leaf in leaves])
    return source.replace(
        nodes=found.graph.nodes,
        tensors=_tensors(opened, found, leaves),
        values=found.graph.values,
        constant_nodes=found.graph.constant_nodes,
        tensor_inputs=found.graph.tensor_inputs,
    ), len(found.repeated)


def _tensors(opened: Opened, found: Assembly, leaves: Sequence[LeafModel]) -> dict[str, Tensor]:
    ordered = sorted(leaves, key=lambda leaf: leaf.path)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.graph.tensors.items():
        if name in found.copies:
            leaf, there = found.copies[name]
            tensors[name] = ordered[leaf].tensors[there]
        elif name in found.whole:
            tensors[name] = merged_tensor_of(opened, name, leaves)
        else:
            tensors[name] = tensor
    return tensors


def merged_tensor_of(opened: Opened, name: str, leaves: Sequence[LeafModel]) -> LazyMerged:
    """A parameter of the source, merged when it is read."""
    source = opened.network.graph.tensors[name]
    pieces = tuple(
        TensorLeaf(leaf.path, leaf.graph.slices[name], leaf.weight, leaf.tensors[name], leaf.label) for leaf in leaves
    )
    constant = source if name not in opened.network.trained else None
    return LazyMerged(opened.entries[name], opened.manifest.groups, pieces, constant, opened.base.get(name))


def _layout(opened: Opened, leaves: Sequence[LeafModel]) -> Layout:
    """What is kept apart at any level of the tree is kept apart in the merged network."""
    flowed, plan = opened.plan.flowed, opened.plan
    below = frozenset().union(*(leaf.needs.repeated for leaf in leaves)) - plan.part_nodes
    uneven = len({leaf.weight for leaf in leaves}) > 1  # then no one number scales a sum over the leaves
    below |= plan.activation if uneven else frozenset()
    private = frozenset().union(*(leaf.needs.private for leaf in leaves))
    averaged = frozenset(flowed.averaged).union(*(leaf.needs.averaged for leaf in leaves))
    codes = {
        name: frozenset(int(c) for c in np.unique(labels.core) if c < 0) | ({PRIVATE} if name in private else set())
        for name, labels in flowed.labels.items()
    }
    copied = {name for name, entry in opened.entries.items() if entry.role == "duplicated"}
    copied |= {name for name, claims in flowed.claims.items() if any(claim.node in below for claim in claims)}
    return Layout(
        codes,
        flowed.trained,
        frozenset(flowed.last.derived) - flowed.trained,
        frozenset(copied),
        plan.part_nodes | below,
        plan.activation - below,
        averaged & frozenset(flowed.labels),
        {name: fact.dtype for name, fact in flowed.facts.items() if fact.dtype is not None},
    )
