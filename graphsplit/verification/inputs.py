"""What networks are run on: random inputs at several sizes of their dynamic axes, or arrays that were given.

The networks are those of evaluation mode: nothing is drawn for what only training reads.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphsplit.errors import FormatError, GraphsplitError
from graphsplit.facts import Facts
from graphsplit.formats.onnx_sizes import BATCHES, LENGTHS, mended, symbols, unshaped
from graphsplit.graph import Array, Graph, Value
from graphsplit.network import Network
from graphsplit.verification.lookups import rows_of

__all__ = ["Draw", "draws", "elsewhere", "given"]

Kind = Literal["uniform", "normal"]
LONGER = (64, 224, 512, 1024, 4000, 16000)
TRIES = 8
"""How many other lengths are tried for dynamic axes before one is left as it is."""


@dataclass(frozen=True)
class Draw:
    """Inputs of a network by name, and what messages call them; `spare` ones are for where others don't run."""

    title: str
    arrays: Mapping[str, Array]
    given: bool = False
    spare: bool = False


def draws(network: Network, start: Mapping[str, int] | None = None) -> tuple[list[Draw], list[str]]:
    """Random inputs at two sizes of every dynamic axis, and remarks on axes that allow no second size.

    `start` are sizes to begin with instead of those that the split was planned with.

    Raises GraphsplitError where an input can't be drawn.
    """
    sizes, remarks = _sizes(network, {**network.sizes, **(start or {})})
    caps = _caps(network)
    found: list[Draw] = []
    for number, (chosen, spare) in enumerate(sizes):
        kinds: Sequence[Kind] = ("uniform", "normal") if number == 0 else ("normal",) if number % 2 else ("uniform",)
        for kind in kinds:
            rng = np.random.default_rng((11, number, len(found)))
            arrays = {v.name: _array(v, chosen, kind, caps.get(v.name), rng) for v in network.graph.inputs}
            found.append(Draw(f"{kind} inputs{_named(chosen)}", arrays, spare=spare))
    return found, remarks


def _named(sizes: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name}={size}" for name, size in list(sizes.items())[:6])
    return f" with {shown}" if shown else ""


# -- sizes ------------------------------------------------------------------------------------------------------


def _sizes(network: Network, first: dict[str, int]) -> tuple[list[tuple[dict[str, int], bool]], list[str]]:
    """The first sizes, and others: as many as it takes to see two of every dynamic axis; and which of them are spare."""
    batches, lengths = symbols(network.graph)
    if not first:
        return [({}, False)], []
    allowed = unshaped(network.facts)

    def evaluate(sizes: Mapping[str, int]) -> Facts:
        return network.dialect.evaluate(network.graph, sizes, network.trained)

    def fits(sizes: Mapping[str, int]) -> bool:
        return unshaped(evaluate(sizes)) <= allowed

    batch = {name: next(b for b in (3, *BATCHES) if b != first[name]) for name in batches}
    other = _other_lengths(first, lengths, fits)
    whole = {**first, **batch, **other}
    found, remarks = [(first, False)], []
    fitting = whole != first and fits(whole)
    if whole != first and not fitting:  # axes may hang together, such as a batch and all neighbours in it
        whole = mended(network.graph, evaluate, whole, lambda name, size: size != first[name])
        fitting = fits(whole)
    stuck = [name for name in lengths if name not in other and not (fitting and whole[name] != first[name])]
    if stuck:
        remarks.append(f"no second size that fits was found for {', '.join(stuck)}")
    if fitting:
        found.append((whole, False))
    if not fitting or (batch and other):
        for change in (batch, other):
            if change and fits({**first, **change}):
                found.append(({**first, **change}, fitting))
            elif change:
                remarks.append(f"the source's own shapes don't fit {_named(change).removeprefix(' with ')}")
    mixed = {**first, **dict(list(other.items())[1::2])}
    if len(other) > 1 and mixed not in [sizes for sizes, _ in found] and fits(mixed):
        found.append((mixed, False))
    return found, remarks


