"""graphsplit.recombine: tensors put back together are what docs/manifest.md says, element by element."""

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from graphsplit.errors import MergeError, UnsupportedError
from graphsplit.formats.weights import read_trained, write_safetensors
from graphsplit.graph import ArrayTensor, Tensor
from graphsplit.manifest import Group, ParameterEntry
from graphsplit.manifest.content import DTYPES
from graphsplit.manifest.ranges import OUTPUT
from graphsplit.recombine import LazyMerged, Leaf, compose, merge_momentum, merged_tensor, tensors
from graphsplit.selection import Selection
from tests.leaves import Array, leaf_with, random_array, same_bits, split_up, trained
from tests.manifests.make import example, parameter
from tests.manifests.strategies import Layout, brute_kind, dense_kinds, layouts, owners_at

# -- the laws ---------------------------------------------------------------------------------------------------------


def by_the_book(entry: ParameterEntry, groups: list[Group], leaves: list[Leaf]) -> Array:
    """The merge of docs/manifest.md, one element at a time, on slices laid out over the whole tensor."""
    laid_out = []
    for leaf in sorted(leaves, key=lambda leaf: leaf.path):
        place = np.full(entry.shape, -1, np.int64)
        for index, spot in leaf.selection.blocks(entry.shape):
            number = np.arange(int(np.prod(leaf.tensor.shape))).reshape(leaf.tensor.shape)
            place[np.ix_(*index) if index else ()] = number[spot]
        laid_out.append((leaf, place))
    out = np.zeros(entry.shape, DTYPES[entry.dtype])
    for index in np.ndindex(*entry.shape):
        kind = "unused" if entry.role == "constant" else brute_kind(owners_at(entry, groups, index))
        had = [(leaf, leaf.tensor.numpy().reshape(-1)[p[index]]) for leaf, p in laid_out if p[index] >= 0]
        if kind == "cut" or not had:
            assert not had, "a part has an element that is cut"
            continue
        elements = [element for _, element in had]
        if kind == "output" and entry.scale == "activation":
            total = float(elements[0])
            for element in elements[1:]:
                total += float(element)
            out[index] = total
        elif kind == "owned" or (kind != "output" and all(e.tobytes() == elements[0].tobytes() for e in elements)):
            out[index] = elements[0]
        else:
            total = float(elements[0])
            for element in elements[1:]:
                total += float(element)
            out[index] = total / len(leaves)
    return out


@settings(max_examples=200)
@given(layouts(), st.sampled_from(["float32", "float64"]))
def test_merged_elements_are_those_of_the_specification(drawn: Layout, dtype: str) -> None:
    parts, groups, entries = drawn
    for entry in (replace(e, dtype=dtype) for e in entries):
        whole = random_array(entry)
        leaves = trained(entry, split_up(entry, groups, parts, whole))
        source = ArrayTensor(whole) if entry.role == "constant" else None
        if entry.role == "constant":
            assert same_bits(merged_tensor(entry, groups, leaves, source=source), whole)
        else:
            assert same_bits(merged_tensor(entry, groups, leaves), by_the_book(entry, groups, leaves))


@settings(max_examples=200)
@given(layouts())
def test_split_and_merged_without_training(drawn: Layout) -> None:
    """Owned, unused and duplicated elements come back bit for bit, cut ones are zero, output ones obey Eq. 1."""
    parts, groups, entries = drawn
    for entry in entries:
        if entry.role == "constant":
            continue
        whole = random_array(entry)
        merged = merged_tensor(entry, groups, split_up(entry, groups, parts, whole))
        kinds = dense_kinds(entry, groups)
        back = np.isin(kinds, ["owned", "unused", "duplicated"])
        assert same_bits(merged[back], whole[back])
        assert not np.any(merged[kinds == "cut"])
        for index in np.ndindex(*entry.shape):
            if kinds[index] != "output":
                continue
            owners = owners_at(entry, groups, index)
            holders = 1 if any(who >= 0 for who in owners) else parts
            weight = 1.0 if entry.scale == "activation" else 1 / parts
            assert merged[index] == pytest.approx(float(whole[index]) * holders * weight, rel=1e-6)


@settings(max_examples=50)
@given(layouts())
def test_one_part_gives_everything_back_bit_for_bit(drawn: Layout) -> None:
    parts, groups, entries = drawn
    if parts == 1:
        for entry in entries:
            whole = random_array(entry)
            assert same_bits(merged_tensor(entry, groups, split_up(entry, groups, 1, whole)), whole)


