"""The laws of docs/design.md as checkers: each looks at files and at values, and gives its complaints.

A checker gives a list of texts, empty where the law holds: so a test can assert that it is, and a negative control that
it isn't. `trained` is the way in: it splits a network, perturbs every parameter of every sub-model, and merges them.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from graphsplit.errors import GraphsplitError
from graphsplit.formats.onnx_file import load, save
from graphsplit.graph import ArrayTensor, Tensor
from graphsplit.labels import OUTPUT, PRIVATE
from graphsplit.manifest import ParameterEntry
from graphsplit.manifest.ranges import Group
from graphsplit.merging import merge
from graphsplit.planning import Plan
from graphsplit.selection import Selected
from graphsplit.splitting import Split, split
from tests.networks.inputs import graph_inputs, random_inputs

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
STRATEGIES = ("contiguous", "interleaved", "random")
TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-9}
"""How far a merged value may be from the mean, relative to the largest element: rounding, through all layers."""


@dataclass(frozen=True)
class Part:
    """A sub-model at the end of the tree: its file, its weight in the mean, and the splits and part numbers on the way."""

    file: Path
    weight: float
    chain: tuple[tuple[Split, int], ...]

    @property
    def suffix(self) -> str:
        """What the merged network adds to the names of this part's copies."""
        return ".part_" + ".".join(str(number) for _, number in self.chain)


@dataclass(frozen=True)
class Case:
    """A split network, its trained sub-models, and their merge."""

    model: onnx.ModelProto
    split: Split
    parts: tuple[Part, ...]
    merged: Path

    @property
    def plan(self) -> Plan:
        return self.split.plan


@dataclass
class Found:
    """What a checker has to say, and how much it looked at."""

    complaints: list[str] = field(default_factory=list)
    looked_at: int = 0

    def check(self, holds: bool, complaint: str) -> None:
        self.looked_at += 1
        if not holds:
            self.complaints.append(complaint)


# -- making cases -------------------------------------------------------------------------------------------------------


def write(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The network as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / name)
    return folder / name


def trained(
    model: onnx.ModelProto,
    k: int,
    folder: Path,
    *,
    seed: int = 0,
    strategy: str = "contiguous",
    shares: Sequence[float] | None = None,
    **options: Any,
) -> Case:
    """Split a network, perturb every parameter of every sub-model, and merge them. Raises GraphsplitError."""
    source = write(model, folder)
    done = split(source, k, out=folder / "split", strategy=strategy, seed=seed, shares=shares, **options)
    parts = tuple(Part(file, 1 / k, ((done, number),)) for number, file in enumerate(done.submodels))
    perturb_all(parts, done.plan.flowed.trained, seed)
    merge(done.folder, out=folder / "merged.onnx")
    return Case(model, done, parts, folder / "merged.onnx")


def perturb_all(parts: Sequence[Part], names: Iterable[str], seed: int = 0) -> None:
    """Perturb the parameters of each sub-model in its own way."""
    for number, part in enumerate(parts):
        perturb(part.file, names, np.random.default_rng([seed, number]))


def perturb(file: Path, names: Iterable[str], rng: np.random.Generator) -> None:
    """Change every element of these tensors, in place; what is positive stays so (a variance, a scale)."""
    change(file, {name: lambda array: perturbed(array, rng) for name in names})


def perturbed(array: Array, rng: np.random.Generator) -> Array:
    """Another tensor of the same size, sign where that is common to all elements, and magnitude."""
    noise = rng.standard_normal(array.shape)
    if (array > 0).all():
        return (array * np.exp(0.2 * noise)).astype(array.dtype)
    spread = float(np.std(array.astype(np.float64))) or 0.1
    return (array * (1 + 0.3 * noise) + 0.1 * spread * rng.standard_normal(array.shape)).astype(array.dtype)


