"""Which trained file is which part, and whether it holds every tensor that its part must have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from graphsplit.errors import MergeError
from graphsplit.graph import Array, Tensor
from graphsplit.manifest import Manifest

__all__ = ["PART_KEY", "SPLIT_KEY", "Trained", "match_parts"]

PART_KEY = "graphsplit.part"
SPLIT_KEY = "graphsplit.split"
_CHUNK = 1 << 22


class Trained(NamedTuple):
    """A trained sub-model: what messages call it, its tensors, and its file's metadata."""

    label: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def match_parts(
    manifest: Manifest,
    trained: Sequence[tuple[str, Mapping[str, Tensor], Mapping[str, str]]],
    *,
    known: Collection[str] = (),
    allow_nonfinite: bool = False,
) -> list[Trained]:
    """The trained sub-models in part order, after a look at every tensor.

    A file whose metadata names part and split goes where it says, in whatever order it is given; one without goes by
    position. Tensors that the manifest doesn't list are fine in ONNX files (labels that end in ".onnx") and where
    `known` lists them (the source's constants). Finite elements are checked chunk by chunk.

    Raises MergeError for a missing part, two files for one part, a file of another split, and for tensors that are
    missing, extra, misshapen, of another type, or not finite (unless `allow_nonfinite`; constants may be so).
    """
    placed: dict[int, Trained] = {}
    for position, item in enumerate(trained):
        one = Trained(*item)
        part = _part(manifest, one, position)
        if part in placed:
            by = (
                "" if _has_metadata(one) and _has_metadata(placed[part]) else " (files without metadata go by position)"
            )
            raise MergeError(
                f"{placed[part].label!r} and {one.label!r} are both part {part}{by}",
                hint="give one trained file for each part",
            )
        placed[part] = one
    missing = [part for part in range(manifest.parts) if part not in placed]
    if missing:
        given = ", ".join(repr(one.label) for one in placed.values()) or "nothing"
        raise MergeError(
            f"part {missing[0]} of {manifest.parts} is missing: given were {given}",
            hint=f"give {manifest.parts} trained files, one for each part",
        )
    matched = [placed[part] for part in range(manifest.parts)]
    for part, one in enumerate(matched):
        _check_names(manifest, one, known)
        for name in manifest.parameters:
            _check_tensor(manifest, one, part, name)
    if not allow_nonfinite:
        for one in matched:
            _check_finite(manifest, one)
    return matched


def _has_metadata(one: Trained) -> bool:
    return PART_KEY in one.metadata or SPLIT_KEY in one.metadata


def _part(manifest: Manifest, one: Trained, position: int) -> int:
    """The number of the part that a file holds."""
    if not _has_metadata(one):
        if position >= manifest.parts:
            raise MergeError(
                f"{one.label!r} is file {position + 1}, and the split has {manifest.parts} parts",
                hint="give one trained file for each part, in part order",
            )
        return position
    split, text = one.metadata.get(SPLIT_KEY, ""), one.metadata.get(PART_KEY, "")
    if split != manifest.split:
        raise MergeError(
            f"{one.label!r} belongs to another split: its metadata says {_short(split)}, "
            f"the manifest {_short(manifest.split)}",
            hint="merge it with the folder that it was written into",
        )
    numbers = {str(part): part for part in range(manifest.parts)}
    if text not in numbers:
        raise MergeError(
            f"{one.label!r} says that it is part {_short(text)}, and the parts are 0 … {manifest.parts - 1}",
            hint=f"its metadata was changed: restore {PART_KEY}, or save the weights without metadata",
        )
    return numbers[text]


def _check_names(manifest: Manifest, one: Trained, known: Collection[str]) -> None:
    missing = [name for name in manifest.parameters if name not in one.tensors]
    if missing:
        raise MergeError(
            f"{one.label!r} lacks the tensor {missing[0]!r}{_more(missing)}",
            hint="save all tensors of the sub-model, under the names that they have in its file",
        )
    if one.label.lower().endswith(".onnx"):
        return
    extra = sorted(name for name in one.tensors if name not in manifest.parameters and name not in known)
    if extra:
        raise MergeError(
            f"{one.label!r} holds the tensor {extra[0]!r}{_more(extra)}, which the split network doesn't have",
            hint="save the sub-model's own tensors, and nothing else",
        )


def _check_tensor(manifest: Manifest, one: Trained, part: int, name: str) -> None:
    tensor, entry = one.tensors[name], manifest.parameters[name]
    wanted = manifest.part_shape(name, part)
    if tuple(tensor.shape) != wanted:
        raise MergeError(
            f"{one.label!r}: tensor {name!r} has shape {list(tensor.shape)}, and part {part} has shape {list(wanted)}",
            hint=_other_part(manifest, name, tuple(tensor.shape), part),
        )
    if tensor.dtype.name != entry.dtype:
        raise MergeError(
            f"{one.label!r}: tensor {name!r} has type {tensor.dtype.name}, and the network {entry.dtype}",
            hint=f"convert the trained tensors to {entry.dtype} before the merge: it changes no types",
        )


def _other_part(manifest: Manifest, name: str, shape: tuple[int, ...], part: int) -> str:
    """A hint for a tensor that has another part's shape, or the whole network's."""
    others = [p for p in range(manifest.parts) if p != part and manifest.part_shape(name, p) == shape]
    if others:
        return f"part {others[0]} has that shape: files without metadata must be given in part order"
    if shape == manifest.parameters[name].shape:
        return "that is its shape in the whole network: give the trained sub-models"
    return ""


def _check_finite(manifest: Manifest, one: Trained) -> None:
    for name, entry in manifest.parameters.items():
        if entry.role == "constant":
            continue
        with np.errstate(invalid="ignore"):  # numpy may warn of NaNs, which are what is looked for
            bad = sum(int((~np.isfinite(chunk)).sum()) for chunk in _flat_chunks(one.tensors[name].numpy()))
        if bad:
            raise MergeError(
                f"{one.label!r}: {bad} of the {one.tensors[name].numpy().size} elements of {name!r} are not finite",
                hint="the training diverged; go back to an earlier checkpoint, or add --allow-nonfinite",
            )


def _flat_chunks(array: Array) -> Iterable[Array]:
    if array.dtype.kind not in "fV":
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK]


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 16 else f"{text[:12]}…")