def _other_lengths(
    first: Mapping[str, int], lengths: Sequence[str], fits: Callable[[Mapping[str, int]], bool]
) -> dict[str, int]:
    """Another size for the dynamic axes that are no batch: the same for all of them if that fits, else one by one."""
    if not lengths:
        return {}
    least = min(first[name] for name in lengths)
    order = sorted(LENGTHS, key=lambda size: (size < least, abs(np.log(size / max(least, 1)))))
    for size in [s for s in order if all(s != first[name] for name in lengths)][:TRIES]:
        if fits({**first, **dict.fromkeys(lengths, size)}):
            return dict.fromkeys(lengths, size)
    found: dict[str, int] = {}
    for name in lengths if len(lengths) > 1 else ():
        one = next((s for s in order[:TRIES] if s != first[name] and fits({**first, name: s})), None)
        if one is not None:
            found[name] = one
    return found


def elsewhere(network: Network) -> list[dict[str, int]]:
    """Sizes to try where a network doesn't run on those that its shapes allow: a batch of one, greater lengths."""
    batches, lengths = symbols(network.graph)
    one = dict.fromkeys(batches, 1)
    found = [one, *(dict.fromkeys(lengths, size) for size in LONGER if lengths)]
    found += [{**one, **sizes} for sizes in found[1:] if one]
    return [sizes for sizes in found if sizes and any(network.sizes[name] != size for name, size in sizes.items())]


# -- random arrays ----------------------------------------------------------------------------------------------


def _array(value: Value, sizes: Mapping[str, int], kind: Kind, cap: int | None, rng: np.random.Generator) -> Array:
    shape = tuple(
        dim if isinstance(dim, int) else sizes[dim if isinstance(dim, str) else f"{value.name}:{axis}"]
        for axis, dim in enumerate(value.shape or ())
    )
    dtype = value.dtype
    if dtype.kind in "iu":
        whole = rng.integers(0, min(cap or 2, int(np.iinfo(dtype.name).max)), shape)
        if cap is None and whole.ndim:
            whole[..., :1] = 1  # a mask leaves something, a length isn't zero
        return whole.astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind not in "fV":
        raise GraphsplitError(
            f"input {value.name!r} holds {dtype} elements, for which there are no random ones",
            hint="give the inputs to verify with: --inputs x.npz",
        )
    drawn = rng.random(shape) if kind == "uniform" else rng.standard_normal(shape)
    return drawn.astype(dtype)


def _caps(network: Network) -> dict[str, int]:
    """For each input of whole numbers that looks up rows of tables the rows of the smallest one."""
    rows = {
        value.name: rows_of(network.graph, network.facts, value.name)
        for value in network.graph.inputs
        if value.dtype.kind in "iu"
    }
    return {name: count for name, count in rows.items() if count is not None}


# -- given arrays -----------------------------------------------------------------------------------------------


def given(graph: Graph, inputs: str | os.PathLike[str] | Mapping[str, Array]) -> Draw:
    """Inputs from an .npz file or by name, checked against the network's.

    Raises FormatError for a file that isn't one, GraphsplitError for names, types or shapes that don't fit.
    """
    arrays = dict(inputs) if isinstance(inputs, Mapping) else _read(inputs)
    names = [value.name for value in graph.inputs]
    unknown = sorted(arrays.keys() - set(names))
    missing = [name for name in names if name not in arrays]
    if unknown or missing:
        what = f"{unknown[0]!r} is no input of the network" if unknown else f"input {missing[0]!r} is not given"
        raise GraphsplitError(what, hint=f"its inputs are {', '.join(map(repr, names))}")
    for value in graph.inputs:
        array = arrays[value.name] = np.asarray(arrays[value.name])
        if array.dtype != value.dtype:
            hint = f"save it with .astype({value.dtype.name!r})"
            raise GraphsplitError(
                f"input {value.name!r} has type {array.dtype}, and {value.dtype} is wanted", hint=hint
            )
        wanted = value.shape
        fits = wanted is None or (
            array.ndim == len(wanted)
            and all(not isinstance(dim, int) or dim == size for dim, size in zip(wanted, array.shape, strict=True))
        )
        if not fits:
            shown = "?" if wanted is None else ", ".join("?" if d is None else str(d) for d in wanted)
            raise GraphsplitError(f"input {value.name!r} has shape {list(array.shape)}, and [{shown}] is wanted")
    return Draw("the given inputs", arrays, given=True)


def _read(path: str | os.PathLike[str]) -> dict[str, Array]:
    name = os.fspath(path)
    hint = "save the inputs with numpy.savez(path, name=array, …), arrays of numbers only"
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FormatError(f"{name!r} holds one array without a name", hint=hint)
        with file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"cannot read {name!r} as an .npz file: {error}", hint=hint) from error
