"""Drawings: boxes, coupling trees and weight matrices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import graphsplit
from graphsplit.draw import Drawing, draw_folder, draw_graph, draw_model, draw_plan, figure
from graphsplit.draw.content import Box, CouplingTree
from graphsplit.draw.slices import spelled
from graphsplit.draw.training import training_of
from graphsplit.network import Network, narrowed, prepare
from graphsplit.planning import Plan
from graphsplit.report import explain
from graphsplit.report.reasons import node_name
from tests.drawings import LENET, saved
from tests.networks.builder import Net


def planned(name: str, folder: Path, k: int = 2) -> tuple[Network, Plan]:
    network = prepare(saved(name, folder))
    return network, narrowed(network, k)[0]


def box(drawing: Drawing, name: str) -> Box:
    (found,) = (one for one in drawing.boxes if one.name == name)
    return found


# -- boxes and edges -------------------------------------------------------------------------------


def test_what_is_drawn_of_lenet() -> None:
    drawing = draw_model(LENET, 2)
    assert [one.name for one in drawing.boxes][:4] == ["image", "conv1", "relu1", "pool1"]
    assert box(drawing, "conv2").bands == (25, 25)
    assert box(drawing, "conv2").shape == (2, 50, 8, 8)
    assert box(drawing, "conv2").shapes_of_parts == ((2, 25, 8, 8), (2, 25, 8, 8))
    assert box(drawing, "fc2").kind == "output"
    assert not box(drawing, "fc2").bands
    names = [one.name for one in drawing.boxes]
    edges = {(names[e.source], names[e.target]): e for e in drawing.edges}
    assert {pair for pair, edge in edges.items() if edge.cut} == {
        ("pool1", "conv2"),
        ("flatten", "fc1"),
        ("relu3", "fc2"),
    }
    assert {pair for pair, edge in edges.items() if edge.kind == "whole"} == {("image", "conv1")}
    assert edges["fc2", "logits"].kind == "output"
    assert drawing.comparison is not None
    assert [row.parts for row in drawing.comparison.rows] == list(range(1, 9))


def test_nodes_that_compute_shapes_or_weights_are_not_drawn(tmp_path: Path) -> None:
    net = Net("shapes")
    x = net.relu(net.dense(net.input("input", ("batch", 4)), "fc", 8))
    scaled = net.op("Mul", net.param("head.weight", (8, 3), fan_in=8), net.constant(np.float32(2)), name="scaled")
    x = net.op("MatMul", x, scaled, name="head")
    dead = net.op("Relu", x, name="dead")
    net.output(net.declare(net.op("Reshape", x, net.op("Shape", x), name="same"), ("batch", 3)), "output")
    assert dead
    onnx.save(net.build(), tmp_path / "shapes.onnx")
    drawing = draw_model(tmp_path / "shapes.onnx", 2)
    drawn = {one.op for one in drawing.boxes}
    assert drawn == {"input", "output", "Gemm", "Relu", "MatMul", "Reshape"}
    assert drawing.hidden == 3
    assert "dead" not in {one.name for one in drawing.boxes}


def test_a_network_that_is_not_split_shows_what_is_refused(tmp_path: Path) -> None:
    drawing = draw_graph(saved("loop", tmp_path))
    assert drawing.facts.report == "graph"
    refused = [one for one in drawing.boxes if one.refused]
    assert refused
    assert {one.name for one in refused} <= {one.node for one in drawing.facts.refused}
    assert all(one.reason for one in refused)
    assert "refused" in figure(drawing)
    assert not any(one.refused for one in draw_graph(LENET).boxes)


# -- couplings -------------------------------------------------------------------------------------


def joined_at(plan: Plan, node: int) -> np.ndarray:
    """For each vertex a number: those with the same are coupled by this node alone."""
    left, right, by = plan.flowed.edges
    size = len(plan.flowed.classes)
    mine = by == node
    pairs = coo_array((np.ones(int(mine.sum())), (left[mine], right[mine])), shape=(size, size))
    return connected_components(pairs, directed=False)[1]


def broken_steps(plan: Plan, drawing: Drawing, tree: CouplingTree) -> list[str]:
    """Steps of a tree that aren't couplings of the network."""
    at = {node_name(node): i for i, node in enumerate(plan.graph.nodes)}
    starts = {b.node: b.start for b in plan.flowed.blocks.values()}

    def vertex(knot: object) -> int:
        return starts[at[drawing.boxes[knot.box].name]] + knot.index  # type: ignore[attr-defined]

    found = []
    for knot in tree.knots:
        if knot.before < 0:
            continue
        before = tree.knots[knot.before]
        groups = joined_at(plan, at[drawing.boxes[knot.via].name])
        if groups[vertex(knot)] != groups[vertex(before)]:
            found.append(f"{knot} from {before}")
    return found


