"""Law 6: the order of the sub-models doesn't matter, and the same input, options and seed give the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphsplit.merging
import graphsplit.partition
from graphsplit.labels.arrays import Ids
from graphsplit.merging import merge
from graphsplit.splitting import split
from tests.laws.cases import ALL, REFUSALS
from tests.laws.check import trained, write

ORDERED = [name for name in ALL if (name, 3) not in REFUSALS][::8]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ORDERED)
def test_order_of_arguments(tmp_path: Path, name: str) -> None:
    case = trained(ALL[name](), 3, tmp_path)
    files = [part.file for part in case.parts]
    for order in ([2, 1, 0], [1, 2, 0]):
        merge(case.split.folder, [files[i] for i in order], out=tmp_path / "again.onnx", force=True)
        assert (tmp_path / "again.onnx").read_bytes() == case.merged.read_bytes()


@pytest.mark.parametrize("strategy", ["contiguous", "interleaved", "random"])
def test_twice_gives_the_same_bytes(tmp_path: Path, strategy: str) -> None:
    source = write(ALL["resnet_basic"](), tmp_path)
    for name in ("a", "b"):
        split(source, 3, out=tmp_path / name, strategy=strategy, seed=5)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    source = write(ALL["lenet"](), tmp_path)
    for seed in (0, 1):
        split(source, 2, out=tmp_path / str(seed), strategy="random", seed=seed)
    assert digests(tmp_path / "0") != digests(tmp_path / "1")


PROGRAM = """
import sys
from pathlib import Path
from graphsplit.errors import GraphsplitError
from tests.laws.cases import ALL, REFUSALS, make, make_seed
folder = Path(sys.argv[1])
for index, name in enumerate(ALL):
    k = (2, 3, 4, "uneven")[index // 8 % 4]
    if index % 8 == 0 and (name, k) not in REFUSALS:
        make(name, k, folder / name)
for seed in (0, 1, 3, 4, 5, 6):
    make_seed(seed, folder / str(seed))
"""


def test_any_hash_seed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / hash_seed], env=environment, check=True, timeout=500)
    first, second = digests(tmp_path / "0"), digests(tmp_path / "1")
    assert len(first) > 100
    assert first == second


# -- negative controls ------------------------------------------------------------------------------------------------------


def test_parts_taken_by_position_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = trained(ALL["lenet"](), 2, tmp_path)
    right = graphsplit.merging.match_parts

    def by_position(manifest: object, given: list[object], **options: object) -> object:
        return right(manifest, given, **options)[::-1]  # type: ignore[arg-type, index]

    monkeypatch.setattr(graphsplit.merging, "match_parts", by_position)
    merge(case.split.folder, out=tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() != case.merged.read_bytes()


def test_an_unseeded_choice_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unseeded = np.random.default_rng()

    def careless(atoms: int, sizes: Ids, rng: np.random.Generator) -> Ids:
        return unseeded.permutation(graphsplit.partition._contiguous(atoms, sizes, rng))

    monkeypatch.setitem(graphsplit.partition.STRATEGIES, "random", careless)
    source = write(ALL["lenet"](), tmp_path)
    for name in ("a", "b"):
        split(source, 2, out=tmp_path / name, strategy="random")
    assert digests(tmp_path / "a") != digests(tmp_path / "b")