def change(file: Path, changes: Mapping[str, Callable[[Array], Array]]) -> None:
    """Rewrite tensors of an ONNX file in place, the way a trainer would: metadata and all the rest stay."""
    graph = load(file)
    tensors: dict[str, Tensor] = {}
    for name, tensor in graph.tensors.items():
        array = np.array(tensor.numpy())
        tensors[name] = ArrayTensor(changes[name](array) if name in changes else array)
    save(graph.replace(tensors=tensors), file, force=True, metadata=dict(graph.metadata))


def refusal(make: Callable[[], object]) -> GraphsplitError | None:
    """What a call is refused with; None where it isn't. Any other exception passes."""
    try:
        make()
    except GraphsplitError as error:
        return error
    return None


# -- running ------------------------------------------------------------------------------------------------------------


class Runner:
    """A network in onnxruntime, without optimisations and on one thread, that gives every value it computes."""

    def __init__(self, model: onnx.ModelProto | Path, only: Iterable[str] | None = None) -> None:
        runtime: Any = importlib.import_module("onnxruntime")
        proto = onnx.ModelProto()
        proto.CopyFrom(onnx.load(model) if isinstance(model, Path) else model)
        declared = {value.name for value in proto.graph.output}
        computed = {name for node in proto.graph.node for name in node.output if name}
        wanted = computed if only is None else computed & set(only)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - declared))
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, inputs: Arrays) -> Arrays:
        given = {value.name: inputs[value.name] for value in self.session.get_inputs()}
        values = zip(self.outputs, self.session.run(None, given), strict=True)
        return {name: value for name, value in values if isinstance(value, np.ndarray)}


def planned_inputs(case: Case, seed: int = 1) -> Arrays:
    """Random inputs of the sizes that the split was planned with."""
    return random_inputs(case.model, seed, **dict(case.split.manifest.options.sizes))


def tolerance(model: onnx.ModelProto) -> float:
    """What rounding may do to a network of this precision."""
    types = {numpy_helper.to_array(t).dtype.name for t in model.graph.initializer}
    types |= {onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).name for v in graph_inputs(model)}
    found = [bound for name, bound in TOLERANCE.items() if name in types]
    return max(found, default=TOLERANCE["float32"])


def off(value: Array, expected: Array) -> float:
    """The largest difference, relative to the largest element expected; infinite where the values can't be compared."""
    if value.shape != expected.shape:
        return float("inf")
    if value.dtype.kind not in "fc":
        return 0.0 if np.array_equal(value, expected) else float("inf")
    if not value.size:
        return 0.0
    value, expected = value.astype(np.float64), expected.astype(np.float64)
    if not np.isfinite(expected).all():
        return 0.0 if np.array_equal(value, expected, equal_nan=True) else float("inf")
    if not np.isfinite(value).all():
        return float("inf")
    return float(np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-6))


# -- law 1: exact merge -------------------------------------------------------------------------------------------------


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
        found.check(error < tolerance(case.model), f"tap {name!r}: off the mean of the parts by {error:.1e}")


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
                found.check(
                    error < tolerance(case.model), f"output {entry.name!r} is common, and differs by {error:.1e}"
                )


def _slices(case: Case, name: str, whole: Array, pieces: Sequence[Arrays], found: Found, what: str) -> None:
    for part, values in zip(case.parts, pieces, strict=True):
        taken = held(part, name, whole)
        if taken is not None:
            error = off(values[name], taken)
            found.check(error < tolerance(case.model), f"{what} {name!r}: off by {error:.1e} in part {part.suffix}")


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
                found.check(error < tolerance(case.model), f"{name + part.suffix!r}: off by {error:.1e}")
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


# -- law 2: total coverage ------------------------------------------------------------------------------------------------


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


# -- law 3: identity ------------------------------------------------------------------------------------------------------


