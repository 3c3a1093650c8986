"""A torch module read for a split: both of its modes, and what it holds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.formats.torch_holders import Source
    from graphsplit.formats.torch_modes import Modes
    from graphsplit.formats.torch_module import SplitModule


def source_of(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None,
) -> Source:
    """Export a module in both modes; of a sub-model, take the graph that it was written from.

    Without `dynamic_shapes` the batch stays free where that is possible. Raises UnsupportedError for what torch.export can't
    follow.
    """
    from graphsplit.formats.torch_graph import read
    from graphsplit.formats.torch_holders import Source, holders_of
    from graphsplit.formats.torch_modes import joined
    from graphsplit.formats.torch_module import SplitModule
    from graphsplit.formats.torch_shapes import with_free_batch

    if isinstance(model, SplitModule) and model.source is not None:
        return _refilled(model, model.source)

    def both(args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Any) -> Modes:
        programs = []
        for training in (False, True):
            with _mode(model, training=training):
                programs.append(read(model, args, kwargs, shapes))
        return joined(*programs)

    free = dynamic_shapes is None
    modes = with_free_batch(args, kwargs, both) if free else both(args, dict(kwargs or {}), dynamic_shapes)
    return Source(modes, holders_of(model, modes), inspect.signature(model.forward))


def _refilled(model: SplitModule, source: Source) -> Source:
    """A sub-model's source with the weights that it has now."""
    return source.with_graph(source.graph.replace(tensors={**source.graph.tensors, **held_tensors(model, source)}))


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
