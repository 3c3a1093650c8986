"""Checks that need no numbers to flow: valid parts, coverage, narrowness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import numpy.typing as npt

from graphsplit.errors import RunError
from graphsplit.graph import Graph, Tensor
from graphsplit.manifest import Group, Manifest, ParameterEntry
from graphsplit.manifest.ranges import OUTPUT, PRIVATE
from graphsplit.merging import LeafModel, Opened
from graphsplit.verification.result import Check
from graphsplit.verification.running import Bench, Subject, original

__all__ = [
    "CUT",
    "DUPLICATED",
    "OUTPUTS",
    "OWNED",
    "UNUSED",
    "checked",
    "coverage",
    "kinds",
    "narrowness",
    "valid_parts",
]

OWNED, OUTPUTS, DUPLICATED, UNUSED, CUT = range(5)
Kinds = npt.NDArray[np.int8]


# -- valid parts (law 4) ----------------------------------------------------------------------------------------


def valid_parts(bench: Bench, parts: Sequence[Subject], leaves: Sequence[LeafModel]) -> Check:
    """Every sub-model is a network by itself: its format's checker takes it, it runs, and it has every layer."""
    opened = bench.opened
    problems: list[str] = []
    remarks: list[str] = []
    for subject in parts:
        found = [*_structure(opened, subject), *_interface(opened.network.graph, subject.graph)]
        found += _ends(opened.network.graph, subject)
        verdict, remark = checked(bench, subject.file or subject.graph, leaves)
        remarks += [remark] if remark else []
        found += [verdict] if verdict else []
        found += _runs(bench, subject)
        problems += [f"{subject.title}: {problem}" for problem in found]
    problems += _layers(opened)
    passed = "pass the checker, run" if bench.runtime.checker else "run"
    detail = f"{len(parts)} sub-models {passed} on {len(bench.draws)} inputs and have every layer"
    return _check("valid parts", problems, "; ".join([detail, *dict.fromkeys(remarks)]))


def _structure(opened: Opened, subject: Subject) -> list[str]:
    problems = ["its structure is not the one that the split wrote"] if subject.changed else []
    for name, tensor in subject.graph.tensors.items():
        if 0 in tensor.shape and 0 not in opened.network.graph.tensors.get(name, tensor).shape:
            problems.append(f"tensor {name!r} is empty: a layer has no vertex left")
    return problems


def _interface(source: Graph, graph: Graph) -> list[str]:
    """Inputs and outputs must be the source's."""
    problems = []
    for what, mine, theirs in (("input", graph.inputs, source.inputs), ("output", graph.outputs, source.outputs)):
        if [v.name for v in mine] != [v.name for v in theirs]:
            problems.append(f"its {what}s are {[v.name for v in mine]}, the source's {[v.name for v in theirs]}")
            continue
        for a, b in zip(mine, theirs, strict=True):
            known = a.shape is not None and b.shape is not None
            if a.dtype != b.dtype or (known and len(a.shape or ()) != len(b.shape or ())):
                problems.append(f"its {what} {a.name!r} has another type or rank than the source's")
            elif what == "input" and a.shape != b.shape:
                problems.append(f"its input {a.name!r} has another shape than the source's")
    return problems


def _ends(source: Graph, subject: Subject) -> list[str]:
    """The only sources of a sub-model are the inputs (and stored tensors), its only sinks the outputs."""
    graph = subject.graph
    network = graph.network()
    inputs = {value.name for value in graph.inputs}
    dead = {source.nodes[i].outputs for i in range(len(source.nodes)) if i not in source.alive}
    problems = []
    for vertex in network.nodes:
        if isinstance(vertex, int):
            node = graph.nodes[vertex]
            if not network.in_degree(vertex) and any(name and name not in graph.tensors for name in node.inputs):
                problems.append(f"{node.title} reads what nothing gives")
            if not network.out_degree(vertex) and node.outputs not in dead:
                problems.append(f"nothing reads the result of {node.title}")
        elif isinstance(vertex, str) and vertex not in inputs:
            problems.append(f"{vertex!r} is a source and no input")
    for value in graph.outputs:
        vertex = ("output", value.name)
        if vertex not in network:
            if value.name not in inputs and value.name not in graph.tensors:
                problems.append(f"nothing computes the output {value.name!r}")
        elif _fed(source, value.name) and not inputs & nx.ancestors(network, vertex):
            problems.append(f"the output {value.name!r} depends on no input")
    return problems


