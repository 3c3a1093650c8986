"""Split, merge and verify the networks of a zoo, and say of each: exact, refused with the reason, or FAILED.

    python tools/zoo.py torchvision|timm|transformers [-k 2] [--strategy contiguous] [--only PATTERN] [--jobs 1]
                        [--also 3,4,2:random,2:interleaved,2:onnx] [--limit 300] [--json FILE] [--resume FILE]
                        [--markdown FILE]

Every network gets random weights, batch statistics calibrated on random inputs, and small inputs. *exact* means that
`graphsplit.split` gave sub-models, all of which run and train, and that the merged module equals the mean of sub-models
with changed weights at every tap; *not exported* that torch.export can't follow the module; *refused* that `split`
raised another `GraphsplitError`; *left out* that the zoo's table says why it isn't tried. Anything else is FAILED. Each
network has a process of its own. With `--also`, each network that is exact is tried in one further way: the zoo's first
in the first way of the list, the second in the second, and so on, round and round; `2:onnx` is K = 2 of its ONNX export,
checked with onnxruntime.

Exit codes: 0 nothing failed, 1 something did, 2 misused.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import re
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import median
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))
from tools.shared.tables import cell, counted, one_line, versions
from tools.shared.ways import Way, ways_of

Status = Literal["exact", "refused", "not exported", "left out", "FAILED"]
ZOOS = ("torchvision", "timm", "transformers")
VERSIONS = ("graphsplit", "torch", *ZOOS)
NOT_EXPORTED = re.compile(r"torch\.export can't follow")


Key = tuple[str, Way]
"""A network with the way in which it is split."""


@dataclass(frozen=True, slots=True)
class ZooResult:
    """What came of splitting one network. The share is the largest part's of the parameters; times are seconds."""

    zoo: str
    model: str
    k: int
    strategy: str
    status: Status
    reason: str = ""
    parameters: int = 0
    share: float = 0.0
    repeated: int = 0
    private: int = 0
    worst: float | None = None
    tolerance: float | None = None
    export: float = 0.0
    planning: float = 0.0
    seed: int = 0
    onnx: bool = False

    @property
    def way(self) -> Way:
        """How the network was split."""
        return Way(self.k, self.strategy, self.seed, self.onnx)

    @property
    def key(self) -> Key:
        """What tells a result from others."""
        return self.model, self.way


# -- one network, in a process of its own ---------------------------------------------------------


