"""Write docs/coverage.md from the results of `tools/coverage.py` and `tools/zoo.py`.

    python tools/coverage_page.py --onnx coverage.json --onnx-command '…' [--zoo zoo.json]... [--note FILE] > docs/coverage.md

Nothing is run: the programs write their results as JSON, each with the ways that it tried. A zoo's section names the command that
makes it again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tools import zoo
from tools.shared.results import Result, markdown, read

STATUSES = ("exact", "refused", "not exported", "left out", "FAILED")
INTRODUCTION = """The zoos of torch modules stand behind the ONNX files, each with the command that makes its section and what
it says of every network. They were tried with random weights and small inputs, in double precision where memory allows, at
another batch size than the example's; the written modules had to give what their graphs give, and to train."""


def zoo_results(files: Sequence[Path]) -> list[list[zoo.ZooResult]]:
    """The results of each zoo in its own order, the first way in front."""
    found = []
    for file in files:
        results = zoo.read(file)
        names = zoo.module_of(results[0].zoo).names()
        known = [result for result in results if result.model in names]
        first = Counter(result.way for result in known).most_common(1)[0][0]
        found.append(sorted(known, key=lambda r: (r.way != first, names.index(r.model))))
    return found


def overview(zoos: Sequence[Sequence[zoo.ZooResult]]) -> list[str]:
    """A table of all zoos: how many networks they register, and what became of them, for each way."""
    text = ["| zoo | way | " + " | ".join(STATUSES) + " |", "|---|---|" + "---:|" * len(STATUSES)]
    for results in zoos:
        for way in dict.fromkeys(result.way for result in results):
            counted: Counter[str] = Counter(result.status for result in results if result.way == way)
            text.append(f"| {results[0].zoo} | {way} | " + " | ".join(str(counted[name]) for name in STATUSES) + " |")
    return text


def command_of(results: Sequence[zoo.ZooResult]) -> str:
    """The command that gives a zoo's results, with the ways that were tried beside the first."""
    first = results[0].way
    also = list(dict.fromkeys(result.way.spelled for result in results if result.way != first))
    words = f"python tools/zoo.py {results[0].zoo} -k {first.k}"
    return words + (f" --also {','.join(sorted(also))}" if also else "")


def page(results: Sequence[Result], command: str, note: str, zoos: Sequence[Sequence[zoo.ZooResult]]) -> str:
    """The whole document."""
    text = markdown(results, command=command, note=note).rstrip("\n")
    head, mark, rest = text.partition("\n| | way |")
    middle = ["", INTRODUCTION, "", *overview(zoos), ""]
    sections = [zoo.markdown(found, command_of(found)).rstrip("\n") for found in zoos]
    return "\n".join([head, *middle]) + mark + rest + "\n\n" + "\n\n".join(sections) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Read results, print the page."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="results of tools/coverage.py")
    made.add_argument("--onnx-command", required=True, metavar="TEXT", help="the command that made them")
    made.add_argument("--zoo", type=Path, action="append", default=[], metavar="FILE", help="results of tools/zoo.py")
    made.add_argument("--note", type=Path, metavar="FILE", help="Markdown in front of the tables")
    arguments = made.parse_args(argv)
    note = arguments.note.read_text(encoding="utf-8") if arguments.note else ""
    results = read(arguments.onnx)
    print(page(results, arguments.onnx_command, note, zoo_results(arguments.zoo)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
