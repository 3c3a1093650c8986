"""Files of drawings: pages, figures and facts, and the command that writes them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import onnx
import pytest

import graphsplit
from graphsplit.draw import Drawing, draw_model, facts, figure, page, write
from graphsplit.errors import GraphsplitError
from graphsplit.files import OutputError
from graphsplit.report import plain
from graphsplit.report.schema import schema_of
from tests.commands import Run, runner
from tests.drawings import DRAWN, EVIL, LENET, ROOT, evil, saved
from tests.networks.builder import Net

WEB = Path(graphsplit.__path__[0]) / "draw" / "web"


# -- files -----------------------------------------------------------------------------------------


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
