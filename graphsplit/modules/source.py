"""A torch module read for a split: both of its modes, and what it holds."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graphsplit.errors import MergeError
from graphsplit.formats.checkpoints import renamed, state_dict
from graphsplit.graph import Tensor

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.formats.torch_holders import Source
    from graphsplit.formats.torch_modes import Modes


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

    if isinstance(model, SplitModule) and model.split_source is not None:
        return with_weights(model, model.split_source)

    def both(args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Any) -> Modes:
        programs = []
        for training in (False, True):
            with _mode(model, training=training):
                programs.append(read(model, args, kwargs, shapes))
        return joined(*programs)

    free = dynamic_shapes is None
    modes = with_free_batch(args, kwargs, both) if free else both(args, dict(kwargs or {}), dynamic_shapes)
    return Source(modes, holders_of(model, modes), _signature(model))


def _signature(model: nn.Module) -> inspect.Signature:
    """How a module is called, without annotations: these may hold classes that can't be pickled."""
    empty = inspect.Parameter.empty
    held = inspect.signature(model.forward).parameters.values()
    return inspect.Signature([parameter.replace(annotation=empty) for parameter in held])


def with_weights(model: nn.Module, source: Source) -> Source:
    """A written module's source with the weights that the module has now."""
    return source.with_graph(source.graph.replace(tensors={**source.graph.tensors, **held_tensors(model, source)}))


def held_tensors(model: nn.Module, source: Source) -> dict[str, Any]:
    """A module's tensors as the graph knows them."""
    from graphsplit.formats.torch_tensors import TorchTensor

    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    names = source.holders.names
    return by_graph_names({name: TorchTensor(held[name].detach()) for name in names if name in held}, names)


def by_graph_names(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Any]:
    """Tensors under the graph's names. Raises MergeError where a tied tensor has several values under its names."""
    found: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        known = names.get(name, name)
        before, other = found.setdefault(known, (name, tensor))
        if other is not tensor and not _equal(tensor, other):
            raise MergeError(
                f"{before!r} and {name!r} are one tied tensor in the network that was split, and here they differ",
                hint="tie them again before training: the sub-models of the split are, and so are their copies",
            )
    return {known: tensor for known, (_, tensor) in found.items()}


def _equal(one: Tensor, other: Tensor) -> bool:
    ours, theirs = getattr(one, "tensor", None), getattr(other, "tensor", None)
    if ours is not None and theirs is not None and ours.numel() and ours.data_ptr() == theirs.data_ptr():
        return bool(ours.shape == theirs.shape)
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and one.numpy().tobytes() == other.numpy().tobytes()


def in_memory(state: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """The state dict in what a trainer keeps, under the names that the network knows."""
    import torch

    found = state_dict(state, lambda item: isinstance(item, torch.Tensor), names=names)
    if found is None and state:
        raise MergeError(
            f"a mapping with {', '.join(map(repr, list(state)[:3]))} was given, and there is no state dict in it",
            hint="give module.state_dict(): names and tensors",
        )
    return renamed(found or {}, names)


def unwrapped(module: Any) -> Any:
    """The sub-model in whatever module wraps it: a compiled one, a parallel one, an average of it, a trainer's."""
    from graphsplit.formats.torch_module import SplitModule

    if isinstance(module, SplitModule) or not hasattr(module, "modules"):
        return module
    held = [inner for inner in module.modules() if isinstance(inner, SplitModule)]
    if len(held) == 1:
        return held[0]
    while inner := getattr(module, "_orig_mod", None) or getattr(module, "module", None):
        module = inner
    return module


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
