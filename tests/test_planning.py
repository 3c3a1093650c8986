"""graphsplit.plan: selections, the roles of tensors, and the nodes that the merged network repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphsplit import api
from graphsplit.labels.arrays import Labels
from graphsplit.planning import Plan
from graphsplit.selection import Selection, select
from tests.laws.check import write
from tests.networks import EXACT_OR_REFUSED, NETWORKS


def plan_of(name: str, k: int, folder: Path) -> Plan:
    return api.plan(write({**NETWORKS, **EXACT_OR_REFUSED}[name](), folder), k)


@given(st.data())
def test_take_is_indexing(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    axes = tuple(
        data.draw(st.none() | st.sets(st.integers(0, n - 1), min_size=1).map(lambda s: np.array(sorted(s))))
        for n in shape
    )
    array = np.arange(np.prod(shape)).reshape(shape)
    chosen = Selection(axes)
    expected = array[np.ix_(*[np.arange(n) if a is None else a for a, n in zip(axes, shape, strict=True)])]
    assert np.array_equal(chosen.take(array), expected)
    assert chosen.shape(shape) == expected.shape


def test_a_blocked_axis_has_other_columns_in_each_block() -> None:
    array = np.arange(16).reshape(4, 4)
    chosen = Selection((np.array([0, 2]), None), (1, 0, (np.array([0, 1]), np.array([2, 3]))))
    assert chosen.take(array).tolist() == [[0, 1], [10, 11]]
    assert chosen.shape((4, 4)) == (2, 2)
    assert not chosen.everything


def test_select_sees_ragged_values() -> None:
    owner = np.array([-1, 0, 0, 1, 1])
    chosen = select(Labels((2, 2), np.array([[1, 3], [3, 1]])), owner, 0)
    assert chosen.ragged
    assert chosen.shape == (2, 1)
    plain = select(Labels((2, 4), np.array([[1, 2, 3, 4]])), owner, 1)
    assert not plain.ragged
    assert plain.shape == (2, 2)
    assert plain.axes[1].tolist() == [2, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["lenet", "densenet", "transformer", "shufflenet_v1_g2", "batch_norm_on_input"])
def test_counts_are_those_of_the_parts(tmp_path: Path, name: str) -> None:
    plan = plan_of(name, 2, tmp_path)
    owner = plan.partition.owner
    for parameter in plan.parameters.values():
        counts = parameter.counts(owner, 2)
        assert sum(counts.values()) == np.prod(parameter.shape)
        held = np.zeros(parameter.shape, np.int64)
        for part in range(2):
            for index, _ in parameter.selection(owner, part).blocks(parameter.shape):
                held[np.ix_(*index)] += 1
        assert (held == 0).sum() == counts["cut"]


def test_roles_of_a_plain_network(tmp_path: Path) -> None:
    plan = plan_of("lenet", 2, tmp_path)
    roles = {name: parameter.role for name, parameter in plan.parameters.items()}
    last = plan.graph.nodes[-1].inputs[1:]
    assert {name for name, role in roles.items() if role == "output"} == set(last)
    assert set(roles.values()) == {"owned", "output"}
    assert not plan.part_nodes
    assert not plan.activation


def test_a_norm_over_channels_is_repeated(tmp_path: Path) -> None:
    plan = plan_of("lrn", 2, tmp_path)
    assert {plan.graph.nodes[i].op for i in plan.part_nodes} == {"LRN"}


def test_one_part_repeats_and_scales_nothing(tmp_path: Path) -> None:
    for name in ("lrn", "tied_autoencoder", "language_model_tied"):
        plan = plan_of(name, 1, tmp_path)
        assert not plan.part_nodes
        assert not plan.activation


def test_a_tied_output_is_scaled_behind(tmp_path: Path) -> None:
    plan = plan_of("tied_autoencoder", 2, tmp_path)
    assert {plan.graph.nodes[i].op for i in plan.activation} == {"Gemm"}


def test_a_computed_output_weight_is_not_scaled(tmp_path: Path) -> None:
    """1/K in front of Softplus would be wrong: the layer is repeated, and its weight owned."""
    plan = plan_of("positive_weights", 2, tmp_path)
    assert plan.parameters["fc2.raw"].role == "owned"
    assert "MatMul" in {plan.graph.nodes[i].op for i in plan.part_nodes}
