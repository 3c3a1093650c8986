"""graphsplit.labels: label arrays, couplings, and what the flow says of small networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphsplit.errors import GraphsplitError
from graphsplit.labels import COMMON, OUTPUT, PRIVATE, Flowed, flow
from graphsplit.labels.arrays import compress, from_factors, meet, move_labels, to_factors, uniform
from graphsplit.labels.couplings import Couplings, resolve
from graphsplit.network import prepare
from tests.laws.check import write
from tests.networks import NETWORKS


def flowed(name: str, k: int, folder: Path, **options: object) -> Flowed:
    network = prepare(write(NETWORKS[name](), folder))
    return flow(network.graph, network.dialect, network.facts, network.trained, k, others=network.others, **options)  # type: ignore[arg-type]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.booleans())
def test_compress_keeps_every_label(a: int, b: int, c: int, first: bool, second: bool) -> None:
    core = np.arange(1, a * b + 1).reshape(a, b, 1)
    core = core[:1] if first else core
    core = core[:, :1] if second else core
    full = np.broadcast_to(core, (a, b, c))
    labels = compress(full)
    assert np.array_equal(labels.full(), full)
    assert labels.core.shape[2] == 1
    assert labels.core.size <= core.size


def test_meet_ranks_ids_over_private_over_output_over_common() -> None:
    ranked = [7, PRIVATE, OUTPUT, COMMON]
    for i, strong in enumerate(ranked):
        for weak in ranked[i:]:
            assert meet(np.array([strong]), np.array([weak])) == [strong]
            assert meet(np.array([weak]), np.array([strong])) == [strong]


def test_factors_there_and_back() -> None:
    sizes, order = {"n": 2, "g": 3, "c": 4}, ["n", "g", "c"]
    core = np.arange(1, 13).reshape(1, 12, 1)
    axes = (("n",), ("g", "c"), ())
    array = to_factors(core, axes, sizes, order)
    assert array.shape == (1, 3, 4)
    assert np.array_equal(from_factors(array, axes, sizes, order), core)


def test_what_a_move_makes_up_goes_with_its_row() -> None:
    labels = compress(np.broadcast_to(np.array([5, 6])[:, None], (2, 3)))
    (padded,) = move_labels([labels], lambda arrays: [np.pad(arrays[0], [(0, 0), (1, 1)])])  # type: ignore[arg-type]
    assert np.array_equal(padded.full(), [[5] * 5, [6] * 5])
    (rows,) = move_labels([labels], lambda arrays: [np.pad(arrays[0], [(1, 0), (0, 0)])])  # type: ignore[arg-type]
    assert rows.full()[0].tolist() == [COMMON] * 3


def test_uniform_has_one_code() -> None:
    assert uniform((2, 3), PRIVATE).code == PRIVATE
    assert uniform(None, COMMON).shape is None
    assert compress(np.array([1, 2])).code is None


@given(st.lists(st.tuples(st.integers(1, 19), st.integers(1, 19)), max_size=30))
def test_classes_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    couplings = Couplings()
    for node, (a, b) in enumerate(pairs):
        couplings.add(np.array([a]), np.array([b]), node)
    classes = couplings.classes(20)
    expected = list(range(20))
    for _ in range(20):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert classes.tolist() == expected
    left, right, nodes = couplings.edges()
    assert {(int(a), int(b)) for a, b in zip(left, right, strict=True)} <= set(pairs)
    assert all(pairs[n] == (a, b) for a, b, n in zip(left, right, nodes, strict=True))


def test_codes_couple_nothing() -> None:
    couplings = Couplings()
    couplings.add(np.array([COMMON, PRIVATE, 3]), np.array([4, 4, OUTPUT]), 0)
    assert not couplings.edges()[0].size
    assert resolve(np.array([COMMON, 2, 9]), np.array([0, 1, 1])).tolist() == [COMMON, 1, 9]


def test_a_filter_is_one_vertex(tmp_path: Path) -> None:
    found = flowed("lenet", 2, tmp_path)
    sizes = sorted(block.size for block in found.blocks.values())
    assert sizes == [20, 50, 500]
    assert found.labels[found.graph.outputs[0].name].code == OUTPUT
    assert not found.private
    assert len(np.unique(found.classes)) == 571  # nothing is coupled


def test_a_residual_couples_channel_by_channel(tmp_path: Path) -> None:
    found = flowed("resnet_basic", 2, tmp_path)
    adds = [node for node in found.graph.nodes if node.op == "Add"]
    assert adds
    for node in adds:
        a, b = (found.labels[name].core for name in node.inputs)
        assert np.array_equal(a, b)


def test_a_head_is_one_vertex(tmp_path: Path) -> None:
    found = flowed("transformer_three_heads", 3, tmp_path)
    atoms = {
        len(np.unique(found.classes[np.arange(block.start, block.start + block.size)]))
        for block in found.blocks.values()
    }
    assert 3 in atoms


def test_a_layer_narrower_than_k_is_private(tmp_path: Path) -> None:
    found = flowed("narrowest_bottleneck", 2, tmp_path)
    assert found.last.narrow or found.private
    assert all(reason for reason in (*found.private.values(), *found.last.narrow.values()))


def test_keep_names_something(tmp_path: Path) -> None:
    with pytest.raises(GraphsplitError, match="no node, parameter or value has this name"):
        flowed("lenet", 2, tmp_path, keep=["nothing"])


@pytest.mark.parametrize("name", ["lenet", "transformer", "shufflenet_v2"])
def test_the_flow_repeats_itself(tmp_path: Path, name: str) -> None:
    one, other = flowed(name, 2, tmp_path), flowed(name, 2, tmp_path)
    assert np.array_equal(one.classes, other.classes)
    assert list(one.labels) == list(other.labels)
    assert all(np.array_equal(one.labels[n].core, other.labels[n].core) for n in one.labels)
