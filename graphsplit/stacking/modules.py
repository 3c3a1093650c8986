"""Stacked modules: K modules of equal shapes as one, and back.

A stacked module has the names of its parts; each of its parameters and buffers has the parts' axis in front, and so have the
inputs that it takes and the outputs that it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graphsplit.errors import MergeError, UnsupportedError
from graphsplit.formats.torch_holders import Source
from graphsplit.formats.torch_module import SplitModule, write
from graphsplit.formats.torch_tensors import TORCH, TorchTensor
from graphsplit.modules.source import source_of, unwrapped
from graphsplit.stacking.program import refuse_unequal, stacked_source

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where torch keeps what users hang onto modules. Those of a module that is exported are in its graph."""

MemoryLayout = Literal["contiguous", "channels_last"]


def stack(
    modules: Sequence[nn.Module],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    layout: MemoryLayout = "channels_last",
) -> SplitModule:
    """One module that computes what K modules of equal shapes do, each on inputs of its own.

    Inputs and outputs are the parts' with one axis in front: images (K, n, c, h, w) to logits (K, n, classes). Parameters and
    buffers likewise, copied, under the same names; `unstack` puts them back. Dropout draws apart for each part, batch norm
    takes each part's own statistics. Sub-models of a split need no `args`; other modules are exported with these, as
    `torch.export.export` does.
    `layout` is how images lie in memory while the parts' channels stand side by side.

    Raises UnsupportedError where shapes or computations differ between the modules, an op can't run for several, or a
    sub-model has hooks.
    """
    if not modules:
        raise UnsupportedError("there is nothing to stack", hint="give the sub-models of a split")
    if layout not in ("contiguous", "channels_last"):
        raise UnsupportedError(f"there is no layout {layout!r}", hint="choose contiguous or channels_last")
    given = [unwrapped(module) for module in modules]
    if any(getattr(module, name) for module in given if isinstance(module, SplitModule) for name in HOOKS):
        raise UnsupportedError(
            "a sub-model has forward or backward hooks, which a stack doesn't call",
            hint="train the sub-models one after another",
        )
    sources = [_source(module, args, kwargs, dynamic_shapes) for module in given]
    refuse_unequal([source.graph for source in sources])
    parts = [
        module if isinstance(module, SplitModule) else write(source)
        for module, source in zip(given, sources, strict=True)
    ]
    held = [_held(part) for part in parts]
    own = set(sources[0].holders.names.values())
    stacked = frozenset(
        name
        for name in sources[0].graph.tensors
        if name in own or not all(_equal(held[0][name], h[name]) for h in held)
    )
    source = stacked_source(sources[0], len(parts), stacked, layout)
    module = write(source.with_graph(source.graph.replace(tensors=_blank(source, held[0], stacked, len(parts)))))
    _fill(module, parts, held, stacked)
    return module.train(_mode(modules))


def unstack(stacked: nn.Module, modules: Sequence[nn.Module] | None = None) -> list[dict[str, Tensor]]:
    """The parts' state dicts, as copies; where the modules are given, in the order in which they were stacked, also into these.

    Buffers that a state dict leaves out are put into the modules as well. Raises MergeError where names or shapes don't fit.
    """
    every, saved = _named(stacked), stacked.state_dict().keys()
    count = parts_of(stacked)
    states = [{name: every[name][part].detach().clone() for name in saved} for part in range(count)]
    if modules is None:
        return states
    if len(modules) != count:
        raise MergeError(f"{len(modules)} modules were given, and {count} are stacked")
    places = [_named(unwrapped(module)) for module in modules]
    for part, place in enumerate(places):
        for name in saved:
            if name not in place or place[name].shape != every[name].shape[1:]:
                found = list(place[name].shape) if name in place else "not there"
                raise MergeError(
                    f"{name!r} has shape {list(every[name].shape[1:])} in the stack, and is {found} in module {part}",
                    hint="give the modules that were stacked, in their order",
                )
    with torch.no_grad():
        for part, place in enumerate(places):
            for name, tensor in every.items():
                if name in place and place[name].shape == tensor.shape[1:] and name in stacked.split_names:  # type: ignore[operator]
                    place[name].copy_(tensor[part])
    return states


def parts_of(stacked: nn.Module) -> int:
    """How many parts a stacked module has."""
    return next(int(tensor.shape[0]) for tensor in _named(stacked).values())


def _source(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Source:
    if isinstance(module, SplitModule) and module.split_source is not None:
        return module.split_source
    return source_of(module, args, kwargs, dynamic_shapes)


def _mode(modules: Sequence[nn.Module]) -> bool:
    modes = {module.training for module in modules}
    if len(modes) != 1:
        raise UnsupportedError(
            "some of the sub-models are in training mode, and some aren't", hint="call train() of each"
        )
    return modes.pop()


def _named(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers, tied ones under each name."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _held(module: SplitModule) -> dict[str, Tensor | float]:
    """What a module has now for each tensor of its graph; plain numbers as they are."""
    tensors = _named(module)
    found: dict[str, Tensor | float] = {}
    for call in module._calls.values():
        for name, place in call.recipe.places.items():
            found[name] = tensors[place] if isinstance(place, str) else place
    return found


def _equal(one: Tensor | float, other: Tensor | float) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    return bool(one == other or (one != one and other != other))


def _blank(source: Source, held: Mapping[str, Any], stacked: frozenset[str], parts: int) -> dict[str, Any]:
    """Tensors of the sizes that the stack has and of the source's types, which the generated code is written for."""
    found: dict[str, Any] = {}
    for name, tensor in source.graph.tensors.items():
        if name not in stacked:
            found[name] = tensor
            continue
        device = source.holders.devices.get(name, "cpu")
        found[name] = TorchTensor(torch.zeros((parts, *tensor.shape), dtype=TORCH[tensor.dtype], device=device))
    return found


def _fill(
    module: SplitModule, parts: Sequence[SplitModule], held: Sequence[Mapping[str, Any]], stacked: frozenset[str]
) -> None:
    """Put in what the parts hold, with its type and device, one tensor for all names of a tied one."""
    places = {name: place for call in module._calls.values() for name, place in call.recipe.places.items()}
    made: dict[str, Tensor] = {}
    for name, place in places.items():
        if isinstance(place, str):
            own = [h[name] for h in held]
            _refuse_apart(name, own)
            made[name] = torch.stack([one.detach() for one in own]) if name in stacked else own[0].detach().clone()
            _put(module, place, made[name], own[0])
    for alias, name in module.split_names.items():
        if places.get(name) != alias:
            owner, _, last = places[name].rpartition(".")  # type: ignore[union-attr]
            _put(module, alias, getattr(module.get_submodule(owner), last), None)


def _refuse_apart(name: str, tensors: Sequence[Any]) -> None:
    """Stacked tensors have one type, one device, and train or don't."""
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise UnsupportedError(f"the number {name!r} differs between the sub-models: {tensors}")
    kinds = {(tensor.dtype, tensor.device, tensor.requires_grad) for tensor in tensors}
    if len(kinds) != 1:
        raise UnsupportedError(
            f"{name!r} has several types, devices or requires_grad among the sub-models: {sorted(map(str, kinds))}",
            hint="bring the sub-models to one device and type before stacking",
        )


def _put(module: nn.Module, place: str, tensor: Tensor, like: Tensor | None) -> None:
    path, _, last = place.rpartition(".")
    owner = module.get_submodule(path)
    if last not in owner._parameters:
        owner._buffers[last] = tensor
        return
    grad = like is not None and like.requires_grad
    owner._parameters[last] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=grad)
