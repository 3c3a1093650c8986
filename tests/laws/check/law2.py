"""Law 2: total coverage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import numpy as np

from graphsplit.formats.onnx_file import load, save
from graphsplit.graph import ArrayTensor, Tensor
from graphsplit.manifest import ParameterEntry
from graphsplit.splitting import split
from tests.laws.check.making import Array, Case, Found
from tests.laws.check.running import Runner, planned_inputs


def coverage(case: Case) -> Found:
    """Law 2: counts add up, and what the files hold and the merge gives is what the manifest claims, element by element."""
    found = Found()
    manifest, flowed = case.split.manifest, case.plan.flowed
    missing = flowed.trained - manifest.parameters.keys()
    found.check(not missing, f"the manifest says nothing of {sorted(missing)}")
    tagged = holders(case)
    merged = {name: tensor.numpy() for name, tensor in load(case.merged).tensors.items()}
    trained_parts = [load(part.file).tensors for part in case.parts]
    for name, entry in manifest.parameters.items():
        total = sum(getattr(entry.counts, kind) for kind in KINDS)
        found.check(total == entry.elements, f"{name}: the counts add up to {total} of {entry.elements} elements")
        if entry.role == "constant":
            found.check(entry.counts.constant == entry.elements, f"{name}: a constant with other elements")
            continue
        kinds, owners = claimed(case, entry)
        for kind in KINDS:
            number = int((kinds == kind).sum())
            found.check(
                number == getattr(entry.counts, kind), f"{name}: {number} elements are {kind}, and the counts differ"
            )
        _held_as_claimed(name, kinds, owners, tagged[name], found)
        slices = [tensors[name].numpy() for tensors in trained_parts]
        _merged_as_claimed(case, entry, (kinds, owners), tagged[name], slices, merged, found)
    for name in flowed.graph.tensors.keys() - flowed.trained & merged.keys():
        same = merged[name].tobytes() == flowed.graph.tensors[name].numpy().tobytes()
        found.check(same, f"the constant {name!r} came back changed")
    _unused_are_unread(case, found)
    return found


KINDS = ("owned", "output", "duplicated", "constant", "unused", "cut")


def claimed(case: Case, entry: ParameterEntry) -> tuple[Array, Array]:
    """The manifest's claim for each element of a parameter: its kind, and its owner (-1: no part alone)."""
    kinds = np.full(entry.shape, "cut", dtype="<U10")
    owners = np.full(entry.shape, -1, np.int64)
    for region in entry.regions(case.split.manifest.groups):
        place = np.ix_(*[ranges.indices() for ranges in region.axes])
        assert (kinds[place] == "cut").all(), f"{entry.name}: an element has two kinds"
        kinds[place], owners[place] = region.kind, region.owner
    return kinds, owners


def holders(case: Case) -> dict[str, list[Array]]:
    """For each parameter and part the places that the part's elements come from, as numbers of elements of the source.

    Found by splitting the network again with each parameter's elements counted through: nothing of the plan is used.
    """
    flowed, options = case.plan.flowed, case.split.manifest.options
    folder = case.merged.parent / "tagged"
    found: dict[str, list[Array]] = {}
    base = 1024  # exact in float16 too
    passes = 2 if max((np.prod(flowed.graph.tensors[n].shape) for n in flowed.trained), default=0) > base else 1
    for digit in range(passes):
        tensors: dict[str, Tensor] = dict(flowed.graph.tensors)
        for name in flowed.trained:
            numbers = np.arange(int(np.prod(tensors[name].shape))).reshape(tensors[name].shape)
            digits = numbers // base if digit else numbers % base
            tensors[name] = ArrayTensor(digits.astype(tensors[name].dtype))
        shutil.rmtree(folder, ignore_errors=True)
        again = split(
            flowed.graph.replace(tensors=tensors),
            len(case.parts),
            out=folder,
            strategy=options.strategy,
            seed=options.seed,
            shares=options.shares,
            keep=options.keep,
            trainable=sorted(flowed.trained),
        )
        for name in flowed.trained:
            digits = [load(file).tensors[name].numpy().astype(np.int64) for file in again.submodels]
            if digit:
                found[name] = [low + base * high for low, high in zip(found[name], digits, strict=True)]
            else:
                found[name] = digits
    return found


