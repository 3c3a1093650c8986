"""One graph for both modes of a module: evaluation and training side by side, over one set of tensors.

Planned together, a parameter that both modes read has one owner for each index, because two uses of a parameter couple
index by index; and a layer that only one mode has (an auxiliary output) gets its owners as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch.export.graph_signature import ConstantArgument

from graphsplit.formats.torch_graph import Convention, TorchProgram
from graphsplit.formats.torch_nodes import size_names
from graphsplit.graph import TRAINING, Graph, Node, Value


@dataclass(frozen=True)
class Mode:
    """How one mode is called, in the names of the joint graph.

    `inputs` are the values of the flat arguments at the convention's positions, `results` the flat results, `effects` the
    nodes that only update a buffer.
    """

    training: bool
    inputs: tuple[str, ...]
    results: tuple[str | ConstantArgument, ...]
    effects: tuple[Node, ...]
    convention: Convention

    def nodes(self, graph: Graph) -> tuple[Node, ...]:
        """The nodes of a (narrowed or merged) joint graph that this mode runs, its effects last.

        A value that is read behind an effect is the effect's own result, so nothing reads the buffer later.
        """
        needed = {name for name in self.results if isinstance(name, str)}
        kept: list[Node] = []
        for node in reversed(graph.nodes):
            if any(output in needed for output in node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        present = {node.name for node in kept}
        return (*reversed(kept), *(effect for effect in self.effects if effect.name not in present))


@dataclass(frozen=True)
class Modes:
    """A module's program for planning, and its modes: one that serves both, or evaluation and training."""

    program: TorchProgram
    modes: tuple[Mode, ...]


def joined(evaluation: TorchProgram, training: TorchProgram) -> Modes:
    """Both modes of a module in one program; where they're the same, that one."""
    if _same(evaluation, training):
        return Modes(evaluation, (_mode(evaluation, training=False),))
    training = _renamed(training, evaluation)
    first, second = evaluation.graph, training.graph
    graph = first.replace(
        inputs=first.inputs + second.inputs,
        outputs=tuple({value.name: value for value in first.outputs + second.outputs}.values()),
        nodes=first.nodes + second.nodes,
        tensors={**first.tensors, **second.tensors},
        values={**first.values, **second.values},
    )
    program = replace(
        evaluation,
        graph=graph,
        state=evaluation.state | training.state,
        effects=evaluation.effects + tuple(i + len(first.nodes) for i in training.effects),
        sources={**evaluation.sources, **training.sources},
        parameters=tuple(dict.fromkeys(evaluation.parameters + training.parameters)),
        buffers=tuple(dict.fromkeys(evaluation.buffers + training.buffers)),
        temporary=evaluation.temporary | training.temporary,
        frozen=evaluation.frozen | training.frozen,
        aliases={**training.aliases, **evaluation.aliases},
        sizes={**evaluation.sizes, **training.sizes},
    )
    return Modes(program, (_mode(evaluation, training=False), _mode(training, training=True)))


def _same(one: TorchProgram, other: TorchProgram) -> bool:
    a, b = one.graph, other.graph
    return (
        a.nodes == b.nodes
        and a.inputs == b.inputs
        and a.tensors.keys() == b.tensors.keys()
        and one.convention == other.convention
        and _texts(one) == _texts(other)
        and all(name in one.parameters or name in one.buffers for name in a.tensors)
    )


def _texts(program: TorchProgram) -> list[str]:
    return [result if isinstance(result, str) else repr(result.value) for result in program.results]


def _mode(program: TorchProgram, *, training: bool) -> Mode:
    effects = tuple(program.graph.nodes[i] for i in program.effects)
    return Mode(
        training,
        tuple(value.name for value in program.graph.inputs),
        program.results,
        effects,
        program.convention,
    )


def _renamed(program: TorchProgram, other: TorchProgram) -> TorchProgram:
    """A program whose values have names that another's don't: everything but parameters and buffers."""
    graph = program.graph
    kept = {*program.parameters, *program.buffers, *other.parameters, *other.buffers, ""}

    def new(name: str) -> str:
        return name if name in kept else f"{TRAINING}{name}"

    def value(found: Value) -> Value:
        shape = found.shape and tuple(f"{TRAINING}{dim}" if isinstance(dim, str) else dim for dim in found.shape)
        return replace(found, name=new(found.name), shape=shape)

    def node(found: Node) -> Node:
        return replace(
            found,
            name=f"{TRAINING}{found.name}",
            inputs=tuple(map(new, found.inputs)),
            outputs=tuple(map(new, found.outputs)),
            attributes=_renamed_sizes(found, new),
        )

    renamed = graph.replace(
        inputs=tuple(map(value, graph.inputs)),
        outputs=tuple(map(value, graph.outputs)),
        nodes=tuple(map(node, graph.nodes)),
        tensors={new(name): tensor for name, tensor in graph.tensors.items()},
        values={new(name): value(found) for name, found in graph.values.items()},
    )
    return replace(
        program,
        graph=renamed,
        sources={f"{TRAINING}{name}": line for name, line in program.sources.items()},
        sizes={f"{TRAINING}{dim}": size for dim, size in program.sizes.items()},
        results=tuple(new(result) if isinstance(result, str) else result for result in program.results),
    )


def _renamed_sizes(node: Node, new: Any) -> Mapping[str, Any]:
    """A node's attributes with the sizes that they name under their new names."""
    named = set(size_names(node))
    if not named:
        return node.attributes
    found: dict[str, Any] = {}
    for key, held in node.attributes.items():
        if isinstance(held, tuple):
            found[key] = tuple(new(item) if isinstance(item, str) and item in named else item for item in held)
        else:
            found[key] = new(held) if isinstance(held, str) and held in named else held
    return found
