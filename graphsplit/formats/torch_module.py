"""Writing torch modules: a neutral graph as an `nn.Module` that trains like the one that the graph came from.

Its parameters and buffers have their qualified names, in nested modules; its `forward` takes and gives what the source's
does; `train()` and `eval()` choose between generated functions where the source's forward depends on its mode.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphsplit.errors import UnsupportedError
from graphsplit.formats.torch_code import Function, Recipe, function, own_of
from graphsplit.formats.torch_holders import Holders, Source
from graphsplit.formats.torch_modes import Mode
from graphsplit.formats.torch_tensors import TorchTensor, to_torch
from graphsplit.graph import Graph, Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """How a written module is called in one mode. Its function isn't pickled, but written again from its recipe."""

    mode: Mode
    recipe: Recipe
    function: Function
    signature: inspect.Signature | None
    plain: int
    """The number of arguments where they're all tensors, given by position: then nothing has to be flattened. Else -1."""
    single: bool
    """Whether the result is one tensor."""
    fixed: tuple[tuple[tuple[int, int], ...], ...]
    """For each tensor that is given the axes whose size the export has fixed, and that size."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Call:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _called, (self.recipe, self.signature, self.plain, self.single, self.fixed)

    def flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The tensors among the arguments. Raises TypeError for arguments of another form than the exported ones."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.mode.convention.in_spec:
            args, kwargs = self._arranged(args, kwargs)
            leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.mode.convention.in_spec:
            raise TypeError(
                f"the network was split for arguments of the form {self.mode.convention.in_spec}, and these are {spec}"
            )
        for position, value in self.mode.convention.constants.items():
            given = leaves[position]
            same = given == value or (given != given and value != value)  # NaN is unlike itself
            if type(given) is not type(value) or not same:
                raise TypeError(
                    f"the network was split with {value!r} as argument {position}, which is fixed: not {given!r}"
                )
        return [leaves[position] for position in self.mode.convention.positions]

    def refuse(self, position: int, given: torch.Tensor) -> NoReturn:
        """Raise ValueError for an input whose size the export has fixed otherwise."""
        fixed = dict(self.fixed[position])
        wanted = ", ".join(str(fixed.get(axis, "any")) for axis in range(max(given.ndim, 1 + max(fixed, default=0))))
        raise ValueError(
            f"input {self.mode.inputs[position].rpartition(':')[2]!r} has shape {list(given.shape)}, and the network was "
            f"split for [{wanted}]: name the axes that vary when splitting, with dynamic_shapes"
        )

    def _arranged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments by position and by name as the source was exported with them."""
        if self.signature is None:
            return args, kwargs
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        positional, named = self.mode.convention.in_spec.children()
        given = list(bound.arguments)[: positional.num_children]
        return (
            tuple(bound.arguments[name] for name in given),
            {name: bound.arguments[name] for name in named.context if name in bound.arguments},
        )


def _called(recipe: Recipe, signature: inspect.Signature | None, *rest: Any) -> Call:
    return Call(recipe.mode, recipe, function(recipe), signature, *rest)


class Layer(nn.Module):
    """A place in the tree of modules: it holds tensors, and runs nothing of its own."""

    def train(self, mode: bool = True) -> Layer:
        """Refuse another mode than the whole module's: it would have no effect."""
        if mode == self.training:
            return self
        held = [name for name, _ in (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False))]
        raise UnsupportedError(
            f"this place in a sub-model holds {', '.join(held) or 'other places'}, and has no mode of its own: "
            f"{'train' if mode else 'eval'}() here would change nothing",
            hint="call train() or eval() of the sub-model. Layers that are to stay in evaluation mode (frozen norms): "
            "override train() in your own module so that it says so, and split that",
        )

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: the code is in the root's functions."""
        raise UnsupportedError(
            "this place in a sub-model holds tensors and runs nothing",
            hint="call the sub-model; to split a part of your module, split that part by itself",
        )


def _refuse_hook(self: Layer, *_args: Any, **_kwargs: Any) -> NoReturn:
    """Refuse a hook on a place, which would never be called."""
    raise UnsupportedError(
        "this place in a sub-model holds tensors and runs nothing: a hook here would never be called",
        hint="hang it onto the sub-model itself, or onto its parameters",
    )


for _kind in ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook", "backward_hook"):
    setattr(Layer, f"register_{_kind}", _refuse_hook)


def _set_mode(module: nn.Module, mode: bool) -> None:
    """What `nn.Module.train` does, in a tree of places that refuse it."""
    module.training = mode
    for child in module.children():
        if isinstance(child, Layer):
            _set_mode(child, mode)
        else:
            child.train(mode)


