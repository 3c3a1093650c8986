"""Law 1: exact merge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsplit.labels import OUTPUT, PRIVATE
from graphsplit.selection import Selected
from tests.laws.check.making import Array, Arrays, Case, Found, Part
from tests.laws.check.running import Runner, off, planned_inputs
from tests.networks.inputs import random_inputs


def exact_merge(case: Case, *, inside: bool = True) -> Found:
    """Law 1: each tap is the weighted mean, each concatenated output holds the parts' slices, and outputs follow from taps.

    With `inside`, also every value of the merged network that stands for labelled, common or private ones in the parts.
    """
    found = Found()
    only = (
        None
        if inside
        else {*case.split.manifest.taps, *_sums_behind_taps(case), *(v.name for v in case.model.graph.output)}
    )
    merged, parts = Runner(case.merged, only), [Runner(part.file, only) for part in case.parts]
    others = random_inputs(case.model, 2, **{**dict(case.split.manifest.options.sizes), "batch": 3})
    for inputs in (planned_inputs(case), others):
        whole, pieces = merged(inputs), [run(inputs) for run in parts]
        _taps(case, whole, pieces, found)
        _concatenated(case, whole, pieces, found)
        found.check(found.looked_at > 0, "there is neither a tap nor a concatenated output to compare")
        if inside and inputs is not others:
            _inside(case, whole, pieces, found)
            _behind_taps(case, whole, inputs, found)
    return found


def _taps(case: Case, whole: Arrays, pieces: Sequence[Arrays], found: Found) -> None:
    for name in dict.fromkeys((*case.split.manifest.taps, *_sums_behind_taps(case))):
        if name not in whole:
            found.check(False, f"tap {name!r}: the merged network has no such value")
            continue
        mean = sum(
            part.weight * values[name].astype(np.float64) for part, values in zip(case.parts, pieces, strict=True)
        )
        error = off(whole[name], np.asarray(mean))
        found.check(error < case.tolerance, f"tap {name!r}: off the mean of the parts by {error:.1e}")


def _sums_behind_taps(case: Case) -> list[str]:
    """Taps plus parameters: a bias that is added behind an output layer. Still the mean of the parts."""
    flowed = case.plan.flowed
    linear = set(case.split.manifest.taps)
    found = []
    for i in sorted(flowed.tail):
        node = flowed.graph.nodes[i]
        trained = [name in flowed.last.derived for name in node.inputs]
        if any(trained) and all(t or name in linear for t, name in zip(trained, node.inputs, strict=True)):
            linear.update(node.outputs)
            found.extend(node.outputs)
    return found


def _concatenated(case: Case, whole: Arrays, pieces: Sequence[Arrays], found: Found) -> None:
    for entry in case.split.manifest.outputs:
        if entry.merge == "concat":
            _slices(case, entry.name, whole[entry.name], pieces, found, "output")
        elif entry.merge == "common":
            for values in pieces:
                error = off(values[entry.name], whole[entry.name])
                found.check(error < case.tolerance, f"output {entry.name!r} is common, and differs by {error:.1e}")


def _slices(case: Case, name: str, whole: Array, pieces: Sequence[Arrays], found: Found, what: str) -> None:
    for part, values in zip(case.parts, pieces, strict=True):
        taken = held(part, name, whole)
        if taken is not None:
            error = off(values[name], taken)
            found.check(error < case.tolerance, f"{what} {name!r}: off by {error:.1e} in part {part.suffix}")


def held(part: Part, name: str, whole: Array) -> Array | None:
    """The elements of a value that a part has, by the labels; None where they're no rectangle."""
    for done, number in part.chain:
        labels = done.plan.flowed.labels.get(name)
        if labels is None:
            return None
        chosen: Selected = done.plan.select(labels, number)
        if chosen.ragged:
            return None
        for axis, indices in enumerate(chosen.axes):
            whole = whole if indices is None else whole.take(indices, axis=axis)
    return whole


