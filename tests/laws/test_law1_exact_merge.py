"""Law 1: each tap of the merged network is the mean of the sub-models' same tap, for trained sub-models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphsplit.merging
from graphsplit.assemble import _Assembler
from graphsplit.errors import GraphsplitError
from graphsplit.graph import ArrayTensor
from graphsplit.merging import merge
from tests.laws.cases import (
    ALL,
    MORE_SEEDS,
    REASONS,
    REFUSALS,
    SEEDS,
    SEEDS_REFUSED,
    SPLITS,
    Made,
    Split,
    make_seed,
    splits,
)
from tests.laws.check import Array, Case, Runner, exact_merge, narrowness, planned_inputs, refusal, trained, valid_parts
from tests.networks import REFUSED
from tests.networks.attention import group_norm_18
from tests.networks.builder import Net
from tests.networks.generate import networks


def assert_exact(case: Case) -> None:
    found = exact_merge(case)
    assert not found.complaints, found.complaints[:5]
    narrow = narrowness(case)  # without it, K full copies would do
    assert not narrow.complaints, narrow.complaints[:5]


@pytest.mark.parametrize(("name", "k"), splits())
def test_taps_are_means(made: Made, name: str, k: Split) -> None:
    assert_exact(made(name, k))


def test_each_network_has_its_turn_in_every_run() -> None:
    quick = [param.values for param in splits() if not param.marks]
    assert [name for name, _ in quick] == [name for name in ALL if name != "shufflenet_v1_g4"]  # refused for each split
    assert {k for _, k in quick} == set(SPLITS)


@pytest.mark.parametrize(("name", "k"), list(REFUSALS))
def test_what_is_listed_as_refused_is_refused(made: Made, name: str, k: Split) -> None:
    """A network that splits by now has to leave the table."""
    with pytest.raises(GraphsplitError, match=REFUSALS[name, k]):
        made(name, k)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("k", [2, 3])
def test_refused_by_name(tmp_path: Path, name: str, k: int) -> None:
    build, word = REFUSED[name]
    with pytest.raises(GraphsplitError) as caught:
        trained(build(), k, tmp_path)
    assert word in caught.value.message
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize("seed", SEEDS)
def test_generated(tmp_path: Path, seed: int) -> None:
    if seed in SEEDS_REFUSED:
        with pytest.raises(GraphsplitError, match=SEEDS_REFUSED[seed]):
            make_seed(seed, tmp_path)
    else:
        assert_exact(make_seed(seed, tmp_path))


def exact_or_refused(make: Callable[[], Case]) -> bool:
    """Whether a case is exact, rather than refused for a reason that a reader accepts."""
    made: list[Case] = []
    error = refusal(lambda: made.append(make()))
    assert error is None or any(reason in error.message for reason in REASONS), error
    for case in made:
        assert_exact(case)
    return error is None


@pytest.mark.slow
def test_many_generated(tmp_path: Path) -> None:
    exact = sum(exact_or_refused(lambda seed=seed: make_seed(seed, tmp_path / str(seed))) for seed in MORE_SEEDS)
    assert exact >= 0.85 * len(MORE_SEEDS)


@settings(max_examples=25)
@given(networks(), st.sampled_from([2, 3, 4]), st.sampled_from(["contiguous", "interleaved", "random"]))
def test_any_network(tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto, k: int, strategy: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    exact_or_refused(lambda: trained(model, k, folder, strategy=strategy))


@pytest.mark.parametrize("name", ["lenet", "lrn", "transformer", "resnet_bottleneck", "float64", "unet"])
def test_scaled_behind_the_output_layer(tmp_path: Path, name: str) -> None:
    """With the weights left alone and 1/K behind the contraction."""
    case = trained(ALL[name](), 3, tmp_path)
    merge(case.split.folder, out=case.merged, output_scale="activation", force=True)
    assert_exact(case)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("k", [2, 3])
def test_group_norm_of_opset_18(tmp_path: Path, groups: int, k: int) -> None:
    """The networks' own tests can't hold it: the checker calls the version deprecated."""
    assert_exact(trained(group_norm_18(groups), k, tmp_path))


def test_outputs_without_an_output_layer_as_means(tmp_path: Path) -> None:
    """Every part then has the features whole; where nothing else is left to divide, that is refused by name."""
    assert_exact(trained(ALL["token_backbone"](), 2, tmp_path / "tokens", outputs="mean"))
    with pytest.raises(GraphsplitError, match="is an output that hidden layers read too"):
        trained(ALL["backbone"](), 2, tmp_path / "backbone", outputs="mean")


@pytest.mark.parametrize("name", ["lenet", "unet", "token_backbone", "backbone"])
def test_outputs_asked_to_be_put_side_by_side(tmp_path: Path, name: str) -> None:
    """The output layers are then divided like any other."""
    case = trained(ALL[name](), 2, tmp_path, outputs="concat")
    assert {output.merge for output in case.split.manifest.outputs} == {"concat"}
    assert_exact(case)


def test_outputs_that_no_part_can_have_a_slice_of_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphsplitError, match="--outputs concat: each part has 'output' whole: "):
        trained(ALL["lenet"](), 11, tmp_path, outputs="concat")


def test_parts_differ(made: Made) -> None:
    """If all parts gave the same, any weighting of them would be the mean."""
    case = made("lenet", 3)
    values = [Runner(part.file, ())(planned_inputs(case))["output"] for part in case.parts]
    assert min(np.abs(values[i] - values[i - 1]).max() for i in range(3)) > 1e-2


# -- weights computed from parameters -------------------------------------------------------------------------------------


def dense_tanh(net: Net) -> str:
    return net.op("Tanh", net.dense(net.input("input", ("batch", 6)), "fc1", 12))


def output_gain() -> onnx.ModelProto:
    """An output weight times a learned gain: only one of the factors may get the 1/K."""
    net = Net("output_gain")
    x = dense_tanh(net)
    weight = net.mul(net.param("fc2.weight", (4, 12)), net.param("fc2.gain", (4, 1), "scale"))
    net.output(net.op("Gemm", x, weight, net.param("fc2.bias", (4,), "bias"), transB=1), "output")
    return net.build()


def hidden_softplus() -> onnx.ModelProto:
    """Softplus of a cut element's zero isn't zero."""
    net = Net("hidden_softplus")
    x = net.op("Tanh", net.op("MatMul", dense_tanh(net), net.op("Softplus", net.param("fc2.raw", (12, 10)))))
    net.output(net.dense(x, "fc3", 4), "output")
    return net.build()


def output_bias_exp() -> onnx.ModelProto:
    """The mean of exp isn't exp of the mean."""
    net = Net("output_bias_exp")
    product = net.op("MatMul", dense_tanh(net), net.param("fc2.weight", (12, 4)))
    net.output(net.add(product, net.op("Exp", net.param("fc2.bias", (4,), "bias"))), "output")
    return net.build()


