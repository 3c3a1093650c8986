"""What a source module is besides its weights: what it holds, in which modes, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from graphsplit.formats.torch_modes import Modes
from graphsplit.graph import Graph, WeightlessTensor


@dataclass(frozen=True)
class Holders:
    """What a module holds: tensors by qualified name, in the order of its state dict, and what kind each is.

    `names` gives for every name, aliases too, the name that the graph knows the tensor by.
    """

    names: Mapping[str, str]
    parameters: frozenset[str]
    frozen: frozenset[str]
    temporary: frozenset[str]
    devices: Mapping[str, torch.device] = field(default_factory=dict)


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

    def with_graph(self, graph: Graph) -> Source:
        """The same for another graph of the same modes."""
        return replace(self, modes=replace(self.modes, program=replace(self.modes.program, graph=graph)))

    def narrowed(self, graph: Graph) -> Source:
        """The same for a sub-model's graph, without its weights: those the module itself holds."""
        held = set(self.holders.names.values())
        tensors = {
            name: WeightlessTensor(tensor.shape, tensor.dtype) if name in held else tensor
            for name, tensor in graph.tensors.items()
        }
        return self.with_graph(graph.replace(tensors=tensors))


def holders_of(model: nn.Module, modes: Modes) -> Holders:
    """What a source module holds, in the order of its state dict, for the names of its program."""
    program = modes.program
    names: dict[str, str] = {}
    by_identity: dict[int, str] = {}
    devices: dict[str, torch.device] = {}
    temporary = set(program.temporary)
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for last, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            name = prefix + last
            known = program.aliases.get(name, name)
            known = known if known in program.graph.tensors else by_identity.get(id(tensor), known)
            by_identity.setdefault(id(tensor), known)
            if known in program.graph.tensors:
                names[name] = known
                devices[known] = tensor.device
            if last in module._non_persistent_buffers_set:
                temporary.add(known)
    return Holders(names, frozenset(program.parameters), program.frozen, frozenset(temporary), devices)


def with_copies(holders: Holders, graph: Graph, copies: Mapping[str, str]) -> Holders:
    """What a merged module holds: `copies` gives for each copy's name the tensor that it is a copy of."""
    of: dict[str, list[str]] = {}
    for copy, name in sorted(copies.items()):
        of.setdefault(name, []).append(copy)
    names: dict[str, str] = {}
    for name, known in holders.names.items():
        if known in graph.tensors:
            names[name] = known
        for copy in of.get(known, ()):
            suffix = copy.removeprefix(known)
            # where the whole is there as well, its name is taken
            names[name + (suffix.replace(".", "_", 1) if known in graph.tensors else suffix)] = copy

    def spread(chosen: Iterable[str]) -> frozenset[str]:
        return frozenset(item for name in chosen for item in (name, *of.get(name, ())))

    devices = {item: device for name, device in holders.devices.items() for item in (name, *of.get(name, ()))}
    return Holders(names, spread(holders.parameters), spread(holders.frozen), spread(holders.temporary), devices)
