"""Drawings: boxes, folds, coupling trees and weight matrices, and the files that show them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import networkx as nx
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import graphsplit
from graphsplit.draw import Drawing, draw_folder, draw_graph, draw_model, draw_plan, facts, figure, page, write
from graphsplit.draw.content import Box, CouplingTree, Fold
from graphsplit.draw.folds import CHILDREN, Item, fold, leaves, scoped
from graphsplit.draw.slices import spelled
from graphsplit.draw.training import training_of
from graphsplit.errors import GraphsplitError
from graphsplit.files import OutputError
from graphsplit.network import Network, narrowed, prepare
from graphsplit.planning import Plan
from graphsplit.report import explain, plain
from graphsplit.report.reasons import node_name
from graphsplit.report.schema import schema_of
from tests.commands import Run, runner
from tests.networks import NETWORKS, REFUSED
from tests.networks.builder import Net

ROOT = Path(__file__).parent.parent
LENET = ROOT / "models" / "lenet.onnx"
WEB = Path(graphsplit.__path__[0]) / "draw" / "web"
DRAWN = ("lenet", "resnet_basic", "shufflenet_v1_g2", "spatial_gate", "backbone", "transformer", "unused_parts")


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETWORKS[name]() if name in NETWORKS else REFUSED[name][0](), path)
    return path


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


# -- folds -----------------------------------------------------------------------------------------


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


# -- files -----------------------------------------------------------------------------------------

EVIL = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\u2028&amp;\"'"


def evil(folder: Path) -> Path:
    """LeNet with names that are markup."""
    model = onnx.load(LENET)
    model.graph.name = EVIL
    for node in model.graph.node:
        node.name = f"{EVIL}{node.name}"
        node.input[:] = [f"{EVIL}{name}" for name in node.input]
        node.output[:] = [f"{EVIL}{name}" for name in node.output]
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = f"{EVIL}{value.name}"
    onnx.save(model, folder / "evil.onnx")
    return folder / "evil.onnx"


def test_names_are_never_markup(tmp_path: Path) -> None:
    drawing = draw_model(evil(tmp_path), 2)
    assert drawing.title == EVIL
    text, plain_text = page(drawing), page(draw_model(LENET, 2))
    for mark in ("<script", "</script", "<img", "hacked=1<"):
        assert text.count(mark) == plain_text.count(mark), mark
    picture = figure(drawing)
    assert "<script" not in picture
    assert "<img" not in picture
    ElementTree.fromstring(picture)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_shows_every_box_in_sight(name: str, tmp_path: Path) -> None:
    drawing = draw_model(saved(name, tmp_path), 2)
    root = ElementTree.fromstring(figure(drawing))
    items = [g.get("data-item") for g in root.iter("{http://www.w3.org/2000/svg}g") if "box" in g.get("class", "")]
    shown = {int(item[1:]) for item in items if item}
    if all(isinstance(child, int) for child in drawing.fold.children):
        assert shown == set(range(len(drawing.boxes)))
    assert shown
    bands = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if "band p1" in r.get("class", "")]
    assert len(bands) > 1  # one is the legend's


@pytest.mark.parametrize("name", DRAWN)
def test_the_facts_fit_their_schema(name: str, tmp_path: Path) -> None:
    drawing = draw_model(saved(name, tmp_path), 2)
    described = json.loads((ROOT / "docs" / "drawing.schema.json").read_text())
    jsonschema.validate(json.loads(facts(drawing)), described)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(facts(drawing)), "boxes": [{}]}, described)


def test_the_documented_schema_is_the_one_in_use() -> None:
    described = json.loads((ROOT / "docs" / "drawing.schema.json").read_text())
    assert described == json.loads(json.dumps(drawing_schema()))


def drawing_schema() -> dict[str, object]:
    """What docs/drawing.schema.json holds."""
    return schema_of([Drawing], "graphsplit drawings", "What `graphsplit inspect -o FILE.json` writes.")


def test_a_page_is_little_more_than_its_facts(tmp_path: Path) -> None:
    net = Net("wide")
    x = net.relu(net.dense(net.input("input", ("batch", 512)), "fc", 2048))
    net.output(net.dense(x, "head", 512), "output")
    onnx.save(net.build(), tmp_path / "wide.onnx")
    assert (tmp_path / "wide.onnx").stat().st_size > 8_000_000
    base = len(page(draw_model(LENET, 2))) - len(json.dumps(plain(draw_model(LENET, 2))))
    assert base < 200_000
    for path in (tmp_path / "wide.onnx", saved("resnet_basic", tmp_path)):
        drawing = draw_model(path, 2)
        assert len(page(drawing)) < base + 1.5 * len(json.dumps(plain(drawing)))


def test_a_page_fetches_nothing() -> None:
    text = page(draw_model(LENET, 2))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "sourceMappingURL" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)


def test_libraries_are_vendored_with_version_and_licence() -> None:
    told = (WEB / "vendor" / "README.md").read_text()
    for file in (WEB / "vendor").glob("*.js"):
        (line,) = (line for line in told.splitlines() if line.startswith(f"| {file.name} |"))
        assert hashlib.sha256(file.read_bytes()).hexdigest() in line
        assert re.search(r"\| \d+\.\d+\.\d+ \| (MIT|ISC)", line)
    for name in re.findall(r"LICENSE-\w+\.txt", told):
        assert "Permission" in (WEB / "vendor" / name).read_text()


def test_what_is_written(tmp_path: Path) -> None:
    drawing = draw_model(LENET, 2)
    for ending in ("html", "svg", "json"):
        write(drawing, tmp_path / f"lenet.{ending}")
        with pytest.raises(OutputError):
            write(drawing, tmp_path / f"lenet.{ending}")
        write(drawing, tmp_path / f"lenet.{ending}", force=True)
    with pytest.raises(GraphsplitError, match=r"no drawing of that kind"):
        write(drawing, tmp_path / "lenet.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lenet.html", "lenet.json", "lenet.svg"]


# -- the command line ------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch)


def test_inspect_draws(run: Run, tmp_path: Path) -> None:
    assert run("inspect", LENET, "-k", 3, "-o", "before.html").output == "drew lenet in before.html\n"
    assert run("split", LENET, "-k", 3, "-o", "parts").exit_code == 0
    assert json.loads(run("inspect", "parts", "-o", "after.json", "--json").output) == {
        "path": "after.json",
        "boxes": 12,
    }
    assert json.loads((tmp_path / "after.json").read_text())["facts"]["parts"] == 3
    assert run("inspect", LENET, "-o", "whole.svg").exit_code == 0
    again = run("inspect", LENET, "-k", 3, "-o", "before.html")
    assert again.exit_code == 2
    assert "--force" in again.output


def test_inspect_opens_the_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert run("inspect", LENET, "-k", 2, "--open").exit_code == 0
    (address,) = opened
    assert address.startswith("file://")
    assert "<title>lenet" in Path(address.removeprefix("file://")).read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-k", 2, "-o", "x.png"), "there is no drawing of that kind"),
        (("--compare", "-o", "x.html"), "--compare prints a table"),
        (("--shares", "1,2", "-o", "x.html"), "give -k, too"),
    ],
)
def test_what_inspect_refuses_to_draw(run: Run, tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    found = run("inspect", LENET, *arguments)
    assert found.exit_code == 2
    assert said in found.output
    assert not list(tmp_path.iterdir())


def test_a_figure_needs_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "quickjs", None)
    found = run("inspect", LENET, "-k", 2, "-o", "x.svg")
    assert found.exit_code == 2
    assert "graphsplit[svg]" in found.output


if __name__ == "__main__":
    print(json.dumps(drawing_schema(), indent=2))
