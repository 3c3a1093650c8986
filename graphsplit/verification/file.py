"""Checks of a merged file: it is what merging these sub-models gives, as a graph, tensor by tensor, and on inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graphsplit.errors import GraphsplitError, MergeError, RunError
from graphsplit.formats.structure import structure_digest
from graphsplit.graph import Graph, Node
from graphsplit.merging import LeafModel, merged_graph, open_split
from graphsplit.verification.compare import Comparison
from graphsplit.verification.laws import compared_values, same_bits, verdict
from graphsplit.verification.result import Check
from graphsplit.verification.running import Bench, Subject
from graphsplit.verification.statics import checked
from graphsplit.verification.wide import in_single_precision

__all__ = ["check_merged"]


@dataclass(frozen=True)
class _Wanted:
    """A network that the merge can give: what it is called, and why law 1 is given up for it ("" where it isn't)."""

    title: str
    graph: Graph
    given_up: str = ""


def check_merged(
    bench: Bench,
    path: str | os.PathLike[str],
    leaves: Sequence[LeafModel],
    trained: Sequence[str | os.PathLike[str]],
    parts: Sequence[Subject],
) -> list[Check]:
    """The checks of a merged file. Raises FormatError for a file that can't be read."""
    graph = bench.runtime.load(Path(path))
    wanted, others = _wanted(bench, leaves, trained, graph)
    return [
        _file(bench, Path(path), graph, leaves),
        _structure(wanted, others, graph),
        _tensors(wanted or others[0], graph),
        in_single_precision(
            bench,
            leaves,
            _values(bench, Path(path), graph, wanted, parts),
            lambda wide, found: _values(wide, wide.runtime.widened(graph) or graph, graph, wanted, found),
            rounded=True,
        ),
    ]


def _nodes(graph: Graph) -> set[tuple[object, ...]]:
    return {_key(node) for node in graph.nodes}


def _key(node: Node) -> tuple[object, ...]:
    return node.name, node.op, node.domain, node.inputs, node.outputs


def _wanted(
    bench: Bench, leaves: Sequence[LeafModel], trained: Sequence[str | os.PathLike[str]], graph: Graph
) -> tuple[_Wanted | None, list[_Wanted]]:
    """Which of the networks that the merge can give has the file's nodes; and all that were tried."""
    tried: list[_Wanted] = []
    for wanted in _possible(bench, leaves, trained):
        tried.append(wanted)
        if _nodes(wanted.graph) == _nodes(graph):
            return wanted, tried
    return None, tried


def _possible(
    bench: Bench, leaves: Sequence[LeafModel], trained: Sequence[str | os.PathLike[str]]
) -> Iterator[_Wanted]:
    """The networks that the merge can give, the usual one first."""
    opened, runtime = bench.opened, bench.runtime
    yield _Wanted("duplicated layers", runtime.merged(opened, leaves, "duplicated"))
    _, repeated = merged_graph(opened, leaves)
    scaled = any(entry.scale == "activation" for entry in opened.entries.values())
    reasons = [f"{repeated} nodes would have to be repeated for each part"] if repeated else []
    reasons += ["there is no place for the factor 1/K behind an output layer"] if scaled else []
    with suppress(MergeError):
        plain = runtime.merged(opened, leaves, "original")
        yield _Wanted("the original layers", plain, ", and ".join(reasons))
    with suppress(GraphsplitError):
        other = open_split(opened.folder, output_scale="activation")
        behind = runtime.merged(other, runtime.leaves(other, trained), "duplicated")
        yield _Wanted("duplicated layers, scaled behind the output layers", behind)


def _file(bench: Bench, path: Path, graph: Graph, leaves: Sequence[LeafModel]) -> Check:
    """The file is a valid network that runs."""
    problem, remark = checked(bench, path, leaves)
    if problem is not None:
        return Check("merged file", False, problem)
    try:
        session = bench.session(graph, file=path)
        for draw in bench.draws:
            session.run(draw.arrays)
    except RunError as error:
        return Check("merged file", False, error.message)
    passed = "passes the checker and runs" if bench.runtime.checker else "runs"
    detail = f"{path.name} {passed} on {len(bench.draws)} inputs"
    return Check("merged file", bool(bench.draws), "; ".join([detail, *([remark] if remark else [])]))


def _structure(wanted: _Wanted | None, tried: Sequence[_Wanted], graph: Graph) -> Check:
    """The graph is one that the merge gives."""
    name = "merged structure"
    if wanted is None:
        missing = _nodes(tried[0].graph) - _nodes(graph)
        extra = _nodes(graph) - _nodes(tried[0].graph)
        detail = f"its nodes are not those of the merge: {len(missing)} are missing, {len(extra)} are not of it"
        return Check(name, False, detail)
    trained = set(wanted.graph.tensors)
    if structure_digest(graph, trained) != structure_digest(wanted.graph, trained):
        return Check(
            name, False, f"it differs from the merge with {wanted.title}: in attributes, order, inputs or shapes"
        )
    detail = f"{len(graph.nodes)} nodes, {wanted.title}"
    if wanted.given_up:
        detail += f"; law 1 is given up: {wanted.given_up}"
    return Check(name, True, detail)


def _tensors(wanted: _Wanted, graph: Graph) -> Check:
    """Every tensor is what the merge makes of the sub-models, bit for bit."""
    name = "merged tensors"
    missing = sorted(wanted.graph.tensors.keys() - graph.tensors.keys())
    extra = sorted(graph.tensors.keys() - wanted.graph.tensors.keys())
    if missing or extra:
        return Check(name, False, f"{missing[0]!r} is missing" if missing else f"{extra[0]!r} is not of the merge")
    wrong, elements = [], 0
    for key in sorted(wanted.graph.tensors):
        expected, found = wanted.graph.tensors[key], graph.tensors[key]
        if expected.shape != found.shape or expected.dtype != found.dtype:
            wrong.append(f"{key!r} has another shape or type")
            continue
        equal = same_bits(expected.numpy(), found.numpy())
        elements += equal.size
        if not equal.all():
            wrong.append(f"{key!r} differs in {int((~equal).sum()):,} of {equal.size:,} elements")
    if wrong:
        return Check(name, False, wrong[0] + (f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""))
    return Check(name, bool(elements), f"{len(graph.tensors)} tensors, {elements:,} elements, bit for bit")


def _values(bench: Bench, file: Path | Graph, graph: Graph, wanted: _Wanted | None, parts: Sequence[Subject]) -> Check:
    """The file's taps are the mean of the sub-models' as they stand."""
    name = "merged values"
    names = compared_values(bench.opened)
    try:
        references = bench.references(parts, names)
        if isinstance(file, Graph):
            found = bench.compared(references, bench.session(file, names), file)
        else:
            found = bench.compared(references, bench.session(graph, names, file=file), graph)
    except RunError as error:
        return Check(name, False, error.message)
    if wanted is None or not wanted.given_up:
        return verdict(name, bench, found, "sub-models as they stand", names)
    compared = [c for c in found if c.compared]
    if not compared:
        return verdict(name, bench, found, "sub-models as they stand", names)
    worst = max(compared, key=_deviation)
    detail = f"law 1 is given up: the original layers differ from the mean of the parts by this much, at {worst.name!r}"
    return Check(name, worst.worst < float("inf"), detail, worst.worst, None)


def _deviation(found: Comparison) -> float:
    return found.worst
