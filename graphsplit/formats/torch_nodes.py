"""One op of a torch program as a neutral node, and back: arguments by their schema's names, ops run on tensors.

Tensor arguments are the node's inputs in the order of the schema ("" for one that is left out; a list of tensors takes one
input each, and where that leaves open which inputs are whose, the attribute `lengths` says how many each list takes). All
others are attributes. A size that is only known when the program runs is an attribute that holds the
*name* of its value, and that value is a further input behind the tensors.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import torch

from graphsplit.errors import UnsupportedError
from graphsplit.formats.torch_recurrent import results_like, runs_through_time
from graphsplit.graph import AttributeValue, Node

SYM = "sym"
"""The domain of arithmetic on sizes."""
OWN = "graphsplit"
"""The domain of ops that no torch op is: the sum of several values."""

SYM_OPS: Mapping[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv)},
    **{f.__name__: f for f in (operator.mod, operator.neg, operator.pow, operator.eq, operator.ne)},
    **{f.__name__: f for f in (operator.lt, operator.le, operator.gt, operator.ge)},
    **{f.__name__: f for f in (math.ceil, math.floor, math.trunc, round)},
    "sym_int": int,
    "sym_float": float,
    "sym_max": max,
    "sym_min": min,
    "sym_ite": lambda condition, yes, no: yes if condition else no,
    "sym_not": operator.not_,
    "sym_sqrt": math.sqrt,
}
LENGTHS = "lengths"
_DTYPE, _DEVICE, _NONE = "torch.", "device:", "none:"

TOUCHES_FILES = ("aten::from_file",)
"""Ops that read or write files: no network that comes from a file may hold them."""
Kind = Literal["tensor", "tensors", "text", "other"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an op's schema."""

    name: str
    kind: Kind
    keyword: bool
    default: Any
    required: bool
    written: bool


@lru_cache(maxsize=4096)
def overload(domain: str, op: str) -> Any:
    """The torch op of a node: `overload("aten", "add.Tensor")`. Raises UnsupportedError when it isn't loaded."""
    base, _, name = op.partition(".")
    try:
        found = getattr(getattr(getattr(torch.ops, domain), base), name or "default")
        if not isinstance(found, torch._ops.OpOverload) or f"{domain}::{base}" in TOUCHES_FILES:
            raise AttributeError(op)
        return found
    except AttributeError as error:
        raise UnsupportedError(
            f"torch has no op {domain}::{op}", hint="import the library that defines it first"
        ) from error


@lru_cache(maxsize=4096)
def signature(domain: str, op: str) -> tuple[Argument, ...]:
    """The arguments of an op."""
    return tuple(
        Argument(
            a.name,
            _kind(str(a.type)),
            bool(a.kwarg_only),
            a.default_value if a.has_default_value() else None,
            not a.has_default_value(),
            a.alias_info is not None and a.alias_info.is_write,
        )
        for a in overload(domain, op)._schema.arguments
    )


def _kind(text: str) -> Kind:
    if "Tensor" in text:
        return "tensors" if "List" in text else "tensor"
    return "text" if "str" in text else "other"


@lru_cache(maxsize=4096)
def _is_ambiguous(domain: str, op: str) -> bool:
    """Whether the number of inputs alone doesn't tell how long each list of tensors is."""
    found = signature(domain, op)
    lists = [i for i, a in enumerate(found) if a.kind == "tensors"]
    return len(lists) > 1 or any(a.kind == "tensor" and not a.required for i in lists for a in found[i:])


def returns_list(domain: str, op: str) -> bool:
    """Whether an op's result is a list of tensors of any length (split, unbind)."""
    found = overload(domain, op)._schema.returns
    return len(found) == 1 and "List[Tensor]" in str(found[0].type)


# -- from arguments to inputs and attributes --------------------------------------------------------------------


def encode(
    domain: str, op: str, args: Sequence[Any], kwargs: Mapping[str, Any], name: Callable[[Any], str | None]
) -> tuple[tuple[str, ...], dict[str, AttributeValue]]:
    """Inputs and attributes of a call; `name` gives the value that an argument stands for, None for a plain one."""
    inputs: list[str] = []
    attributes: dict[str, AttributeValue] = {}
    sizes: dict[str, None] = {}
    lengths: list[int] = []
    if domain == SYM:
        return _encode_sym(args, name)
    positional = list(args)
    for argument in signature(domain, op):
        if positional and not argument.keyword:
            value = positional.pop(0)
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        elif argument.kind in ("tensor", "tensors"):
            value = None
        else:
            continue
        if argument.kind == "tensors" and value is not None:
            inputs.extend(_tensor(domain, op, item, name) for item in value)
            lengths.append(len(value))
            continue
        if argument.kind in ("tensor", "tensors"):
            known = None if value is None else name(value)
            is_number = value is not None and (known is None or not _is_tensor(value))
            inputs.append("" if value is None or is_number else known or "")
            if not is_number:
                continue
        plain = _plain(value, name, sizes)
        if plain is not None:
            attributes[argument.name] = plain
        elif argument.default is not None:
            attributes[argument.name] = _NONE
    if lengths and _is_ambiguous(domain, op):
        attributes[LENGTHS] = tuple(lengths)
    while inputs and not inputs[-1] and not sizes:
        inputs.pop()
    return (*inputs, *sizes), attributes


