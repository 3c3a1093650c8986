"""Law 3: one part is the network itself, and what wasn't trained comes back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphsplit.merging import merge
from graphsplit.splitting import Split, split
from tests.laws.cases import ALL, REFUSALS
from tests.laws.check import Array, Case, Part, change, refusal, same_network, untrained_merge, write
from tests.networks.generate import random_network
from tests.turns import every_other

DIVIDED = [(name,) for name in ALL if (name, 2) not in REFUSALS]


def split_of(model: onnx.ModelProto, k: int, folder: Path) -> Split:
    return split(write(model, folder), k, out=folder / "split")


def untrained(model: onnx.ModelProto, k: int, folder: Path) -> Case:
    done = split_of(model, k, folder)
    merge(done.folder, out=folder / "merged.onnx")
    return Case(
        model, done, tuple(Part(f, 1 / k, ((done, i),)) for i, f in enumerate(done.submodels)), folder / "merged.onnx"
    )


@pytest.mark.parametrize("name", every_other(DIVIDED, 0))
def test_one_part_is_the_network(tmp_path: Path, name: str) -> None:
    done = split_of(ALL[name](), 1, tmp_path)
    for found in (done.submodels[0], merge(done.folder, out=tmp_path / "merged.onnx").path):
        assert found is not None
        assert not same_network(tmp_path / "model.onnx", found).complaints


@pytest.mark.parametrize("seed", range(12))
def test_one_part_of_a_generated_network(tmp_path: Path, seed: int) -> None:
    done = split_of(random_network(seed), 1, tmp_path)
    assert not same_network(tmp_path / "model.onnx", done.submodels[0]).complaints


@pytest.mark.parametrize("name", every_other(DIVIDED, 1))
def test_untrained_elements_come_back(tmp_path: Path, name: str) -> None:
    found = untrained_merge(untrained(ALL[name](), 2, tmp_path))
    assert not found.complaints, found.complaints[:5]
    assert found.looked_at


@pytest.mark.parametrize("seed", range(1, 60, 5))
def test_untrained_elements_of_generated_networks_come_back(tmp_path: Path, seed: int) -> None:
    made: list[Case] = []
    error = refusal(lambda: made.append(untrained(random_network(seed), 3, tmp_path)))
    assert error is None or "no whole numbers" in error.message
    assert not [text for case in made for text in untrained_merge(case).complaints]


# -- negative controls ------------------------------------------------------------------------------------------------------


def next_float(array: Array) -> Array:
    array.flat[0] = np.nextafter(array.flat[0], np.inf, dtype=array.dtype)
    return array


def test_one_other_bit_is_reported(tmp_path: Path) -> None:
    done = split_of(ALL["lenet"](), 1, tmp_path)
    name = next(iter(done.manifest.parameters))
    change(done.submodels[0], {name: next_float})
    assert same_network(tmp_path / "model.onnx", done.submodels[0]).complaints == [f"tensor {name!r} has other bits"]


@pytest.mark.parametrize("what", ["name", "attribute", "missing"])
def test_another_node_is_reported(tmp_path: Path, what: str) -> None:
    done = split_of(ALL["lenet"](), 1, tmp_path)
    model = onnx.load(done.submodels[0])
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    if what == "name":
        node.name += "x"
    elif what == "attribute":
        next(a for a in node.attribute if a.name == "pads").ints[0] += 1
    else:
        model.graph.node.append(onnx.helper.make_node("Identity", [model.graph.input[0].name], ["more"]))
    onnx.save(model, done.submodels[0])
    assert any(
        "not the same node" in text for text in same_network(tmp_path / "model.onnx", done.submodels[0]).complaints
    )


@pytest.mark.parametrize("kind", ["owned", "output"])
def test_an_element_that_does_not_come_back_is_reported(tmp_path: Path, kind: str) -> None:
    case = untrained(ALL["lenet"](), 2, tmp_path)
    assert not untrained_merge(case).complaints
    name = next(n for n, e in case.split.manifest.parameters.items() if getattr(e.counts, kind))
    change(case.merged, {name: next_float})
    assert untrained_merge(case).complaints
