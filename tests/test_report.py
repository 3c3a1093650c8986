"""Inspections and explanations: exact figures, hand-computed work, and chains of couplings."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from rich.console import Console

from graphsplit.errors import GraphsplitError, RuleError
from graphsplit.labels import flow
from graphsplit.network import Network, make, prepare
from graphsplit.notation import bind, parse
from graphsplit.report import (
    Explainer,
    Explanation,
    Inspection,
    PairExplanation,
    Report,
    compare_splits,
    explain_model,
    inspect,
    inspect_model,
    inspect_split,
    plain,
    schema,
)
from graphsplit.report.chains import Chains
from graphsplit.report.content import Size
from graphsplit.report.count import work
from graphsplit.report.tables import printable, show, spread
from graphsplit.rules import registry
from tests.networks import NETWORKS, REFUSED
from tests.networks.blocks import classifier, image
from tests.networks.builder import Net

SCHEMA = Path(__file__).parent.parent / "docs" / "inspect.schema.json"
SHOWN = (
    "lenet",
    "alexnet",
    "resnet_basic",
    "shufflenet_v1_g2",
    "spatial_gate",
    "backbone",
    "transformer",
    "unused_parts",
)


@pytest.fixture
def saved(tmp_path: Path):
    def save(name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(NETWORKS[name]() if name in NETWORKS else REFUSED[name][0](), path)
        return path

    return save


def text_of(report: Report, width: int = 80) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, markup=False, highlight=False, emoji=False), report)
    return out.getvalue()


def explainer(path: Path, k: int = 2) -> Explainer:
    network = prepare(path)
    return Explainer(flow(network.graph, network.dialect, network.facts, network.trained, k))


def split_of(path: Path, k: int) -> Inspection:
    network: Network = prepare(path)
    return inspect(make(network, k))


# -- figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "parameters"), [(1, 431_080), (2, 109_295), (5, 18_224), (10, 4_867)])
def test_lenet_has_the_papers_sizes(saved, k: int, parameters: int) -> None:
    found = inspect_split(saved("lenet"), k)
    assert found.parameter_sizes == Size(431_080, (parameters,) * k, (parameters / 431_080,) * k)


def test_lenets_work_is_what_a_hand_computes(saved) -> None:
    found = inspect_split(saved("lenet"), 2)
    batch = found.network.inputs[0].probe[0]
    full = [24 * 24 * 25 * 1 * 20, 8 * 8 * 25 * 20 * 50, 800 * 500, 500 * 10]
    part = [24 * 24 * 25 * 1 * 10, 8 * 8 * 25 * 10 * 25, 400 * 250, 250 * 10]
    assert [layer.multiply_adds for layer in found.layers] == [batch * n for n in full]
    assert [layer.multiply_adds_of_parts for layer in found.layers] == [(batch * n,) * 2 for n in part]
    assert found.network.multiply_adds == batch * 2_293_000
    assert found.multiply_add_sizes.parts == (batch * sum(part),) * 2


@pytest.mark.parametrize(
    ("line", "inputs", "outputs", "expected"),
    [
        # a convolution with stride 2: results x kernel; one input channel has no factor of its own
        (
            "Conv n (g i) *s, (g o) i *k -> n (g o) *t | mix i | set group=g",
            [(1, 1, 9), (4, 1, 3)],
            [(1, 4, 4)],
            4 * 4 * 3,
        ),
        # the same size in and out: the first form of the rule
        (
            "Conv n (g i) *s, (g o) i *k -> n (g o) *s | mix i | stat s | set group=g",
            [(2, 3, 5), (4, 3, 3)],
            [(2, 4, 5)],
            360,
        ),
        # a kernel as large as its image
        ("Conv n (g i) *s, (g o) i *k -> n (g o) *t | mix i | set group=g", [(1, 2, 5), (3, 2, 5)], [(1, 3, 1)], 30),
        # a transposed convolution: inputs x kernel
        (
            "ConvTranspose n (g i) *s, (g i) o *k -> n (g o) *t | mix i | set group=g",
            [(1, 2, 5), (2, 3, 4)],
            [(1, 3, 10)],
            120,
        ),
        # attention scores: b h q d, b h d s
        ("MatMul ... m i, ... i o -> ... m o | mix i", [(2, 4, 7, 3), (2, 4, 3, 7)], [(2, 4, 7, 7)], 2 * 4 * 7 * 7 * 3),
        ("Gemm n i, o i, o -> n o | mix i", [(2, 6), (16, 6), (16,)], [(2, 16)], 192),
        ("Add ..., ... -> ...", [(2, 6), (2, 6)], [(2, 6)], 0),
        ("LayerNormalization ... c, c, c -> ... c | stat c", [(2, 6), (6,), (6,)], [(2, 6)], 0),
    ],
)
def test_work_of_one_node(line: str, inputs: list, outputs: list, expected: int) -> None:
    assert work(bind(parse(line), inputs, outputs, {"group": 1})) == expected


def test_work_of_a_grouped_convolution_and_an_einsum() -> None:
    grouped = parse("Conv n (g i) *s, (g o) i *k -> n (g o) *t | mix i | set group=g")
    assert work(bind(grouped, [(1, 8, 9), (8, 2, 3)], [(1, 8, 7)], {"group": 4})) == 8 * 7 * 2 * 3
    equation = parse("Einsum _+ -> _ | equation")
    shapes = [(2, 4, 7, 3), (2, 4, 5, 3)]
    assert work(bind(equation, shapes, [(2, 4, 7, 5)], {"equation": "bhqd,bhsd->bhqs"})) == 2 * 4 * 7 * 5 * 3
    assert work(bind(equation, shapes[:1], [(2, 4, 7)], {"equation": "bhqd->bhq"})) == 0


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "expected"),
    [
        ("Attention", [(2, 6, 7, 5), (2, 3, 9, 5), (2, 3, 9, 4)], (2, 6, 7, 4), {}, 2 * 6 * 7 * 9 * (5 + 4)),
        (
            "Attention",
            [(2, 7, 30), (2, 9, 15), (2, 9, 12)],
            (2, 7, 24),
            {"q_num_heads": 6, "kv_num_heads": 3},
            2 * 6 * 7 * 9 * (5 + 4),
        ),
        ("CausalConvWithState", [(2, 3, 9), (3, 1, 4)], (2, 3, 9), {}, 2 * 3 * 9 * 4),
        # the projections of queries, keys and values lie inside
        (
            "com.microsoft::Attention",
            [(2, 7, 8), (8, 30), (30,)],
            (2, 7, 10),
            {"num_heads": 2},
            2 * 7 * 8 * 30 + 2 * 2 * 7 * 7 * (5 + 5),
        ),
        (
            "com.microsoft::MultiHeadAttention",
            [(2, 7, 10), (2, 9, 10), (2, 9, 8)],
            (2, 7, 8),
            {"num_heads": 2},
            2 * 2 * 7 * 9 * (5 + 4),
        ),
        (
            "com.microsoft::GroupQueryAttention",
            [(2, 7, 20), (2, 7, 10), (2, 7, 10), None, None, (2,), ()],
            (2, 7, 20),
            {"num_heads": 4, "kv_num_heads": 2},
            2 * 4 * 7 * 7 * (5 + 5),
        ),
    ],
)
def test_work_inside_an_op(op: str, inputs: list, output: tuple, attributes: dict, expected: int) -> None:
    domain, _, name = op.rpartition("::")
    rules = [r for r in registry().lookup(domain, name, 27) if not r.refuse and r.holds(attributes)]
    found = []
    for rule in rules:
        with suppress(RuleError):
            found.append(work(bind(rule, inputs, [output], attributes)))
    assert found[0] == expected


@pytest.mark.parametrize("name", SHOWN)
def test_every_element_and_every_vertex_is_accounted_for(saved, name: str) -> None:
    found = split_of(saved(name), 2)
    for parameter in found.parameters:
        assert sum(plain(parameter.elements).values()) == np.prod(parameter.shape)
    for layer in found.layers:
        if layer.kind == "divided":
            assert sum(layer.vertices_of_parts) == layer.vertices
            assert all(layer.vertices_of_parts)
        assert (layer.kind == "private") == bool(layer.reason)
    for family in found.families:
        assert sum(family.atoms_of_parts) == family.atoms
        assert family.layers
    assert sum(np.prod(p.shape) for p in found.parameters) == found.parameter_sizes.full == found.network.parameters


def test_one_part_is_the_whole_network(saved) -> None:
    for name in ("resnet_basic", "spatial_gate"):
        found = split_of(saved(name), 1)
        assert found.parameter_sizes.shares == found.multiply_add_sizes.shares == (1.0,)
        assert not found.repeated
        assert not found.private


def test_private_and_repeated_nodes_come_with_their_reasons(saved) -> None:
    found = inspect_split(saved("spatial_gate"), 2)
    assert {note.node: note.reason for note in found.private} == {
        "/block1/Conv": "it has 1 vertex for 2 parts",
        "/block2/Conv": "it has 1 vertex for 2 parts",
    }
    repeated = {note.node: note.reason for note in found.repeated}
    assert repeated["/ReduceMean"] == "it takes statistics over the vertices of a part"
    assert repeated["/Sigmoid"].startswith("it reads '/block1/Conv_output_0'")
    on_input = inspect_split(saved("batch_norm_on_input"), 2).private
    assert [note.reason for note in on_input] == ["its parameters meet data that every part has, element by element"]
    kept = inspect_split(saved("lenet"), 2, keep=["/conv2/Conv"]).private
    assert ("/conv2/Conv", "it is kept whole on request (--keep)") in [(note.node, note.reason) for note in kept]


def test_outputs_are_averaged_or_concatenated(saved) -> None:
    assert [o.merge for o in inspect_split(saved("features_too"), 2).outputs] == ["mean", "concat"]
    backbone = inspect_split(saved("backbone"), 2)
    assert {o.merge for o in backbone.outputs} == {"concat"}
    assert "a part alone then no longer has the original cost function" in text_of(backbone)
    assert "original cost function" not in text_of(inspect_split(saved("lenet"), 2))


def test_a_network_without_k(saved) -> None:
    found = inspect_model(saved("lenet"))
    assert found.network.parameters == 431_080
    assert [layer.op for layer in found.layers] == ["Conv", "Conv", "Gemm", "Gemm"]
    assert sum(layer.elements for layer in found.layers) == 431_080
    assert [(a.input, a.axis, a.symbol) for a in found.dynamic] == [("input", 0, "batch")]
    assert found.refused == ()


def test_every_refused_node_is_listed(saved) -> None:
    found = inspect_model(saved("quantise_dequantise"))
    assert [refusal.title.split()[0] for refusal in found.refused] == ["QuantizeLinear"] + ["DequantizeLinear"] * 2
    assert all("quantised" in refusal.reason for refusal in found.refused)
    assert "refused, 3 in all" in text_of(found)
    for name, (_, word) in REFUSED.items():
        if word == "nothing" or any(word in refusal.reason for refusal in inspect_model(saved(name)).refused):
            continue
        with pytest.raises(GraphsplitError, match=word):  # only planning tells what its operands are
            inspect_split(saved(name), 2)


def test_several_k_side_by_side(saved) -> None:
    found = compare_splits(saved("lenet"), (1, 2, 5, 21))
    assert [row.parameters and max(row.parameters.parts) for row in found.rows][:3] == [431_080, 109_295, 18_224]
    found = compare_splits(saved("shufflenet_v1_g2"), (2, 4))
    refused = found.rows[1]
    assert refused.parameters is None
    assert "can't be divided into 4 parts" in refused.refused
    assert "refused" in text_of(found)


# -- explanations --------------------------------------------------------------------------------------------------


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


# -- form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWN)
def test_reports_fit_80_columns_and_their_schema(saved, name: str) -> None:
    path = saved(name)
    validator = jsonschema.Draft202012Validator(schema())
    k = 3 if name == "shufflenet_v1_g3" else 2
    reports: list[Report] = [inspect_model(path), inspect_split(path, k), compare_splits(path, (1, 2))]
    first = reports[0].layers[0].node
    reports += [explain_model(path, first), explain_model(path, first, reports[0].layers[-1].node)]
    assert isinstance(reports[3], Explanation)
    assert isinstance(reports[4], PairExplanation)
    for report in reports:
        validator.validate(json.loads(json.dumps(plain(report), allow_nan=False)))
        tables = [line for line in text_of(report).splitlines() if "  " in line.strip()]
        assert all(len(line.rstrip()) <= 80 for line in tables if ": " not in line), name


def test_the_published_schema_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "python -m tests.test_report > docs/inspect.schema.json"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_refuses_what_is_no_report(saved) -> None:
    found = plain(inspect_split(saved("lenet"), 2))
    validator = jsonschema.Draft202012Validator(schema())
    for change in ({"parts": "2"}, {"surprise": 1}, {"report": "graph"}):
        assert not validator.is_valid({**json.loads(json.dumps(found)), **change})


def test_names_from_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    net = Net("evil\x1b[31m")
    x = net.relu(net.conv(image(net), "a\x1b]0;b\x07[bold]c", 8))
    classifier(net, x)
    onnx.save(net.build(), tmp_path / "evil.onnx")
    text = text_of(inspect_split(tmp_path / "evil.onnx", 2)) + text_of(inspect_model(tmp_path / "evil.onnx"))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text
    assert printable("a\nb\x1b") == "a\\nb\\x1b"


def test_counts_of_parts_are_short() -> None:
    assert spread((5, 5)) == "5"
    assert spread((3, 2)) == "3, 2"
    assert spread((3, 2, 3, 2, 2)) == "2 to 3"


def test_the_same_question_has_the_same_answer(saved) -> None:
    path = saved("shufflenet_v1_g2")
    assert inspect_split(path, 2) == inspect_split(path, 2)
    assert explain_model(path, "/stem/conv/Conv") == explain_model(path, "/stem/conv/Conv")


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
