"""What an op's implementation is: a function of its operands, made once from a node's attributes.

Operands come as tensors. What only gives sizes, bounds or axes (`host`) comes as Python numbers instead, whether it is
stored, computed from shapes, or an attribute in an older version of the op; an operand that is left out comes as None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.formats.tensors import numpy_type
from graphsplit.formats.torch_tensors import TORCH
from graphsplit.graph import Node

Tensor = torch.Tensor
Run = Callable[..., Any]
Make = Callable[["Attributes"], Run]


@dataclass(frozen=True, slots=True)
class Frame:
    """What one call of a module is: its mode, where its weights are, and of which type.

    `stored` is the type of the file's weights, `real` the one that they have now: where the file says `stored`, `real` is meant.
    """

    training: bool
    device: torch.device
    stored: torch.dtype | None = None
    real: torch.dtype | None = None

    def kind(self, dtype: torch.dtype) -> torch.dtype:
        """The type that stands for one of the file's."""
        return self.real if self.real is not None and dtype == self.stored else dtype

    def near(self, tensor: Tensor) -> Tensor:
        """A tensor that was computed from shapes on the CPU, as if it had been computed where the weights are."""
        return tensor.to(self.device, self.kind(tensor.dtype))


@dataclass(frozen=True, slots=True)
class Attributes:
    """A node as its implementation sees it: attributes with the operator's defaults, and how it is used.

    `tracked` says that its statistics (`Op.statistics`) are stored tensors of its own, which training updates.
    """

    node: Node
    values: Mapping[str, Any]
    tracked: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    @property
    def version(self) -> int:
        return self.node.version

    def given(self, position: int) -> bool:
        """Whether the node has this operand."""
        return position < len(self.node.inputs) and bool(self.node.inputs[position])

    def wants(self, position: int) -> bool:
        """Whether the node names this result."""
        return position < len(self.node.outputs) and bool(self.node.outputs[position])

    def refused(self, reason: str, hint: str) -> UnsupportedError:
        """A refusal that names the node."""
        return UnsupportedError(f"{self.node.title} can't be trained: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class Op:
    """An implementation. `make` gives the function for a node; Raises UnsupportedError for what it hasn't.

    `host` names the operands that are Python numbers or lists of them, with the attribute that older versions have instead;
    `numbers` those that are a Python number where a scalar is known beforehand. `many`: it always gives a tuple. `framed`: it
    takes the frame first. `statistics`: operands that training mode updates. `fixed`: the same operands give the same in
    both modes, every time. `ragged`: the shape of what it gives depends on data. `sizes`: it gives shapes, on the host.
    """

    make: Make
    host: Mapping[int, str] = field(default_factory=dict)
    numbers: Mapping[int, str] = field(default_factory=dict)
    many: bool = False
    framed: bool = False
    statistics: tuple[int, ...] = ()
    fixed: bool = True
    ragged: bool = False
    sizes: bool = False


Table = Mapping[str, Op]


def plain(run: Run) -> Op:
    """An op without attributes that matter."""
    return Op(lambda _: run)


def torch_type(code: int, a: Attributes) -> torch.dtype:
    """The torch type of an ONNX element type. Raises UnsupportedError where there is none."""
    try:
        return TORCH[numpy_type(code)]
    except (KeyError, FormatError) as error:
        raise a.refused(f"torch has no element type {code}", "train the float model") from error


def as_list(value: Any) -> list[Any]:
    """Numbers as a list, also where there is one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def number(value: Any) -> Any:
    """One number, also where it comes in a list or in a tensor."""
    if isinstance(value, Tensor):
        return value.item()
    return value[0] if isinstance(value, (list, tuple)) else value