def _codes(case: Case, name: str) -> set[int]:
    chain = {id(done): done for part in case.parts for done, _ in part.chain}
    found = [done.plan.flowed.labels[name].core for done in chain.values() if name in done.plan.flowed.labels]
    return {min(int(code), 1) for core in found for code in np.unique(core)}


def _inside(case: Case, whole: Arrays, pieces: Sequence[Arrays], found: Found) -> None:
    """Values in front of the output layers: slices of whole ones, and each part's copy of repeated ones."""
    flowed = case.plan.flowed
    behind = {name for i in flowed.tail | flowed.last.layout.frontier for name in flowed.graph.nodes[i].outputs}
    tail = {name for i in flowed.tail for name in flowed.graph.nodes[i].outputs}
    averaged = {name for part in case.parts for done, _ in part.chain for name in done.manifest.averaged}
    for name in flowed.labels:
        for part, values in zip(case.parts, pieces, strict=True):
            copy = whole.get(name + part.suffix)
            if copy is not None and name in values and name not in tail:
                error = off(copy, values[name])
                found.check(error < case.tolerance, f"{name + part.suffix!r}: off by {error:.1e}")
        if flowed.facts[name].data is not None:
            continue  # sizes: a width goes into them, and they are right where what they shape is
        known = name in whole and all(name in values for values in pieces) and name not in averaged
        if known and not _codes(case, name) & {OUTPUT, PRIVATE} and not (name in behind and _codes(case, name) == {0}):
            _slices(case, name, whole[name], pieces, found, "value")


def _behind_taps(case: Case, whole: Arrays, inputs: Arrays, found: Found) -> None:
    """The source's nodes behind the output layers, run on the merged network's values in front of them, give its outputs."""
    flowed = case.plan.flowed
    graph = flowed.graph
    stop = {*case.split.manifest.taps, *(v.name for v in graph.inputs), *graph.tensors}
    wanted = [entry.name for entry in case.split.manifest.outputs if entry.merge == "mean"]
    nodes: set[int] = set()
    given: set[str] = set()
    waiting = [n for n in wanted if n not in stop and graph.producers.get(n) not in case.plan.part_nodes]
    if not waiting:
        return
    while waiting:
        index = graph.producers[waiting.pop()]
        if index in nodes:
            continue
        nodes.add(index)
        for name in graph.nodes[index].inputs:
            if not name or name in graph.tensors:
                continue
            producer = graph.producers.get(name)
            if name in stop or producer is None or producer not in flowed.tail - case.plan.part_nodes:
                given.add(name)
            else:
                waiting.append(name)
    loose = [name for name in given - stop if _codes(case, name) & {OUTPUT, PRIVATE}]
    found.check(not loose, f"outputs depend on values that are neither tap nor divided: {loose}")
    tail = onnx.ModelProto()
    tail.CopyFrom(case.model)
    del tail.graph.node[:], tail.graph.input[:], tail.graph.output[:], tail.graph.initializer[:]
    results = {name for i in nodes for name in graph.nodes[i].outputs}
    tail.graph.node.extend(n for n in case.model.graph.node if n.op_type == "Constant" or set(n.output) & results)
    tail.graph.initializer.extend(onnx.load(case.merged).graph.initializer)
    made = {name for node in tail.graph.node for name in node.output}
    feeds = {name: whole.get(name, inputs.get(name)) for name in sorted(given - made)}
    absent = [name for name, array in feeds.items() if array is None]
    found.check(not absent, f"the merged network lacks values in front of its outputs: {absent}")
    if absent:
        return
    for name, array in feeds.items():
        assert array is not None
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tail.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim))
    tail.graph.output.extend(v for v in case.model.graph.output if v.name in results)
    values = Runner(tail, ())({name: array for name, array in feeds.items() if array is not None})
    for name in wanted:
        if name in values:
            error = off(whole[name], values[name])
            found.check(
                error < 1e-6, f"output {name!r} isn't what the source computes from the taps: off by {error:.1e}"
            )