def attempt(zoo: str, model: str, way: Way) -> dict[str, Any]:
    """Build a network and examine it: what a `ZooResult` says of it. Never raises."""
    from graphsplit.errors import GraphsplitError
    from tools.zoos.example import LeftOutError, ready
    from tools.zoos.law import examine
    from tools.zoos.through_onnx import examine_export

    try:
        import torch

        torch.manual_seed(0)
        example = ready(module_of(zoo).build(model))
        return examine_export(example, way) if way.onnx else examine(example, way)
    except LeftOutError as error:
        return {"status": "left out", "reason": str(error)}
    except GraphsplitError as error:
        status = "not exported" if NOT_EXPORTED.match(str(error)) else "refused"
        return {"status": status, "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - that nothing else is raised is what is tested
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return {"status": "FAILED", "reason": f"{type(error).__name__} at {where}: {error}"}


def module_of(zoo: str) -> Any:
    """The table of a zoo."""
    return importlib.import_module(f"tools.zoos.{zoo}_zoo")


def _child(pipe: Connection, zoo: str, model: str, way: Way) -> None:
    pipe.send(attempt(zoo, model, way))
    pipe.close()


def run(zoo: str, todo: Sequence[Key], jobs: int, limit: float) -> Iterator[ZooResult]:
    """All results, as they come. Children are forked, so that each starts with everything imported."""
    context = multiprocessing.get_context("fork")
    waiting = list(todo)
    running: dict[Connection, tuple[Key, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                key = waiting.pop(0)
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(there, zoo, *key))
                process.start()
                there.close()
                running[here] = (key, process, time.monotonic())
            ready = wait(list(running), timeout=1)
            for pipe, ((model, way), process, begin) in list(running.items()):
                if pipe not in ready and time.monotonic() - begin < limit:
                    continue
                found = _answer(pipe, process, limit if pipe not in ready else None)
                del running[pipe]
                yield ZooResult(zoo, model, way.k, way.strategy, seed=way.seed, onnx=way.onnx, **found)
    finally:
        for _, process, _ in running.values():
            process.kill()


def _answer(pipe: Connection, process: Any, limit: float | None) -> dict[str, Any]:
    try:
        if limit is not None:
            process.kill()
            return {"status": "FAILED", "reason": f"it took longer than {limit:g} s"}
        found: dict[str, Any] = pipe.recv()
        return found
    except EOFError:
        process.join()
        return {"status": "FAILED", "reason": f"its process died (exit code {process.exitcode})"}
    finally:
        process.join()
        pipe.close()


# -- results --------------------------------------------------------------------------------------


def line(result: ZooResult) -> str:
    """A result as the terminal shows it."""
    if result.status != "exact":
        return f"{result.status:<13}{result.model} [{result.way}]\n        {one_line(result.reason)}"
    return (
        f"{result.status:<13}{result.model} [{result.way}]: {result.parameters:,} parameters, largest part {result.share:.1%}, "
        f"{result.repeated} repeated, {result.private} private, error {result.worst:.1e} of {result.tolerance:.1e}, "
        f"export {result.export:.1f} s, planning {result.planning:.1f} s"
    )


def read(file: Path) -> list[ZooResult]:
    """The results of an earlier run."""
    names = {field.name for field in fields(ZooResult)}
    content = json.loads(file.read_text(encoding="utf-8"))
    return [ZooResult(**{name: r[name] for name in names & r.keys()}) for r in content["results"]]


def write(file: Path, results: Sequence[ZooResult]) -> None:
    """Write results; an interrupted run leaves what there was."""
    content = {"versions": versions(VERSIONS), "results": [asdict(result) for result in results]}
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
    scratch.replace(file)


def markdown(results: Sequence[ZooResult], command: str) -> str:
    """A section for docs/coverage.md: counts, what is exact, what isn't and why."""
    zoo, first = results[0].zoo, results[0].way
    known = ", ".join(f"{name} {number}" for name, number in versions(VERSIONS).items())
    exact = [r for r in results if r.status == "exact" and r.way == first]
    others = {r.model: r for r in results if r.way != first}
    ratios = [r.planning / r.export for r in exact if r.export]
    text = [f"## {zoo}", "", f"Run with {known}:", "", f"    {command}", "", *_counts(results)]
    if ratios:
        text += [f"Planning takes {median(ratios):.2f} times as long as torch.export (median).", ""]
    text += [
        "Columns: parameters; the largest part's share; nodes that the merged network repeats for each part; layers that each",
        "part has whole; the worst error at a tap, relative to the largest element, and what is allowed; seconds to export",
        "(both modes) and to plan; and what a second way of splitting gave, with the largest part's share.",
        "",
        "| model | parameters | part | repeated | private | error | allowed | export s | plan s | also |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    text += [
        f"| {cell(r.model)} | {r.parameters:,} | {r.share:.1%} | {r.repeated} | {r.private} | {r.worst:.1e} "
        f"| {r.tolerance:.1e} | {r.export:.1f} | {r.planning:.1f} | {_also(others.get(r.model))} |"
        for r in exact
    ]
    text.append("")
    for status in ("FAILED", "refused", "not exported", "left out"):
        found = [r for r in results if r.status == status]
        if found:
            text += [f"### {zoo}: {status}", "", *counted([r.reason for r in found], status)]
            text += ["| model | way | what it says |", "|---|---|---|"]
            text += [f"| {cell(r.model)} | {r.way} | {cell(one_line(r.reason.partition(chr(10))[0]))} |" for r in found]
            text.append("")
    return "\n".join(text)


def _also(result: ZooResult | None) -> str:
    if result is None:
        return ""
    return f"{result.way}: {result.status}" + (f" {result.share:.1%}" if result.status == "exact" else "")


def _counts(results: Sequence[ZooResult]) -> list[str]:
    """How many of each status, a row for each way."""
    names = Status.__args__  # type: ignore[attr-defined]
    text = ["| way | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for way in dict.fromkeys([results[0].way, *sorted({r.way for r in results})]):
        found = Counter(r.status for r in results if r.way == way)
        text.append(f"| {way} | " + " | ".join(str(found[name]) for name in names) + " |")
    return [*text, ""]


# -- arguments ------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("zoo", choices=ZOOS)
    made.add_argument("-k", type=int, default=2, metavar="K", help="how many parts (2)")
    made.add_argument("--strategy", default="contiguous", metavar="NAME", help="which vertices go together")
    made.add_argument("--only", action="append", default=[], metavar="PATTERN", help="models by name: resnet*")
    made.add_argument("--again", action="append", default=[], metavar="STATUS", help="with --resume: try these again")
    made.add_argument(
        "--also", type=ways_of, default=[], metavar="WAYS", help="further ways, taken in turns: 3,4,2:random,2:onnx"
    )
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at a time (1)")
    made.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="the time limit of each (300)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write results as JSON, as they come")
    made.add_argument("--resume", type=Path, metavar="FILE", help="take known results from a JSON file, except FAILED")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the section for docs/coverage.md")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write; gives the exit code."""
    made = parser()
    arguments = made.parse_args(argv)
    import torch

    torch.set_num_threads(1)  # children are forked
    names: list[str] = module_of(arguments.zoo).names()
    chosen = [n for n in names if not arguments.only or any(fnmatch(n, pattern) for pattern in arguments.only)]
    if not chosen:
        made.error("no model has such a name")
    known: dict[Key, ZooResult] = {}
    if arguments.resume and arguments.resume.exists():
        known = {r.key: r for r in read(arguments.resume) if r.zoo == arguments.zoo and r.model in names}
    way = Way(arguments.k, arguments.strategy)
    again = {"FAILED", *arguments.again}
    results = _run(arguments, [(name, way) for name in chosen], known, again)
    if arguments.also:
        exact = {r.model for r in results if r.status == "exact"}
        rotated = {name: arguments.also[at % len(arguments.also)] for at, name in enumerate(names)}
        results += _run(arguments, [(n, rotated[n]) for n in chosen if n in exact], known, again)
    results.sort(key=lambda r: (r.way != way, names.index(r.model)))
    if arguments.markdown:
        arguments.markdown.write_text(markdown(results, _shown(arguments)), encoding="utf-8")
    found = Counter(result.status for result in results)
    print(f"\n{len(results)} results: " + ", ".join(f"{n} {status}" for status, n in found.most_common()))
    return 1 if found["FAILED"] else 0


def _shown(arguments: argparse.Namespace) -> str:
    """The command for the document, without what says where results go."""
    command = ["python", "tools/zoo.py", arguments.zoo, "-k", str(arguments.k)]
    command += ["--strategy", arguments.strategy] * (arguments.strategy != "contiguous")
    command += ["--also", ",".join(way.spelled for way in arguments.also)] * bool(arguments.also)
    return shlex.join(command + [word for pattern in arguments.only for word in ("--only", pattern)])


def _run(
    arguments: argparse.Namespace, keys: Sequence[Key], known: dict[Key, ZooResult], again: set[str]
) -> list[ZooResult]:
    """Known results and new ones; `known` takes these up, and they are written as they come."""
    todo = [key for key in keys if key not in known or known[key].status in again]
    importlib.import_module("tools.zoos.law")
    for result in run(arguments.zoo, todo, arguments.jobs, arguments.limit):
        known[result.key] = result
        print(line(result), flush=True)
        if arguments.json:
            write(arguments.json, list(known.values()))
    if arguments.json:
        write(arguments.json, list(known.values()))
    return [known[key] for key in keys]


if __name__ == "__main__":
    sys.exit(main())
