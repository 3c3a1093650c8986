"""What networks run in. Whatever verification knows of files, sessions and checkers is behind `Runtime`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from graphsplit.files import inside
from graphsplit.formats import onnx_runtime
from graphsplit.formats.onnx_evaluation import active_dropout, without_dropout
from graphsplit.formats.onnx_file import load, save
from graphsplit.formats.onnx_runtime import Engine, check_file, engine, engine_title
from graphsplit.formats.onnx_sizes import symbols
from graphsplit.formats.onnx_wide import widened
from graphsplit.formats.tensors import raw_bytes
from graphsplit.graph import Array, Graph
from graphsplit.merging import Layers, LeafModel, Opened, merged_graph, read_leaves
from graphsplit.network import Network
from graphsplit.torch_network import TorchNetwork

if TYPE_CHECKING:
    from graphsplit.modules.split import ModuleSplit

__all__ = ["OnnxRuntime", "Runtime", "Session", "TorchRuntime", "evaluation", "evaluation_graph", "runtime_of"]


class Session(Protocol):
    """A network that is loaded, with the values that it gives: its outputs, and taps inside it."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, object]:
        """The values by name; one that isn't a tensor comes as the runtime gives it. Raises RunError."""
        ...


class Runtime(Protocol):
    """What a kind of network runs in. A network is a graph in memory, or a file; `folder` is for files on the way."""

    @property
    def title(self) -> str:
        """Its name and version."""
        ...

    @property
    def checker(self) -> bool:
        """Whether networks of this kind have a checker: without one, to run is all that is asked of them."""
        ...

    def fallback(self) -> Runtime | None:
        """Another one, to try where this one doesn't load a network."""
        ...

    def session(self, network: Graph | Path, taps: Collection[str], folder: Path) -> Session:
        """Load a network. A tap must be the result of a node, and no output already. Raises RunError."""
        ...

    def complaint(self, network: Graph | Path, folder: Path, *, full: bool = True) -> str | None:
        """What the checker says against a network, None where it accepts it."""
        ...

    def holds_graph(self, path: Path) -> bool:
        """Whether a sub-model's file holds its graph, and not only its tensors."""
        ...

    def load(self, path: Path) -> Graph:
        """The graph in a file. Raises FormatError for one that can't be read."""
        ...

    def digest(self, graph: Graph, folder: Path) -> str:
        """SHA-256 of what a graph is when it is written: equal for equal bytes."""
        ...

    def evaluates(self, name: str) -> bool:
        """Whether a value belongs to evaluation mode, about which the laws are."""
        ...

    def remark(self, graph: Graph) -> str | None:
        """What of a graph runs otherwise than it says, so that it is in evaluation mode."""
        ...

    def leaves(self, opened: Opened, trained: Sequence[str | os.PathLike[str]]) -> list[LeafModel]:
        """The sub-models in a split's folder, or in the files `trained`. Raises MergeError or FormatError."""
        ...

    def merged(self, opened: Opened, leaves: Sequence[LeafModel], layers: Layers) -> Graph:
        """The graph that the merge writes into a file. Raises MergeError where it refuses to."""
        ...

    def widened(self, graph: Graph) -> Graph | None:
        """A graph of half precision in single precision; None where it holds none, or there is no such thing."""
        ...


