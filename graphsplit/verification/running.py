"""Running sub-models, one at a time, and the merged network, on the same inputs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from graphsplit.errors import FormatError, RunError
from graphsplit.files import inside
from graphsplit.formats.structure import structure_digest
from graphsplit.graph import Array, Graph, Tensor
from graphsplit.merging import LeafModel, Opened, merged_tensor_of
from graphsplit.network import Network
from graphsplit.verification.compare import Comparison, Places, Reference, compare, noise
from graphsplit.verification.inputs import Draw, draws, elsewhere, given
from graphsplit.verification.perturb import jittered, limits
from graphsplit.verification.runtime import Runtime, Session, evaluation, evaluation_graph, runtime_of

__all__ = ["Bench", "Subject", "depth", "original", "subjects", "taps_of"]


@dataclass(frozen=True)
class Subject:
    """A sub-model to run: the graph of its file where it has one, else the one that narrowing gives; and its tensors.

    `file` is its file if that holds a graph with the structure that the split wrote; `changed` says that a file in the
    split's own folder has another one.
    """

    leaf: LeafModel
    graph: Graph
    file: Path | None
    changed: bool = False

    @property
    def title(self) -> str:
        return Path(self.leaf.label).name

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Subject:
        """The same with other trained tensors, which are in no file."""
        leaf = replace(self.leaf, tensors=tensors)
        known = {name: tensors.get(name, tensor) for name, tensor in self.graph.tensors.items()}
        return Subject(leaf, self.graph.replace(tensors=known), None, self.changed)


def subjects(opened: Opened, leaves: Sequence[LeafModel]) -> list[Subject]:
    """The leaves with graphs to run. Raises FormatError for a file of the split that can't be read."""
    free, runtime = opened.network.changing, runtime_of(opened.network)
    own = {inside(opened.folder, entry.file) for entry in opened.manifest.submodels}
    found = []
    for leaf in leaves:
        planned = leaf.graph.graph
        whole = planned.replace(tensors={n: leaf.tensors.get(n, t) for n, t in planned.tensors.items()})
        path = Path(leaf.label)
        if not runtime.holds_graph(path):
            found.append(Subject(leaf, whole, None))
            continue
        try:
            graph = runtime.load(path)
        except FormatError:
            if path in own:
                raise
            found.append(Subject(leaf, whole, None))
            continue
        if structure_digest(graph, free) == structure_digest(planned, free):
            found.append(Subject(leaf, graph, path))
        elif path in own:
            found.append(Subject(leaf, graph, path, changed=True))
        else:  # a training tool's own file: its tensors are what counts
            found.append(Subject(leaf, whole, None))
    return found


def original(opened: Opened, leaves: Sequence[LeafModel]) -> Graph:
    """The source with the merged weights, also where these need a place that its layers don't have."""
    source, trained = opened.network.graph, opened.network.trained
    tensors = {n: merged_tensor_of(opened, n, leaves) if n in trained else t for n, t in source.tensors.items()}
    return source.replace(tensors=tensors)


