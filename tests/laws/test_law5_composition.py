"""Law 5: a sub-model can be split again; merged leaves have the products of 1/K along their paths as weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import graphsplit.merging
from graphsplit.errors import GraphsplitError
from graphsplit.merging import merge
from graphsplit.splitting import Split, split
from tests.laws.cases import ALL, REFUSALS
from tests.laws.check import Case, Part, exact_merge, perturb_all, refusal, write

NESTED = [name for name in ALL if (name, 2) not in REFUSALS]
REASONS = ("no whole numbers satisfy the equal counts", "no hidden layer", "are only known", "split the whole network")

TOO_NARROW = {"shufflenet_v1_g3"}
"""Networks of which a sub-model is refused: too few filters are left in its groups."""

SEVERAL_AXES = {"multi_query", "rotary_steps"}
"""Networks whose inner split divides a value along another axis than the outer one, which the merge refuses."""


class Tree:
    """A tree of splits, its trained leaves, and the arguments that merge it."""

    def __init__(self, name: str, shape: str, folder: Path, seed: int = 0) -> None:
        self.model, self.folder = ALL[name](), folder
        self.root = split(write(self.model, folder), len(shape), out=folder / "root")
        self.inner: list[tuple[Split, list[Part]]] = []
        self.leaves: list[Part] = []
        self.arguments: list[Path] = []
        for number, kind in enumerate(shape):
            part = Part(self.root.submodels[number], 1 / len(shape), ((self.root, number),))
            leaves = self.again(part, kind, folder / f"again_{number}")
            self.leaves.extend(leaves)
            self.arguments.append(leaves[0].file if kind == "." else folder / f"again_{number}")
        perturb_all(self.leaves, self.root.plan.flowed.trained, seed)

    def again(self, part: Part, kind: str, folder: Path) -> list[Part]:
        if kind == ".":
            return [part]
        done = split(part.file, 2, out=folder)
        leaves = []
        for number, file in enumerate(done.submodels):
            leaf = Part(file, part.weight / 2, (*part.chain, (done, number)))
            leaves.append(leaf)
        self.inner.append((done, leaves))
        return leaves

    def merged(self) -> Case:
        """The whole tree merged at once."""
        merge(self.root.folder, self.arguments, out=self.folder / "merged.onnx", force=True)
        return Case(self.model, self.root, tuple(self.leaves), self.folder / "merged.onnx")

    def level(self, done: Split, parts: list[Part]) -> Case:
        """One inner split merged by itself."""
        leaves = [replace(p, weight=1 / 2, chain=p.chain[-1:]) for p in parts]
        file = self.folder / "level.onnx"
        merge(done.folder, out=file, force=True)
        return Case(self.model, done, tuple(leaves), file)


def tree(name: str, shape: str, folder: Path) -> Tree | None:
    """None where a sub-model is too narrow to be split again."""
    made: list[Tree] = []
    error = refusal(lambda: made.append(Tree(name, shape, folder)))
    assert error is None or any(reason in error.message for reason in REASONS), error
    return made[0] if made else None


@pytest.mark.parametrize(("index", "name"), list(enumerate(NESTED))[::3])
def test_the_tree_merges_exactly(tmp_path: Path, index: int, name: str) -> None:
    shape = ("x.", "xx", "xx.")[index // 3 % 3]
    made = tree(name, shape, tmp_path)
    if made is None:
        assert name in TOO_NARROW
        return
    assert name not in TOO_NARROW
    if name in SEVERAL_AXES:
        with pytest.raises(GraphsplitError, match="divided along several axes"):
            made.merged()
    else:
        found = exact_merge(made.merged())
        assert not found.complaints, found.complaints[:5]
    for done, parts in made.inner:
        found = exact_merge(made.level(done, parts))
        assert not found.complaints, found.complaints[:5]


@pytest.mark.parametrize("name", ["lenet", "resnet_basic", "transformer"])
def test_weights_are_products(tmp_path: Path, name: str) -> None:
    made = Tree(name, "x.", tmp_path)
    opened = graphsplit.merging.open_split(made.root.folder)
    leaves = graphsplit.merging.read_leaves(opened, made.arguments)
    assert [(leaf.path, leaf.weight) for leaf in leaves] == [
        ((0, 0), Fraction(1, 4)),
        ((0, 1), Fraction(1, 4)),
        ((1,), Fraction(1, 2)),
    ]


# -- negative controls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet", "lrn"])
def test_equal_weights_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Three leaves, and a third for each."""
    made = Tree(name, "x.", tmp_path)
    assert not exact_merge(made.merged()).complaints
    right = graphsplit.merging.read_leaves

    def equal(*args: Any, **options: Any) -> Any:
        third = Fraction(1, 3)
        return [
            replace(leaf, weight=third, graph=replace(leaf.graph, weight=float(third)))
            for leaf in right(*args, **options)
        ]

    monkeypatch.setattr(graphsplit.merging, "read_leaves", equal)
    try:
        complaints = exact_merge(made.merged()).complaints
    except AssertionError as error:
        complaints = [f"off: {error}"]
    assert any("off" in text for text in complaints)


def test_another_splits_folder_is_refused(tmp_path: Path) -> None:
    made, other = Tree("lenet", "x.", tmp_path / "a"), Tree("lrn", "x.", tmp_path / "b")
    with pytest.raises(GraphsplitError):
        merge(made.root.folder, [other.arguments[0], made.arguments[1]], out=tmp_path / "merged.onnx")
    assert not (tmp_path / "merged.onnx").exists()


def test_a_level_that_is_forgotten_is_reported(tmp_path: Path) -> None:
    """The inner split's source instead of its trained leaves."""
    made = Tree("lenet", "x.", tmp_path)
    shutil.copy(made.root.submodels[0], tmp_path / "stale.onnx")
    made.arguments[0] = tmp_path / "stale.onnx"
    assert any("off the mean" in text for text in exact_merge(made.merged()).complaints)
