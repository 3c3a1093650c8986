"""graphsplit.partition: strategies, families, and balances in whole numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphsplit import api
from graphsplit.errors import PlanError, UnevenError
from graphsplit.partition import STRATEGIES, Family, Layer, Structure
from graphsplit.partition.balance import counts
from graphsplit.planning import Plan
from tests.laws.check import write
from tests.networks import NETWORKS
from tests.networks.generate import random_network


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.sampled_from(sorted(STRATEGIES)))
def test_a_strategy_keeps_the_counts(sizes: list[int], strategy: str) -> None:
    owner = STRATEGIES[strategy](sum(sizes), np.array(sizes), np.random.default_rng(0))
    assert np.bincount(owner, minlength=len(sizes)).tolist() == sizes


def test_strategies_by_example() -> None:
    rng = np.random.default_rng(0)
    assert STRATEGIES["contiguous"](5, np.array([3, 2]), rng).tolist() == [0, 0, 0, 1, 1]
    assert STRATEGIES["interleaved"](6, np.array([3, 3]), rng).tolist() == [0, 1, 0, 1, 0, 1]


def owners(name: str, k: int, folder: Path, **options: object) -> Plan:
    return api.plan(write(NETWORKS[name](), folder), k, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [2, 3, 4, 7])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_families_are_divided_evenly(tmp_path: Path, k: int, strategy: str) -> None:
    plan = owners("lenet", k, tmp_path, strategy=strategy)
    for family, numbers in zip(plan.partition.structure.families, plan.partition.counts, strict=True):
        assert numbers.sum() == len(family.atoms)
        assert numbers.max() - numbers.min() <= 1
        assert np.bincount(plan.partition.owner[family.atoms], minlength=k).tolist() == numbers.tolist()


def test_every_vertex_has_an_owner_and_classes_stay_together(tmp_path: Path) -> None:
    plan = owners("resnet_basic", 3, tmp_path, strategy="random", seed=3)
    flowed = plan.flowed
    for block in flowed.blocks.values():
        ids = np.arange(block.start, block.start + block.size)
        assert (plan.partition.owner[flowed.classes[ids]] >= 0).all()


def test_shares(tmp_path: Path) -> None:
    plan = owners("lenet", 3, tmp_path, shares=[2, 1, 1])
    assert plan.partition.shares == (0.5, 0.25, 0.25)
    for family, numbers in zip(plan.partition.structure.families, plan.partition.counts, strict=True):
        assert np.abs(numbers - len(family.atoms) * np.array(plan.partition.shares)).max() <= 1


@pytest.mark.parametrize("shares", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1, 1, 1]])
def test_shares_that_make_no_sense(tmp_path: Path, shares: list[float]) -> None:
    with pytest.raises(PlanError, match="shares"):
        owners("lenet", 2, tmp_path, shares=shares)


def test_unknown_strategy(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no strategy 'best'") as caught:
        owners("lenet", 2, tmp_path, strategy="best")
    assert "contiguous" in caught.value.hint


@pytest.mark.parametrize("k", [0, -1, 5000, True, 2.0])
def test_parts_that_make_no_sense(tmp_path: Path, k: int) -> None:
    with pytest.raises(PlanError, match="can't be split into"):
        owners("lenet", k, tmp_path)


def test_infeasible_counts_name_their_nodes(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"equal counts of Conv '/stage3/0/conv3/conv/Conv'"):
        owners("shufflenet_v1_g4", 2, tmp_path)


def test_a_layer_of_which_no_part_can_have_its_share_is_whole(tmp_path: Path) -> None:
    plan = api.plan(write(random_network(7), tmp_path), 4)
    reasons = [reason for reason in plan.flowed.private.values() if "no whole numbers" in reason]
    assert reasons
    assert "/Reshape" in reasons[0]
    assert all((np.asarray(numbers) > 0).all() for numbers in plan.partition.counts)


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    """Two rows of three atoms each for two parts; another constraint that is no trouble isn't named."""
    atoms = [np.array([1, 2, 3]), np.array([4, 5, 6]), np.array([7, 8])]
    structure = Structure(
        layers=(Layer(0, np.arange(1, 9)),),
        families=tuple(Family(a) for a in atoms),
        usage=np.array([[0, 0, 1], [1, 0, 1], [2, 0, 1]]),
        rows=np.array([[0, 0, 0, 1], [1, 0, 1, 1], [2, 1, 0, 1], [2, 1, 1, 1]]),
        offsets=np.array([[0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 0]]),
        constraint_nodes=(10, 11),
    )
    with pytest.raises(UnevenError) as caught:
        counts(structure, np.array([0.5, 0.5]), ["a", "b"])
    assert [(node, list(found)) for node, found in caught.value.uneven] == [(10, [1, 2, 3, 4, 5, 6])]


def test_a_group_of_a_kept_convolution_gives_each_part_as_many(tmp_path: Path) -> None:
    plan = owners("shufflenet_v1_g2", 2, tmp_path)
    owner = plan.partition.owner
    mixing = [(node, rows) for node, rows in plan.flowed.rows if plan.flowed.last.bounds[node].mix and (rows > 0).all()]
    assert mixing
    for _, rows in mixing:
        taken = np.stack([(owner[rows] == part).sum(axis=1) for part in range(2)], axis=1)
        assert (taken == taken[:1]).all()
        assert (taken > 0).all()
