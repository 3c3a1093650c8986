"""Running a neutral graph of torch ops: op by op, in the precision of its weights, on the CPU.

Each value is computed once and never changes, as the graph says; ops that write into an operand get a copy of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graphsplit.errors import RunError, UnsupportedError
from graphsplit.formats.torch_fx import KEEPS_STATE
from graphsplit.formats.torch_nodes import OWN, SYM, call, overload, signature, size_names
from graphsplit.formats.torch_tensors import TorchTensor, to_numpy, to_torch
from graphsplit.graph import TRAINING, Array, Graph, Node, Tensor

__all__ = ["Session", "evaluates", "load", "torch_title"]

GRAPHS = (".pt2",)
"""Suffixes of the files that `load` reads."""
_DEVICE = "device:"
_SIZE_OF = ("size", "numel")


def torch_title() -> str:
    """The name and version of the runtime."""
    return f"torch {torch.__version__}"


def load(path: Path) -> Graph:
    """The graph in a module's file, with its weights. Raises FormatError."""
    from graphsplit.formats.torch_archive import load_filled

    return load_filled(path).graph


def evaluates(name: str) -> bool:
    """Whether a value or node of a joint graph belongs to evaluation mode (or to both modes)."""
    return not name.startswith(TRAINING)


@dataclass(frozen=True)
class _Step:
    """A node to run: the operands that it may write into, those that are numbers, and the values that nobody reads later."""

    node: Node
    copied: frozenset[int]
    sizes: frozenset[int]
    done: tuple[str, ...]


class Session:
    """A graph made ready to run in evaluation mode, and the values that it gives: its outputs, and `taps` inside it.

    Only nodes that these depend on are run: nothing of training mode, whose inputs needn't be given.
    """

    def __init__(self, graph: Graph, taps: Iterable[str] = ()) -> None:
        """Raises RunError for an op that torch doesn't have, or a tensor that it can't hold."""
        outputs = [value.name for value in graph.outputs if evaluates(value.name)]
        self.outputs = tuple(dict.fromkeys([*outputs, *taps]))
        nodes = _needed(graph, self.outputs)
        self._steps = _steps(nodes, self.outputs)
        read = {name for node in nodes for name in node.inputs} | set(self.outputs)
        self._inputs = tuple(value.name for value in graph.inputs if value.name in read)
        try:
            self._tensors = {name: _held(tensor) for name, tensor in graph.tensors.items() if name in read}
        except Exception as error:
            raise RunError(f"a tensor of {graph.name!r} cannot be loaded: {_first_line(error)}") from error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, object]:
        """The values by name; a number that isn't a tensor comes as it is. Random ops draw the same in every run.

        Raises RunError with the node that torch doesn't run.
        """
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise RunError(f"the network cannot be run: input {missing[0]!r} is not given")
        values: dict[str, Any] = dict(self._tensors)
        values.update((name, to_torch(inputs[name])) for name in self._inputs)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            for step in self._steps:
                _run(step, values)
        lost = [name for name in self.outputs if name not in values]
        if lost:
            raise RunError(f"the network cannot be run: nothing computes {lost[0]!r}")
        return {name: _given(name, values[name]) for name in self.outputs}


def _needed(graph: Graph, wanted: Collection[str]) -> list[Node]:
    """The nodes that the wanted values depend on, in order."""
    needed = set(wanted)
    found: list[Node] = []
    for node in reversed(graph.nodes):
        if any(name and name in needed for name in node.outputs):
            needed.update(node.inputs)
            found.append(node)
    return found[::-1]


def _steps(nodes: Sequence[Node], wanted: Collection[str]) -> list[_Step]:
    """The nodes, each with the values that nothing behind it reads. Raises RunError for an op that isn't there."""
    kept = {*wanted, ""}
    found: list[_Step] = []
    for node in reversed(nodes):
        done = tuple(name for name in dict.fromkeys((*node.inputs, *node.outputs)) if name not in kept)
        kept.update(done)
        try:
            copied, sizes = _written(node), _numbers(node)
        except UnsupportedError as error:
            raise RunError(f"{node.title} cannot be loaded: {error.message}") from error
        found.append(_Step(_on_cpu(node), copied, sizes, done))
    return found[::-1]


def _written(node: Node) -> frozenset[int]:
    """The operands that a node may write into: what a schema that says so calls with, and states that are kept silently."""
    if node.domain in (SYM, OWN):
        return frozenset()
    overload(node.domain, node.op)
    if any(argument.written for argument in signature(node.domain, node.op)):
        return frozenset(range(len(node.inputs)))
    return frozenset(KEEPS_STATE.get(node.op.partition(".")[0], ()))


def _numbers(node: Node) -> frozenset[int]:
    """The operands that are plain numbers: sizes."""
    if node.domain == SYM:
        return frozenset() if node.op in _SIZE_OF else frozenset(range(len(node.inputs)))
    return frozenset(range(len(node.inputs) - len(size_names(node)), len(node.inputs)))


def _on_cpu(node: Node) -> Node:
    """The node with another device than the CPU taken out of its arguments."""
    device = node.attributes.get("device")
    if not isinstance(device, str) or not device.startswith(_DEVICE):
        return node
    return replace(node, attributes={**node.attributes, "device": f"{_DEVICE}cpu"})


def _held(tensor: Tensor) -> torch.Tensor:
    """A graph's tensor, without a copy where that is possible: nothing is ever written into it."""
    return tensor.tensor.detach().cpu() if isinstance(tensor, TorchTensor) else to_torch(tensor.numpy())


def _run(step: _Step, values: dict[str, Any]) -> None:
    node = step.node
    try:
        given = [_operand(step, i, values[name] if name else None) for i, name in enumerate(node.inputs)]
        results = call(node, given)
    except KeyError as error:
        raise RunError(f"{node.title} cannot be run: nothing computes {error}") from error
    except Exception as error:  # whatever the op itself raises
        raise RunError(f"{node.title} cannot be run: {_first_line(error)}") from error
    values.update((name, result) for name, result in zip(node.outputs, results, strict=False) if name)
    for name in step.done:
        values.pop(name, None)


def _operand(step: _Step, position: int, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if position in step.sizes:
        return value.item()
    return value.clone() if position in step.copied else value


def _given(name: str, value: Any) -> object:
    try:
        return to_numpy(value) if isinstance(value, torch.Tensor) else value
    except Exception as error:  # sparse and quantised tensors have no array
        raise RunError(f"the value {name!r} is no array: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