@settings(max_examples=50)
@given(layouts(), st.randoms(use_true_random=False))
def test_the_order_of_the_leaves_changes_nothing(drawn: Layout, random: Any) -> None:
    parts, groups, entries = drawn
    for entry in entries:
        whole = random_array(entry)
        source = ArrayTensor(whole) if entry.role == "constant" else None
        leaves = trained(entry, split_up(entry, groups, parts, whole))
        shuffled = random.sample(leaves, len(leaves))
        expected = merged_tensor(entry, groups, leaves, source=source)
        assert same_bits(merged_tensor(entry, groups, shuffled, source=source), expected)


def test_the_sum_is_in_order_and_the_test_above_can_fail() -> None:
    """Float64 sums depend on their order: 1e16 + 1 - 1e16. Renumbered paths give another result."""
    group = Group.of(np.array([OUTPUT]), 3)
    entry = parameter([group], "bias", (1,), 0, dtype="float64")
    leaves = [leaf_with(k, 3, value) for k, value in enumerate((1e16, 1.0, -1e16))]
    renamed = [replace(leaf, path=(path,)) for leaf, path in zip(leaves, (0, 2, 1), strict=True)]
    assert merged_tensor(entry, [group], leaves)[0] == 0.0
    assert merged_tensor(entry, [group], renamed)[0] == 1 / 3
    assert merged_tensor(entry, [group], leaves[::-1])[0] == 0.0


@pytest.mark.parametrize("broken", ["permuted", "without 1/K", "doubled", "shifted"])
def test_the_specification_sees_a_broken_merge(broken: str) -> None:
    """The negative control: what these merges do wrong, the comparison of the first test notices."""
    manifest = example()
    groups, entry = list(manifest.groups), manifest.parameters["head.weight"]
    leaves = trained(entry, split_up(entry, groups, 2, random_array(entry)))
    expected = by_the_book(entry, groups, leaves)
    assert same_bits(merged_tensor(entry, groups, leaves), expected)
    first, second = leaves
    wrong: dict[str, Callable[[], list[Leaf]]] = {
        "permuted": lambda: [replace(first, tensor=second.tensor), replace(second, tensor=first.tensor)],
        "without 1/K": lambda: [replace(leaf, output_weight=Fraction(1)) for leaf in leaves],
        "doubled": lambda: [replace(first, tensor=ArrayTensor(np.asarray(first.tensor.numpy() * 2))), second],
        "shifted": lambda: [replace(first, tensor=ArrayTensor(np.roll(first.tensor.numpy(), 1, axis=1))), second],
    }
    assert not np.allclose(merged_tensor(entry, groups, wrong[broken]()), expected)


def test_weights_that_do_not_add_up_are_our_own_mistake() -> None:
    entry = parameter([], "w", (1,), None)
    with pytest.raises(AssertionError, match="add up"):
        merged_tensor(entry, [], [leaf_with(0, 2, 1.0, dtype="float32")])
    with pytest.raises(AssertionError, match="one path"):
        merged_tensor(entry, [], [leaf_with(0, 2, 1.0, dtype="float32")] * 2)


@settings(max_examples=60)
@given(layouts(), st.integers(1, 7))
def test_chunks_change_nothing(drawn: Layout, chunk: int) -> None:
    parts, groups, entries = drawn
    for entry in entries:
        if entry.role == "constant":
            continue
        leaves = trained(entry, split_up(entry, groups, parts, random_array(entry)))
        expected = merged_tensor(entry, groups, leaves)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tensors, "CHUNK", chunk)
            assert same_bits(merged_tensor(entry, groups, leaves), expected)


# -- leaves -----------------------------------------------------------------------------------------------------------


def test_a_misshapen_leaf() -> None:
    manifest = example()
    entry = manifest.parameters["head.bias"]
    leaves = [leaf_with(k, 2, *[1.0] * (4 + k), dtype="float32") for k in range(2)]
    with pytest.raises(
        MergeError, match=re.escape("part 1: tensor 'head.bias' has shape [5], and shape [4] is wanted")
    ):
        merged_tensor(entry, manifest.groups, leaves)


def test_a_leaf_of_another_type() -> None:
    manifest = example()
    leaves = [leaf_with(k, 2, 1.0, 1.0, 1.0, 1.0, dtype="float16") for k in range(2)]
    with pytest.raises(MergeError, match=r"^part 0: tensor 'head\.bias' has type float16, and float32 is wanted"):
        merged_tensor(manifest.parameters["head.bias"], manifest.groups, leaves)