def tied_exp() -> onnx.ModelProto:
    net = Net("tied_exp")
    weight, x = net.op("Exp", net.param("weight", (12, 6))), net.input("input", ("batch", 6))
    x = net.op("Tanh", net.op("Gemm", x, weight, transB=1))
    net.output(net.op("Gemm", x, weight), "output")
    return net.build()


@pytest.mark.parametrize("build", [output_gain, hidden_softplus, output_bias_exp, tied_exp])
@pytest.mark.parametrize("k", [2, 3])
def test_computed_weights(tmp_path: Path, build: Callable[[], onnx.ModelProto], k: int) -> None:
    assert_exact(trained(build(), k, tmp_path))


def test_groups_with_one_filter_each_are_not_kept(tmp_path: Path) -> None:
    """No part can take as many filters out of each group as another (this gave a sub-model that didn't run): they are whole."""
    case = trained(grouped_single(), 3, tmp_path)
    assert_exact(case)
    assert any("no whole numbers" in reason for reason in case.split.plan.flowed.private.values())


def grouped_single() -> onnx.ModelProto:
    net = Net("grouped_single")
    x = net.input("input", ("batch", 3, 4, 4))
    a = net.relu(net.conv(x, "a", 9, 1))
    b = net.relu(net.conv(x, "b", 15, 1))
    x = net.relu(net.conv(net.concat(a, b), "grouped", 3, 3, groups=3))
    net.output(net.dense(net.flatten(net.op("GlobalAveragePool", x)), "fc", 5), "output")
    return net.build()


