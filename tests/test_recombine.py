"""graphsplit.recombine: tensors put back together are what docs/manifest.md says, element by element."""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from graphsplit.errors import MergeError, UnsupportedError
from graphsplit.formats.weights import read_trained, write_safetensors
from graphsplit.graph import ArrayTensor, Tensor, WeightlessTensor
from graphsplit.manifest import Group, Manifest, ParameterEntry
from graphsplit.manifest.content import DTYPES
from graphsplit.manifest.ranges import COMMON, OUTPUT, PRIVATE
from graphsplit.recombine import (
    LazyMerged,
    Leaf,
    Trained,
    compose,
    leaves_of,
    match_parts,
    merge_momentum,
    merged_tensor,
    tensors,
)
from graphsplit.selection import Selection
from tests.manifests.make import build, example, parameter
from tests.manifests.strategies import Layout, brute_kind, dense_kinds, layouts, owners_at

Array = np.ndarray[Any, np.dtype[Any]]


def random_array(entry: ParameterEntry, seed: int = 0, shape: tuple[int, ...] | None = None) -> Array:
    """A tensor of an entry's type with zeros of both signs among its elements."""
    rng = np.random.default_rng(seed)
    shape = entry.shape if shape is None else shape
    values = rng.normal(size=shape) * rng.choice([1e-3, 1.0, 1e3, 0.0, -0.0], shape)
    return np.asarray(values).astype(DTYPES[entry.dtype])


def split_up(entry: ParameterEntry, groups: list[Group], parts: int, whole: Array) -> list[Leaf]:
    """The parts' slices of a tensor."""
    found = []
    for part in range(parts):
        selection = entry.selection(groups, part)
        found.append(Leaf((part,), selection, Fraction(1, parts), ArrayTensor(selection.take(whole))))
    return found


def trained(entry: ParameterEntry, leaves: list[Leaf]) -> list[Leaf]:
    """The slices with new elements everywhere, except in constants."""
    if entry.role == "constant":
        return leaves
    return [
        replace(leaf, tensor=ArrayTensor(random_array(entry, seed, leaf.tensor.shape)))
        for seed, leaf in enumerate(leaves, start=1)
    ]


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


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


# -- the laws ---------------------------------------------------------------------------------------------------------


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


def leaf_with(part: int, parts: int, *values: float, dtype: str = "float64") -> Leaf:
    array = np.array(values).astype(DTYPES[dtype])
    return Leaf((part,), Selection((None,)), Fraction(1, parts), ArrayTensor(array))


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


# -- types ------------------------------------------------------------------------------------------------------------

OUTPUTS = Group.of(np.array([OUTPUT]), 2)


@pytest.mark.parametrize(
    ("dtype", "values", "mean"),
    [
        # 1 + 2^-8 lies between two bfloat16s; a little more rounds up, also by way of float32
        ("bfloat16", (1.0, 1.0078125), 1.0),  # a tie, to even
        ("bfloat16", (1.0078125, 1.015625), 1.015625),  # a tie, to even
        ("float16", (1.0, 1.0009765625), 1.0),
        ("float32", (1.0, 3.0), 2.0),
        ("float8_e4m3fn", (1.0, 1.125), 1.0),
    ],
)
def test_means_round_to_even(dtype: str, values: tuple[float, float], mean: float) -> None:
    entry = parameter([OUTPUTS], "b", (1,), 0, dtype=dtype)
    leaves = [leaf_with(k, 2, value, dtype=dtype) for k, value in enumerate(values)]
    assert float(merged_tensor(entry, [OUTPUTS], leaves)[0]) == mean


