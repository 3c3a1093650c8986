"""Explanations: chains of couplings, and what is coupled with nothing or not divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphsplit.errors import GraphsplitError
from graphsplit.labels import flow
from graphsplit.network import prepare
from graphsplit.report import Explainer, explain_model
from graphsplit.report.chains import Chains
from tests.networks import NETWORKS
from tests.reports import saved, text_of

__all__ = ["saved"]  # fixtures


def explainer(path: Path, k: int = 2) -> Explainer:
    network = prepare(path)
    return Explainer(flow(network.graph, network.dialect, network.facts, network.trained, k))


def test_a_residual_stream_is_one_chain_of_sums(saved) -> None:
    asked = explainer(saved("resnet_basic"))
    found = asked.one("/stem/conv/Conv")
    assert [(c.node, c.vertices, c.of) for c in found.coupled] == [
        ("/layer1/0/1/conv/Conv", 8, 8),
        ("/layer1/1/1/conv/Conv", 8, 8),
    ]
    assert [step.node for step in found.coupled[1].chain] == ["/Add", "/Add_1"]
    assert all("adds them element by element" in step.why for step in found.coupled[1].chain)
    pair = asked.two("stem.conv.weight", "layer1.1.1.bn.bias")
    assert pair.coupled
    assert pair.coupled_vertices == (8, 8)
    assert [step.node for step in pair.chain] == ["/Add", "/Add_1"]
    ends = (pair.chain[0].left.node, pair.chain[-1].right.node)
    assert ends == ("/stem/conv/Conv", "/layer1/1/1/conv/Conv")
    assert pair.chain[0].right == pair.chain[1].left


def test_a_single_index_couples_with_its_own_kind_only(saved) -> None:
    asked = explainer(saved("resnet_basic"))
    assert asked.two("stem.conv.weight:0:3", "layer1.0.1.conv.weight:0:3").coupled
    apart = asked.two("stem.conv.weight:0:3", "layer1.0.1.conv.weight:0:4")
    assert not apart.coupled
    assert apart.chain == ()
    assert "nothing couples them; each may go to another part" in text_of(apart)
    assert not asked.two("stem.conv.weight", "layer1.0.0.conv.weight").coupled


def test_attention_heads_are_atoms(saved) -> None:
    asked = explainer(saved("transformer"))
    found = asked.one("/layers/0/attn/qkv/MatMul")
    assert found.target.vertices == 48
    assert found.target.atoms == 4
    assert "contracts two activations" in found.inside[0].why
    assert asked.two("layers.0.attn.qkv.weight:1:0", "layers.0.attn.qkv.weight:1:3").coupled  # one head's query
    query_and_value = asked.two("layers.0.attn.qkv.weight:1:0", "layers.0.attn.qkv.weight:1:33")
    assert query_and_value.coupled
    assert all("contracts" in step.why for step in query_and_value.chain)
    assert not asked.two("layers.0.attn.qkv.weight:1:0", "layers.0.attn.qkv.weight:1:4").coupled  # another head
    assert "statistics" in asked.one("/layers/0/norm1/LayerNormalization").target.repeated


def test_nothing_coupled(saved) -> None:
    found = explainer(saved("lenet")).two("/conv1/Conv", "/conv2/Conv")
    assert not found.coupled
    assert found.coupled_vertices == (0, 0)
    assert found.start is None
    alone = explainer(saved("lenet")).one("conv1.weight")
    assert alone.coupled == alone.inside == ()
    assert "nothing couples its vertices" in text_of(alone)


def test_axes_of_a_parameter_belong_to_their_layers(saved) -> None:
    asked = explainer(saved("lenet"))
    found = asked.two("conv2.weight:1", "conv1.weight")
    assert found.coupled_vertices == (20, 20)
    assert found.chain == ()
    assert found.start is not None
    assert (found.start.node, found.start.index) == ("/conv1/Conv", 0)
    assert asked.one("conv2.weight").target.vertices == 50
    assert not asked.two("conv2.weight", "conv1.weight").coupled
    assert asked.two("fc1.weight:1:16", "conv2.weight:0:1").coupled  # the flattened map: 16 columns a filter
    assert not asked.two("fc1.weight:1:15", "conv2.weight:0:1").coupled


def test_groups_shared_weights_and_gates_have_their_words(saved) -> None:
    grouped = explainer(saved("alexnet")).one("/features/4/Conv")
    assert "works in groups" in grouped.inside[0].why
    assert [c.node for c in grouped.coupled] == ["/features/0/Conv"]
    tied = explainer(saved("tied_layers")).two("/Gemm", "/Gemm_1")
    assert tied.coupled
    assert any("shares the parameter" in step.why for step in tied.chain)


def test_what_is_not_divided_says_why(saved) -> None:
    asked = explainer(saved("spatial_gate"))
    assert asked.one("block1.weight").target.kind == "private" or asked.one("/block1/Conv").target.kind == "private"
    assert asked.one("/block1/Conv").target.reason == "it has 1 vertex for 2 parts"
    assert asked.one("/fc/Gemm").target.kind == "output"
    assert asked.one("input").target.reason == "it is an input of the network: every part has all of it"
    assert "isn't divided" in text_of(asked.two("/conv1/Conv", "/fc/Gemm"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("nothing", "no node, parameter or value of the network has this name"),
        ("conv1.weight:2", "axis 2 of parameter 'conv1.weight' carries no vertices; its axis 0 does"),
        ("conv1.weight:7", "has shape (20, 1, 5, 5), and no axis 7"),
        ("conv1.weight:0:20", "has size 20, and no index 20"),
    ],
)
def test_a_name_that_says_nothing_is_refused(saved, asked: str, message: str) -> None:
    with pytest.raises(GraphsplitError) as refused:
        explain_model(saved("lenet"), asked)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_node_of_every_network_can_be_explained(saved, name: str) -> None:
    try:
        asked = explainer(saved(name))
    except GraphsplitError:
        pytest.skip("refused")
    flowed = asked.flowed
    for node in flowed.graph.nodes[::3]:
        if not any(o in flowed.labels for o in node.outputs):
            continue
        found = asked.one(node.name or next(o for o in node.outputs if o in flowed.labels))
        assert (found.target.kind == "divided") == (found.target.vertices > 0)
        for coupled in found.coupled:
            assert coupled.links >= len(coupled.chain) > 0
            for before, after in zip(coupled.chain, coupled.chain[1:], strict=False):
                assert before.right == after.left
                assert before.node != after.node or before.left != after.right


def test_a_chain_is_the_shortest_in_nodes() -> None:
    # node 7 makes a star of 1..5; node 8 joins 5 and 6; node 9 is a detour 1-6 by way of 10, 11
    left = np.array([1, 1, 1, 1, 5, 1, 10, 11])
    right = np.array([2, 3, 4, 5, 6, 10, 11, 6])
    node = np.array([7, 7, 7, 7, 8, 9, 20, 21])
    chains = Chains((left, right, node), 12)
    search = chains.search(np.array([2]))
    assert [link.node for link in chains.chain(search, 6)] == [7, 8]
    assert [(link.left, link.right) for link in chains.chain(search, 6)] == [(2, 5), (5, 6)]
    assert chains.chain(search, 2) == []
    assert chains.search(np.array([], np.int64)).nearest(np.array([1, 2])) is None
    nothing = np.array([], np.int64)
    assert Chains((nothing, nothing, nothing), 4).search(np.array([1])).nearest(np.array([2, 3])) is None


def test_a_million_vertices_are_explained_in_seconds() -> None:
    count, layers = 1000, 1000
    first = np.arange(1, count + 1)
    left = np.concatenate([first + count * layer for layer in range(layers - 1)])
    node = np.repeat(np.arange(layers - 1), count)
    chains = Chains((left, left + count, node), count * layers + 1)
    search = chains.search(first)
    end = search.nearest(first + count * (layers - 1))
    assert end is not None
    assert len(chains.chain(search, end)) == layers - 1
    assert [link.node for link in chains.chain(search, end, 2)] == [layers - 3, layers - 2]
    assert chains.length(search, end, {}) == layers - 1
