"""Law 7: K full copies would keep law 1, so parts are narrow: law 1's tests assert it too, and shares are pinned here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from graphsplit.network import prepare
from graphsplit.options import Choices
from graphsplit.splitting import describe
from tests.laws.cases import ALL, REFUSALS, make_seed
from tests.laws.check import STRATEGIES, narrowness, trained, write

SHARES = Path(__file__).parents[1] / "golden" / "shares.txt"
"""Largest part's share of the parameters in percent, for each network in two parts. May fall, and must not rise."""


def pinned() -> dict[str, float]:
    return {name: float(share) for name, share in (line.split() for line in SHARES.read_text().splitlines())}


def share(folder: Path, name: str, k: int = 2) -> float:
    """The largest part's share of a network's parameters, in percent; no part is written."""
    turn = list(ALL).index(name)
    chosen = Choices.of({"strategy": STRATEGIES[turn % len(STRATEGIES)], "seed": turn})
    network = prepare(write(ALL[name](), folder), **chosen.preparing)
    plan, submodels = chosen.narrowed(network, k)
    manifest = describe(network, plan, chosen.record(network, plan), submodels)
    whole = sum(entry.elements for entry in manifest.parameters.values() if entry.role != "constant")
    return 100 * max(submodel.elements for submodel in manifest.submodels) / whole


@pytest.mark.parametrize("name", [name for name in ALL if (name, 2) not in REFUSALS])
def test_shares_do_not_rise(tmp_path: Path, name: str) -> None:
    assert share(tmp_path, name) <= pinned()[name] + 0.01


def test_one_part_has_all_and_two_have_less(tmp_path: Path) -> None:
    assert share(tmp_path, "lenet", 1) == 100
    assert 25 <= share(tmp_path, "lenet", 2) < 26


@pytest.mark.parametrize("seed", range(0, 60, 12))
def test_generated(tmp_path: Path, seed: int) -> None:
    found = narrowness(make_seed(seed, tmp_path))
    assert not found.complaints
    assert found.looked_at > 3


def test_kept_layers_are_listed(tmp_path: Path) -> None:
    node = next(n for n in ALL["lenet"]().graph.node if "conv2" in n.name)
    case = trained(ALL["lenet"](), 2, tmp_path, keep=[node.name])
    assert not narrowness(case).complaints
    assert any(node.name in note.node and "kept" in note.reason for note in case.split.manifest.private)


# -- negative controls ------------------------------------------------------------------------------------------------------


def test_full_copies_are_reported(tmp_path: Path) -> None:
    """Each part is the whole network: law 1 would hold."""
    case = trained(ALL["lenet"](), 2, tmp_path)
    assert not narrowness(case).complaints
    for part in case.parts:
        onnx.save(case.model, part.file)
    divided = {n for n, e in case.split.manifest.parameters.items() if any(axis is not None for axis in e.axes)}
    complaints = narrowness(case).complaints
    assert all(any(text.startswith(f"{name} axis") for text in complaints) for name in divided - {"fc2.bias"})


def test_one_layer_too_wide_is_reported(tmp_path: Path) -> None:
    case = trained(ALL["lenet"](), 2, tmp_path)
    model = onnx.load(case.parts[0].file)
    tensor = next(t for t in model.graph.initializer if t.name.startswith("conv2") and len(t.dims) == 1)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(array.repeat(2), tensor.name))
    onnx.save(model, case.parts[0].file)
    assert any(text.startswith(tensor.name) for text in narrowness(case).complaints)


def test_copies_that_are_not_listed_are_reported(tmp_path: Path) -> None:
    case = trained(ALL["batch_norm_on_input"](), 2, tmp_path)
    assert not narrowness(case).complaints
    silent = replace(case.split.manifest, repeated=(), private=())
    wrong = replace(case, split=replace(case.split, manifest=silent))
    wrong = replace(wrong, parts=tuple(replace(p, chain=((wrong.split, i),)) for i, p in enumerate(case.parts)))
    assert any("is listed with a reason" in text for text in narrowness(wrong).complaints)


def test_nothing_divided_is_reported(tmp_path: Path) -> None:
    case = trained(ALL["lenet"](), 2, tmp_path)
    copied = {n: replace(e, role="duplicated") for n, e in case.split.manifest.parameters.items()}
    wrong = replace(case.split, manifest=replace(case.split.manifest, parameters=copied))
    parts = tuple(replace(p, chain=((wrong, i),)) for i, p in enumerate(case.parts))
    assert "no layer is divided" in narrowness(replace(case, split=wrong, parts=parts)).complaints
