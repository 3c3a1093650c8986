"""Cases: a network split, its sub-models perturbed, and merged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from graphsplit.errors import GraphsplitError
from graphsplit.formats.onnx_file import load, save
from graphsplit.graph import ArrayTensor, Tensor
from graphsplit.merging import merge
from graphsplit.planning import Plan
from graphsplit.splitting import Split, split
from tests.networks.inputs import graph_inputs

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
STRATEGIES = ("contiguous", "interleaved", "random")
TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-9}
"""How far a merged value may be from the mean, relative to the largest element: rounding, through all layers."""


def tolerance(model: onnx.ModelProto) -> float:
    """What rounding may do to a network of this precision."""
    types = [tensor.data_type for tensor in model.graph.initializer]
    types += [value.type.tensor_type.elem_type for value in graph_inputs(model)]
    names = {onnx.helper.tensor_dtype_to_np_dtype(number).name for number in set(types)}
    return max((bound for name, bound in TOLERANCE.items() if name in names), default=TOLERANCE["float32"])


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

    @functools.cached_property
    def tolerance(self) -> float:
        """What rounding may do to this network."""
        return tolerance(self.model)


@dataclass
class Found:
    """What a checker has to say, and how much it looked at."""

    complaints: list[str] = field(default_factory=list)
    looked_at: int = 0

    def check(self, holds: bool, complaint: str) -> None:
        self.looked_at += 1
        if not holds:
            self.complaints.append(complaint)


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