# -- negative controls: a wrong merge is reported --------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def changed_tensor(change: Callable[[Any, str, Array], Array]) -> Break:
    """Merged tensors that come out otherwise."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        right = graphsplit.merging.merged_tensor_of

        def wrong(opened: Any, name: str, leaves: Any) -> ArrayTensor:
            return ArrayTensor(change(opened.entries[name], name, np.array(right(opened, name, leaves).numpy())))

        patch.setattr(graphsplit.merging, "merged_tensor_of", wrong)

    return apply


def changed_leaves(change: Callable[[int, Sequence[Any], str], Array]) -> Break:
    """Sub-models that are taken for something else."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        right = graphsplit.merging.merged_tensor_of

        def wrong(opened: Any, name: str, leaves: Sequence[Any]) -> Any:
            if opened.entries[name].role == "constant":
                return right(opened, name, leaves)
            found = [
                replace(leaf, tensors={**leaf.tensors, name: ArrayTensor(change(number, leaves, name))})
                for number, leaf in enumerate(leaves)
            ]
            return right(opened, name, found)

        patch.setattr(graphsplit.merging, "merged_tensor_of", wrong)

    return apply


def permuted_join(patch: pytest.MonkeyPatch) -> None:
    right = _Assembler._join
    patch.setattr(_Assembler, "_join", lambda self, name, pieces, axis: right(self, name, list(pieces)[::-1], axis))


def one_for_the_average(patch: pytest.MonkeyPatch) -> None:
    right = _Assembler._average
    patch.setattr(_Assembler, "_average", lambda self, name, pieces: right(self, name, [pieces[0]] * len(pieces)))


def permuted(array: Array) -> Array:
    return np.roll(array, 1, axis=0) if array.ndim else array


BROKEN: dict[str, tuple[str, Break]] = {
    "no 1/K": ("lenet", changed_tensor(lambda e, n, a: a * 2 if e.counts.output else a)),
    "1/K on the bias too": ("lenet", changed_tensor(lambda e, n, a: a / 2 if n.endswith("fc2.bias") else a)),
    "1/K twice": ("lenet", changed_tensor(lambda e, n, a: a / 2 if e.counts.output and a.ndim > 1 else a)),
    "a doubled weight": ("lenet", changed_tensor(lambda e, n, a: a * 2 if n.startswith("conv2") and a.ndim > 1 else a)),
    "a constant answer": ("lenet", changed_tensor(lambda e, n, a: np.zeros_like(a))),
    "uncut weights": ("lenet", changed_tensor(lambda e, n, a: np.where(a == 0, a.dtype.type(0.05), a))),
    "a permuted part": (
        "lenet",
        changed_leaves(
            lambda i, leaves, n: permuted(leaves[i].tensors[n].numpy()) if i else leaves[i].tensors[n].numpy()
        ),
    ),
    "swapped parts": ("lenet", changed_leaves(lambda i, leaves, n: leaves[1 - i].tensors[n].numpy())),
    "equal copies": ("lenet", changed_leaves(lambda i, leaves, n: leaves[0].tensors[n].numpy())),
    "permuted slices": ("lrn", permuted_join),
    "one part for the average": ("auxiliary_head", one_for_the_average),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_a_wrong_merge_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    name, apply = BROKEN[wrong]
    case = trained(ALL[name](), 2, tmp_path)
    assert not exact_merge(case).complaints
    apply(monkeypatch)
    merge(case.split.folder, out=case.merged, force=True)
    found = exact_merge(case)
    assert any("off" in complaint for complaint in found.complaints)
    assert not valid_parts(case).complaints, "only the merge was broken"


def test_a_wrong_tail_is_reported(tmp_path: Path) -> None:
    """Taps may be right and the outputs behind them not."""
    case = trained(ALL["unet"](), 2, tmp_path)
    model = onnx.load(case.merged)
    tail = next(n for n in model.graph.node if n.op_type == "Sigmoid" and n.output[0] == model.graph.output[0].name)
    tail.op_type = "Abs"
    del tail.attribute[:]
    onnx.save(model, case.merged)
    assert any("isn't what the source computes" in complaint for complaint in exact_merge(case).complaints)
