"""The documentation runs: sessions give the output that they show, Python blocks work, pictures and links are there.

python -m tests.test_readme        writes the output that sessions and Python blocks give into the documents
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, *(ROOT / "docs" / f"{name}.md" for name in ("python", "modules", "training", "trainers")))
LINKED = (README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "models" / "README.md")
VISION = "from tools.zoos.example import declare_vision; declare_vision()\n" if find_spec("torchvision") else ""
"""Other libraries import torchvision where it is installed, and its compiled ops may not fit the torch that is there."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `shown` is the output that belongs to it, and where that stands, if it does."""

    document: Path
    language: str
    text: str
    shown: str
    span: tuple[int, int] | None


def blocks(document: Path) -> Iterator[Block]:
    """Sessions, with commands and output together, and Python blocks with the text block that follows at once."""
    content = document.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(content))
    for number, match in enumerate(found):
        language, text = match.groups()
        if language == "console":
            yield Block(document, language, text, text, match.span(2))
        if language == "python":
            after = found[number + 1] if number + 1 < len(found) else None
            if after and after[1] == "text" and not content[match.end() : after.start()].strip():
                yield Block(document, language, text, after[2], after.span(2))
            else:
                yield Block(document, language, text, "", None)


def commands(session: str) -> list[str]:
    return [line[2:] for line in session.splitlines() if line.startswith("$ ")]


def workplace(folder: Path) -> Path:
    """A folder as the documents expect it: the shipped models, and nothing else."""
    shutil.copytree(ROOT / "models", folder / "models")
    return folder


def environment() -> dict[str, str]:
    """This interpreter's commands first; no colours, no terminal width."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "PYTHONPATH": str(ROOT)}


def output(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def session(text: str, folder: Path) -> str:
    """A session with the output that its commands give now."""
    lines = []
    for command in commands(text):
        words = shlex.split(command)
        assert words[0] == "graphsplit", command
        found = output([sys.executable, "-c", "from graphsplit.cli import main; main()", *words[1:]], folder)
        lines += [f"$ {command}", *(line.rstrip() for line in found.splitlines()), ""]
    return "\n".join(lines[:-1]) + "\n"


def script(text: str, folder: Path) -> str:
    return output([sys.executable, "-c", VISION + text], folder)


def run(document: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """All blocks of a document: sessions in one folder; all Python blocks are one script, in another."""
    places = {language: workplace(folder / language) for language in ("console", "python")}
    mark = "-- next block --"
    python = [block for block in blocks(document) if block.language == "python"]
    whole = f"\nprint({mark!r})\n".join(block.text for block in python)
    printed = iter(script(whole, places["python"]).split(f"{mark}\n")) if python else iter(())
    for block in blocks(document):
        yield block, session(block.text, places["console"]) if block.language == "console" else next(printed)


def modulo(text: str) -> str:
    """Without what may differ between two machines: rounding errors, versions, times."""
    text = re.sub(r"\d(\.\d+)?e-\d+", "#", text)
    text = re.sub(r"(onnxruntime|torch) \d[\w.+]*", r"\1 #", text)
    text = re.sub(r"sha256 \w+", "sha256 #", text)  # of weights that are drawn anew
    text = re.sub(r"\d+(\.\d+)? s\b", "# s", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def written(document: Path, folder: Path) -> str:
    """A document with the output that its blocks give now."""
    content = document.read_text(encoding="utf-8")
    for block, found in reversed(list(run(document, folder))):
        if block.span is not None:
            start, end = block.span
            content = content[:start] + found + content[end:]
    return content


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_give_the_output_that_they_show(document: Path, tmp_path: Path) -> None:
    for package in ("torch", "lightning", "transformers"):
        needed = re.search(rf"^(import|from) {package}\b", document.read_text(encoding="utf-8"), re.MULTILINE)
        if needed and find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    looked_at = 0
    for block, found in run(document, tmp_path):
        assert modulo(found) == modulo(block.shown), "rewrite with: python -m tests.test_readme"
        looked_at += 1
    assert looked_at


def test_a_changed_figure_would_be_noticed() -> None:
    assert modulo("431,080 parameters") != modulo("431,081 parameters")
    assert modulo("exact merge  3.2e-07  1.3e-05") == modulo("exact merge 4.2e-07  1.3e-05 ")


def test_the_session_has_each_command_that_needs_no_training_once() -> None:
    (found,) = [commands(block.text) for block in blocks(README) if block.language == "console"]
    assert [command.split()[1] for command in found] == ["inspect", "explain", "split", "merge", "verify"]


def test_the_first_block_installs_splits_and_verifies_and_the_second_runs_the_tests() -> None:
    first, second, *_ = (match[2] for match in BLOCK.finditer(README.read_text(encoding="utf-8")) if match[1] == "sh")
    for text in (first, second):
        assert len(text.splitlines()) == 1
        steps = [shlex.split(step) for step in text.split("&&")]
        assert [Path(step[0]).name for step in steps[:2]] == ["python3", "pip"]
        extras = re.findall(r"\[([\w,]+)\]", text)[0].split(",")
        assert (
            set(extras)
            <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
        )
    assert [step.split()[0:2] for step in first.split("&&")[2:]] == [
        [".venv/bin/graphsplit", "split"],
        [".venv/bin/graphsplit", "verify"],
    ]
    assert "-m pytest" in second


def test_the_commands_of_the_first_block_work(tmp_path: Path) -> None:
    first = next(match[2] for match in BLOCK.finditer(README.read_text(encoding="utf-8")) if match[1] == "sh")
    steps = [shlex.split(step)[1:] for step in first.split("&&") if "bin/graphsplit" in step]
    folder = workplace(tmp_path / "here")
    results = [
        output([sys.executable, "-c", "from graphsplit.cli import main; main()", *step], folder) for step in steps
    ]
    assert "109,295  25.35%" in results[0]
    assert "checks hold" in results[1]


@pytest.mark.parametrize("document", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_the_picture_is_an_image_for_light_and_dark() -> None:
    text = (ROOT / "docs" / "method.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    light, _, dark = text.partition("prefers-color-scheme: dark")
    drawn = {name for names in re.findall(r'class="([^"]+)"', text) for name in names.split()}
    for name in drawn:
        assert f".{name}" in light.partition("<style>")[2], name
    assert "script" not in text
    assert dark


if __name__ == "__main__":
    for path in DOCUMENTS:
        with tempfile.TemporaryDirectory() as scratch:
            new = written(path, Path(scratch))
        path.write_text(new, encoding="utf-8")
        print(path.relative_to(ROOT))
