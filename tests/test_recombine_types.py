"""graphsplit.recombine: means of every type, rounded once, and constants, which have none."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphsplit.errors import MergeError
from graphsplit.graph import ArrayTensor, Tensor, WeightlessTensor
from graphsplit.manifest import Group, ParameterEntry
from graphsplit.manifest.content import DTYPES
from graphsplit.manifest.ranges import COMMON, OUTPUT, PRIVATE
from graphsplit.recombine import Leaf, merged_tensor, tensors
from tests.leaves import Array, files, leaf_with, refused, same_bits, split_up, with_tensor
from tests.manifests.make import build, parameter

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
