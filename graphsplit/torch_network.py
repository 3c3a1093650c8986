"""A torch module made ready to plan: exported, read, its trained tensors and shapes found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.labels import refuse_unknown
from graphsplit.labels.trainable import is_float
from graphsplit.network import Network, Refusal, other_sizes
from graphsplit.rules import registry

if TYPE_CHECKING:
    import torch

    from graphsplit.formats.torch_graph import TorchProgram
    from graphsplit.formats.torch_holders import Source


@dataclass(frozen=True)
class TorchNetwork(Network):
    """A network that came from a torch module: the program that it was read from, and what a module is written by."""

    program: TorchProgram
    source: Source | None = None

    @property
    def changing(self) -> frozenset[str]:
        """What trains, and the buffers that running the module updates."""
        return self.trained | self.program.state

    def located(self, error: Refusal) -> Refusal:
        """A refusal with the line of the user's source in which its op was called."""
        named = [node.name for node in self.graph.nodes if node.title in error.message]
        return located(error, self.program, named[0]) if named else error


def prepare_torch(
    module: torch.nn.Module | TorchProgram | Source,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
    strict: bool = True,
) -> TorchNetwork:
    """Export a module in its current mode (or take one that was read, in both), and find what training it changes.

    That is its parameters, and the float buffers that running it updates (the running statistics of a batch norm);
    `trainable` and `constant` override that. `rules` are further rule lines, `sizes` other sizes of the dynamic axes than the
    example's to plan with; `strict` refuses ops without a rule. Raises UnsupportedError, RuleError,
    FormatError.
    """
    from graphsplit.formats.torch_dialect import TorchDialect
    from graphsplit.formats.torch_graph import TorchProgram, read
    from graphsplit.formats.torch_holders import Source

    source = module if isinstance(module, Source) else None
    if isinstance(module, Source):
        program = module.modes.program
    else:
        program = module if isinstance(module, TorchProgram) else read(module, args, kwargs, dynamic_shapes)
    graph, lines = program.graph, tuple(rules)
    dialect = TorchDialect(registry("torch").extended(lines) if lines else None, program.state)
    for i, node in enumerate(graph.nodes):
        if strict and i in graph.alive:
            try:
                refuse_unknown(node, dialect.lookup(node))
            except UnsupportedError as error:
                raise located(error, program, node.name) from error
    trained = _trained(program, trainable, constant)
    chosen = {**program.sizes, **(sizes or {})}
    facts = dialect.evaluate(graph, chosen, trained)
    varied = other_sizes(chosen)
    others = dialect.evaluate(graph, varied, trained) if varied else facts
    return TorchNetwork(graph, dialect, trained, chosen, facts, others, program, source)


def _trained(program: TorchProgram, trainable: Iterable[str], constant: Iterable[str]) -> frozenset[str]:
    tensors = program.graph.tensors
    forced, barred = {*trainable}, {*constant}
    for name in sorted(forced | barred):
        if program.aliases.get(name, name) not in tensors:
            raise FormatError(f"{name!r} is no parameter or buffer of the module")
    forced, barred = ({program.aliases.get(name, name) for name in names} for names in (forced, barred))
    found = {n for n in program.parameters if int(np.prod(tensors[n].shape, dtype=np.int64)) > 0}
    found |= {name for name in program.state if is_float(tensors[name])}
    return frozenset((found | forced) - barred)


def located(error: Refusal, program: TorchProgram, node: str) -> Refusal:
    """A refusal with the line of the user's source in which its op was called."""
    source = program.sources.get(node, "")
    if not source:
        return error
    found = copy(error)  # with all that it knows besides
    found.message = f"{error.message} (called {source})"
    found.args = (found.message,)
    return found
