"""A network of an ONNX file as a torch module: its parameters have the file's names, and it trains."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from graphsplit.errors import GraphsplitError, UnsupportedError
from graphsplit.executor.ops import Frame
from graphsplit.executor.program import Program, compiled, implementations
from graphsplit.formats.onnx_dialect import OnnxDialect
from graphsplit.formats.onnx_file import load
from graphsplit.formats.torch_tensors import TORCH, to_torch
from graphsplit.graph import ArrayTensor, Graph, WeightlessTensor
from graphsplit.labels.trainable import parameters
from graphsplit.network import CONSTANT_KEY, TRAINABLE_KEY, recorded

_OWN_TENSOR = "give it a tensor of its own (exporters make one tensor of equal ones: of a fresh norm's mean and bias)"
_REMEMBERED = 32
"""Input shapes for which sizes are kept."""


def trainable(
    model: Graph | str | os.PathLike[str], *, trainable: Iterable[str] = (), constant: Iterable[str] = ()
) -> OnnxModule:
    """The network of an ONNX file, or of a loaded graph, as a torch module.

    What trains is what `split` divides: float tensors of rank one at least that feed arithmetic, and what a sub-model
    records of its source; `trainable` and `constant` say otherwise. Running statistics of norms are buffers, everything
    else is fixed.

    Raises UnsupportedError for an op that has no implementation here, FormatError for a file that can't be read.
    """
    graph = model if isinstance(model, Graph) else load(model)
    names = parameters(
        graph,
        OnnxDialect().lookup,
        (*trainable, *recorded(graph, TRAINABLE_KEY)),
        (*constant, *recorded(graph, CONSTANT_KEY)),
    )
    return OnnxModule(graph, names)


class _Place(nn.Module):
    """A place in the tree of names: it holds tensors, and runs nothing of its own."""


class OnnxModule(nn.Module):
    """A graph of ONNX ops that trains: `state_dict()` has the names of the file.

    It takes the graph's inputs, by position in their order or by name, and gives its output, or a tuple of them. In training
    mode dropout is active, and batch norms take their batch's statistics and update the running ones.
    """

    def __init__(self, graph: Graph, trained: Iterable[str]) -> None:
        """Raises UnsupportedError for what can't be trained."""
        super().__init__()
        names = frozenset(trained)
        statistics = _statistics(graph, names)
        self._program: Program = compiled(graph, names)
        self._graph = _without(graph, names)
        self._inputs = graph.inputs
        self._remembered: dict[Any, Any] = {}
        places: dict[str, tuple[dict[str, Any], str]] = {}
        for name in (n for n in graph.tensors if n in names):
            tensor = to_torch(graph.tensors[name].numpy())
            held = tensor if name in statistics else nn.Parameter(tensor)
            places[name] = self._hold(name, held)
        for number, (name, tensor) in enumerate(self._program.constants.items()):
            places[name] = self._hold_constant(f"constant_{number}", tensor)
        self._places = [places[name] for name in self._program.stored]
        floats = [graph.tensors[n].dtype for n in graph.tensors if n in names]
        self._stored = TORCH[max(set(floats), key=lambda d: (floats.count(d), d.name))] if floats else None
        self._first = (
            places[next(n for n in graph.tensors if n in names and graph.tensors[n].dtype == _np(self._stored))]
            if floats
            else None
        )
        self.eval()

    @property
    def graph(self) -> Graph:
        """The network's graph, without the weights that the module holds."""
        return self._graph

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(value.name for value in self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(value.name for value in self._graph.outputs)

    def train(self, mode: bool = True) -> OnnxModule:
        """Choose training mode or evaluation mode, for the whole network."""
        for module in self.modules():
            module.__dict__["training"] = mode  # the plain way fails where a tensor has this name
        return self

    def _hold(self, name: str, tensor: torch.Tensor) -> tuple[dict[str, Any], str]:
        """Put a tensor into the tree of places, under exactly its name; and where it is."""
        *path, last = name.split(".")
        owner: nn.Module = self
        for step in path:
            if step not in owner._modules:
                owner._modules[step] = _Place()  # any text is a name here, add_module wants more of it
            child = owner._modules[step]
            assert child is not None
            owner = child
        kind: dict[str, Any] = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
        kind[last] = tensor
        return kind, last

    def _hold_constant(self, name: str, tensor: torch.Tensor) -> tuple[dict[str, Any], str]:
        """Put a fixed tensor where it moves with the module, and no state dict has it."""
        while name in self._parameters or name in self._buffers or name in self._modules:
            name = f"{name}_"
        self._buffers[name] = tensor
        self._non_persistent_buffers_set.add(name)
        return self._buffers, name

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """The outputs for a batch. Raises GraphsplitError for inputs that the graph doesn't take."""
        given = self._checked(args, kwargs)
        first = self._first[0][self._first[1]] if self._first is not None else given[0] if given else torch.empty(0)
        frame = Frame(self.training, first.device, self._stored, first.dtype if self._first is not None else None)
        stored = [owner[name] for owner, name in self._places]
        outputs = self._run(frame, stored, given)
        return outputs[0] if len(outputs) == 1 else outputs

    def _run(self, frame: Frame, stored: list[torch.Tensor], given: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
        program = self._program
        if program.steady is None or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
            found: tuple[Any, ...] = program.whole(frame, stored, *given)[0]
            return found
        key = (frame.device, frame.real, *[x.shape for x in given])
        sizes = self._remembered.get(key)
        if sizes is not None:
            result: tuple[Any, ...] = program.steady(frame, stored, sizes, *given)
            return result
        outputs, sizes = program.whole(frame, stored, *given)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = sizes
        return outputs  # type: ignore[no-any-return]

    def _checked(self, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if kwargs or len(args) != len(self._inputs):
            args = self._arranged(args, kwargs)
        for value, given in zip(self._inputs, args, strict=True):
            wanted, shape = value.shape, given.shape
            if wanted is None:
                continue
            fits = len(wanted) == len(shape) and all(
                w == s or not isinstance(w, int) for w, s in zip(wanted, shape, strict=True)
            )
            if not fits:
                shown = ", ".join(str(dim) if dim is not None else "any" for dim in wanted)
                raise GraphsplitError(
                    f"input {value.name!r} has shape {list(shape)}, and the file says [{shown}]",
                    hint="export the network with dynamic axes for what should vary",
                )
        return args

    def _arranged(self, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        names = self.input_names
        found = dict(zip(names, args, strict=False))
        twice = sorted(found.keys() & kwargs.keys())
        found.update(kwargs)
        if len(args) > len(names) or twice or found.keys() != set(names):
            raise GraphsplitError(
                f"{len(args)} inputs by position and {sorted(kwargs)} by name were given",
                hint=f"the inputs are {', '.join(map(repr, names)) or 'none'}",
            )
        return tuple(found[name] for name in names)

    def __getstate__(self) -> dict[str, Any]:
        # functions that were compiled here aren't pickled, but made again
        return {**self.__dict__, "_program": None, "_remembered": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        trained = [n for n, t in self._graph.tensors.items() if isinstance(t, WeightlessTensor)]
        self._program = compiled(self._graph, trained)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModule:
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        nn.Module.__init__(copy)
        from copy import deepcopy

        kept = {"_program", "_graph", "_inputs"}
        state = {k: v if k in kept else deepcopy(v, memo) for k, v in self.__dict__.items() if k != "_remembered"}
        copy.__dict__.update(state, _remembered={})
        return copy


def _np(dtype: torch.dtype | None) -> Any:
    return next((there for there, here in TORCH.items() if here == dtype), None)


def _without(graph: Graph, names: frozenset[str]) -> Graph:
    """The graph with stubs for its weights, and everything else in memory."""
    return graph.replace(
        tensors={
            name: WeightlessTensor(tensor.shape, tensor.dtype)
            if name in names or isinstance(tensor, WeightlessTensor)
            else ArrayTensor(np.array(tensor.numpy()))
            for name, tensor in graph.tensors.items()
        }
    )


def _data(graph: Graph) -> set[str]:
    """The values that depend on the inputs."""
    found = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _statistics(graph: Graph, trained: frozenset[str]) -> frozenset[str]:
    """The trained tensors that no gradient changes: running statistics.

    Raises UnsupportedError for one that is read as something else as well: an update in place would change that too.
    """
    found: dict[str, str] = {}
    other: dict[str, str] = {}
    data = _data(graph)
    for i, op in implementations(graph).items():
        node = graph.nodes[i]
        for position, name in enumerate(node.inputs):
            if name in trained:
                (found if position in op.statistics else other).setdefault(name, node.title)
            elif position in op.statistics and name not in graph.tensors and name not in data:
                raise UnsupportedError(
                    f"{node.title} can't be trained: its running statistic {name!r} is computed, and has no tensor of its own",
                    hint=_OWN_TENSOR,
                )
    shared = sorted(found.keys() & other.keys())
    if shared:
        name = shared[0]
        raise UnsupportedError(
            f"{name!r} is a running statistic of {found[name]} and an operand of {other[name]}: training can't update it",
            hint=_OWN_TENSOR,
        )
    return frozenset(found)