def _fed(source: Graph, output: str) -> bool:
    """Whether an output depends on an input in the source."""
    network = source.network()
    vertex = ("output", output)
    return vertex in network and bool({v.name for v in source.inputs} & nx.ancestors(network, vertex))


def checked(bench: Bench, network: Graph | Path, leaves: Sequence[LeafModel]) -> tuple[str | None, str | None]:
    """What the checker has against a graph or file; and a remark where it has as much against the source."""
    verdict = bench.complaint(network)
    if verdict is None:
        return None, None
    source = original(bench.opened, leaves)
    same = bench.complaint(source)
    if same is None:
        return f"the checker refuses it: {verdict}", None
    plain = bench.complaint(network, full=False)
    if plain is not None and bench.complaint(source, full=False) is None:
        return f"the checker refuses it: {plain}", None
    return None, f"the full check refuses the source as well ({same})"


def _runs(bench: Bench, subject: Subject) -> list[str]:
    try:
        session = bench.session(subject.graph, file=subject.file)
        for draw in bench.draws:
            session.run(draw.arrays)
    except RunError as error:
        return [error.message]
    return []


def _layers(opened: Opened) -> list[str]:
    """Every part has a vertex of every divided layer, and something of every parameter."""
    problems = []
    partition, graph = opened.plan.partition, opened.network.graph
    for layer in partition.structure.layers:
        have = np.bincount(partition.owner[layer.classes], minlength=partition.parts)
        problems += [f"part {k} has no vertex of {graph.nodes[layer.node].title}" for k in np.flatnonzero(have == 0)]
    for name, entry in opened.manifest.parameters.items():
        for part in range(opened.manifest.parts):
            if 0 in opened.manifest.part_shape(name, part) and 0 not in entry.shape:
                problems.append(f"part {part} has nothing of {name!r}")
    return problems


# -- coverage (law 2) -------------------------------------------------------------------------------------------


def kinds(entry: ParameterEntry, groups: Sequence[Group]) -> Kinds:
    """What becomes of every element of a parameter, read off the manifest element by element: owned, output, …, cut."""
    shape = entry.shape
    if not shape:  # one number has no axis that could say it: the counts do
        scalar = {"duplicated": DUPLICATED, "output": OUTPUTS}.get(entry.role, UNUSED)
        return np.full((), scalar, np.int8)
    vectors: list[npt.NDArray[np.int32]] = []
    for axis, number in enumerate(entry.axes):
        if number is not None:
            vectors.append(groups[number].who().astype(np.int32).reshape(_along(shape, axis)))
    if entry.blocked is not None:
        axis, along = entry.blocked.axis, entry.blocked.along
        height = shape[along] // len(entry.blocked.groups)
        rows = np.stack([groups[number].who() for number in entry.blocked.groups]).astype(np.int32)
        matrix = np.repeat(rows, height, axis=0)
        matrix = matrix if along < axis else matrix.T
        vectors.append(matrix.reshape([n if a in (axis, along) else 1 for a, n in enumerate(shape)]))
    owner = np.full((1,) * len(shape), -1, np.int32)
    cut = output = private = np.zeros((1,) * len(shape), bool)
    for who in vectors:
        cut = cut | ((who >= 0) & (owner >= 0) & (who != owner))
        owner = np.maximum(owner, np.where(who >= 0, who, -1))
        output, private = output | (who == OUTPUT), private | (who == PRIVATE)
    found = np.where(
        cut,
        CUT,
        np.where(
            output & ((owner >= 0) | ~private),
            OUTPUTS,
            np.where(owner >= 0, OWNED, np.where(private, DUPLICATED, UNUSED)),
        ),
    )
    return np.broadcast_to(found.astype(np.int8), shape)


