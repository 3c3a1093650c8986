"""The page in a real browser: Chromium, driven by Playwright. Without both, these tests are skipped unless CI asks for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

import graphsplit
from graphsplit.draw import draw_folder, draw_graph, draw_model, figure, page, write
from tests.drawings import LENET, evil
from tests.networks import NETWORKS
from tests.networks.builder import Net

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = bool(os.environ.get("GRAPHSPLIT_BROWSER"))
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not REQUIRED:
        pytest.importorskip("playwright")
        if CHROMIUM is None:
            pytest.skip("there is no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        started = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens what a page holds; at the end there must have been no error, no dialog, and no request but for the file."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_page(text: str, **options: Any) -> Page:
        file = tmp_path / f"page{len(pages)}.html"
        file.write_text(text, encoding="utf-8")
        shown = browser.new_page(viewport={"width": 1300, "height": 850}, **options)
        shown.set_default_timeout(20_000)
        shown.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type != "log" else None)
        shown.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        shown.on("dialog", lambda d: (complaints.append(f"dialog: {d.message}"), d.dismiss()))
        allowed = (file.as_uri(), "data:")
        shown.on("request", lambda r: None if r.url.startswith(allowed) else complaints.append(f"request: {r.url}"))
        shown.goto(file.as_uri())
        shown.wait_for_selector("#graph .item")
        pages.append(shown)
        return shown

    open_page.complaints = complaints  # type: ignore[attr-defined]
    yield open_page
    for one in pages:
        one.close()
    assert complaints == []


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("resnet") / "resnet.onnx"
    onnx.save(NETWORKS["resnet_basic"](), path)
    return page(draw_model(path, 2))


def deep(blocks: int) -> onnx.ModelProto:
    """Residual blocks in stages of a hundred, named as an exporter of torch modules does."""
    net = Net("deep")
    x = net.dense(net.input("input", ("batch", 4)), "stem", 8)
    for _ in range(blocks):
        y = x
        for _ in range(3):
            y = net.relu(net.relu(y))
        x = net.relu(net.add(x, y))
    net.output(net.dense(x, "head", 3), "output")
    model = net.build()
    for i, node in enumerate(model.graph.node):
        block = (i - 1) // 8
        inside = 0 < i <= 8 * blocks
        node.name = f"/stage{block // 100}/block{block}/{node.op_type}_{i % 8}" if inside else f"node{i}"
    return model


def items(shown: Page, kind: str = ".item") -> int:
    return shown.locator(f"#graph {kind}").count()


def test_the_checks_of_a_page_see_what_goes_wrong(opened: Any, resnet: str) -> None:
    wrong = "setTimeout(() => { console.error('no'); fetch('http://127.0.0.1:9/x').catch(() => 0); throw new Error('oh'); })"
    shown = opened(resnet.replace("</body>", f"<script>{wrong}</script></body>").replace("default-src 'none'; ", ""))
    shown.wait_for_timeout(500)
    found = sorted(line.split(":")[0] for line in opened.complaints)
    assert {"console", "error", "request"} <= set(found)
    opened.complaints.clear()


def test_a_page_opens_with_its_summary(opened: Open) -> None:
    shown = opened(page(draw_model(LENET, 2)))
    assert items(shown, ".box") == 12
    assert shown.title() == "lenet - graphsplit"
    text = shown.locator("#panel").inner_text()
    for said in ("parameters", "431 k", "109 k (25.4 %)", "conv2.weight", "50 %", "logits: the mean of the parts'"):
        assert said in text
    assert shown.locator("#panel .chart rect.bar").count() == 16
    assert "part 1: 25.4 %" in shown.locator("#legend").inner_text()


@pytest.mark.parametrize("name", ["lenet", "spatial_gate", "transformer"])
def test_words_stay_in_their_boxes(opened: Open, tmp_path: Path, name: str) -> None:
    """Also those of repeated nodes, and in front of their badge."""
    onnx.save(NETWORKS[name](), tmp_path / "model.onnx")
    shown = opened(page(draw_model(tmp_path / "model.onnx", 2)))
    wrong = shown.evaluate(
        """() => [...document.querySelectorAll("#graph .box, #graph .fold")].flatMap((item) => {
          const right = (e) => e.getBoundingClientRect().right, badge = item.querySelector(".badge");
          const end = badge ? badge.getBoundingClientRect().left : right(item.querySelector(".body"));
          return [...item.querySelectorAll("text:not(.badge)")]
            .filter((t) => right(t) > (t.classList.contains("name") ? end : right(item.querySelector(".body"))) + 1)
            .map((t) => t.textContent);
        })"""
    )
    assert wrong == []


def test_a_layer_is_clicked_and_read(opened: Open) -> None:
    shown = opened(page(draw_model(LENET, 2)))
    shown.locator("#graph .layer", has_text="conv2").click()
    text = shown.locator("#panel").inner_text()
    for said in (
        "2 × 50 × 8 × 8",
        "2 × 25 × 8 × 8",
        "50 × 20 × 5 × 5",
        "25 × 10 × 5 × 5",
        "12.5 k of 25 k elements",
        "[25:50, 10:20, :, :]",
    ):
        assert said in text, said
    assert "50, of family 1" in text
    blocks = shown.locator("#panel .matrix .block")
    assert [b.get_attribute("class") for b in blocks.all()][:4] == ["block p0", "block cut", "block cut", "block p1"]
    shown.keyboard.press("Escape")
    assert "Other numbers of parts" in shown.locator("#panel").inner_text()


def test_search_unfold_and_follow_a_chain(opened: Open, resnet: str) -> None:
    shown = opened(resnet)
    before = items(shown)
    name = shown.evaluate(
        "graphsplit.app.index.drawing.boxes[graphsplit.app.index.drawing.trees.at(-1).knots[0].box].name"
    )
    shown.keyboard.press("/")
    shown.keyboard.type(name)
    assert name in shown.locator("#results").inner_text()
    shown.keyboard.press("Enter")
    assert shown.locator("#graph .item.selected").count() == 1
    assert items(shown) >= before
    partners = shown.locator("#panel .why")
    assert partners.count() > 0
    partners.last.click()
    assert "Why they move together" in shown.locator("#panel").inner_text()
    assert shown.locator("#panel .chain li").count() > 0
    assert "adds them element by element" in shown.locator("#panel").inner_text()
    assert shown.locator("#graph .scene.dimmed").count() == 1
    lit = shown.locator("#graph .box.lit, #graph .fold.lit").count()
    assert 2 <= lit < items(shown)
    shown.locator("#panel .chain .link").last.click()
    assert shown.locator("#graph .scene.dimmed").count() == 1
    shown.keyboard.press("Escape")
    assert shown.locator("#graph .scene.dimmed").count() == 0


def test_folds_open_and_close(opened: Open, resnet: str) -> None:
    shown = opened(resnet)
    shown.locator("#fold").click()
    folded = items(shown)
    fold = shown.locator("#graph .fold").first
    name = fold.get_attribute("data-item")
    fold.click()
    assert items(shown) > folded
    shown.locator(f'#graph .title[data-item="{name}"] .name').click()
    assert items(shown) == folded
    shown.locator("#unfold").click()
    assert items(shown, ".fold") == 0
    total = shown.evaluate("graphsplit.app.index.drawing.boxes.length")
    assert items(shown, ".box") == total
    overlaps = shown.evaluate(
        """() => { const boxes = graphsplit.app.scene.boxes; let found = 0;
        for (const a of boxes) for (const b of boxes) if (a.item < b.item && a.x < b.x + b.width && b.x < a.x + a.width
          && a.y < b.y + b.height && b.y < a.y + a.height) found += 1; return found; }"""
    )
    assert overlaps == 0
    unfed = shown.evaluate(
        """() => { const {index, scene} = graphsplit.app, ends = new Set(scene.edges.map((e) => e.to.item));
        return index.drawing.edges.filter((e) => !ends.has("b" + e.target)).length; }"""
    )
    assert unfed == 0  # what comes in through the border of a fold is drawn, too
    unread = shown.evaluate(
        """() => { const {index, scene} = graphsplit.app, ends = new Set(scene.edges.map((e) => e.from.item));
        return index.drawing.edges.filter((e) => !ends.has("b" + e.source)).length; }"""
    )
    assert unread == 0


def test_a_chain_takes_no_detour(opened: Open) -> None:
    """Between any two knots of a tree, the way leads from one to the other, and to no knot twice."""
    shown = opened(page(draw_model(LENET, 2)))
    ways = shown.evaluate(
        """() => { const before = [-1, 0, 1, 1, 2, 0], knots = before.map((b, k) => ({box: k, index: 0, before: b, via: 10 + k}));
        const index = {drawing: {trees: [{knots}]}};
        const way = (from, to) => graphsplit.way(index, {tree: 0, from, to}).map((s) => [s.left.box, s.via, s.right.box]);
        return [way(4, 3), way(3, 4), way(5, 4), way(0, 2), way(2, 0)]; }"""
    )
    assert ways == [
        [[4, 14, 2], [2, 12, 1], [1, 13, 3]],
        [[3, 13, 1], [1, 12, 2], [2, 14, 4]],
        [[5, 15, 0], [0, 11, 1], [1, 12, 2], [2, 14, 4]],
        [[0, 11, 1], [1, 12, 2]],
        [[2, 12, 1], [1, 11, 0]],
    ]


def test_only_what_lies_between_parts_is_cut(opened: Open) -> None:
    shown = opened(page(draw_model(LENET, 2)))
    text = shown.evaluate("graphsplit.matrix({parameter: 'w', rows: [2, 2, 1], columns: [2, 2, 1], energy: null}, 200)")
    kinds = re.findall(r'class="block ([^"]+)"', text)
    assert kinds == ["p0", "cut", "p0", "cut", "p1", "p1", "p0", "p1", "whole"]


def test_keys(opened: Open) -> None:
    shown = opened(page(draw_model(LENET, 2)))
    for key in ("ArrowDown", "ArrowDown", "ArrowDown"):
        shown.keyboard.press(key)
    assert "relu1" in (shown.locator("#graph .item.selected").get_attribute("aria-label") or "")
    shown.keyboard.press("ArrowUp")
    assert shown.locator("#panel h2").inner_text() == "conv1"
    scale = "d3.zoomTransform(document.getElementById('graph')).k"
    before = shown.evaluate(scale)
    shown.keyboard.press("+")
    assert shown.evaluate(scale) > before
    shown.keyboard.press("f")
    assert shown.evaluate(scale) <= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened: Open, scheme: str) -> None:
    shown = opened(page(draw_model(LENET, 2)), color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    white, black = "rgb(255, 255, 255)", "rgb(20, 24, 31)"
    assert shown.evaluate(ground) == (white if scheme == "light" else black)
    shown.locator("#theme").click()
    assert shown.evaluate(ground) == (black if scheme == "light" else white)
    shown.keyboard.press("d")
    assert shown.evaluate(ground) == (white if scheme == "light" else black)


def test_printing(opened: Open) -> None:
    """The whole scene is on the paper, on white, and afterwards all is as it was."""
    shown = opened(page(draw_model(LENET, 2)), color_scheme="dark")
    shown.keyboard.press("+")
    state = "[graph.getAttribute('viewBox'), graph.firstChild.getAttribute('transform'), document.documentElement.dataset.theme]"
    before = shown.evaluate(state)
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    frame = shown.locator("#graph").bounding_box()
    assert frame is not None
    for item in shown.locator("#graph .box").all():
        seen = item.bounding_box()
        assert seen is not None
        assert frame["y"] <= seen["y"]
        assert seen["y"] + seen["height"] <= frame["y"] + frame["height"] + 1
    assert shown.pdf()[:5] == b"%PDF-"
    shown.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown.evaluate(state) == before


def test_names_that_are_markup_do_nothing(opened: Open, tmp_path: Path) -> None:
    shown = opened(page(draw_model(evil(tmp_path), 2)))
    for item in shown.locator("#graph .layer").all():
        item.click()
    shown.locator("#search").fill("conv")
    assert shown.locator("#results li").count() > 0
    assert shown.evaluate("typeof hacked") == "undefined"
    assert shown.locator("img").count() == 0
    assert "<img" in shown.locator("#panel").inner_text() + shown.locator("header h1").inner_text()


def test_ten_thousand_nodes(opened: Open, tmp_path: Path) -> None:
    onnx.save(deep(1250), tmp_path / "deep.onnx")
    drawing = draw_graph(tmp_path / "deep.onnx")
    assert len(drawing.boxes) > 10_000
    shown = opened(page(drawing))
    seen = items(shown)
    assert seen < 60
    for _ in range(3):
        fold = shown.locator("#graph .fold").first
        fold.focus()
        shown.keyboard.press("Enter")
        more = items(shown)
        assert seen < more < seen + 60
        seen = more
    shown.locator("#search").fill("block777")
    shown.locator("#search").press("Enter")
    assert "block777" in shown.locator("#panel").inner_text()
    assert shown.locator("#unfold").is_disabled()


def test_a_split_folder_shows_its_training(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    graphsplit.split(LENET, 2, out=tmp_path / "run" / "parts")
    for place, part in (("parts/training/part_0", 0), ("parts/training/part_1", 1), ("training", 0)):
        folder = tmp_path / "run" / place
        folder.mkdir(parents=True)
        begin = 4 if place == "training" else 1
        lines = [f'{{"part": {part}, "epoch": {e}, "loss": {1 / e}}}\n' for e in range(begin, begin + 3)]
        (folder / "metrics.jsonl").write_text("".join(lines))
        (folder / "confidence.json").write_text(json.dumps([part, 0.5, 0.25 * part]))
    shown = opened(page(draw_folder(tmp_path / "run" / "parts")))
    assert shown.locator("#panel .line").count() == 3
    assert shown.locator("#panel .merge").count() == 1
    assert shown.locator("#panel .scatter .dot").count() == 3
    assert "for 3 samples before the merge. Correlation" in shown.locator("#panel").inner_text()


def test_a_page_without_a_split(opened: Open) -> None:
    shown = opened(page(draw_graph(LENET)))
    assert "No node is refused" in shown.locator("#panel").inner_text()
    shown.locator("#graph .layer", has_text="conv2").click()
    assert "50 × 20 × 5 × 5" in shown.locator("#panel").inner_text()


def test_many_parts(opened: Open) -> None:
    drawing = draw_model(LENET, 10)
    shown = opened(page(drawing))
    shown.locator("#graph .layer", has_text="fc1").click()
    assert shown.locator("#panel .matrix .block.cut").count() == 90
    assert shown.locator("#panel .matrix .again").count() == 2
    assert figure(replace(drawing, title="ten")).count("again") > 2


def test_a_figure_is_what_the_page_shows(opened: Open, tmp_path: Path) -> None:
    drawing = draw_model(LENET, 2)
    shown = opened(page(drawing))
    drawn = shown.evaluate("graphsplit.draw(graphsplit.app.index, graphsplit.app.scene)")
    assert drawn in figure(drawing)


def test_netron_opens_what_is_written(browser: Browser, tmp_path: Path) -> None:
    """Sub-models and merged networks open in Netron, with their names intact."""
    if not REQUIRED:
        pytest.importorskip("netron")
    import netron

    graphsplit.split(LENET, 2, out=tmp_path / "parts")
    graphsplit.merge(tmp_path / "parts", out=tmp_path / "merged.onnx")
    for file in (tmp_path / "parts" / "submodel_1.onnx", tmp_path / "merged.onnx"):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = ("localhost", free.getsockname()[1])
        netron.start(str(file), address=address, browse=False)
        try:
            shown = browser.new_page()
            shown.goto(f"http://{address[0]}:{address[1]}")
            shown.get_by_text("Accept").click()  # cookies
            shown.wait_for_selector(".node.graph-node", timeout=30_000)
            names = {one.get_attribute("id") for one in shown.locator(".node.graph-node").all()}
            shown.close()
        finally:
            netron.stop(address)
        assert names == {f"node-name-{node.name}" for node in onnx.load(file).graph.node}


def test_a_written_page_is_the_page(tmp_path: Path) -> None:
    drawing = draw_model(LENET, 2)
    write(drawing, tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == page(drawing)