def runtime_of(network: Network) -> Runtime:
    """What a network runs in, by its kind."""
    return TorchRuntime() if isinstance(network, TorchNetwork) else OnnxRuntime()


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX files, in one of the engines."""

    kind: Engine = field(default_factory=engine)
    checker: bool = True

    @property
    def title(self) -> str:
        return engine_title(self.kind)

    def fallback(self) -> Runtime | None:
        return OnnxRuntime("reference") if self.kind != "reference" else None

    def session(self, network: Graph | Path, taps: Collection[str], folder: Path) -> Session:
        return onnx_runtime.Session(_evaluated(network, folder), taps, kind=self.kind)

    def complaint(self, network: Graph | Path, folder: Path, *, full: bool = True) -> str | None:
        return check_file(_file(network, folder), full=full)

    def holds_graph(self, path: Path) -> bool:
        return path.suffix.lower() == ".onnx"

    def load(self, path: Path) -> Graph:
        return load(path)

    def digest(self, graph: Graph, folder: Path) -> str:
        path = _file(graph, folder)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        path.unlink()
        return found

    def evaluates(self, name: str) -> bool:
        return True

    def remark(self, graph: Graph) -> str | None:
        active = active_dropout(graph)
        if not active:
            return None
        return f"dropout is switched off, which the file has on in {len(active)} node{'s' * (len(active) > 1)}"

    def leaves(self, opened: Opened, trained: Sequence[str | os.PathLike[str]]) -> list[LeafModel]:
        return read_leaves(opened, trained)

    def merged(self, opened: Opened, leaves: Sequence[LeafModel], layers: Layers) -> Graph:
        return merged_graph(opened, leaves, layers=layers)[0]

    def widened(self, graph: Graph) -> Graph | None:
        return widened(graph)


def _file(network: Graph | Path, folder: Path) -> Path:
    if isinstance(network, Path):
        return network
    path = folder / "network.onnx"
    save(network, path, force=True)
    return path


def _evaluated(network: Graph | Path, folder: Path) -> Path:
    """A file to run, of the network in evaluation mode."""
    graph = load(network) if isinstance(network, Path) else network
    off = without_dropout(graph)
    return network if off is graph and isinstance(network, Path) else _file(off, folder)


@dataclass(frozen=True)
class TorchRuntime:
    """Graphs of torch ops, run op by op in evaluation mode."""

    checker: bool = False

    @property
    def title(self) -> str:
        from graphsplit.formats.torch_runtime import torch_title

        return torch_title()

    def fallback(self) -> Runtime | None:
        return None

    def session(self, network: Graph | Path, taps: Collection[str], folder: Path) -> Session:
        from graphsplit.formats import torch_runtime

        return torch_runtime.Session(self.load(network) if isinstance(network, Path) else network, taps)

    def complaint(self, network: Graph | Path, folder: Path, *, full: bool = True) -> str | None:
        return None

    def holds_graph(self, path: Path) -> bool:
        from graphsplit.formats.torch_runtime import GRAPHS

        return path.suffix.lower() in GRAPHS

    def load(self, path: Path) -> Graph:
        from graphsplit.formats import torch_runtime

        return torch_runtime.load(path)

    def digest(self, graph: Graph, folder: Path) -> str:
        found = hashlib.sha256()
        for name, tensor in sorted(graph.tensors.items()):
            found.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
            found.update(raw_bytes(tensor.numpy()))
        return found.hexdigest()

    def evaluates(self, name: str) -> bool:
        from graphsplit.formats.torch_runtime import evaluates

        return evaluates(name)

    def remark(self, graph: Graph) -> str | None:
        return None

    def leaves(self, opened: Opened, trained: Sequence[str | os.PathLike[str]]) -> list[LeafModel]:
        files = list(trained) or [inside(opened.folder, entry.file) for entry in opened.manifest.submodels]
        return _module_split(opened).leaves(files)

    def merged(self, opened: Opened, leaves: Sequence[LeafModel], layers: Layers) -> Graph:
        return _module_split(opened).merged_source(leaves, layers=layers).graph

    def widened(self, graph: Graph) -> Graph | None:
        return None


def _module_split(opened: Opened) -> ModuleSplit:
    """The split of a module, without modules."""
    from graphsplit.modules.split import ModuleSplit

    assert isinstance(opened.network, TorchNetwork)
    assert opened.network.source is not None
    return ModuleSplit([], opened.network.source, opened, None, opened.folder)


# -- the half of a network that is run ----------------------------------------------------------------------------


def evaluation_graph(graph: Graph, runtime: Runtime) -> Graph:
    """A graph, or where both modes stand side by side in it, what evaluation mode runs."""
    inputs = tuple(value for value in graph.inputs if runtime.evaluates(value.name))
    outputs = tuple(value for value in graph.outputs if runtime.evaluates(value.name))
    if len(inputs) == len(graph.inputs) and len(outputs) == len(graph.outputs):
        return graph
    half = graph.replace(inputs=inputs, outputs=outputs)
    nodes = tuple(half.nodes[i] for i in sorted(half.alive))
    known = {name for node in nodes for name in (*node.inputs, *node.outputs)}
    known |= {value.name for value in (*inputs, *outputs)}
    return half.replace(
        nodes=nodes,
        tensors={name: tensor for name, tensor in half.tensors.items() if name in known},
        values={name: value for name, value in half.values.items() if name in known},
    )


def evaluation(network: Network, runtime: Runtime) -> Network:
    """The same of a network, with what is known of its values and of its dynamic axes."""
    graph = evaluation_graph(network.graph, runtime)
    if graph is network.graph:
        return network
    axes = {name for names in symbols(graph) for name in names}
    known = {*graph.producers, *graph.tensors, *(value.name for value in graph.inputs)}
    return replace(
        network,
        graph=graph,
        sizes={name: size for name, size in network.sizes.items() if name in axes},
        facts={name: fact for name, fact in network.facts.items() if name in known},
    )
