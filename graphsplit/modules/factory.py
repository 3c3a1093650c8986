"""Torch modules as a command line names them: `package.module:factory`, with inputs such as `1x3x224x224`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsplit.errors import FormatError

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.torch_network import TorchNetwork

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<dims>\w*)(?::(?P<dtype>[a-z]\w*))?")
_DIMS = re.compile(r"(\d+|[A-Z][A-Za-wyz0-9_]*)(?:x|$)")
BATCH = 2
"""The size that a free batch has in the example."""


@dataclass(frozen=True)
class Example:
    """A module with what it is exported with: zeros of the sizes that were asked for, and the axes that are free."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None


def names_module(model: str | os.PathLike[str]) -> bool:
    """Whether a model is named as a torch module: by its factory, or as a file that graphsplit wrote of one."""
    text = os.fspath(model)
    return Path(text).suffix == ".pt2" or bool(_FACTORY.fullmatch(text) and not Path(text).exists())


def example(
    model: str | os.PathLike[str], inputs: Sequence[str] = (), sizes: Mapping[str, int] | None = None
) -> Example:
    """The module that a command line names. Raises FormatError for a name that leads nowhere, or inputs that aren't any."""
    text = os.fspath(model)
    if Path(text).suffix == ".pt2":
        if inputs:
            raise FormatError(f"{text!r} knows its inputs: --input is for package.module:factory")
        from graphsplit.formats.torch_archive import load

        return Example(load(text))
    module = build(text)
    if not inputs:
        raise FormatError(
            f"{text!r} is a torch module, and its inputs aren't known",
            hint="give each with --input, such as --input 1x3x224x224 or --input ids=1x128:int64",
        )
    return Example(module, *_inputs(inputs, sizes or {}))


def network_of(given: Example, **options: Any) -> TorchNetwork:
    """A named module ready to plan; `options` are those of `prepare_torch`. Raises what that raises."""
    from graphsplit.modules.source import source_of
    from graphsplit.torch_network import prepare_torch

    source = source_of(given.module, given.args, given.kwargs, given.dynamic_shapes)
    return prepare_torch(source, **options)


def build(text: str) -> nn.Module:
    """Import `package.module:factory`, from the current folder too, and call it unless it is a module already.

    Raises FormatError, with what the user's own code raised.
    """
    import torch

    name, _, path = text.partition(":")
    hint = "name it as for an import, with the folder that holds it as the current one: package.module:factory"
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with redirect_stdout(sys.stderr):  # results alone go to stdout
            found: Any = importlib.import_module(name)
    except ImportError as error:
        raise FormatError(f"{text!r}: cannot import {name!r}: {error}", hint=hint) from error
    except (Exception, SystemExit) as error:
        raise FormatError(f"{text!r}: importing {name!r} raised {type(error).__name__}: {error}") from error
    for step in path.split("."):
        if not hasattr(found, step):
            raise FormatError(f"{text!r}: {name!r} has no {path!r}", hint=hint)
        found = getattr(found, step)
    if not isinstance(found, torch.nn.Module):
        if not callable(found):
            raise FormatError(f"{text!r} is a {type(found).__name__}, neither a module nor a function that makes one")
        try:
            with redirect_stdout(sys.stderr):
                found = found()
        except (Exception, SystemExit) as error:
            raise FormatError(
                f"{text!r} raised {type(error).__name__}: {error}", hint="the factory is called without arguments"
            ) from error
    if not isinstance(found, torch.nn.Module):
        raise FormatError(f"{text!r} gives a {type(found).__name__}, which is no torch module")
    return found


def _inputs(texts: Sequence[str], sizes: Mapping[str, int]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Zeros of the forms that were asked for, by position and by name, and which of their axes are free."""
    from torch.export import Dim, ShapesCollection

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    free = False
    for text in texts:
        name, tensor, axes = _input(text, sizes)
        if axes:
            shapes[tensor] = dict.fromkeys(axes, Dim.DYNAMIC)
            free = True
        if name:
            kwargs[name] = tensor
        elif kwargs:
            raise FormatError(f"--input {text}: inputs without a name come before those with one")
        else:
            args.append(tensor)
    return tuple(args), kwargs, shapes if free else None


def _input(text: str, sizes: Mapping[str, int]) -> tuple[str, Any, list[int]]:
    import torch

    match = _INPUT.fullmatch(text)
    dims = match["dims"] if match else ""
    found = _DIMS.findall(dims)
    if match is None or "x".join(found) != dims or not dims:
        raise FormatError(
            f"--input {text}: not the form of an input",
            hint="write sizes with x between them, a capital letter for an axis that is free, a type behind a colon: "
            "1x3x224x224, Nx128:int64, mask=NxS:bool",
        )
    dtype = getattr(torch, match["dtype"] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise FormatError(f"--input {text}: torch has no type {match['dtype']!r}", hint="such as float32, int64, bool")
    shape = [int(dim) if dim.isdigit() else _size(text, dim, axis, sizes) for axis, dim in enumerate(found)]
    if 0 in shape:
        raise FormatError(f"--input {text}: an axis has no elements", hint="give sizes of 1 and more")
    try:
        tensor = torch.zeros(shape, dtype=dtype)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise FormatError(
            f"--input {text}: torch can't make such a tensor ({str(error).splitlines()[0]:.100})"
        ) from error
    return match["name"] or "", tensor, [axis for axis, dim in enumerate(found) if not dim.isdigit()]


def _size(text: str, name: str, axis: int, sizes: Mapping[str, int]) -> int:
    if name in sizes:
        return sizes[name]
    if axis == 0:
        return BATCH
    raise FormatError(f"--input {text}: the size of {name} isn't known", hint=f"give one to try: --size {name}=64")
