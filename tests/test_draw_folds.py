"""Folds of drawings: every box once, no cycle, and blocks that are alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphsplit.draw import draw_graph, draw_model, page
from graphsplit.draw.content import Fold
from graphsplit.draw.folds import CHILDREN, Item, fold, leaves, scoped
from tests.drawings import LENET
from tests.networks.builder import Net


def folds_of(found: Fold) -> Iterator[Fold]:
    yield found
    for child in found.children:
        if isinstance(child, Fold):
            yield from folds_of(child)


def cycles(found: Fold, edges: set[tuple[int, int]]) -> list[str]:
    """Folds whose children can't be put in an order."""
    broken = []
    for one in folds_of(found):
        place = {b: at for at, child in enumerate(one.children) for b in leaves(child)}
        inner: nx.DiGraph[int] = nx.DiGraph()
        inner.add_edges_from(
            (place[a], place[b]) for a, b in edges if a in place and b in place and place[a] != place[b]
        )
        if not nx.is_directed_acyclic_graph(inner):
            broken.append(one.label)
    return broken


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Item], set[tuple[int, int]]]:
    count = draw(st.integers(1, 120))
    word = st.sampled_from(["a", "b", "c"])
    items = [
        Item(tuple(draw(st.lists(word, max_size=3))), f"n{i}", draw(st.sampled_from(["Conv", "Relu"])))
        for i in range(count)
    ]
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = {(min(p), max(p)) for p in draw(st.lists(pairs, max_size=3 * count)) if p[0] != p[1]}
    return items, edges


@settings(max_examples=150)
@given(graphs())
def test_folds_hold_every_box_once_and_make_no_cycle(graph: tuple[list[Item], set[tuple[int, int]]]) -> None:
    items, edges = graph
    found, labels = fold(items, edges)
    assert sorted(leaves(found)) == list(range(len(items)))
    assert len(labels) == len(items)
    assert cycles(found, edges) == []
    for one in folds_of(found):
        assert len(one.children) <= CHILDREN
        if one.kind == "alike":
            inner = [child for child in one.children if isinstance(child, Fold)]
            assert len(inner) == len(one.children)
            assert len({tuple(items[b].kind for b in leaves(child)) for child in inner}) == 1


def test_the_check_for_cycles_sees_one() -> None:
    assert cycles(Fold("", "scope", (Fold("x", "scope", (0, 2)), 1)), {(0, 1), (1, 2)}) == [""]


def test_names_that_nest_without_end(tmp_path: Path) -> None:
    model = onnx.load(LENET)
    for node in model.graph.node:
        node.name = "/" + "a/" * 3000 + node.name
    onnx.save(model, tmp_path / "deep.onnx")
    assert "conv1" in page(draw_model(tmp_path / "deep.onnx", 2))


def test_nodes_of_one_name_keep_their_own_facts(tmp_path: Path) -> None:
    model = onnx.load(LENET)
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, tmp_path / "same.onnx")
    drawing, other = draw_model(tmp_path / "same.onnx", 2), draw_model(LENET, 2)
    assert [one.layer for one in drawing.boxes] == [one.layer for one in other.boxes]


def test_scopes_in_names() -> None:
    assert scoped("/layer1/layer1.0/conv1/Conv") == (("layer1", "layer1.0", "conv1"), "Conv")
    assert scoped("encoder.layer.0.add_") == (("encoder", "layer", "layer.0"), "add_")
    assert scoped("blocks.0.0") == (("blocks", "blocks.0"), "blocks.0.0")
    assert scoped("Conv_12") == ((), "Conv_12")
    assert scoped("") == ((), "")


def test_labels_of_boxes_outside_their_scope() -> None:
    """One alone is called as its scope, unless its own name says that; of two, each has the scope's name in front."""
    names = ["/conv1/Conv", "up.0", "/fc/MatMul", "/fc/Add", "head.0.add", "head.0.mul", "plain"]
    items = [Item(*scoped(name), "Conv") for name in names]
    _, labels = fold(items, [])
    assert labels == ["conv1", "up.0", "fc/MatMul", "fc/Add", "head.0/add", "head.0/mul", "plain"]


def blocks(count: int, names: bool) -> onnx.ModelProto:
    """Residual blocks in a row, in scopes, or without any names."""
    net = Net("blocks")
    x = net.dense(net.input("input", ("batch", 4)), "stem", 8)
    for i in range(count):
        x = net.add(x, net.dense(net.relu(net.dense(x, f"body.{i}.up", 6)), f"body.{i}.down", 8))
    net.output(net.dense(x, "head", 3), "output")
    model = net.build()
    for i, node in enumerate(model.graph.node):  # the stem, four nodes a block, the head
        place = f"/body/body.{(i - 1) // 4}" if 0 < i <= 4 * count else ""
        node.name = f"{place}/{node.op_type}_{i}" if names else ""
    return model


def test_alike_blocks_fold(tmp_path: Path) -> None:
    onnx.save(blocks(6, names=True), tmp_path / "named.onnx")
    named = draw_graph(tmp_path / "named.onnx").fold
    (body,) = (child for child in named.children if isinstance(child, Fold))
    assert (body.label, body.kind, len(body.children)) == ("body", "alike", 6)
    onnx.save(blocks(60, names=False), tmp_path / "nameless.onnx")
    for one in folds_of(draw_graph(tmp_path / "nameless.onnx").fold):
        assert len(one.children) <= CHILDREN