def same_network(one: Path, other: Path) -> Found:
    """Node by node and bit by bit the same network."""
    found = Found()
    a, b = load(one), load(other)
    for node, twin in itertools.zip_longest(a.nodes, b.nodes):
        same = node is not None and twin is not None and _node_key(node) == _node_key(twin)
        found.check(same, f"{node.title if node else twin.title if twin else ''}: not the same node")
    for what in ("inputs", "outputs", "opsets", "constant_nodes", "tensor_inputs"):
        found.check(getattr(a, what) == getattr(b, what), f"other {what}")
    found.check(a.tensors.keys() == b.tensors.keys(), "other tensors")
    for name in a.tensors.keys() & b.tensors.keys():
        x, y = a.tensors[name].numpy(), b.tensors[name].numpy()
        same = x.dtype == y.dtype and x.shape == y.shape and np.ascontiguousarray(x).tobytes() == y.tobytes()
        found.check(same, f"tensor {name!r} has other bits")
    return found


def _node_key(node: Any) -> tuple[object, ...]:
    attributes = sorted((key, repr(value)) for key, value in node.attributes.items())
    return (node.name, node.op, node.domain, node.version, node.inputs, node.outputs, attributes)


def untrained_merge(case: Case) -> Found:
    """Law 3 for a merge without training: owned elements come back bit for bit, output elements by Eq. 1, cut ones zero."""
    found = Found()
    merged = {name: tensor.numpy() for name, tensor in load(case.merged).tensors.items()}
    for name, entry in case.split.manifest.parameters.items():
        source = case.plan.graph.tensors[name].numpy()
        if name not in merged or entry.role == "constant":
            continue
        kinds, owners = claimed(case, entry)
        shared = (kinds == "output") & (owners < 0)
        back = np.isin(kinds, ["owned", "duplicated", "unused"]) | (shared & (entry.scale == "weights"))
        found.check(merged[name][back].tobytes() == source[back].tobytes(), f"{name}: an element didn't come back")
        found.check(not merged[name][kinds == "cut"].any(), f"{name}: a cut element isn't zero")
        alone = (kinds == "output") & (owners >= 0)
        total = len(case.parts) if entry.scale == "activation" else 1  # behind the op, 1/K comes later
        for which, weight in ((alone, 1 / len(case.parts)), (shared, 1.0)):
            expected = (source[which].astype(np.float64) * (weight * total)).astype(source.dtype)
            found.check(merged[name][which].tobytes() == expected.tobytes(), f"{name}: an output element isn't Eq. 1's")
    return found


# -- law 4: valid parts ---------------------------------------------------------------------------------------------------


def valid_parts(case: Case) -> Found:
    """Law 4: each sub-model passes the checker, runs, has the source's inputs and outputs, and no empty layer."""
    found = Found()
    inputs = planned_inputs(case)
    concatenated = {entry.name for entry in case.split.manifest.outputs if entry.merge == "concat"}
    for part in case.parts:
        model = onnx.load(part.file)
        try:
            onnx.checker.check_model(model, full_check=True)
        except onnx.checker.ValidationError as error:
            found.check(False, f"{part.suffix}: {error}")
        for what, ours, theirs in (
            ("inputs", model.graph.input, case.model.graph.input),
            ("outputs", model.graph.output, case.model.graph.output),
        ):
            names = [v.name for v in graph_inputs(model)] if what == "inputs" else [v.name for v in ours]
            wanted = [v.name for v in graph_inputs(case.model)] if what == "inputs" else [v.name for v in theirs]
            found.check(names == wanted, f"{part.suffix}: other {what}")
            by_name = {v.name: v for v in theirs}
            for value in ours:
                if value.name in names and value.name in by_name and value.name not in concatenated:
                    same = _signature(value) == _signature(by_name[value.name])
                    found.check(same, f"{part.suffix}: {value.name!r} is declared in another way")
        source = case.plan.graph.tensors
        for tensor in model.graph.initializer:
            full = source[tensor.name].shape if tensor.name in source else (1,)
            found.check(0 not in tensor.dims or 0 in full, f"{part.suffix}: {tensor.name!r} is empty")
        values = Runner(part.file, ())(inputs)
        for name, value in values.items():
            found.check(
                bool(value.dtype.kind != "f" or np.isfinite(value).all()), f"{part.suffix}: {name!r} isn't finite"
            )
    return found


