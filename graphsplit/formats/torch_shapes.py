"""Which sizes of a module's inputs stay free when nobody says: the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.export import Dim, ShapesCollection
from torch.utils import _pytree as pytree

from graphsplit.errors import UnsupportedError

T = TypeVar("T")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def with_free_batch(
    args: Sequence[Any], kwargs: Mapping[str, Any] | None, export: Callable[[tuple[Any, ...], dict[str, Any], Any], T]
) -> T:
    """Export with the first axis of the inputs left free if it is the same for all of them, else with fixed sizes.

    torch.export takes a size of 1 for a constant, so a batch of one is traced as a batch of two. Where the module can't be
    exported so, its sizes are fixed: what is written then refuses others.
    """
    plain = (tuple(args), dict(kwargs or {}))
    try:
        batched = _batched(plain)
        if batched is None:
            return export(*plain, None)
        (positional, named), shapes = batched
        return export(positional, named, shapes)
    except UnsupportedError:
        return export(*plain, None)


def _batched(arguments: Arguments) -> tuple[Arguments, ShapesCollection] | None:
    leaves, spec = pytree.tree_flatten(arguments)
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim}
    if len(sizes) != 1 or 0 in sizes:
        return None
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            # each input is an object of its own: the collection goes by identity
            free = leaves[position] = torch.cat([leaf, leaf]) if sizes == {1} else leaf.view(leaf.shape)
            shapes[free] = {0: Dim.AUTO}
    return pytree.tree_unflatten(leaves, spec), shapes
