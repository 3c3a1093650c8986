"""Inspections: exact figures and hand-computed work, and the form of every report."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

from graphsplit.errors import GraphsplitError, RuleError
from graphsplit.network import Network, make, prepare
from graphsplit.notation import bind, parse
from graphsplit.report import (
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
from graphsplit.report.content import Size
from graphsplit.report.count import work
from graphsplit.report.tables import printable, spread
from graphsplit.rules import registry
from tests.networks import REFUSED
from tests.networks.blocks import classifier, image
from tests.networks.builder import Net
from tests.reports import saved, text_of

__all__ = ["saved"]  # fixtures

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