def _held_as_claimed(name: str, kinds: Array, owners: Array, tagged: Sequence[Array], found: Found) -> None:
    number = np.zeros(kinds.size, np.int64)
    last = np.full(kinds.size, -1, np.int64)
    for part, places in enumerate(tagged):
        found.check(len(np.unique(places)) == places.size, f"{name}: part {part} holds an element twice")
        number[places.ravel()] += 1
        last[places.ravel()] = part
    number, last = number.reshape(kinds.shape), last.reshape(kinds.shape)
    alone = owners >= 0
    found.check(bool((number[kinds == "cut"] == 0).all()), f"{name}: a part holds a cut element")
    mine = alone & (kinds != "cut")
    right = (number[mine] == 1) & (last[mine] == owners[mine])
    found.check(bool(right.all()), f"{name}: {int((~right).sum())} owned elements aren't with their owner alone")
    shared = ~alone & (kinds != "cut")
    found.check(bool((number[shared] == len(tagged)).all()), f"{name}: not all parts hold a shared element")


def _merged_as_claimed(
    case: Case,
    entry: ParameterEntry,
    claims: tuple[Array, Array],
    tagged: Sequence[Array],
    slices: Sequence[Array],
    merged: Mapping[str, Array],
    found: Found,
) -> None:
    """Merged elements: the owner's, Eq. 1, a copy for each part, zero."""
    kinds, _ = claims
    name = entry.name
    copies = [merged.get(name + part.suffix) for part in case.parts]
    if entry.counts.duplicated and name not in merged:
        same = all(c is not None and c.tobytes() == s.tobytes() for c, s in zip(copies, slices, strict=True))
        found.check(same or not case.plan.flowed.claims.get(name), f"{name}: the merge has no true copy for each part")
        return
    if name not in merged:
        alive = any(claim.node >= 0 for claim in case.plan.flowed.claims.get(name, ()))
        copied = all(c is not None and c.tobytes() == s.tobytes() for c, s in zip(copies, slices, strict=True))
        found.check(copied or not alive, f"{name}: the merge lost it")
        return
    total = np.zeros(kinds.size, np.float64)
    for places, values in zip(tagged, slices, strict=True):
        total[places.ravel()] += values.ravel().astype(np.float64)
    expected = total.reshape(kinds.shape)
    summed = (kinds == "owned") | ((kinds == "output") & (entry.scale == "activation"))
    expected = np.where(summed, expected, expected / len(slices)).astype(merged[name].dtype)
    exact = merged[name][kinds == "owned"].tobytes() == expected[kinds == "owned"].tobytes()
    found.check(exact, f"{name}: an owned element isn't its owner's")
    found.check(not merged[name][kinds == "cut"].any(), f"{name}: a cut element isn't zero")
    other = kinds == "output"
    close = np.allclose(merged[name][other].astype(np.float64), expected[other].astype(np.float64), 2e-3, 1e-6)
    found.check(close, f"{name}: an output element isn't what Eq. 1 gives")


def _unused_are_unread(case: Case, found: Found) -> None:
    """Changing every element that is called unused changes nothing."""
    unused = {n: e for n, e in case.split.manifest.parameters.items() if e.counts.unused}
    if not unused:
        return
    graph = case.plan.graph
    tensors: dict[str, Tensor] = dict(graph.tensors)
    for name, entry in unused.items():
        array = np.array(tensors[name].numpy())
        array[claimed(case, entry)[0] == "unused"] += 1
        tensors[name] = ArrayTensor(array)
    file = case.merged.parent / "unused.onnx"
    save(graph.replace(tensors=tensors), file, force=True)
    inputs = planned_inputs(case)
    before, after = Runner(case.model, ())(inputs), Runner(file, ())(inputs)
    for name, value in before.items():
        found.check(np.array_equal(value, after[name]), f"output {name!r} depends on elements called unused")