def _along(shape: tuple[int, ...], axis: int) -> list[int]:
    return [n if a == axis else 1 for a, n in enumerate(shape)]


def coverage(opened: Opened, tensors: Sequence[tuple[str, int, Mapping[str, Tensor]]]) -> Check:
    """Every element of every parameter has one fate, the manifest's counts say which, and each part has what it says.

    `tensors` holds for each sub-model that was not split again its title, its part and its tensors.
    """
    manifest, network = opened.manifest, opened.network
    problems = [
        f"{n!r} trains and is not in the manifest" for n in sorted(network.trained - manifest.parameters.keys())
    ]
    totals = dict.fromkeys(("owned", "output", "duplicated", "constant", "unused", "cut"), 0)
    for name, entry in manifest.parameters.items():
        counts = entry.counts
        for kind in totals:
            totals[kind] += getattr(counts, kind)
        if counts.total != entry.elements:
            problems.append(f"{name!r}: its {entry.elements} elements are counted as {counts.total}")
        if entry.role != "constant":
            problems += _held(manifest, entry)
    for title, part, mine in tensors:
        problems += [f"{title}: {problem}" for problem in _part_tensors(opened, part, mine)]
    numbers = ", ".join(f"{n:,} {kind}" for kind, n in totals.items() if n)
    return _check("coverage", problems, f"{sum(totals.values()):,} elements: {numbers}")


def _held(manifest: Manifest, entry: ParameterEntry) -> list[str]:
    """Element by element: counts, and in how many parts each kind is found."""
    which = kinds(entry, manifest.groups)
    counts = entry.counts
    expected = {OWNED: counts.owned, OUTPUTS: counts.output, DUPLICATED: counts.duplicated, UNUSED: counts.unused}
    expected[CUT] = counts.cut
    problems = [
        f"{entry.name!r}: {int((which == kind).sum())} elements are found where the manifest counts {number}"
        for kind, number in expected.items()
        if int((which == kind).sum()) != number
    ]
    holders = np.zeros(entry.shape, np.uint16)
    for part in range(manifest.parts):
        for index, _ in manifest.selection(entry.name, part).blocks(entry.shape):
            holders[np.ix_(*index) if index else ()] += 1
    if (holders[which == CUT] != 0).any():
        problems.append(f"{entry.name!r}: a part holds elements that are cut")
    if (holders[which == OWNED] != 1).any():
        problems.append(f"{entry.name!r}: owned elements are not in exactly one part")
    if (holders[(which == DUPLICATED) | (which == UNUSED)] != manifest.parts).any():
        problems.append(f"{entry.name!r}: elements that every part should have are not in all of them")
    if not np.isin(holders[which == OUTPUTS], (1, manifest.parts)).all():
        problems.append(f"{entry.name!r}: output elements are neither in one part nor in all")
    return problems


def _part_tensors(opened: Opened, part: int, tensors: Mapping[str, Tensor]) -> list[str]:
    problems = []
    manifest, network = opened.manifest, opened.network
    for name, entry in manifest.parameters.items():
        if name not in tensors:
            problems.append(f"it has no tensor {name!r}")
            continue
        wanted = manifest.part_shape(name, part)
        if tuple(tensors[name].shape) != wanted:
            problems.append(f"{name!r} has shape {list(tensors[name].shape)}, the manifest says {list(wanted)}")
        elif tensors[name].dtype.name != entry.dtype:
            problems.append(f"{name!r} has type {tensors[name].dtype.name}, the manifest says {entry.dtype}")
    for name, tensor in opened.submodels[part].graph.tensors.items():
        if name not in network.changing and name in tensors:
            found = tensors[name]
            if found.shape != tensor.shape or not np.array_equal(
                found.numpy(), tensor.numpy(), equal_nan=_floats(tensor)
            ):
                problems.append(f"the constant {name!r} was changed")
    return problems


