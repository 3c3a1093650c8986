"""Verification of torch splits: each check fails on what is wrong in its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import graphsplit.merging  # noqa: E402
from graphsplit.errors import MergeError  # noqa: E402
from graphsplit.graph import ArrayTensor  # noqa: E402
from graphsplit.modules import ModuleSplit  # noqa: E402
from graphsplit.verification import laws, verify_opened  # noqa: E402
from graphsplit.verification.running import Bench  # noqa: E402
from tests.torch_splits import failed, lenet, made, trained, verified, with_tensors  # noqa: E402

__all__ = ["lenet", "trained"]  # fixtures

# -- a merge that is wrong ----------------------------------------


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str, Any], Any]], None]]:
    """Lets every merged tensor pass through a function of its name and elements."""
    right = graphsplit.merging.LazyMerged.numpy

    def set_to(change: Callable[[str, Any], Any]) -> None:
        monkeypatch.setattr(
            graphsplit.merging.LazyMerged, "numpy", lambda self: change(self.entry.name, right(self).copy())
        )

    return set_to  # type: ignore[return-value]


def test_a_formula_without_the_mean_fails(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: a * 2 if name == "fc2.weight" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_a_bias_without_the_mean_fails(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: a * 2 if name == "fc2.bias" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_an_owned_element_that_changes_fails(lenet: ModuleSplit, lazily: Any) -> None:
    def changed(name: str, a: Any) -> Any:
        if name == "conv1.weight":
            a.reshape(-1)[np.abs(a).argmax()] *= 2
        return a

    lazily(changed)
    found = verified(lenet)
    assert failed(found) == {"identity", "exact merge"}
    assert "owned elements" in found["identity"].detail


def test_owned_weights_that_are_rounded_fail(lenet: ModuleSplit, lazily: Any) -> None:
    """One unit in the last place is nothing to the values, and breaks the identity."""
    lazily(lambda name, a: np.nextafter(a, np.float32(1)) if name == "fc1.bias" else a)
    assert failed(verified(lenet)) == {"identity"}


def test_two_parts_slices_swapped_fail(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: np.roll(a, len(a) // 2, 0) if name == "fc1.weight" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_running_statistics_of_the_wrong_part_fail(trained: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: np.roll(a, len(a) // 2, 0) if name == "bn1.running_var" else a)
    assert failed(verified(trained)) == {"identity", "exact merge"}


def test_cut_weights_that_are_left_fail(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: np.where(a == 0, np.float32(0.1), a) if name == "conv2.weight" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_a_merge_without_its_repeated_nodes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = graphsplit.merging.assemble
    split = made("transformer")

    def wrong(source: Any, dialect: Any, layout: Any, leaves: Any) -> Any:
        return right(source, dialect, replace(layout, repeated=frozenset()), leaves)

    monkeypatch.setattr(graphsplit.merging, "assemble", wrong)
    assert failed(verified(split)) == {"exact merge"}


def test_a_merge_that_depends_on_the_order_fails(lenet: ModuleSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    right = laws.merged_graph

    def wrong(opened: Any, leaves: Any, **options: Any) -> Any:
        graph, repeated = right(opened, leaves, **options)
        if leaves[0].path != (0,):
            tensors = {**graph.tensors, "fc1.bias": ArrayTensor(np.negative(graph.tensors["fc1.bias"].numpy()))}
            graph = graph.replace(tensors=tensors)
        return graph, repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    assert failed(verified(lenet)) == {"order"}
    monkeypatch.setattr(laws, "ORDER_BYTES", 1)  # large networks: a few tensors, the smallest
    monkeypatch.setattr(laws, "merged_graph", right)
    assert "tensors, for the network is large" in verified(lenet)["order"].detail


def test_one_part_that_is_not_the_source_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    split, right = made("residual", 1), laws.merged_graph

    def wrong(*args: Any, **options: Any) -> Any:
        graph, repeated = right(*args, **options)
        swapped = tuple(replace(n, op="sigmoid_.default") if n.op == "relu_.default" else n for n in graph.nodes)
        assert swapped != graph.nodes
        return graph.replace(nodes=swapped), repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    assert failed(verified(split)) == {"identity", "exact merge"}


# -- sub-models that are wrong ----------------------------------------


def test_a_changed_constant_fails() -> None:
    split = made("computed")
    first, *others = split.leaves()
    assert "scale" in first.tensors
    assert "scale" not in split.opened.network.trained
    found = verified(split, [with_tensors(first, scale=first.tensors["scale"].numpy() * 2), *others])
    assert "coverage" in failed(found)
    assert "'scale'" in found["coverage"].detail


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: np.concatenate([a, a]), "has shape"),
        (lambda a: a.astype(np.float64), "has type float64"),
    ],
)
def test_a_weight_that_is_not_the_manifests_fails(
    change: Callable[[Any], Any], why: str, lenet: ModuleSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphsplit.verification.statics import coverage

    leaf = lenet.leaves()[0]
    wrong = with_tensors(leaf, fc1__bias=change(leaf.tensors["fc1.bias"].numpy()))
    assert coverage(lenet.opened, [("it", 0, leaf.tensors)]).passed
    found = coverage(lenet.opened, [("it", 0, wrong.tensors)])
    assert not found.passed
    assert why in found.detail


def test_a_sub_model_that_does_not_run_fails(lenet: ModuleSplit) -> None:
    first, *others = lenet.leaves()
    broken = with_tensors(first, conv2__bias=np.zeros(7, np.float32))
    bench = Bench.on(lenet.opened, Path(), None)
    from graphsplit.verification.running import subjects
    from graphsplit.verification.statics import valid_parts

    parts = subjects(lenet.opened, [broken, *others])
    found = valid_parts(bench, parts, lenet.leaves())
    assert not found.passed
    assert found.detail.startswith("sub-model 0: aten::conv2d.default 'conv2' cannot be run: ")


def test_a_part_without_a_vertex_of_a_layer_fails(lenet: ModuleSplit) -> None:
    partition = lenet.plan.partition
    owner = np.where(partition.owner == 1, 0, partition.owner)
    opened = replace(lenet.opened, plan=replace(lenet.plan, partition=replace(partition, owner=owner)))
    assert failed(verify_opened(opened, lenet.leaves())) == {"valid parts", "narrowness"}


def test_a_layer_that_is_too_wide_fails() -> None:
    """The module was split 3:1, and the shares say 1:1."""
    split = made("residual", shares=(3, 1))
    assert failed(verified(split)) == set()
    partition = replace(split.plan.partition, shares=(0.5, 0.5))
    opened = replace(split.opened, plan=replace(split.plan, partition=partition))
    assert failed(verify_opened(opened, split.leaves())) == {"narrowness"}


def test_a_sub_model_that_explodes_proves_nothing() -> None:
    split = made("lenet")
    with torch.no_grad():
        for module in split.submodels:
            module.get_parameter("fc1.weight").fill_(1e38)
            module.get_parameter("fc2.weight").fill_(1e38)
    found = verified(split)
    assert failed(found) == {"exact merge"}
    assert "no element of it is finite" in found["exact merge"].detail


def test_a_sub_model_with_nan_proves_nothing() -> None:
    split = made("lenet")
    with torch.no_grad():
        split.submodels[1].get_parameter("fc1.bias")[0] = float("nan")
    with pytest.raises(MergeError):
        split.leaves()
    found = verified(split, split.leaves(allow_nonfinite=True))
    assert failed(found) == {"exact merge"}


def test_a_network_that_runs_on_no_input_fails(lenet: ModuleSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.formats import torch_runtime

    def failing(*_: object) -> None:
        raise RuntimeError("no kernel\nin this build")

    monkeypatch.setattr(torch_runtime, "call", failing)
    found = verified(lenet)
    assert failed(found) == {"exact merge"}
    assert "'conv1' cannot be run: no kernel)" in found["exact merge"].detail