def nearest(value: Fraction, dtype: np.dtype[Any]) -> float:
    """The number of a two-byte type that is nearest to a fraction, ties to even: by trying all of them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of signalling NaNs
        finite = np.unique(every[np.isfinite(every)].astype(np.float64))
    at = int(np.searchsorted(finite, float(value)))
    near = {float(finite[i]) for i in (at - 1, at, at + 1) if 0 <= i < len(finite)}
    bits = {x: int(np.array([x]).astype(dtype).view(np.uint16)[0]) for x in near}
    return min(near, key=lambda x: (abs(Fraction(x) - value), bits[x] & 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_types_are_rounded_once(dtype: str) -> None:
    rng = np.random.default_rng(3)
    group = Group.of(np.array([OUTPUT]), 3)
    entry = parameter([group], "b", (1,), 0, dtype=dtype)
    for _ in range(200):
        values = (rng.normal(size=3) * [1, 1e-3, 1e-6]).astype(DTYPES[dtype])
        leaves = [leaf_with(k, 3, float(v), dtype=dtype) for k, v in enumerate(values)]
        exact = sum((Fraction(float(v)) for v in values), Fraction(0)) / 3
        assert float(merged_tensor(entry, [group], leaves)[0]) == nearest(exact, DTYPES[dtype])


def test_a_mean_just_above_a_tie_is_rounded_up() -> None:
    """1 + 2^-8 + 2^-40: float32 drops the last term, and the tie that is left would go to 1."""
    group = Group.of(np.array([OUTPUT]), 4)
    entry = parameter([group], "b", (1,), 0, dtype="bfloat16")
    for sign in (1, -1):
        leaves = [leaf_with(k, 4, sign * v, dtype="bfloat16") for k, v in enumerate((4.0, 2**-6, 2**-38, 0.0))]
        assert float(merged_tensor(entry, [group], leaves)[0]) == sign * 1.0078125


def test_rounding_by_way_of_float32_alone_would_round_twice() -> None:
    """The negative control of the test above: what the plain conversion of ml_dtypes does."""
    value = np.array([1 + 2**-8 + 2**-40])
    assert float(value.astype(ml_dtypes.bfloat16)[0]) == 1.0
    assert float(tensors._to_odd(value).astype(ml_dtypes.bfloat16)[0]) == 1.0078125


def test_signalling_nans_are_no_trouble() -> None:
    """They are copied where they are owned; sums and the look for finite elements warn of nothing."""
    for dtype, bits in (("bfloat16", 0x7F81), ("float32", 0x7F800001)):
        value = np.array([bits, 0], "u2" if dtype == "bfloat16" else "u4").view(DTYPES[dtype])
        group = Group.of(np.array([OUTPUT, OUTPUT]), 2)
        entry = parameter([group], "b", (2,), 0, dtype=dtype)
        leaves = split_up(entry, [group], 2, value)
        with np.errstate(all="raise"):
            merged = merged_tensor(entry, [group], leaves)
        assert merged.astype(np.float64).tolist()[1] == 0
        manifest = build([group], [entry], 2)
        given = [with_tensor(one, "b", value) for one in files(manifest)]
        with np.errstate(all="raise"):
            assert "1 of the 2 elements of 'b' are not finite" in refused(manifest, given)


def test_owned_elements_keep_their_bits() -> None:
    """NaNs with a payload, zeros with a sign and denormal numbers are copied, not computed."""
    bits = np.array([0x7FC01234, 0x80000000, 0x00000001, 0xFF800000], np.uint32)
    group = Group.of(np.array([0, 0, 1, 1]), 2)
    entry = parameter([group], "w", (4,), 0)
    whole = bits.view(np.float32)
    assert same_bits(merged_tensor(entry, [group], split_up(entry, [group], 2, whole)), whole)


def test_sums_that_are_too_large_are_refused() -> None:
    entry = parameter([OUTPUTS], "b", (1,), 0, dtype="float16", scale="activation")
    leaves = [leaf_with(k, 2, 60000.0, dtype="float16") for k in range(2)]
    with pytest.raises(MergeError, match=r"^'b': the merged elements are too large for float16$"):
        merged_tensor(entry, [OUTPUTS], leaves)
    assert float(merged_tensor(replace(entry, scale="weights"), [OUTPUTS], leaves)[0]) == 60000.0
    infinite = [leaf_with(0, 2, np.inf, dtype="float16"), leaves[1]]
    assert np.isinf(merged_tensor(entry, [OUTPUTS], infinite)[0])  # it was so before: the caller allowed it


def test_counters_merge_by_their_maximum() -> None:
    entry = parameter([], "batches", (1,), None, dtype="int64")
    leaves = [leaf_with(k, 2, value, dtype="int64") for k, value in enumerate((3, 5))]
    assert merged_tensor(entry, [], leaves).tolist() == [5]


def test_integers_have_no_mean() -> None:
    entry = parameter([OUTPUTS], "steps", (1,), 0, dtype="int64")
    leaves = [leaf_with(k, 2, value, dtype="int64") for k, value in enumerate((3, 5))]
    with pytest.raises(MergeError, match=r"^'steps' has type int64, and an output weight of that type has no mean$"):
        merged_tensor(entry, [OUTPUTS], leaves)
    private = Group.of(np.array([PRIVATE]), 2)
    entry = parameter([private], "steps", (1,), 0, dtype="int64")
    with pytest.raises(
        MergeError, match=r"^'steps' has type int64, and the parts' elements differ: they have no mean$"
    ):
        merged_tensor(entry, [private], leaves)


# -- constants --------------------------------------------------------------------------------------------------------

MASK = Group.of(np.array([0, 0, 1, 1, COMMON]), 2)


def mask(whole: Array) -> tuple[ParameterEntry, list[Leaf]]:
    entry = parameter([MASK], "mask", (5,), 0, constant=True)
    return entry, split_up(entry, [MASK], 2, whole)


@pytest.mark.parametrize("known", [True, False], ids=["with the source", "without the source"])
def test_constants_come_back(known: bool) -> None:
    whole = np.array([1, -0.0, np.nan, -np.inf, 5], np.float32)
    entry, leaves = mask(whole)
    source: Tensor = ArrayTensor(whole) if known else WeightlessTensor((5,), np.dtype(np.float32))
    assert same_bits(merged_tensor(entry, [MASK], leaves, source=source), whole)


def test_a_changed_constant_is_refused() -> None:
    whole = np.array([1, 2, 3, 4, 0.0], np.float32)
    entry, (first, second) = mask(whole)
    second = replace(second, tensor=ArrayTensor(np.array([3, 4, -0.0], np.float32)), label="b.onnx")
    for source in (ArrayTensor(whole), None):
        with pytest.raises(MergeError) as refused:
            merged_tensor(entry, [MASK], [first, second], source=source)
        assert str(refused.value) == (
            "b.onnx: tensor 'mask' is a constant of the network, and it was changed\n"
            "  hint: train the parameters alone, or split with --trainable to make it one"
        )


def test_a_constant_that_no_part_holds_is_not_made_up() -> None:
    rows, columns = Group.of(np.array([0, 1]), 2), Group.of(np.array([1, 0]), 2)
    entry = parameter([rows, columns], "table", (2, 2), 0, 1, constant=True)
    whole = np.arange(4, dtype=np.float32).reshape(2, 2)
    leaves = split_up(entry, [rows, columns], 2, whole)
    with pytest.raises(MergeError, match=r"^constant 'table': 2 of its elements are in no part, and the source's are"):
        merged_tensor(entry, [rows, columns], leaves)
    assert same_bits(merged_tensor(entry, [rows, columns], leaves, source=ArrayTensor(whole)), whole)


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


# -- trained files ----------------------------------------------------------------------------------------------------

Given = tuple[str, Mapping[str, Tensor], Mapping[str, str]]


def files(manifest: Manifest, suffix: str = ".safetensors", *, metadata: bool = True) -> list[Given]:
    """A trained file for each part."""
    found: list[Given] = []
    for part in range(manifest.parts):
        content: dict[str, Tensor] = {
            name: ArrayTensor(random_array(entry, part, manifest.part_shape(name, part)))
            for name, entry in manifest.parameters.items()
        }
        tags = {"graphsplit.part": str(part), "graphsplit.split": manifest.split} if metadata else {}
        found.append((f"trained_{part}{suffix}", content, tags))
    return found


def with_tensor(given: Given, name: str, array: Array | None) -> Given:
    label, content, metadata = given
    changed = {key: tensor for key, tensor in content.items() if key != name}
    if array is not None:
        changed[name] = ArrayTensor(array)
    return label, changed, metadata


def refused(manifest: Manifest, given: list[Given], **options: Any) -> str:
    with pytest.raises(MergeError) as found:
        match_parts(manifest, given, **options)
    return str(found.value)


def test_metadata_says_which_part_a_file_is() -> None:
    manifest = example()
    for order in itertools.permutations(files(manifest)):
        matched = match_parts(manifest, order)
        assert [one.label for one in matched] == ["trained_0.safetensors", "trained_1.safetensors"]
        assert all(isinstance(one, Trained) for one in matched)
    leaves = leaves_of(manifest, "conv.bias", [(one.label, one.tensors) for one in matched])
    assert [leaf.tensor.shape for leaf in leaves] == [(3,), (3,)]
    assert [leaf.weight for leaf in leaves] == [Fraction(1, 2)] * 2


def test_files_without_metadata_go_by_position() -> None:
    manifest = example()
    bare = files(manifest, ".pt", metadata=False)
    assert [one.label for one in match_parts(manifest, bare)] == ["trained_0.pt", "trained_1.pt"]
    assert [one.label for one in match_parts(manifest, bare[::-1])] == ["trained_1.pt", "trained_0.pt"]
    mixed = [bare[0], files(manifest)[1]]
    assert [one.label for one in match_parts(manifest, mixed)] == ["trained_0.pt", "trained_1.safetensors"]


def test_two_files_for_one_part() -> None:
    manifest = example()
    a, b = files(manifest)
    assert refused(manifest, [b, a, b]) == (
        "'trained_1.safetensors' and 'trained_1.safetensors' are both part 1\n"
        "  hint: give one trained file for each part"
    )
    bare = files(manifest, ".pt", metadata=False)
    assert refused(manifest, [b, bare[1]]) == (
        "'trained_1.safetensors' and 'trained_1.pt' are both part 1 (files without metadata go by position)\n"
        "  hint: give one trained file for each part"
    )


def test_a_missing_part() -> None:
    manifest = example()
    assert refused(manifest, files(manifest)[1:]) == (
        "part 0 of 2 is missing: given were 'trained_1.safetensors'\n  hint: give 2 trained files, one for each part"
    )
    assert refused(manifest, []).startswith("part 0 of 2 is missing: given were nothing")


def test_too_many_files() -> None:
    manifest = example()
    bare = files(manifest, ".pt", metadata=False)
    assert refused(manifest, [*bare, bare[0]]).startswith("'trained_0.pt' is file 3, and the split has 2 parts\n")


def test_a_file_of_another_split() -> None:
    manifest = example()
    a, (label, content, metadata) = files(manifest)
    other = (label, content, {**metadata, "graphsplit.split": "f" * 64})
    assert refused(manifest, [a, other]) == (
        "'trained_1.safetensors' belongs to another split: its metadata says 'ffffffffffff…', "
        f"the manifest '{manifest.split[:12]}…'\n"
        "  hint: merge it with the folder that it was written into"
    )
    half = (label, content, {"graphsplit.part": "1"})
    assert "its metadata says ''" in refused(manifest, [a, half])


@pytest.mark.parametrize("number", ["2", "-1", "01", "1.0", "", "\u0661"])
def test_a_part_that_is_none(number: str) -> None:
    manifest = example()
    a, (label, content, metadata) = files(manifest)
    said = refused(manifest, [a, (label, content, {**metadata, "graphsplit.part": number})])
    assert said.startswith(f"'trained_1.safetensors' says that it is part {number!r}, and the parts are 0 … 1\n")


def test_missing_tensors() -> None:
    manifest = example()
    a, b = files(manifest)
    assert refused(manifest, [a, with_tensor(b, "head.bias", None)]) == (
        "'trained_1.safetensors' lacks the tensor 'head.bias'\n"
        "  hint: save all tensors of the sub-model, under the names that they have in its file"
    )
    twice = with_tensor(with_tensor(b, "head.bias", None), "mask", None)
    assert "lacks the tensor 'head.bias' and 1 more\n" in refused(manifest, [a, twice])


def test_extra_tensors() -> None:
    manifest = example()
    a, b = files(manifest)
    extra = with_tensor(b, "ema.head.bias", np.zeros(4, np.float32))
    assert refused(manifest, [a, extra]) == (
        "'trained_1.safetensors' holds the tensor 'ema.head.bias', which the split network doesn't have\n"
        "  hint: save the sub-model's own tensors, and nothing else"
    )
    match_parts(manifest, [a, extra], known=["ema.head.bias"])
    a, b = files(manifest, ".onnx")
    match_parts(manifest, [a, with_tensor(b, "shape_constant", np.zeros(4, np.int64))])


def test_misshapen_tensors() -> None:
    manifest = example()
    a, b = files(manifest)
    assert refused(manifest, [a, with_tensor(b, "conv.bias", np.zeros(4, np.float32))]) == (
        "'trained_1.safetensors': tensor 'conv.bias' has shape [4], and part 1 has shape [3]"
    )
    said = refused(manifest, [a, with_tensor(b, "conv.bias", np.zeros(6, np.float32))])
    assert said.endswith("hint: that is its shape in the whole network: give the trained sub-models")


def test_files_in_the_wrong_order_are_noticed_where_widths_differ() -> None:
    group = Group.of(np.array([0, 0, 1]), 2)
    manifest = build([group], [parameter([group], "w", (3,), 0)], 2)
    bare = files(manifest, ".pt", metadata=False)
    assert refused(manifest, bare[::-1]) == (
        "'trained_1.pt': tensor 'w' has shape [1], and part 0 has shape [2]\n"
        "  hint: part 1 has that shape: files without metadata must be given in part order"
    )


def test_another_type() -> None:
    manifest = example()
    a, b = files(manifest)
    assert refused(manifest, [with_tensor(a, "head.bias", np.zeros(4, np.float16)), b]) == (
        "'trained_0.safetensors': tensor 'head.bias' has type float16, and the network float32\n"
        "  hint: convert the trained tensors to float32 before the merge: it changes no types"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["head.bias", "tied.weight"])
def test_elements_that_are_not_finite(name: str, value: float) -> None:
    manifest = example()
    a, b = files(manifest)
    array = np.ones(manifest.part_shape(name, 1), DTYPES[manifest.parameters[name].dtype])
    array[1] = value
    bad = with_tensor(b, name, array)
    number = int(array[1].size)
    assert refused(manifest, [a, bad]) == (
        f"'trained_1.safetensors': {number} of the {array.size} elements of {name!r} are not finite\n"
        "  hint: the training diverged; go back to an earlier checkpoint, or add --allow-nonfinite"
    )
    match_parts(manifest, [a, bad], allow_nonfinite=True)


def test_constants_may_be_infinite() -> None:
    group = Group.of(np.array([0, 1]), 2)
    manifest = build([group], [parameter([group], "mask", (2,), 0, constant=True)], 2)
    given = [with_tensor(one, "mask", np.array([-np.inf], np.float32)) for one in files(manifest)]
    assert len(match_parts(manifest, given)) == 2
