"""Law 2: every element of every parameter has one kind, the counts add up, and files and merge do what the manifest says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphsplit.manifest import Manifest, ParameterEntry
from graphsplit.selection import Selection
from tests.laws.cases import ALL, Made, Split, in_turn, make_seed
from tests.laws.check import Array, Case, change, coverage, holders, trained
from tests.turns import every_other


def assert_covered(case: Case) -> None:
    found = coverage(case)
    assert not found.complaints, found.complaints[:5]
    assert found.looked_at > len(case.split.manifest.parameters)


@pytest.mark.parametrize(("name", "k"), every_other(((name, in_turn(name)) for name in ALL if in_turn(name)), 1))
def test_every_element_is_what_the_manifest_says(made: Made, name: str, k: Split) -> None:
    assert_covered(made(name, k))


@pytest.mark.parametrize("seed", range(0, 60, 4))
def test_generated(tmp_path: Path, seed: int) -> None:
    assert_covered(make_seed(seed, tmp_path))


def test_papers_counts(made: Made) -> None:
    """design.md §6: parameters of a sub-model of LeNet."""
    assert [s.elements for s in made("lenet", 2).split.manifest.submodels] == [109_295] * 2


@pytest.mark.parametrize(("k", "elements"), [(1, 431_080), (2, 109_295), (5, 18_224), (10, 4_867)])
def test_papers_figures(tmp_path: Path, k: int, elements: int) -> None:
    case = trained(ALL["lenet"](), k, tmp_path)
    assert {submodel.elements for submodel in case.split.manifest.submodels} == {elements}
    for part in case.parts:
        graph = onnx.load(part.file).graph
        assert sum(np.prod(t.dims) for t in graph.initializer if t.name.endswith(("weight", "bias"))) == elements


# -- negative controls ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lenet(tmp_path: Path) -> Case:
    case = trained(ALL["lenet"](), 2, tmp_path)
    assert_covered(case)
    return case


def with_manifest(case: Case, **changes: object) -> Case:
    manifest: Manifest = replace(case.split.manifest, **changes)  # type: ignore[arg-type]
    return replace(case, split=replace(case.split, manifest=manifest))


def with_entry(case: Case, name: str, change: Callable[[ParameterEntry], ParameterEntry]) -> Case:
    entries = dict(case.split.manifest.parameters)
    return with_manifest(case, parameters={**entries, name: change(entries[name])})


def a_weight(case: Case) -> str:
    return next(n for n, e in case.split.manifest.parameters.items() if e.counts.cut and e.counts.owned)


def test_a_dropped_element_is_reported(lenet: Case) -> None:
    name = a_weight(lenet)
    wrong = with_entry(lenet, name, lambda e: replace(e, counts=replace(e.counts, owned=e.counts.owned - 1)))
    assert any(f"{name}: the counts add up to" in text for text in coverage(wrong).complaints)


def test_a_moved_count_is_reported(lenet: Case) -> None:
    name = a_weight(lenet)
    counts = lenet.split.manifest.parameters[name].counts
    counts = replace(counts, owned=counts.owned - 1, cut=counts.cut + 1)
    wrong = with_entry(lenet, name, lambda e: replace(e, counts=counts))
    assert any("and the counts differ" in text for text in coverage(wrong).complaints)


def test_a_missing_parameter_is_reported(lenet: Case) -> None:
    name = a_weight(lenet)
    rest = {n: e for n, e in lenet.split.manifest.parameters.items() if n != name}
    assert any("says nothing of" in text for text in coverage(with_manifest(lenet, parameters=rest)).complaints)


def test_another_owner_is_reported(lenet: Case) -> None:
    """The manifest gives the parts' slices the other way round."""
    groups = tuple(replace(group, parts=group.parts[::-1]) for group in lenet.split.manifest.groups)
    assert any("aren't with their owner" in text for text in coverage(with_manifest(lenet, groups=groups)).complaints)


def test_a_shifted_slice_is_reported(lenet: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that were written with a neighbour's elements."""
    right = Selection.take
    monkeypatch.setattr(Selection, "take", lambda self, array: right(self, np.roll(array, 1, axis=0)))
    assert any("owned elements aren't with their owner" in text for text in coverage(lenet).complaints)


@pytest.mark.parametrize(
    ("what", "complaint"),
    [("owned", "an owned element isn't its owner's"), ("cut", "a cut element isn't zero"), ("output", "Eq. 1")],
)
def test_a_wrong_element_of_the_merge_is_reported(lenet: Case, what: str, complaint: str) -> None:
    name = next(n for n, e in lenet.split.manifest.parameters.items() if getattr(e.counts, what))
    kinds = coverage_kinds(lenet, name)
    place = tuple(int(i) for i in np.argwhere(kinds == what)[0])

    def wrong(array: Array) -> Array:
        array[place] += 1
        return array

    change(lenet.merged, {name: wrong})
    assert any(complaint in text for text in coverage(lenet).complaints)


def coverage_kinds(case: Case, name: str) -> Array:
    from tests.laws.check import claimed

    return claimed(case, case.split.manifest.parameters[name])[0]


def test_elements_called_unused_must_be_unread(tmp_path: Path) -> None:
    """The checker changes them: calling an owned bias unused has to be found out."""
    case = trained(ALL["unused_parts"](), 2, tmp_path)
    assert_covered(case)
    assert any(e.counts.unused for e in case.split.manifest.parameters.values())
    name = "fc1.bias" if "fc1.bias" in case.split.manifest.parameters else a_weight(case)
    size = case.split.manifest.parameters[name].elements
    counts = replace(case.split.manifest.parameters[name].counts, owned=0, cut=0, output=0, unused=size)
    blank = replace(case.split.manifest.parameters[name], axes=(None,) * len(case.split.manifest.parameters[name].axes))
    wrong = with_entry(case, name, lambda e: replace(blank, counts=counts, role="unused"))
    assert any("depends on elements called unused" in text for text in coverage(wrong).complaints)


def test_holders_tell_parts_apart(lenet: Case) -> None:
    """The brute force itself: the parts' elements of a hidden bias are disjoint and cover it."""
    first, second = holders(lenet)[next(n for n in lenet.split.manifest.parameters if n.endswith("conv1.bias"))]
    assert not set(first.tolist()) & set(second.tolist())
    assert len(first) + len(second) == 20
