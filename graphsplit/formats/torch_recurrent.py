"""Recurrent layers of torch (LSTM, GRU, RNN): one call for a stack of layers in one or two directions, written out.

A node of a call that holds several layers or directions becomes one node of the same op for each, with what torch's own code
does between them: sequences turned around, directions side by side, dropout. So each node has a fixed set of operands,
which one rule line describes.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from graphsplit.errors import UnsupportedError

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Ops that run over a whole sequence; `lstm` has a cell state beside the hidden one."""
_PACKING = ("_pack_padded_sequence", "_pad_packed_sequence")
_NAMESPACE = "graphsplit_export"

aten = torch.ops.aten


def runs_through_time(target: Any) -> bool:
    """Whether an op is a recurrent layer over sequences of one length."""
    return any(target is getattr(aten, name).input for name in RECURRENT)


@lru_cache(maxsize=8)
def uncompiled(target: Any) -> Any:
    """The op as torch.compile leaves it alone, as it does nn.LSTM: compiled, it would be written out step by step."""
    compiler: Any = torch.compiler  # its functions have no types
    alone = compiler.disable(target)

    def recurrent(*args: Any) -> Any:
        run = target if compiler.is_exporting() else alone
        return run(*args)

    return recurrent


# -- shapes without a step through time -------------------------------------------------------------------------


def results_like(
    x: torch.Tensor,
    state: Any,
    params: Sequence[torch.Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """Results of a recurrent layer as to shape, type and order in memory: the sequence, and the last state of each kind."""
    states = list(state) if isinstance(state, (list, tuple)) else [state]
    one, two, _ = x.shape
    width = states[0].shape[-1] * (2 if both else 1)
    y = x.new_empty((two, one, width)).transpose(0, 1) if batch_first else x.new_empty((one, two, width))
    return (y, *(x.new_empty(s.shape) for s in states))


@lru_cache(maxsize=1)
def _stand_ins() -> dict[str, Any]:
    """For each op one that does the same, and whose shapes torch.export finds without running it step by step."""
    library: Any = torch.library  # its functions have no types
    for name in RECURRENT:
        original, stand_in = getattr(aten, name).input, f"{_NAMESPACE}::{name}"
        schema = str(original._schema)
        library.define(stand_in, schema[schema.index("(") :])
        library.impl(stand_in, "default", original)
        library.register_fake(stand_in, results_like)
    return {name: getattr(getattr(torch.ops, _NAMESPACE), name).default for name in RECURRENT}


class AnyLength(TorchFunctionMode):
    """While a module is exported: the length of a sequence stays as free as it was given.

    torch.export itself runs a recurrent layer step by step to find its shapes, which fixes the length.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", "")).removesuffix(".input")
        if name in RECURRENT and len(args) == 9 and isinstance(args[3], bool):  # not one over packed sequences
            args = [list(value) if isinstance(value, tuple) else value for value in args]
            return _stand_ins()[name](*args)
        if name in _PACKING:
            raise UnsupportedError("packed sequences have steps of sizes that are data; give padded ones")
        return func(*args, **(kwargs or {}))


def named_as_torch(exported: ExportedProgram) -> ExportedProgram:
    """The program with torch's own ops where it was exported with stand-ins."""
    found = {stand_in: getattr(aten, name).input for name, stand_in in _stand_ins().items()}
    bodies = [module for module in exported.graph_module.modules() if isinstance(module, fx.GraphModule)]
    for body in bodies:  # the program itself, and what torch.no_grad and the like hold
        nodes = [node for node in body.graph.nodes if node.target in found]
        for node in nodes:
            node.target = found[node.target]
        if nodes:
            body.recompile()
    return exported


# -- one node for each layer and direction ----------------------------------------------------------------------


def written_out(graph: fx.Graph) -> fx.Graph:
    """The graph, changed in place, with each recurrent call of several layers or directions written out."""
    for node in list(graph.nodes):
        if node.op == "call_function" and runs_through_time(node.target) and _several(node):
            _Stack(graph, node).write()
    return graph


def _several(node: fx.Node) -> bool:
    return bool(node.args[4] != 1 or node.args[7])


class _Stack:
    """The layers of one recurrent call."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.node = graph, node
        args: tuple[Any, ...] = node.args
        self.x, state, params, self.bias, self.layers, self.dropout, self.train, both, self.batch_first = args
        self.states = list(state) if isinstance(state, (list, tuple)) else [state]
        self.directions = 2 if both else 1
        self.params = list(params)
        self.each = len(self.params) // (self.layers * self.directions)
        self.read = {user.args[1] for user in node.users}

    def write(self) -> None:
        """Put the layers where the call was, and their results where its were."""
        with self.graph.inserting_before(self.node):
            results = self._results()
        for user in list(self.node.users):
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            self.graph.erase_node(user)
        self.graph.erase_node(self.node)

    def _results(self) -> list[Any]:
        x = self._op(aten.transpose.int, self.x, 0, 1) if self.batch_first else self.x
        ends: list[list[Any]] = []
        for layer in range(self.layers):
            if layer and self.dropout and self.train:
                x = self._op(aten.dropout.default, x, self.dropout, self.train)
            found = [self._layer(x, layer, direction) for direction in range(self.directions)]
            x = found[0][0] if len(found) == 1 else self._op(aten.cat.default, [results[0] for results in found], -1)
            ends.extend(results[1:] for results in found)
        x = self._op(aten.transpose.int, x, 0, 1) if self.batch_first else x
        kinds = enumerate(zip(*ends, strict=True), 1)
        return [x, *(self._op(aten.cat.default, list(last), 0) if i in self.read else None for i, last in kinds)]

    def _layer(self, x: fx.Node, layer: int, direction: int) -> list[Any]:
        """The sequence that one layer gives in one direction, and its last states; None for those that nobody reads."""
        index = layer * self.directions + direction
        states = [self._op(aten.slice.Tensor, state, 0, index, index + 1) for state in self.states]
        params = self.params[index * self.each : (index + 1) * self.each]
        x = self._op(aten.flip.default, x, [0]) if direction else x
        args = (x, states if len(states) > 1 else states[0], params, self.bias, 1, 0.0, self.train, False, False)
        values = results_like(*_values(args))
        call = self._made(self.node.target, args, values, f"{self.node.name}_l{layer}{'_reverse' * direction}")
        results: list[Any] = [
            self._made(operator.getitem, (call, i), value) if not i or i in self.read else None
            for i, value in enumerate(values)
        ]
        if direction:
            results[0] = self._op(aten.flip.default, results[0], [0])
        return results

    def _op(self, target: Any, *args: Any) -> fx.Node:
        return self._made(target, args, target(*_values(args)))

    def _made(self, target: Any, args: tuple[Any, ...], value: Any, name: str | None = None) -> fx.Node:
        made = self.graph.create_node("call_function", target, args, name=name)
        made.meta = {**self.node.meta, "val": value}
        return made


def _values(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with what the export knows of each node's value in its place."""
    found: tuple[Any, ...] = fx.node.map_arg(args, lambda node: node.meta["val"])
    return found
