"""The program of one part as one that runs all parts at once: graphs in, a graph out, no module run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphsplit.errors import UnsupportedError
from graphsplit.formats.torch_dialect import TorchDialect
from graphsplit.formats.torch_holders import Source
from graphsplit.formats.torch_modes import Mode
from graphsplit.graph import Graph, Node, Value
from graphsplit.stacking.rewrite import renamed, rewritten
from graphsplit.stacking.stacker import Stacker


def stacked_source(source: Source, parts: int, stacked: frozenset[str], layout: str) -> Source:
    """What a module of `parts` parts is written by; `stacked` are the tensors that hold each part's own.

    Its graph still has one part's tensors. Raises UnsupportedError for what can't run for several parts.
    """
    program = source.modes.program
    graph, dialect = program.graph, TorchDialect(changing=program.state)
    nodes: list[Node] = []
    modes: list[Mode] = []
    taken = {*graph.tensors, *(name for node in graph.nodes for name in (*node.inputs, *node.outputs, node.name))}
    for mode in source.modes.modes:
        found, changed = _stacked_mode(source, mode, dialect, parts, stacked, layout, taken)
        nodes += found
        modes.append(changed)

    def wider(value: Value) -> Value:
        return replace(value, shape=None if value.shape is None else (parts, *value.shape))

    results = [name for mode in modes for name in mode.results if isinstance(name, str)]
    made = graph.replace(
        inputs=tuple(map(wider, graph.inputs)),
        outputs=tuple(replace(wider(value), name=name) for value, name in zip(graph.outputs, results, strict=False)),
        nodes=tuple(nodes),
        values={},
        metadata={},
    )
    return replace(source, modes=replace(source.modes, program=replace(program, graph=made), modes=tuple(modes)))


def _stacked_mode(
    source: Source,
    mode: Mode,
    dialect: TorchDialect,
    parts: int,
    stacked: frozenset[str],
    layout: str,
    taken: set[str],
) -> tuple[list[Node], Mode]:
    """One mode's nodes, and the mode in their names."""
    program = source.modes.program
    graph = program.graph
    unknown = frozenset(graph.tensors)
    before = list(mode.nodes(graph))
    facts = dialect.evaluate(graph.replace(nodes=tuple(before)), program.sizes, unknown)
    kept = frozenset(name for name in mode.results if isinstance(name, str))
    nodes = rewritten(before, kept, graph.tensors.keys(), facts)
    facts = dialect.evaluate(graph.replace(nodes=tuple(nodes)), program.sizes, unknown)
    stacker = Stacker(dialect, facts, unknown, parts, layout, taken)
    for name in (*mode.inputs, *sorted(stacked)):
        stacker.add(name)
    effects = {node.name for node in mode.effects}
    updates: list[Node] = []
    for node in nodes:
        try:
            made = stacker.run(node)
        except UnsupportedError as error:
            line = program.sources.get(node.name, "")
            raise UnsupportedError(error.message + f" (called {line})" * bool(line), hint=error.hint) from error
        updates += made if node.name in effects else ()
    results = tuple(stacker.result(name) if isinstance(name, str) else name for name in mode.results)
    taken.update(name for node in stacker.nodes for name in node.outputs)
    return stacker.nodes, replace(mode, results=results, effects=tuple(updates))


def same_form(one: Graph, other: Graph) -> str:
    """Why two parts' graphs can't run as one: the first node or tensor that they differ in; "" where there is none."""
    if len(one.nodes) != len(other.nodes):
        return f"they have {len(one.nodes)} and {len(other.nodes)} nodes"
    names: dict[str, str] = dict(zip((v.name for v in other.inputs), (v.name for v in one.inputs), strict=False))
    for first, second in zip(one.nodes, other.nodes, strict=True):
        names.update(zip(second.outputs, first.outputs, strict=False))
        there = renamed(second, names)
        if (first.domain, first.op, first.inputs, first.outputs) != (
            there.domain,
            there.op,
            there.inputs,
            there.outputs,
        ):
            return f"{first.title} is {second.title} in the other"
        if not _same_attributes(first.attributes, there.attributes):
            return f"{first.title} has {dict(first.attributes)} in one, and {dict(there.attributes)} in the other"
    return ""


def _same_attributes(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.keys() == other.keys() and all(repr(one[key]) == repr(other[key]) for key in one)


def refuse_unequal(graphs: Sequence[Graph]) -> None:
    """Raise UnsupportedError for parts that differ in more than their numbers."""
    first = graphs[0]
    for part, graph in enumerate(graphs[1:], start=1):
        for name, tensor in first.tensors.items():
            other = graph.tensors.get(name)
            if other is None or other.shape != tensor.shape or other.dtype != tensor.dtype:
                found = "isn't there" if other is None else f"has shape {list(other.shape)}, type {other.dtype}"
                raise UnsupportedError(
                    f"{name!r} has shape {list(tensor.shape)}, type {tensor.dtype} in sub-model 0, and {found} in "
                    f"sub-model {part}: only sub-models of equal shapes can be stacked",
                    hint="choose a K that divides the layers evenly, or train the sub-models one after another",
                )
        reason = same_form(first, graph)
        if reason or graph.tensors.keys() != first.tensors.keys():
            reason = reason or "they hold other tensors"
            raise UnsupportedError(
                f"sub-models 0 and {part} aren't computed alike: {reason}",
                hint="train the sub-models one after another",
            )