def _floats(tensor: Tensor) -> bool:
    return tensor.dtype.kind == "f"


# -- narrowness (law 7) -----------------------------------------------------------------------------------------


def narrowness(opened: Opened, tensors: Sequence[tuple[str, int, Mapping[str, Tensor]]]) -> Check:
    """No divided layer of a part exceeds its share by more than an atom a family; what isn't divided is listed."""
    partition, graph = opened.plan.partition, opened.network.graph
    structure, shares = partition.structure, np.asarray(partition.shares)
    problems: list[str] = []
    sizes = np.array([len(family.atoms) for family in structure.families], np.int64)
    loads = np.zeros((len(structure.layers), partition.parts), np.int64)
    slack = np.zeros(len(structure.layers))
    np.add.at(loads, structure.usage[:, 1], structure.usage[:, 2:3] * partition.counts[structure.usage[:, 0]])
    np.add.at(slack, structure.usage[:, 1], structure.usage[:, 2])
    wide = np.zeros(len(structure.layers))
    np.add.at(wide, structure.usage[:, 1], structure.usage[:, 2] * sizes[structure.usage[:, 0]])
    for layer in np.flatnonzero((loads > wide[:, None] * shares + slack[:, None] + 1e-6).any(axis=1)):
        title = graph.nodes[structure.layers[layer].node].title
        share = ", ".join(f"{n:g}" for n in wide[layer] * shares)
        problems.append(
            f"{title} has {loads[layer].tolist()} vertices of its {int(wide[layer])}, and its shares are {share}"
        )
    for family, counts in zip(structure.families, partition.counts, strict=True):
        have = np.bincount(partition.owner[family.atoms], minlength=partition.parts)
        if not np.array_equal(have, counts):
            problems.append(
                f"a family of {len(family.atoms)} atoms is divided {have.tolist()}, planned were {counts.tolist()}"
            )
    problems += _unlisted(opened)
    fractions = []
    whole = sum(entry.elements for entry in opened.manifest.parameters.values() if entry.role != "constant")
    for title, part, mine in tensors:
        held = 0
        for name, entry in opened.manifest.parameters.items():
            if entry.role != "constant" and name in mine:
                held += math.prod(mine[name].shape)
        if held > opened.manifest.submodels[part].elements:
            planned = opened.manifest.submodels[part].elements
            problems.append(f"{title} trains {held:,} elements, the manifest says {planned:,}")
        fractions.append(held / max(whole, 1))
    shown = f"{min(fractions):.1%} to {max(fractions):.1%}" if fractions else "an unknown share"
    listed = len(opened.manifest.private) + len(opened.manifest.repeated)
    detail = f"{len(structure.layers)} layers divided; a part trains {shown} of {whole:,} elements; {listed} exceptions"
    return _check("narrowness", problems, detail)


def _unlisted(opened: Opened) -> list[str]:
    """Parameters that each part has a copy of, and none of whose nodes the manifest lists with a reason."""
    if opened.manifest.parts == 1:
        return []
    graph = opened.network.graph
    listed = {note.node for note in (*opened.manifest.private, *opened.manifest.repeated)}
    problems = []
    for name, entry in opened.manifest.parameters.items():
        if not entry.counts.duplicated:
            continue
        readers, waiting = set(), [name]
        while waiting:
            for i in graph.consumers.get(waiting.pop(), ()):
                if i not in readers:
                    readers.add(i)
                    if graph.nodes[i].title not in listed:
                        waiting.extend(o for o in graph.nodes[i].outputs if o)
        if not any(graph.nodes[i].title in listed for i in readers):
            problems.append(f"every part has a copy of {name!r}, and the manifest lists no reason")
    return problems


def _check(name: str, problems: Sequence[str], detail: str) -> Check:
    if not problems:
        return Check(name, True, detail)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Check(name, False, f"{problems[0]}{more}")