def _encode_sym(
    args: Sequence[Any], name: Callable[[Any], str | None]
) -> tuple[tuple[str, ...], dict[str, AttributeValue]]:
    """Arithmetic on sizes: operands that are plain numbers become attributes `arg0`, `arg1`, …."""
    inputs: list[str] = []
    attributes: dict[str, AttributeValue] = {}
    for position, value in enumerate(args):
        known = name(value)
        inputs.append(known or "")
        if known is None:
            attributes[f"arg{position}"] = value
    return tuple(inputs), attributes


def _tensor(domain: str, op: str, value: Any, name: Callable[[Any], str | None]) -> str:
    if value is None:
        return ""
    known = name(value)
    if known is None:
        raise UnsupportedError(f"{domain}::{op} has a list of tensors with the plain number {value!r} in it")
    return known


def _is_tensor(value: Any) -> bool:
    found = getattr(value, "meta", {}).get("val")
    return found is None or isinstance(found, torch.Tensor)


def _plain(value: Any, name: Callable[[Any], str | None], sizes: dict[str, None]) -> Any:
    """An argument as an attribute; sizes that are only known later are noted by name."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item, name, sizes) for item in value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, torch.device):
        return f"{_DEVICE}{value}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        raise UnsupportedError(f"the complex number {value!r} is an argument that has no form in the graph")
    known = name(value)
    if known is None:
        raise UnsupportedError(f"{value!r} is an argument that has no form in the graph")
    sizes[known] = None
    return known


def defaults(domain: str, op: str) -> dict[str, Any]:
    """The arguments that an op may leave out, with their defaults."""
    if domain in (SYM, OWN):
        return {}
    return {a.name: a.default for a in signature(domain, op) if a.default is not None}


# -- and back ---------------------------------------------------------------------------------------------------


def size_names(node: Node) -> tuple[str, ...]:
    """The values that a node's attributes name, in the order in which they stand behind its tensors."""
    if node.domain in (SYM, OWN):
        return ()
    found: dict[str, None] = {}
    for argument in signature(node.domain, node.op):
        value = node.attributes.get(argument.name)
        if argument.kind == "text" or value is None:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, str) and not item.startswith((_DTYPE, _DEVICE, _NONE)):
                found[item] = None
    return tuple(found)


def tensor_inputs(node: Node) -> tuple[str, ...]:
    """The inputs of a node without the sizes behind them."""
    extra = len(size_names(node))
    return node.inputs[: len(node.inputs) - extra] if extra else node.inputs


def arguments(node: Node, operands: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of the torch op, for operands in the order of the node's inputs."""
    named = size_names(node)
    known = dict(zip(named, operands[len(operands) - len(named) :], strict=True)) if named else {}
    tensors = list(operands[: len(operands) - len(named)])
    found = signature(node.domain, node.op)
    lengths = iter(cast("tuple[int, ...]", node.attributes.get(LENGTHS, ())))
    behind = sum(a.kind == "tensor" for a in found)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    given = 0
    for argument in found:
        value: Any = None
        if argument.kind == "tensor":
            value = tensors.pop(0) if tensors else None
            behind -= 1
        elif argument.kind == "tensors":
            count = next(lengths, max(0, len(tensors) - behind))
            value, tensors = tensors[:count], tensors[count:]
        if argument.name in node.attributes:
            value = restored(node.attributes[argument.name], known, argument.kind == "text")
        elif argument.keyword and value is None:
            continue
        elif argument.kind not in ("tensor", "tensors"):
            value = argument.default
        given = max(given, len(args) + 1) if value is not None or argument.required else given
        if not argument.keyword:
            args.append(value)
        else:
            kwargs[argument.name] = value
    return args[:given], kwargs


def restored(value: Any, known: Mapping[str, Any], text: bool = False) -> Any:
    """An attribute as torch takes it: types, devices, and named sizes by what is known of them."""
    if isinstance(value, tuple):
        return [restored(item, known, text) for item in value]
    if not isinstance(value, str) or text:
        return value
    if value.startswith(_DTYPE):
        found = getattr(torch, value.removeprefix(_DTYPE), None)
        if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
            raise UnsupportedError(f"torch has no type {value!r}")
        return found
    if value.startswith(_DEVICE):
        return torch.device(value.removeprefix(_DEVICE))
    return None if value == _NONE else known[value]


def call(node: Node, operands: Sequence[Any], device: str | None = None) -> list[Any]:
    """Run a node's op on operands in the order of its inputs; `device` overrides the one in its attributes."""
    if node.domain == SYM:
        return [_call_sym(node, operands)]
    if node.domain == OWN:
        total = operands[0]
        for operand in operands[1:]:
            total = total + operand
        return [total]
    args, kwargs = arguments(node, operands)
    position = next((i for i, a in enumerate(signature(node.domain, node.op)) if a.name == "device"), None)
    if device is not None and position is not None and position < len(args):
        args[position] = torch.device(device)
    elif device is not None and position is not None:
        kwargs["device"] = torch.device(device)
    target = overload(node.domain, node.op)
    run = results_like if device == "meta" and runs_through_time(target) else target
    result = run(*args, **kwargs)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _call_sym(node: Node, operands: Sequence[Any]) -> Any:
    if node.op == "size":
        return int(operands[0].shape[cast("int", node.attributes["arg1"])])
    if node.op == "numel":
        return int(operands[0].numel())
    values = [
        node.attributes[f"arg{position}"] if operand is None else operand for position, operand in enumerate(operands)
    ]
    return SYM_OPS[node.op](*values)
