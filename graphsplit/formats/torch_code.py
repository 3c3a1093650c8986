"""Neutral graphs of torch ops as Python code: what a hand-written `forward` does, one aten op a line."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import torch
from torch import fx

from graphsplit.errors import UnsupportedError
from graphsplit.formats.torch_arguments import base
from graphsplit.formats.torch_modes import Mode
from graphsplit.formats.torch_nodes import OWN, SYM, SYM_OPS, arguments, overload, signature
from graphsplit.formats.torch_recurrent import runs_through_time, uncompiled
from graphsplit.graph import Node

MADE_OF_NOTHING = frozenset(
    [
        "arange",
        "bartlett_window",
        "blackman_window",
        "empty",
        "eye",
        "full",
        "hamming_window",
        "hann_window",
        "linspace",
        "logspace",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "normal",
        "ones",
        "rand",
        "randn",
        "scalar_tensor",
        "tril_indices",
        "zeros",
        "empty_strided",
        "empty_permuted",
    ]
)
"""Ops that make a tensor: one of the module's own type and device becomes one of those that the module has now."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Own:
    """The tensor whose device and type are the module's, and those that the source had; None where it has no single one."""

    name: str
    device: torch.device | None
    dtype: torch.dtype | None


def own_of(tensors: Mapping[str, torch.Tensor]) -> Own | None:
    """The device and floating type of a module's tensors."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floats:
        return None
    devices = {tensor.device for tensor in tensors.values()}
    dtypes = {tensor.dtype for tensor in floats.values()}
    return Own(
        next(iter(floats)),
        devices.pop() if len(devices) == 1 else None,
        dtypes.pop() if len(dtypes) == 1 else None,
    )


@dataclass(frozen=True)
class Recipe:
    """All that the function of one mode is written from: plain data, so that a module can be pickled without its functions.

    `places` gives for each tensor of the graph where the module holds it, or the plain number that it is.
    """

    mode: Mode
    nodes: tuple[Node, ...]
    places: Mapping[str, str | float]
    own: Own | None


def function(recipe: Recipe) -> Function:
    """The function `(module, *inputs) -> results` of one mode; a tuple of results unless there is a single one."""
    code = _Writer(recipe).written()
    held = {place: None for place in recipe.places.values() if isinstance(place, str)}
    return type(fx.GraphModule(cast("dict[str, Any]", held), code)).forward


def _checked(target: Any, node: Node) -> Any:
    """The op, or for a batch norm in training one that refuses statistics of a single value, whose variance is no number.

    In torch it is nn.functional that refuses, and an exported graph has the op below it.
    """
    if node.domain != "aten" or base(node.op) != "batch_norm" or node.attributes.get("training") is not True:
        return target

    def batch_norm(x: torch.Tensor, *args: Any) -> Any:
        if x.shape[0] * prod(x.shape[2:]) == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        return target(x, *args)

    return batch_norm


class _Writer:
    def __init__(self, recipe: Recipe) -> None:
        self.mode, self.nodes, self.places, self.own = recipe.mode, recipe.nodes, recipe.places, recipe.own
        self.code = fx.Graph()
        self.values: dict[str, Any] = {}

    def written(self) -> fx.Graph:
        for name in self.mode.inputs:
            self.values[name] = self.code.placeholder(_identifier(name))
        for node in self.nodes:
            self._node(node)
        results = [self.value(r) if isinstance(r, str) else r.value for r in self.mode.results]
        self.code.output(results[0] if len(results) == 1 else tuple(results))
        self.code.lint()
        return self.code

    def value(self, name: str) -> Any:
        """What stands for a value in the code."""
        if not name:
            return None
        if name not in self.values:
            place = self.places[name]
            if isinstance(place, str) and any(keyword.iskeyword(step) for step in place.split(".")):
                raise UnsupportedError(
                    f"the name {place!r} holds a word of Python's own, which can't be an attribute",
                    hint="rename that module",
                )
            self.values[name] = self.code.get_attr(place) if isinstance(place, str) else place
        return self.values[name]

    def _node(self, node: Node) -> None:
        operands = [self.value(name) for name in node.inputs]
        if node.domain == SYM:
            self._bind(node, [self._size(node, operands)])
            return
        if node.domain == OWN:
            total = operands[0]
            for operand in operands[1:]:
                total = self.code.call_function(torch.ops.aten.add.Tensor, (total, operand))
            self._bind(node, [total])
            return
        args, kwargs = self._arguments(node, operands)
        target = overload(node.domain, node.op)
        called = uncompiled(target) if runs_through_time(target) else _checked(target, node)
        result = self.code.create_node("call_function", called, args, kwargs, _identifier(node.name))
        returns = target._schema.returns
        if len(returns) == 1 and "List" not in str(returns[0].type):
            self._bind(node, [result])
            return
        self._bind(
            node,
            [self.code.call_function(operator.getitem, (result, i)) if o else None for i, o in enumerate(node.outputs)],
        )

    def _bind(self, node: Node, results: list[Any]) -> None:
        self.values.update((name, result) for name, result in zip(node.outputs, results, strict=False) if name)

    def _size(self, node: Node, operands: list[Any]) -> Any:
        if node.op == "size":
            return self.code.call_function(
                torch.ops.aten.sym_size.int, (operands[0], cast("int", node.attributes["arg1"]))
            )
        if node.op == "numel":
            return self.code.call_function(torch.ops.aten.sym_numel.default, (operands[0],))
        held: list[Any] = [
            node.attributes[f"arg{i}"] if operand is None else operand for i, operand in enumerate(operands)
        ]
        known = SYM_OPS[node.op]
        return self.code.call_function(getattr(torch, node.op, known) if "sym_" in node.op else known, tuple(held))

    def _arguments(self, node: Node, operands: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, without those at the end that are the op's defaults anyway."""
        positional, named = arguments(node, operands)
        schema = signature(node.domain, node.op)
        front = [a for a in schema if not a.keyword]
        makes = node.op.partition(".")[0].removesuffix("_like") in MADE_OF_NOTHING
        args = [self._owned(item, makes) for item in positional]
        kwargs = {key: self._owned(item, makes) for key, item in named.items()}
        while args and not front[len(args) - 1].required and _same(args[-1], front[len(args) - 1].default):
            args.pop()
        defaults = {a.name: a.default for a in schema if a.keyword and not a.required}
        kept = {key: item for key, item in kwargs.items() if key not in defaults or not _same(item, defaults[key])}
        return tuple(args), kept

    def _owned(self, item: Any, makes: bool) -> Any:
        """A device or type that was the source's own, read off the module when it runs."""
        if self.own is None:
            return item
        if isinstance(item, torch.device) and self.own.device == item:
            return self._of_own("device")
        if isinstance(item, torch.dtype) and self.own.dtype == item:
            mine = self._of_own("dtype")
            return mine if makes else self._wider(item, mine)
        return item

    def _of_own(self, what: str) -> fx.Node:
        assert self.own is not None
        key = f"\0{what}"
        if key not in self.values:
            tensor = self.value(self.own.name)
            self.values[key] = self.code.call_function(getattr, (tensor, what))
        return cast("fx.Node", self.values[key])

    def _wider(self, dtype: torch.dtype, mine: fx.Node) -> fx.Node:
        """A type that a cast asks for: not less than it says, and not less than the module's."""
        if "\0wider" not in self.values:
            self.values["\0wider"] = self.code.call_function(torch.promote_types, (dtype, mine))
        return cast("fx.Node", self.values["\0wider"])


def functional(node: Node) -> Node:
    """An op that writes into its operand, as the one that gives a new value instead, where torch has that."""
    base, _, rest = node.op.partition(".")
    if node.domain in (SYM, OWN) or not base.endswith("_") or base.endswith("__"):
        return node
    op = f"{base[:-1]}.{rest}"
    try:
        same = [a.name for a in signature(node.domain, op)] == [a.name for a in signature(node.domain, node.op)]
    except UnsupportedError:
        return node
    return replace(node, op=op) if same else node


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.rpartition(":")[2])


def _same(item: Any, default: Any) -> bool:
    if isinstance(item, fx.Node) or (isinstance(item, list) and any(isinstance(i, fx.Node) for i in item)):
        return False
    return type(item) is type(default) and bool(item == default)
