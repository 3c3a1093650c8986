"""A module's split as a folder: written, opened, merged."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsplit.errors import MergeError
from graphsplit.files import MANIFEST_NAME, OutputFolder, inside
from graphsplit.formats.structure import structure_digest
from graphsplit.formats.weights import read_trained
from graphsplit.graph import Graph, Tensor
from graphsplit.merging import Layers, Merge, Opened, open_split
from graphsplit.modules.source import by_graph_names, unwrapped
from graphsplit.options import Scale
from graphsplit.recombine.match import PART_KEY, SPLIT_KEY
from graphsplit.recombine.watched import reporting
from graphsplit.torch_network import TorchNetwork

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.formats.torch_holders import Source
    from graphsplit.modules.split import ModuleSplit

SOURCE, SUFFIX = "source.json", ".pt2"
"""What a module's split is planned again from, and what its sub-models are: archives, their weights beside them."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Given:
    """A trained file."""

    label: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def write_folder(
    opened: Opened,
    source: Source,
    graphs: Sequence[Graph],
    out: str | os.PathLike[str],
    *,
    force: bool,
    progress: Progress,
) -> None:
    """Write sub-models, the weightless source and the manifest; nothing is written unless everything is."""
    from graphsplit.formats import torch_archive

    manifest, network = opened.manifest, opened.network
    with OutputFolder(out, force=force) as folder:
        for part, graph in enumerate(graphs):
            progress("writing", part, len(graphs))
            metadata = {PART_KEY: str(part), SPLIT_KEY: manifest.split}
            file = folder / manifest.submodels[part].file
            torch_archive.save(source.with_graph(graph), file, metadata=metadata, beside=True)
        torch_archive.save_source(source.with_graph(network.graph), folder / SOURCE, network.trained)
        (folder / MANIFEST_NAME).write_text(manifest.dumps(), encoding="utf-8")
    progress("writing", len(graphs), len(graphs))


def open_folder(folder: str | os.PathLike[str], model: nn.Module | None = None) -> ModuleSplit:
    """The split in a folder, its sub-models with the weights that lie there now.

    Raises ManifestError, FormatError or MergeError for a folder that holds none, or was changed in more than its weights.
    """
    from graphsplit.formats import torch_archive
    from graphsplit.modules.split import ModuleSplit

    opened = open_split(folder)
    if not isinstance(opened.network, TorchNetwork):
        raise MergeError(
            f"{os.fspath(folder)!r} is the split of an ONNX file, and holds no modules",
            hint="merge it with graphsplit.merge",
        )
    assert opened.network.source is not None
    submodels = []
    for entry in opened.manifest.submodels:
        source = torch_archive.load_filled(inside(opened.folder, entry.file))
        if structure_digest(source.graph, opened.network.changing) != entry.digest:
            raise MergeError(
                f"{entry.file!r} in {os.fspath(folder)!r}: its structure is not the one that the split wrote",
                hint="train the sub-models' weights only; or split again",
            )
        submodels.append(torch_archive.module_of(source))
    return ModuleSplit(list(submodels), opened.network.source, opened, model, opened.folder)


def merge_folder(
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
    """Merge a folder's sub-models, or `trained` files, into a module's file. Raises what `merging.merge` raises."""
    from graphsplit.formats import torch_archive
    from graphsplit.modules.split import ModuleSplit

    report = progress or (lambda *_: None)
    report("planning", 0, 1)
    opened = open_split(folder, output_scale=output_scale)
    assert isinstance(opened.network, TorchNetwork)
    assert opened.network.source is not None
    files = list(trained) or [inside(opened.folder, entry.file) for entry in opened.manifest.submodels]
    split = ModuleSplit([], opened.network.source, opened, None, opened.folder)
    leaves = split.leaves(files, allow_nonfinite=allow_nonfinite)
    if base is not None:
        names = opened.network.source.holders.names
        split.opened = opened = opened.over(by_graph_names(read_trained(base, names=names)[0], names))
    source = split.merged_source(leaves, layers=layers)
    if out is not None:
        watched = source.graph.replace(tensors=reporting(source.graph.tensors, report))
        torch_archive.save(source.with_graph(watched), out, force=force)
    repeated = len(opened.plan.part_nodes) if layers == "duplicated" else 0
    return Merge(source.graph, None if out is None else Path(out), opened, tuple(leaves), repeated, layers)


def read_given(item: Any, names: Collection[str]) -> Any:
    """What was given as a trained sub-model: a path is read, a folder's split opened, anything else taken as it is."""
    if not isinstance(item, (str, os.PathLike)):
        return item
    path = Path(item)
    if (path / MANIFEST_NAME).exists():
        return open_folder(path)
    return Given(str(path), *read_trained(path, names=names))


def metadata_of(item: Any) -> Mapping[str, str]:
    """The part and split that a trained sub-model says it is."""
    if isinstance(item, Given):
        return item.metadata
    source = getattr(unwrapped(item), "split_source", None)
    if source is not None:
        known: Mapping[str, str] = source.graph.metadata
        return known
    return getattr(getattr(getattr(item, "opened", None), "network", None), "graph", _EMPTY).metadata


_EMPTY = Graph("", (), (), (), {})


def is_module_split(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder that holds a split holds one of a module."""
    return (Path(folder) / SOURCE).is_file()
