"""graphsplit.recombine: trained files find their parts, and what doesn't fit is refused."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from graphsplit.manifest import Group
from graphsplit.manifest.content import DTYPES
from graphsplit.recombine import Trained, leaves_of, match_parts
from tests.leaves import files, refused, with_tensor
from tests.manifests.make import build, example, parameter


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