@pytest.mark.parametrize("name", ["resnet_basic", "transformer", "shufflenet_v1_g2"])
def test_every_step_of_a_tree_is_a_coupling(name: str, tmp_path: Path) -> None:
    network, plan = planned(name, tmp_path)
    drawing = draw_plan(network, plan)
    assert drawing.trees
    for tree in drawing.trees:
        assert broken_steps(plan, drawing, tree) == []
        assert sum(knot.before < 0 for knot in tree.knots) == 1
        boxes = {drawing.boxes[knot.box].name for knot in tree.knots}
        for knot in tree.knots:
            one = explain(plan.flowed, f"{drawing.boxes[knot.box].name}")
            assert boxes - {drawing.boxes[knot.box].name} <= {c.node for c in one.coupled} | {
                drawing.boxes[k.box].name for k in tree.knots if k.box == knot.box
            }
    told = {why.box for why in drawing.whys}
    assert {knot.via for tree in drawing.trees for knot in tree.knots if knot.via >= 0} == told
    assert all(why.text for why in drawing.whys)


def test_the_check_of_trees_sees_a_wrong_step(tmp_path: Path) -> None:
    network, plan = planned("resnet_basic", tmp_path)
    drawing = draw_plan(network, plan)
    tree = max(drawing.trees, key=lambda tree: len(tree.knots))
    first, second, *rest = tree.knots
    moved = second.__class__(second.box, second.index + 1, second.before, second.via)
    assert broken_steps(plan, drawing, CouplingTree(tree.family, (first, moved, *rest)))


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "k"), [("lenet", 3), ("resnet_basic", 2), ("transformer", 2), ("spatial_gate", 2)])
def test_energies_are_those_of_the_sub_models(name: str, k: int, tmp_path: Path) -> None:
    """Of what a part alone owns, the squares in its block are those of its file."""
    network, plan = planned(name, tmp_path, k)
    drawing = draw_plan(network, plan)
    split = graphsplit.split(tmp_path / f"{name}.onnx", k, out=tmp_path / "parts")
    files = [graphsplit.load(tmp_path / "parts" / entry.file) for entry in split.manifest.submodels]
    seen = 0
    for matrix in drawing.matrices:
        if matrix.energy is None or plan.parameters[matrix.parameter].role != "owned" or min(matrix.rows[:-1]) == 0:
            continue
        total = float(np.square(network.graph.tensors[matrix.parameter].numpy().astype(np.float64)).sum())
        assert abs(sum(map(sum, matrix.energy)) - 1) < 1e-9
        for part, file in enumerate(files):
            mine = float(np.square(file.tensors[matrix.parameter].numpy().astype(np.float64)).sum())
            both = matrix.energy[part][part] + matrix.energy[part][k] + matrix.energy[k][part] + matrix.energy[k][k]
            assert mine / total == pytest.approx(both, abs=1e-6)
            seen += 1
    assert seen