def test_momentum_merges_like_its_weight() -> None:
    manifest = example()
    groups = list(manifest.groups)
    for entry in manifest.parameters.values():
        if entry.role == "constant":
            with pytest.raises(MergeError, match=r"^'mask' is a constant of the network: it has no momentum$"):
                merge_momentum(entry, groups, split_up(entry, groups, 2, random_array(entry)))
            continue
        other = replace(entry, dtype="float64")
        leaves = trained(other, split_up(other, groups, 2, random_array(other)))
        assert same_bits(merge_momentum(entry, groups, leaves), merged_tensor(other, groups, leaves))
    strange = [Leaf((0,), Selection((None,)), 1.0, ArrayTensor(np.array(["a"])))]
    with pytest.raises(MergeError, match=r"^the momentum of 'old.weight' has the type str32, which cannot be merged$"):
        merge_momentum(manifest.parameters["old.weight"], groups, strange)


def test_a_merged_tensor_is_computed_when_it_is_written(tmp_path: Path) -> None:
    manifest = example()
    groups = list(manifest.groups)
    read: list[str] = []

    class Watched:
        def __init__(self, name: str, array: Array) -> None:
            self.name, self.array, self.shape, self.dtype = name, array, array.shape, array.dtype

        def numpy(self) -> Array:
            read.append(self.name)
            return self.array

    merged: dict[str, Tensor] = {}
    expected = {}
    for name, entry in manifest.parameters.items():
        leaves = split_up(entry, groups, 2, random_array(entry))
        expected[name] = merged_tensor(entry, groups, leaves)
        watched = [replace(leaf, tensor=Watched(name, leaf.tensor.numpy())) for leaf in leaves]
        merged[name] = LazyMerged(entry, groups, watched)
        assert (merged[name].shape, merged[name].dtype) == (entry.shape, DTYPES[entry.dtype])
    assert read == []
    write_safetensors(merged, tmp_path / "merged.safetensors")
    assert sorted(read) == sorted([*manifest.parameters] * 2)  # each slice once
    back, _ = read_trained(tmp_path / "merged.safetensors")
    assert all(same_bits(back[name].numpy(), expected[name]) for name in expected)


# -- trees of splits --------------------------------------------------------------------------------------------------


@st.composite
def selections(draw: st.DrawFn, shape: tuple[int, ...], blocked: bool) -> Selection:
    """A random selection of a tensor of rank 2, blocked along axis 0 where asked for and possible."""
    axes = [draw(st.none() | st.sets(st.integers(0, n - 1), min_size=1).map(sorted).map(np.array)) for n in shape]
    if not blocked:
        return Selection(tuple(axes))
    divisors = [d for d in range(1, shape[0] + 1) if shape[0] % d == 0]
    blocks = draw(st.sampled_from(divisors))
    width = draw(st.integers(1, shape[1]))
    columns = tuple(np.array(sorted(draw(st.permutations(range(shape[1])))[:width])) for _ in range(blocks))
    return Selection((axes[0], None), (1, 0, columns))


@settings(max_examples=400)
@given(st.data(), st.booleans(), st.booleans())
def test_a_selection_of_a_selection(data: st.DataObject, outer_blocked: bool, inner_blocked: bool) -> None:
    shape = (data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6)))
    outer = data.draw(selections(shape, outer_blocked))
    inner = data.draw(selections(outer.shape(shape), inner_blocked))
    whole = np.arange(shape[0] * shape[1]).reshape(shape)
    both = compose(outer, inner, shape)
    assert same_bits(both.take(whole), inner.take(outer.take(whole)))
    assert both.shape(shape) == inner.take(outer.take(whole)).shape


def test_a_selection_of_everything_is_everything() -> None:
    assert compose(Selection((None, None)), Selection((None, None)), (3, 4)).everything
    plain = Selection((None, None), (1, 0, (np.arange(4), np.arange(4))))
    assert compose(plain, Selection((None, None)), (4, 4)).everything


def test_blocks_along_different_axes_do_not_compose() -> None:
    half = (np.array([0]), np.array([1]))
    outer, inner = Selection((None, None), (1, 0, half)), Selection((None, None), (0, 1, (np.array([0]),)))
    with pytest.raises(UnsupportedError) as refused:
        compose(outer, inner, (2, 2))
    assert str(refused.value) == (
        "a tensor is cut in blocks along axis 0 by one split and along axis 1 by the next\n"
        "  hint: split the whole network into more parts at once, instead of a sub-model again"
    )