def _signature(value: onnx.ValueInfoProto) -> tuple[object, ...]:
    kind = value.type.tensor_type
    return kind.elem_type, kind.HasField("shape"), tuple(d.dim_param or d.dim_value for d in kind.shape.dim)


# -- law 7: narrowness ----------------------------------------------------------------------------------------------------


def narrowness(case: Case) -> Found:
    """Law 7: each tensor in the files is within its share and an atom a family on every divided axis; the rest is listed."""
    found = Found()
    for done, number, file in _nodes_of_tree(case):
        tensors = load(file).tensors if file is not None else None
        for name, entry in done.manifest.parameters.items():
            if tensors is None or name not in tensors:
                continue
            _axes_within_share(done, number, entry, tuple(tensors[name].shape), found)
    for done in {id(done): done for part in case.parts for done, _ in part.chain}.values():
        _listed(done, found)
    return found


def _nodes_of_tree(case: Case) -> list[tuple[Split, int, Path | None]]:
    return [(*part.chain[-1], part.file) for part in case.parts]


def _axes_within_share(done: Split, part: int, entry: ParameterEntry, shape: tuple[int, ...], found: Found) -> None:
    groups, share = done.manifest.groups, done.plan.partition.shares[part]
    axes: list[tuple[int, int]] = [(axis, number) for axis, number in enumerate(entry.axes) if number is not None]
    if entry.blocked is not None:
        axes.extend((entry.blocked.axis, number) for number in dict.fromkeys(entry.blocked.groups))
    for axis, number in axes:
        group = groups[number]
        vertices = sum(group.width(p) - _common(group) for p in range(done.manifest.parts))
        most = vertices * share + _slack(done, entry.name, axis) + _common(group)
        found.check(
            shape[axis] <= most + 1e-9,
            f"{entry.name} axis {axis}: part {part} has {shape[axis]} of {entry.shape[axis]}, and its share is {most:.1f}",
        )


def _common(group: Group) -> int:
    """How many indices every part has."""
    return int(group.shared.size)


def _slack(done: Split, name: str, axis: int) -> int:
    """An atom a family: for each family with vertices on the axis, how many of them its atoms have there."""
    plan = done.plan
    parameter = plan.parameters.get(name)
    if parameter is None:
        return 0
    vectors = [parameter.labels[axis]]
    if parameter.blocked is not None and parameter.blocked.axis == axis:
        vectors = list(parameter.blocked.labels)
    total = 0
    for vector in vectors:
        if vector is None:
            continue
        classes, number = np.unique(vector[vector > 0], return_counts=True)
        of = dict(zip(classes.tolist(), number.tolist(), strict=True))
        slack = sum(max((of.get(int(a), 0) for a in f.atoms), default=0) for f in plan.partition.structure.families)
        total = max(total, slack)
    return total


def _listed(done: Split, found: Found) -> None:
    """A tensor that is copied, or whole in every part for another reason than an output's, belongs to a listed node."""
    manifest, flowed = done.manifest, done.plan.flowed
    notes = {note.node: note.reason for note in (*manifest.repeated, *manifest.private)}
    found.check(all(notes.values()), "a node is listed without a reason")
    divided = False
    for name, entry in manifest.parameters.items():
        divided |= entry.role == "owned"
        if entry.role != "duplicated":
            continue
        nodes = {flowed.graph.nodes[c.node].title for c in flowed.claims.get(name, ()) if c.node >= 0}
        found.check(
            bool(nodes & notes.keys()), f"{name} is copied, and none of {sorted(nodes)} is listed with a reason"
        )
    found.check(divided, "no layer is divided")