def test_matrices_count_rows_and_columns() -> None:
    matrices = {one.parameter: one for one in draw_model(LENET, 3).matrices}
    assert matrices["conv2.weight"].rows == (17, 17, 16, 0)
    assert matrices["conv2.weight"].columns == (7, 7, 6, 0)
    kept = (17 * 7 + 17 * 7 + 16 * 6) / (50 * 20)
    assert matrices["conv2.weight"].kept == pytest.approx(kept)
    assert matrices["fc2.weight"].rows == (0, 0, 0, 10)


def test_slices_are_those_of_the_sub_models(tmp_path: Path) -> None:
    """Indexing the source with what a slice says gives the part's tensor."""
    path = saved("resnet_basic", tmp_path)
    split = graphsplit.split(path, 2, out=tmp_path / "parts", strategy="interleaved")
    source, told = graphsplit.load(path), {one.parameter: one.parts for one in draw_folder(tmp_path / "parts").slices}
    assert told
    for part, entry in enumerate(split.manifest.submodels):
        file = graphsplit.load(tmp_path / "parts" / entry.file)
        for name, texts in told.items():
            index = [
                slice(*(int(n) if n else None for n in axis.split(":")))
                if ":" in axis
                else slice(int(axis), int(axis) + 1)
                for axis in texts[part].strip("[]").split(", ")
            ]
            assert np.array_equal(source.tensors[name].numpy()[tuple(index)], file.tensors[name].numpy()), name


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([0, 1, 2], "0:3"),
        ([4], "4"),
        ([1, 3, 5], "1:6:2"),
        ([0, 1, 5, 6, 9], "0:2 + 5:7 + 9"),
        ([0, 2, 3, 5, 8, 9, 12], "0 + 2:4 + 5 + … (7 in 5 runs)"),
        ([], "none"),
    ],
)
def test_indices_as_slices(indices: list[int], text: str) -> None:
    assert spelled(np.array(indices, np.int64)) == text


def test_a_folder_is_drawn_without_its_source_weights(tmp_path: Path) -> None:
    graphsplit.split(LENET, 2, out=tmp_path / "parts")
    one, other = draw_folder(tmp_path / "parts"), draw_model(LENET, 2)
    assert one.boxes == other.boxes
    assert one.edges == other.edges
    assert one.fold == other.fold
    assert [m.rows for m in one.matrices] == [m.rows for m in other.matrices]
    assert all(m.energy is None for m in one.matrices)
    assert one.training is None


def test_curves_of_a_training(tmp_path: Path) -> None:
    for part in (0, 1):
        folder = tmp_path / "out" / "parts" / "training" / f"part_{part}"
        folder.mkdir(parents=True)
        lines = [{"part": part, "epoch": e, "loss": 1 / e, "validation": {"loss": 2 / e + part}} for e in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epo')
    (tmp_path / "out" / "training").mkdir()
    (tmp_path / "out" / "training" / "metrics.jsonl").write_text('{"part": 0, "epoch": 3, "loss": 0.1}\n')
    found = training_of(tmp_path / "out" / "parts", 2)
    assert found is not None
    assert [(c.name, c.epochs, c.training) for c in found.curves] == [
        ("part 0", (1, 2), (1.0, 0.5)),
        ("part 1", (1, 2), (1.0, 0.5)),
        ("merged", (3,), (0.1,)),
    ]
    assert found.curves[1].validation == (3.0, 2.0)
    assert found.curves[2].validation == (None,)
    assert found.confidence == ()
    for part, numbers in ((0, [0.5, 1, 0.25]), (1, [0.75, 0.5])):
        path = tmp_path / "out" / "parts" / "training" / f"part_{part}" / "confidence.json"
        path.write_text(json.dumps(numbers))
    found = training_of(tmp_path / "out" / "parts", 2)
    assert found is not None
    assert found.confidence == ((0.5, 1.0), (0.75, 0.5))
    path.write_text('["<img>", NaN]')
    found = training_of(tmp_path / "out" / "parts", 2)
    assert found is not None
    assert found.confidence == ()
