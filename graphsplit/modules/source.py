"""A torch module read for a split: both of its modes, and what it holds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphsplit.graph import Graph, WeightlessTensor

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.formats.torch_modes import Modes
    from graphsplit.formats.torch_module import Holders, SplitModule


@dataclass(frozen=True, eq=False)
class Source:
    """What is known of a module besides its weights: its modes in one program, what it holds, how its forward is called."""

    modes: Modes
    holders: Holders
    signature: inspect.Signature | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self

    @property
    def graph(self) -> Graph:
        """The joint graph of the modes."""
        return self.modes.program.graph

    def narrowed(self, graph: Graph) -> Source:
        """The same for a sub-model's graph, without its weights: those the module itself holds."""
        held = set(self.holders.names.values())
        tensors = {
            name: WeightlessTensor(tensor.shape, tensor.dtype) if name in held else tensor
            for name, tensor in graph.tensors.items()
        }
        program = replace(self.modes.program, graph=graph.replace(tensors=tensors))
        return replace(self, modes=replace(self.modes, program=program))


def source_of(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None,
) -> Source:
    """Export a module in both modes; of a sub-model, take the graph that it was written from.

    Raises UnsupportedError for what torch.export can't follow.
    """
    from graphsplit.formats.torch_graph import read
    from graphsplit.formats.torch_modes import joined
    from graphsplit.formats.torch_module import SplitModule, holders_of

    if isinstance(model, SplitModule) and isinstance(model.source, Source):
        return _refilled(model, model.source)
    programs = []
    for training in (False, True):
        with _mode(model, training=training):
            programs.append(read(model, args, kwargs, dynamic_shapes))
    modes = joined(*programs)
    return Source(modes, holders_of(model, modes), inspect.signature(model.forward))


def _refilled(model: SplitModule, source: Source) -> Source:
    """A sub-model's source with the weights that it has now."""
    tensors = {**source.graph.tensors, **held_tensors(model, source)}
    program = replace(source.modes.program, graph=source.graph.replace(tensors=tensors))
    return replace(source, modes=replace(source.modes, program=program))


def held_tensors(model: nn.Module, source: Source) -> dict[str, Any]:
    """A module's tensors as the graph knows them."""
    from graphsplit.formats.torch_tensors import TorchTensor

    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    return {known: TorchTensor(held[name].detach()) for name, known in source.holders.names.items() if name in held}


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """A module in one mode; afterwards each of its modules is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
