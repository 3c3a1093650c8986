"""Verification of merges: each check fails on something that is wrong in its way alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphsplit.merging
from graphsplit import verification
from graphsplit.errors import FormatError
from graphsplit.graph import ArrayTensor
from graphsplit.merging import merge
from graphsplit.verification import verify
from tests.split_folders import deep, edit, failed, mlp, set_tensors, split_of, tensors, train

__all__ = ["deep", "mlp"]  # fixtures

# -- a merged file that is wrong ----------------------------------------


def permuted_part(arrays: dict[str, Any]) -> None:
    """The hidden vertices of part 0 come in another order in the second layer."""
    half = arrays["fc2.weight"].shape[1] // 2
    arrays["fc2.weight"][:, :half] = arrays["fc2.weight"][:, :half][:, ::-1].copy()


def missing_mean(arrays: dict[str, Any]) -> None:
    arrays["fc2.weight"] *= 2


def missing_mean_of_the_bias(arrays: dict[str, Any]) -> None:
    arrays["fc2.bias"] *= 2


def doubled_weight(arrays: dict[str, Any]) -> None:
    weight = arrays["fc1.weight"]
    weight[np.unravel_index(np.abs(weight).argmax(), weight.shape)] *= 2


def zeroed_bias(arrays: dict[str, Any]) -> None:
    arrays["fc1.bias"][:] = 0


def swapped_channels(arrays: dict[str, Any]) -> None:
    arrays["fc1.weight"][[0, 1]] = arrays["fc1.weight"][[1, 0]]


def cut_weight_not_zero(arrays: dict[str, Any]) -> None:
    arrays["hidden.weight"][0, -1] = 0.3


def constant(arrays: dict[str, Any]) -> None:
    for array in arrays.values():
        array[...] = 0.5


@pytest.mark.parametrize(
    "damage",
    [
        permuted_part,
        missing_mean,
        missing_mean_of_the_bias,
        doubled_weight,
        zeroed_bias,
        swapped_channels,
        cut_weight_not_zero,
        constant,
    ],
)
def test_a_wrong_merge_fails(damage: Callable[[dict[str, Any]], None], deep: Path) -> None:
    merged = deep.parent / "merged.onnx"
    assert failed(verify(deep, merged)) == set()
    arrays = tensors(merged)
    damage(arrays)
    set_tensors(merged, arrays)
    found = verify(deep, merged)
    assert failed(found) == {"merged tensors", "merged values"}
    values = found["merged values"]
    assert values.worst is not None
    assert values.tolerance is not None
    assert values.worst > 10 * values.tolerance


def test_a_merge_of_other_sub_models_fails(deep: Path) -> None:
    for path in deep.glob("submodel_*.onnx"):
        set_tensors(path, {n: a * np.float32(1.1) for n, a in tensors(path).items() if a.dtype.kind == "f"})
    assert failed(verify(deep, deep.parent / "merged.onnx")) == {"merged tensors", "merged values"}


def test_another_graph_fails(deep: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"

    edit(deep.parent / "merged.onnx", change)
    assert failed(verify(deep, deep.parent / "merged.onnx")) == {"merged structure", "merged values"}


def test_another_attribute_fails(deep: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Softmax").attribute[0].i = 0

    edit(deep.parent / "merged.onnx", change)
    assert "merged structure" in failed(verify(deep, deep.parent / "merged.onnx"))


def test_a_merged_file_that_does_not_run_fails(deep: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "NoSuchOp"

    edit(deep.parent / "merged.onnx", change)
    assert {"merged file", "merged values"} <= failed(verify(deep, deep.parent / "merged.onnx"))


def test_a_missing_merged_file_is_an_error(mlp: Path) -> None:
    with pytest.raises(FormatError):
        verify(mlp, mlp / "no.onnx")


def test_original_layers_give_up_law_1_only_where_something_is_repeated(tmp_path: Path) -> None:
    parts = split_of("alexnet", tmp_path)
    train(parts)
    done = merge(parts, out=tmp_path / "merged.onnx", layers="original")
    found = verify(parts, done.path)
    assert failed(found) == set()
    assert "law 1 is given up" in found["merged values"].detail
    assert "law 1 is given up" in found["merged structure"].detail
    (tmp_path / "plain").mkdir()
    plain = split_of("lenet", tmp_path / "plain")
    done = merge(plain, out=tmp_path / "plain" / "merged.onnx", layers="original")
    found = verify(plain, done.path)
    assert failed(found) == set()
    assert "given up" not in found["merged values"].detail


def test_results_scaled_behind_the_output_layer_pass(deep: Path) -> None:
    out = deep.parent / "behind.onnx"
    merge(deep, out=out, output_scale="activation")
    found = verify(deep, out)
    assert failed(found) == set()
    assert "scaled behind" in found["merged structure"].detail


# -- a merge that is wrong ----------------------------------------


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str, Any], Any]], None]]:
    """Lets every merged tensor pass through a function of its name and elements."""
    right = graphsplit.merging.LazyMerged.numpy

    def set_to(change: Callable[[str, Any], Any]) -> None:
        monkeypatch.setattr(
            graphsplit.merging.LazyMerged, "numpy", lambda self: change(self.entry.name, right(self).copy())
        )

    return set_to


def test_a_formula_without_the_mean_fails(deep: Path, lazily: Any) -> None:
    lazily(lambda name, a: a * 2 if name == "fc2.weight" else a)
    assert failed(verify(deep)) == {"identity", "exact merge"}


def test_a_formula_that_leaves_cut_weights_fails(deep: Path, lazily: Any) -> None:
    lazily(lambda name, a: np.where(a == 0, np.float32(0.1), a) if name == "hidden.weight" else a)
    assert failed(verify(deep)) == {"identity", "exact merge"}


def test_a_formula_that_rounds_owned_weights_fails(deep: Path, lazily: Any) -> None:
    """One unit in the last place is nothing to the values, and breaks the identity."""
    lazily(lambda name, a: np.nextafter(a, np.float32(1)) if name == "fc1.bias" else a)
    assert failed(verify(deep)) == {"identity"}


def test_a_merge_without_its_repeated_nodes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_of("alexnet", tmp_path)
    right = graphsplit.merging.assemble

    def wrong(source: Any, dialect: Any, layout: Any, leaves: Any) -> Any:
        return right(source, dialect, replace(layout, repeated=frozenset()), leaves)

    monkeypatch.setattr(graphsplit.merging, "assemble", wrong)
    assert failed(verify(parts)) == {"exact merge"}


def test_copies_of_the_wrong_part_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_of("eca", tmp_path)
    train(parts)
    right = graphsplit.merging.assemble

    def wrong(*args: Any) -> Any:
        found = right(*args)
        assert found.copies
        return replace(found, copies={name: (1 - leaf, there) for name, (leaf, there) in found.copies.items()})

    monkeypatch.setattr(graphsplit.merging, "assemble", wrong)
    assert failed(verify(parts)) == {"identity", "exact merge"}


def test_a_merge_that_depends_on_the_order_fails(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.verification import laws

    right = laws.merged_graph

    def wrong(opened: Any, leaves: Any, **options: Any) -> Any:
        graph, repeated = right(opened, leaves, **options)
        if leaves[0].path != (0,):
            tensors = dict(graph.tensors)
            tensors["fc1.bias"] = ArrayTensor(np.negative(tensors["fc1.bias"].numpy()))
            graph = graph.replace(tensors=tensors)
        return graph, repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    monkeypatch.setattr(verification, "_again", lambda opened, leaves, trained: leaves[::-1])
    assert failed(verify(deep)) == {"order"}
    monkeypatch.setattr(laws, "ORDER_BYTES", 1)  # large networks: a few tensors
    monkeypatch.setattr(laws, "merged_graph", right)
    found = verify(deep)
    assert failed(found) == set()
    assert "tensors, for the network is large" in found["order"].detail