def test_leaves_of_a_tree_weigh_the_product_of_their_path() -> None:
    """Part 0 of two is split again: hidden units 0 1 | 2 3 || 4 … 7, weights 1/4, 1/4, 1/2."""
    hidden, out = Group.of(np.repeat([0, 1], 4), 2), Group.of(np.array([OUTPUT] * 3), 2)
    groups = [out, hidden]
    weight = parameter(groups, "head.weight", (3, 8), 0, 1, dtype="float64")
    bias = parameter(groups, "head.bias", (3,), 0, dtype="float64")
    inner_hidden, inner_out = Group.of(np.array([0, 0, 1, 1]), 2), out
    inner = [inner_out, inner_hidden]
    leaves: dict[str, list[Leaf]] = {}
    for entry in (weight, bias):
        narrow = replace(entry, shape=entry.part_shape(groups, 0))
        outer = [entry.selection(groups, part) for part in range(2)]
        chosen = {
            (0, 0): (compose(outer[0], narrow.selection(inner, 0), entry.shape), Fraction(1, 4)),
            (0, 1): (compose(outer[0], narrow.selection(inner, 1), entry.shape), Fraction(1, 4)),
            (1,): (outer[1], Fraction(1, 2)),
        }
        leaves[entry.name] = [
            Leaf(path, s, w, ArrayTensor(random_array(entry, i, s.shape(entry.shape))))
            for i, (path, (s, w)) in enumerate(chosen.items())
        ]
    x = np.random.default_rng(9).normal(size=(5, 8))  # hidden activations: a leaf has its own columns
    mean = np.zeros((5, 3))
    for w, b in zip(leaves["head.weight"], leaves["head.bias"], strict=True):
        columns = w.selection.axes[1]
        assert columns is not None
        mean += float(w.weight) * (x[:, columns] @ w.tensor.numpy().T + b.tensor.numpy())
    merged = {e.name: merged_tensor(e, groups, leaves[e.name][::-1]) for e in (weight, bias)}
    np.testing.assert_allclose(x @ merged["head.weight"].T + merged["head.bias"], mean, rtol=1e-12)
    flat = [replace(leaf, weight=1 / 3) for leaf in leaves["head.bias"]]  # the negative control: equal weights
    assert not np.allclose(merged_tensor(bias, groups, flat), merged["head.bias"])


def test_what_the_inner_split_cuts_is_zero() -> None:
    """Also in an output layer, and without a sign."""
    hidden, out = Group.of(np.array([0, 0, 1]), 2), Group.of(np.array([OUTPUT]), 2)
    entry = parameter([out, hidden], "head.weight", (1, 3), 0, 1)
    leaves = [
        Leaf((0, 0), Selection((None, np.array([0]))), Fraction(1, 4), ArrayTensor(np.array([[-8]], np.float32))),
        Leaf((0, 1), Selection((np.array([], int), None)), Fraction(1, 4), ArrayTensor(np.zeros((0, 3), np.float32))),
        Leaf((1,), Selection((None, np.array([2]))), Fraction(1, 2), ArrayTensor(np.array([[-0.0]], np.float32))),
    ]
    merged = merged_tensor(entry, [out, hidden], leaves)
    assert merged.tolist() == [[-2, 0, 0]]
    assert np.signbit(merged).tolist() == [[True, False, True]]


def test_what_the_inner_split_keeps_whole_is_averaged_by_weight() -> None:
    """Owned by part 0, and private to both of its parts: the original layers take the mean."""
    group = Group.of(np.array([0, 0, 1]), 2)
    entry = parameter([group], "gate.bias", (3,), 0)

    def array(*values: float) -> ArrayTensor:
        return ArrayTensor(np.array(values, np.float32))

    leaves = [
        Leaf((0, 0), Selection((np.array([0, 1]),)), Fraction(1, 6), array(1, 5)),
        Leaf((0, 1), Selection((np.array([0, 1]),)), Fraction(2, 6), array(4, 5)),
        Leaf((1,), Selection((np.array([2]),)), Fraction(1, 2), array(7)),
    ]
    assert merged_tensor(entry, [group], leaves).tolist() == [3, 5, 7]
