"""Leaves of a merge: slices of random tensors, trained ones, and files of them."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from graphsplit.errors import MergeError
from graphsplit.graph import ArrayTensor, Tensor
from graphsplit.manifest import Group, Manifest, ParameterEntry
from graphsplit.manifest.content import DTYPES
from graphsplit.recombine import Leaf, match_parts
from graphsplit.selection import Selection

Array = np.ndarray[Any, np.dtype[Any]]


def random_array(entry: ParameterEntry, seed: int = 0, shape: tuple[int, ...] | None = None) -> Array:
    """A tensor of an entry's type with zeros of both signs among its elements."""
    rng = np.random.default_rng(seed)
    shape = entry.shape if shape is None else shape
    values = rng.normal(size=shape) * rng.choice([1e-3, 1.0, 1e3, 0.0, -0.0], shape)
    return np.asarray(values).astype(DTYPES[entry.dtype])


def split_up(entry: ParameterEntry, groups: list[Group], parts: int, whole: Array) -> list[Leaf]:
    """The parts' slices of a tensor."""
    found = []
    for part in range(parts):
        selection = entry.selection(groups, part)
        found.append(Leaf((part,), selection, Fraction(1, parts), ArrayTensor(selection.take(whole))))
    return found


def trained(entry: ParameterEntry, leaves: list[Leaf]) -> list[Leaf]:
    """The slices with new elements everywhere, except in constants."""
    if entry.role == "constant":
        return leaves
    return [
        replace(leaf, tensor=ArrayTensor(random_array(entry, seed, leaf.tensor.shape)))
        for seed, leaf in enumerate(leaves, start=1)
    ]


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def leaf_with(part: int, parts: int, *values: float, dtype: str = "float64") -> Leaf:
    array = np.array(values).astype(DTYPES[dtype])
    return Leaf((part,), Selection((None,)), Fraction(1, parts), ArrayTensor(array))


Given = tuple[str, Mapping[str, Tensor], Mapping[str, str]]


def files(manifest: Manifest, suffix: str = ".safetensors", *, metadata: bool = True) -> list[Given]:
    """A trained file for each part."""
    found: list[Given] = []
    for part in range(manifest.parts):
        content: dict[str, Tensor] = {
            name: ArrayTensor(random_array(entry, part, manifest.part_shape(name, part)))
            for name, entry in manifest.parameters.items()
        }
        tags = {"graphsplit.part": str(part), "graphsplit.split": manifest.split} if metadata else {}
        found.append((f"trained_{part}{suffix}", content, tags))
    return found


def with_tensor(given: Given, name: str, array: Array | None) -> Given:
    label, content, metadata = given
    changed = {key: tensor for key, tensor in content.items() if key != name}
    if array is not None:
        changed[name] = ArrayTensor(array)
    return label, changed, metadata


def refused(manifest: Manifest, given: list[Given], **options: Any) -> str:
    with pytest.raises(MergeError) as found:
        match_parts(manifest, given, **options)
    return str(found.value)