class SplitModule(nn.Module):
    """A sub-model or a merged network.

    `split_names` gives for each name in its state dict the graph's name of the tensor, `split_source` what it can be split
    again by. (A submodule of the user's may be called `names` or `source`.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[bool, Call] = {}
        self.split_names: Mapping[str, str] = {}
        self.split_source: Source | None = None

    def train(self, mode: bool = True) -> SplitModule:
        """Choose the training or the evaluation function, for everything in the module at once."""
        _set_mode(self, bool(mode))
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the source's forward does."""
        call = self._calls[self.training]
        flat = args if len(args) == call.plain and not kwargs else call.flat(args, kwargs)
        for position, axes in enumerate(call.fixed):
            shape = flat[position].shape if axes else ()
            for axis, size in axes:
                if axis >= len(shape) or shape[axis] != size:
                    call.refuse(position, flat[position])
        result = call.function(self, *flat)
        if call.single:
            return result
        return pytree.tree_unflatten(result if isinstance(result, tuple) else (result,), call.mode.convention.out_spec)


def write(source: Source) -> SplitModule:
    """A module for a graph, a source's own, narrowed or merged, with fresh parameters that copy its tensors."""
    graph, holders = source.graph, source.holders
    module = SplitModule()
    module.split_names = dict(holders.names)
    places = _held(module, graph, holders)
    held = {name: place for name, place in places.items() if name in holders.parameters and isinstance(place, str)}
    own = own_of({name: module.get_parameter(place) for name, place in held.items()})
    for mode in source.modes.modes:
        recipe = Recipe(mode, mode.nodes(graph), places, own)
        single = mode.convention.out_spec.is_leaf()
        call = _called(recipe, source.signature, _plain(mode), single, _fixed(mode, graph))
        for training in (mode.training,) if len(source.modes.modes) > 1 else (False, True):
            module._calls[training] = call
    return module


def _plain(mode: Mode) -> int:
    positional, named = mode.convention.in_spec.children()
    leaves = all(child.is_leaf() for child in positional.children())
    return positional.num_children if leaves and not named.num_children and not mode.convention.constants else -1


def _fixed(mode: Mode, graph: Graph) -> tuple[tuple[tuple[int, int], ...], ...]:
    shapes = {value.name: value.shape or () for value in graph.inputs}
    return tuple(
        tuple((axis, size) for axis, size in enumerate(shapes[name]) if isinstance(size, int)) for name in mode.inputs
    )


def _held(module: nn.Module, graph: Graph, holders: Holders) -> dict[str, str | float]:
    """Put the tensors into a module, and tell where each is."""
    places: dict[str, str | float] = {}
    made: dict[str, torch.Tensor] = {}
    for name, known in holders.names.items():
        tensor = graph.tensors[known]
        if known not in made:
            data = copied(tensor, holders.devices.get(known))
            grad = known in holders.parameters
            made[known] = nn.Parameter(data, requires_grad=known not in holders.frozen) if grad else data
        places.setdefault(known, name)
        _register(module, name, made[known], persistent=known not in holders.temporary)
    device = next(iter(holders.devices.values()), None)
    taken = {name for name, _ in (*module.named_children(), *module.named_parameters(), *module.named_buffers())}
    for name, tensor in graph.tensors.items():
        if name in places:
            continue
        if not tensor.shape and tensor.dtype.kind in "fV" and not isinstance(tensor, TorchTensor):
            places[name] = float(tensor.numpy().astype(float))
            continue
        places[name] = place = f"constant_{len(places)}"
        while place in taken:
            places[name] = place = f"{place}_"
        module.register_buffer(place, copied(tensor, device), persistent=False)
    return places


def copied(tensor: Tensor, device: torch.device | None) -> torch.Tensor:
    """A fresh torch tensor of a graph's tensor."""
    if isinstance(tensor, TorchTensor):
        return tensor.tensor.detach().clone()
    return to_torch(tensor.numpy()).to(device or "cpu")


def _register(module: nn.Module, name: str, tensor: torch.Tensor, *, persistent: bool) -> None:
    path, _, last = name.rpartition(".")
    owner = module
    for step in path.split(".") if path else ():
        if step not in owner._modules:
            owner.add_module(step, Layer())
        owner = owner.get_submodule(step)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(last, tensor)
    else:
        owner.register_buffer(last, tensor, persistent=persistent)


def code(module: SplitModule, *, training: bool) -> Sequence[str]:
    """The lines of a module's generated code in one mode."""
    return inspect.getsource(module._calls[training].function).splitlines()
