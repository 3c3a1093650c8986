"""graphsplit.splitting: what a split writes, and that a refused one writes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphsplit.errors import GraphsplitError, PlanError
from graphsplit.formats.onnx_file import load
from graphsplit.manifest import Manifest
from graphsplit.splitting import split
from tests.laws.check import write
from tests.networks import NETWORKS, REFUSED


@pytest.fixture
def lenet(tmp_path: Path) -> Path:
    return write(NETWORKS["lenet"](), tmp_path)


def test_the_folder(lenet: Path, tmp_path: Path) -> None:
    done = split(lenet, 2, out=tmp_path / "out")
    assert sorted(p.name for p in done.folder.iterdir()) == [
        "manifest.json",
        "source.onnx",
        "submodel_0.onnx",
        "submodel_1.onnx",
    ]
    assert Manifest.read(done.folder) == done.manifest
    assert (done.folder / "source.onnx").stat().st_size < 0.05 * lenet.stat().st_size


def test_parts_carry_their_number_and_split(lenet: Path, tmp_path: Path) -> None:
    done = split(lenet, 2, out=tmp_path / "out")
    for number, file in enumerate(done.submodels):
        metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
        assert str(number) in metadata.values()
        assert done.manifest.split in metadata.values()


def test_slices_are_the_sources(lenet: Path, tmp_path: Path) -> None:
    done = split(lenet, 2, out=tmp_path / "out")
    source = load(lenet)
    for part, file in enumerate(done.submodels):
        for name, tensor in load(file).tensors.items():
            if name in done.manifest.parameters:
                expected = done.manifest.selection(name, part).take(source.tensors[name].numpy())
                assert np.array_equal(tensor.numpy(), expected)


def test_the_input_is_left_alone(lenet: Path, tmp_path: Path) -> None:
    before = lenet.read_bytes()
    split(lenet, 2, out=tmp_path / "out")
    assert lenet.read_bytes() == before


def test_an_existing_folder_is_refused_without_force(lenet: Path, tmp_path: Path) -> None:
    split(lenet, 2, out=tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(GraphsplitError):
        split(lenet, 3, out=tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert split(lenet, 3, out=tmp_path / "out", force=True).manifest.parts == 3
    assert len(list((tmp_path / "out").glob("submodel_*"))) == 3


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_split_leaves_nothing(tmp_path: Path, name: str) -> None:
    source = write(REFUSED[name][0](), tmp_path)
    with pytest.raises(GraphsplitError):
        split(source, 2, out=tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_unknown_initialisation(lenet: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no initialisation 'zero'"):
        split(lenet, 2, out=tmp_path / "out", init="zero")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_rescaled_weights_make_up_for_their_fan_in(lenet: Path, tmp_path: Path) -> None:
    """Hidden weights grow by the square root of what their fan-in shrinks by; output weights and first layers don't."""
    plain, scaled = (split(lenet, 2, out=tmp_path / init, init=init) for init in ("keep", "rescale"))  # type: ignore[arg-type]
    assert plain.manifest.groups == scaled.manifest.groups
    gains = {}
    for name, tensor in load(plain.submodels[0]).tensors.items():
        if name in plain.manifest.parameters:
            ratio = load(scaled.submodels[0]).tensors[name].numpy() / tensor.numpy()
            assert np.ptp(ratio) < 1e-5
            gains[name] = round(float(ratio.mean()), 3)
    counts = {name: entry.counts for name, entry in plain.manifest.parameters.items()}
    assert {n for n, g in gains.items() if g == 1.414} == {n for n, c in counts.items() if c.cut}
    assert {g for n, g in gains.items() if not counts[n].cut} == {1.0}