@dataclass
class Bench:
    """Where networks are run: the inputs that the source itself runs on, the runtime, and a folder for files."""

    opened: Opened
    draws: list[Draw]
    folder: Path
    runtime: Runtime
    remarks: list[str] = field(default_factory=list)
    units: Mapping[str, float] = field(default_factory=dict)
    """How coarsely some tensors were rounded before, where not as their types are."""

    @classmethod
    def on(cls, opened: Opened, folder: Path, inputs: str | os.PathLike[str] | Mapping[str, Array] | None) -> Bench:
        """A bench with random inputs, or with those that are given. Raises what drawing and reading them raise."""
        runtime = runtime_of(opened.network)
        network = evaluation(opened.network, runtime)
        remark = runtime.remark(network.graph)
        own = [remark] if remark else []
        if inputs is not None:
            return cls(opened, [given(network.graph, inputs)], folder, runtime, own)
        drawn, remarks = draws(network)
        return cls(opened, drawn, folder, runtime, own + remarks)

    @cached_property
    def network(self) -> Network:
        """The network in evaluation mode."""
        return evaluation(self.opened.network, self.runtime)

    def session(self, graph: Graph, taps: Collection[str] = (), *, file: Path | None = None) -> Session:
        """A graph, loaded; from its file where there is one. Raises RunError."""
        return self.runtime.session(file or graph, taps_of(graph, taps), self.folder)

    def complaint(self, network: Graph | Path, *, full: bool = True) -> str | None:
        """What the checker says against a graph or file, None where it accepts it."""
        return self.runtime.complaint(network, self.folder, full=full)

    # -- which inputs --------------------------------------------------------------------------------------------

    def settle(self, leaves: Sequence[LeafModel]) -> str | None:
        """Find a runtime that takes the source's topology, and leave out inputs that it doesn't run on, with a remark.

        Gives the reason where nothing is left.
        """
        graph = original(self.opened, leaves)
        try:
            session = self.session(graph)
        except RunError as error:
            other, first = self.runtime.fallback(), error
            if other is None:
                return f"no runtime loads the source: {first.message}"
            title, self.runtime = self.runtime.title.partition(" ")[0], other
            try:
                session = self.session(graph)
            except RunError:
                return f"no runtime loads the source: {first.message}"
            self.remarks.append(f"{title} doesn't load the source ({first.message})")
        kept, failures = _usable(session, self.draws)
        if not kept and not any(draw.given for draw in self.draws):
            for sizes in elsewhere(self.network):
                drawn, remarks = draws(self.network, sizes)
                if _usable(session, drawn[:1])[0]:
                    (kept, failures), self.remarks = _usable(session, drawn), [*remarks, failures[0]]
                    break
        self.draws = kept
        self.remarks += failures
        return None if kept else failures[0]

    # -- sub-models ----------------------------------------------------------------------------------------------

    def references(self, parts: Sequence[Subject], names: Sequence[str]) -> list[dict[str, Reference]]:
        """For each draw what the values should be in the merged network. Raises RunError for what doesn't run."""
        found = [{name: Reference() for name in names} for _ in self.draws]
        for subject in parts:
            session = self.session(subject.graph, names)
            results = [session.run(draw.arrays) for draw in self.draws]
            for references, values in zip(found, results, strict=True):
                for name in names:
                    if name in values:
                        references[name].add(values[name], float(subject.leaf.weight), self.places(subject, name))
                    else:
                        references[name].problem = f"{subject.title} has no such value"
            del session
            self._add_noise(subject, names, found, results)
        return found

    def _add_noise(
        self,
        subject: Subject,
        names: Sequence[str],
        found: list[dict[str, Reference]],
        results: Sequence[Mapping[str, object]],
    ) -> None:
        """Run a sub-model again, moved by rounding units: the part that this moves furthest says what is allowed."""
        graph = subject.graph.replace(tensors=jittered(subject.graph.tensors, self.opened.network.trained, self.units))
        session = self.session(graph, names)
        rng = np.random.default_rng(5)
        for draw, references, plain in zip(self.draws, found, results, strict=True):
            moved = session.run({name: _jitter(array, rng) for name, array in draw.arrays.items()})
            known = [name for name in names if name in plain]
            levels = noise([plain[name] for name in known], [moved[name] for name in known])
            for name, level in zip(known, levels, strict=True):
                references[name].noise = max(level, references[name].noise)

    def places(self, subject: Subject, name: str) -> Places | None:
        """Which slice of an output a part gives; None where each gives the whole."""
        entry = next((entry for entry in self.opened.manifest.outputs if entry.name == name), None)
        if entry is None or entry.axis is None or entry.group is None:
            return None
        group = self.opened.manifest.groups[entry.group]
        if len(subject.leaf.path) == 1:
            return Places(entry.axis, group.size, group.kept(subject.leaf.path[0]).indices())
        chosen = subject.leaf.graph.selected[name].axes[entry.axis]
        return Places(entry.axis, group.size, np.arange(group.size) if chosen is None else chosen)

    # -- the merged network --------------------------------------------------------------------------------------

    def compared(
        self, references: Sequence[Mapping[str, Reference]], session: Session, graph: Graph
    ) -> list[Comparison]:
        """Every value of the merged network, on every draw, against what it should be. Raises RunError."""
        half = evaluation_graph(graph, self.runtime)
        deep, unit = depth(half), self.unit(half)
        found = []
        for draw, expected in zip(self.draws, references, strict=True):
            values = session.run(draw.arrays)
            for name, reference in expected.items():
                if name not in values:
                    found.append(Comparison(name, np.inf, 0.0, True))
                    continue
                found.append(compare(name, reference, values[name], depth=deep, unit=unit))
        return found

    def unit(self, graph: Graph) -> float:
        """The coarsest rounding unit of a network's weights and values."""
        types = {graph.tensors[name].dtype for name in graph.tensors}
        types |= {value.dtype for value in graph.values.values()}
        types |= {fact.dtype for fact in self.network.facts.values() if fact.dtype is not None}
        return max(
            (limits(t)[0] for t in types if t.kind == "f" or t.name == "bfloat16"), default=limits(np.dtype("f4"))[0]
        )


def _usable(session: Session, drawn: Sequence[Draw]) -> tuple[list[Draw], list[str]]:
    """The draws that a network runs on, and why it doesn't run on the others."""
    kept: list[Draw] = []
    failures: list[str] = []
    for draw in sorted(drawn, key=lambda draw: draw.spare):
        if draw.spare and not failures:
            continue
        reason = ""
        for variant in _variants(draw):
            try:
                session.run(variant.arrays)
            except RunError as error:
                reason = reason or error.message
            else:
                kept.append(variant)
                break
        else:
            failures.append(f"the source itself doesn't run on {draw.title} ({reason})")
    return kept, failures


def taps_of(graph: Graph, names: Collection[str]) -> list[str]:
    """The names that a graph computes and doesn't give out already."""
    known = {value.name for value in graph.outputs}
    return [name for name in dict.fromkeys(names) if name in graph.producers and name not in known]


def depth(graph: Graph) -> int:
    """The nodes on the longest path. O(nodes + edges)."""
    far: dict[str, int] = {}
    for node in graph.nodes:
        here = 1 + max((far.get(name, 0) for name in node.inputs), default=0)
        far.update(dict.fromkeys(node.outputs, here))
    return max(far.values(), default=1)


def _jitter(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind not in "fV":
        return array
    moved = array.astype(np.float64) * (1 + limits(array.dtype)[0] * rng.choice((-1.0, 1.0), array.shape))
    return moved.astype(array.dtype)


def _variants(draw: Draw) -> list[Draw]:
    """A draw, and where it has whole numbers the same with the smallest ones, which more networks accept."""
    if not any(array.dtype.kind in "iu" for array in draw.arrays.values()) or draw.given:
        return [draw]
    found = [draw]
    for number in (1, 0):
        arrays = {n: np.full_like(a, number) if a.dtype.kind in "iu" else a for n, a in draw.arrays.items()}
        found.append(Draw(f"{draw.title}, whole numbers all {number}", arrays))
    return found
