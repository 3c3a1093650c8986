"""Split, merge and verify every ONNX model of some folders, and say of each: exact, refused with the reason, or FAILED.

    python tools/coverage.py FOLDER... [-k 2] [--strategy contiguous] [--also 3,4,2:random,2:interleaved]
                             [--distinct] [--jobs 2] [--limit 300] [--json FILE [--resume]] [--markdown FILE]

*exact* means that `graphsplit.split` wrote the sub-models, `graphsplit.merge` merged them, and `graphsplit.verify`
found every law to hold on perturbed weights; *refused* that `split` raised a `GraphsplitError`, or `verify` couldn't
run the source; anything else is FAILED: a law that doesn't hold, a merge that is refused, another exception, a process
that died or ran out of time. Each model has a process of its own, for a runtime may take its process down with it.
With `--also`, each model that is exact is tried in one further way: the first of its section in the first way of the
list, the second in the second, and so on, round and round.

Exit codes: 0 nothing failed, 1 something did, 2 misused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import onnx
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.append(str(Path(__file__).parent.parent))
from tools.shared.tables import cell, counted, kind, one_line, versions
from tools.shared.ways import Way, ways_of

__all__ = ["Model", "Result", "Way", "kind", "main", "markdown", "run", "ways_of"]

Status = Literal["exact", "refused", "FAILED"]
VERSIONS = ("graphsplit", "onnx", "onnx-ir", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Model:
    """A file with the section that it is listed in, and what it is called there."""

    section: str
    title: str
    path: Path


@dataclass(frozen=True, slots=True)
class Result:
    """What came of splitting one model in one way. Shares are the largest part's."""

    section: str
    title: str
    bytes: int
    way: Way
    status: Status
    reason: str = ""
    nodes: int = 0
    parameters: int = 0
    share: float = 0.0
    work_share: float | None = None
    repeated: int = 0
    private: int = 0
    worst: float | None = None
    tolerance: float | None = None
    runtime: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, int, Way]:
        """What tells a result from others."""
        return self.section, self.title, self.bytes, self.way


# -- one model, in a process of its own -----------------------------------------------------------


def examine(path: str, way: Way) -> dict[str, object]:
    """Split, merge and verify a model: the fields of a `Result` but the first four. Never raises."""
    import graphsplit

    try:
        return _examine(path, way)
    except graphsplit.GraphsplitError as error:
        return {"status": "refused", "reason": str(error).replace(path, Path(path).name)}
    except Exception as error:  # noqa: BLE001 - that nothing else is raised is what is tested
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return {"status": "FAILED", "reason": f"{type(error).__name__} at {where}: {error}"}


def _examine(path: str, way: Way) -> dict[str, object]:
    import graphsplit
    from graphsplit.api import plan as make_plan
    from graphsplit.report import inspect

    options = {"strategy": way.strategy, "seed": way.seed}
    begin = time.perf_counter()
    plan = make_plan(path, way.k, **options)  # type: ignore[arg-type]
    found: dict[str, object] = {"seconds": time.perf_counter() - begin}
    facts = inspect(plan)
    found |= {
        "nodes": facts.network.nodes,
        "parameters": facts.network.parameters,
        "share": max(facts.parameter_sizes.shares),
        "work_share": max(facts.multiply_add_sizes.shares) if facts.network.multiply_adds else None,
        "repeated": len(facts.repeated),
        "private": len(facts.private),
    }
    with tempfile.TemporaryDirectory() as scratch:
        split: Any = graphsplit.split
        done = split(path, way.k, out=Path(scratch, "parts"), **options)
        merged = Path(scratch, "merged.onnx")
        try:
            graphsplit.merge(done.folder, out=merged)
        except graphsplit.GraphsplitError as error:
            return found | {"status": "FAILED", "reason": f"the merge of fresh sub-models is refused: {error}"}
        try:
            verification = graphsplit.verify(done.folder, merged)
        except graphsplit.GraphsplitError as error:
            return found | {"status": "refused", "reason": f"it was split, but not verified: {error}"}
    numbers = [(c.worst, c.tolerance) for c in verification.checks if c.worst is not None and c.tolerance is not None]
    if numbers:
        found["worst"], found["tolerance"] = max(numbers, key=lambda pair: pair[0] / max(pair[1], 1e-300))
    failed = [f"{check.name}: {check.detail}" for check in verification.checks if not check.passed]
    if failed and all("nothing was proved" in text for text in failed):  # no deviation, and no evidence either
        return found | {"status": "refused", "reason": f"it was split, but not verified: {failed[0]}"}
    return found | {
        "status": "exact" if verification.passed else "FAILED",
        "reason": "; ".join(failed),
        "runtime": verification.runtime,
    }


_running: set[subprocess.Popen[bytes]] = set()


def isolated(model: Model, way: Way, limit: float) -> Result:
    """`examine` in a process of its own, ended with all its children when its time is over."""
    size = model.path.stat().st_size
    with tempfile.TemporaryDirectory() as scratch:
        answer, errors = Path(scratch, "answer.json"), Path(scratch, "stderr")
        command = [sys.executable, __file__, "--one", str(model.path), json.dumps(asdict(way)), str(answer)]
        environment = {**os.environ, "TMPDIR": scratch}
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=stream, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )
            _running.add(process)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                _end(process)
                found: dict[str, object] = {"status": "FAILED", "reason": f"it took longer than {limit:g} s"}
            else:
                found = json.loads(answer.read_text()) if answer.exists() else _died(code, errors)
            finally:
                _running.discard(process)
    return Result(model.section, model.title, size, way, **found)  # type: ignore[arg-type]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _died(code: int, errors: Path) -> dict[str, object]:
    lines = errors.read_text(errors="replace").strip().splitlines()
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return {"status": "FAILED", "reason": f"its process died ({name}): {lines[-1] if lines else ''}"}


# -- models ---------------------------------------------------------------------------------------


def find(sections: Iterable[tuple[str, Path]]) -> list[Model]:
    """The models of files and folders, by section and name."""
    found: list[Model] = []
    for section, place in sections:
        files = sorted(place.rglob("*.onnx")) if place.is_dir() else [place]
        found.extend(
            Model(section, file.relative_to(place if place.is_dir() else place.parent).as_posix(), file)
            for file in files
        )
    return found


def distinct(models: Sequence[Model]) -> list[Model]:
    """The first of all models with the same nodes, wiring, attributes and tensor shapes, in each section."""
    seen: set[tuple[str, str]] = set()
    found: list[Model] = []
    for model in models:
        key = (model.section, topology(model.path))
        if key not in seen:
            seen.add(key)
            found.append(model)
    return found


def topology(path: Path) -> str:
    """A digest of a model's nodes, wiring, attributes and tensor shapes: of no name and no weight."""
    content = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return hashlib.sha256(content).hexdigest()
    names: dict[str, int] = {"": 0}
    lines = [
        f"{tensor.data_type} {list(tensor.dims)} {names.setdefault(tensor.name, len(names))}"
        for tensor in model.graph.initializer
    ]
    lines += [str(names.setdefault(value.name, len(names))) for value in model.graph.input]
    for node in model.graph.node:
        wires = [names.setdefault(name, len(names)) for name in (*node.input, *node.output)]
        lines.append(f"{node.domain} {node.op_type} {len(node.input)} {wires}")
        lines += sorted(_attribute(attribute) for attribute in node.attribute)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _attribute(attribute: onnx.AttributeProto) -> str:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return f"{attribute.name} {attribute.t.data_type} {list(attribute.t.dims)}"
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return attribute.name
    content: bytes = attribute.SerializeToString(deterministic=True)
    return content.hex()


# -- a run ----------------------------------------------------------------------------------------


def run(
    models: Sequence[Model],
    way: Way,
    also: Sequence[Way],
    known: Mapping[tuple[str, str, int, Way], Result],
    jobs: int,
    limit: float,
) -> Iterator[Result]:
    """All results, as they come; those that are known already first."""

    def both(number: int, model: Model) -> list[Result]:
        found = [known.get((model.section, model.title, model.path.stat().st_size, way)) or isolated(model, way, limit)]
        if also and found[0].status == "exact":
            other = also[number % len(also)]
            again = known.get((model.section, model.title, model.path.stat().st_size, other))
            found.append(again or isolated(model, other, limit))
        return found

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False)) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("models", total=len(models))
        sections = [model.section for model in models]
        waiting = [pool.submit(both, i - sections.index(model.section), model) for i, model in enumerate(models)]
        try:
            for future in as_completed(waiting):
                yield from future.result()
                bar.advance(task)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_running):
                _end(process)


def line(result: Result) -> str:
    """A result as the terminal shows it."""
    name = f"{result.title} [{result.way}]"
    if result.status != "exact":
        return f"{result.status:<8}{name}\n        {one_line(result.reason)}"
    error = "" if result.worst is None else f", error {result.worst:.1e} of {result.tolerance:.1e}"
    return (
        f"{result.status:<8}{name}\n        {result.nodes} nodes, {result.parameters:,} parameters, largest part "
        f"{result.share:.1%}, {result.repeated} repeated, {result.private} private{error}, {result.seconds:.2f} s"
    )


def read(file: Path) -> list[Result]:
    """The results of an earlier run."""
    content = json.loads(file.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Result)} - {"way"}
    return [Result(way=Way(**r["way"]), **{n: r[n] for n in names}) for r in content["results"]]


def write(file: Path, results: Sequence[Result]) -> None:
    """Write results; an interrupted run leaves what there was."""
    content = {"versions": versions(VERSIONS), "results": [asdict(result) for result in results]}
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
    scratch.replace(file)


# -- the table ------------------------------------------------------------------------------------


def markdown(results: Sequence[Result], *, command: str, note: str = "") -> str:
    """The document: what was run, counts, a table for each section, and what failed or was refused."""
    known = ", ".join(f"{name} {number}" for name, number in versions(VERSIONS).items())
    text = [
        "# Coverage",
        "",
        f"Generated by `tools/coverage.py`, which says what the words mean. Run with {known}:",
        "",
    ]
    text += [f"    {command}", "", *([note.strip(), ""] if note.strip() else [])]
    text += _counts(results)
    text += [
        "Columns: nodes and trained parameters of the model; the largest part's share of the parameters and of the",
        "multiply-adds; nodes that the merged network repeats for each part; layers that each part has whole; the",
        "worst error that any law found, relative to the largest element, and what rounding is allowed; seconds to",
        "load and plan; and what a second way of splitting gave, with the largest part's share.",
        "",
    ]
    for section in dict.fromkeys(result.section for result in results):
        text += [f"## {section}", "", *_table([r for r in results if r.section == section])]
    text += ["## FAILED", "", *_failures([r for r in results if r.status == "FAILED"])]
    text += ["## Refused", "", *_refusals([r for r in results if r.status == "refused"])]
    return "\n".join(text).rstrip() + "\n"


def _counts(results: Sequence[Result]) -> list[str]:
    text = ["| | way | exact | refused | FAILED |", "|---|---|---:|---:|---:|"]
    for section, way in dict.fromkeys((r.section, r.way) for r in sorted(results, key=lambda r: (r.section, r.way))):
        found = Counter(r.status for r in results if (r.section, r.way) == (section, way))
        text.append(f"| {section} | {way} | {found['exact']} | {found['refused']} | {found['FAILED']} |")
    return [*text, ""]


def _table(results: Sequence[Result]) -> list[str]:
    first = min((r.way for r in results), key=[r.way for r in results].index)
    others = {r.title: r for r in results if r.way != first}
    rows = [r for r in results if r.way == first and r.status == "exact"]
    text = [
        f"Exact with {first}:",
        "",
        "| model | nodes | parameters | part | multiply-adds | repeated | private | error | allowed | s | also |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for r in rows:
        work = "" if r.work_share is None else f"{r.work_share:.1%}"
        error = "| |" if r.worst is None or r.tolerance is None else f"{r.worst:.1e} | {r.tolerance:.1e} |"
        other = others.get(r.title)
        again = "" if other is None else f"{other.way}: {other.status}" + (f" {other.share:.1%}" if other.share else "")
        text.append(
            f"| {cell(r.title)} | {r.nodes} | {r.parameters:,} | {r.share:.1%} | {work} | {r.repeated} | {r.private} "
            f"| {error} {r.seconds:.1f} | {again} |"
        )
    return [*text, ""]


def _failures(results: Sequence[Result]) -> list[str]:
    if not results:
        return ["Nothing.", ""]
    text = ["| model | way | what happened |", "|---|---|---|"]
    text += [f"| {cell(r.title)} | {r.way} | {cell(one_line(r.reason))} |" for r in results]
    return [*text, ""]


def _refusals(results: Sequence[Result]) -> list[str]:
    if not results:
        return ["Nothing.", ""]
    text = [*counted([result.reason for result in results]), "| model | way | what it says |", "|---|---|---|"]
    text += [f"| {cell(r.title)} | {r.way} | {cell(one_line(r.reason.partition(chr(10))[0]))} |" for r in results]
    return [*text, ""]


# -- arguments ------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument(
        "models", nargs="*", type=Path, metavar="FOLDER|FILE", help="what to try, in the section 'Models'"
    )
    made.add_argument(
        "--section", nargs=2, action="append", default=[], metavar=("TITLE", "FOLDER"), help="a section with its models"
    )
    made.add_argument("-k", type=int, default=2, metavar="K", help="how many parts (2)")
    made.add_argument(
        "--strategy", default="contiguous", metavar="NAME", help="which vertices go together (contiguous)"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of a random strategy (0)")
    made.add_argument(
        "--also", type=ways_of, default=[], metavar="WAYS", help="further ways, taken in turns: 3,4,2:random:1"
    )
    made.add_argument(
        "--distinct", action="store_true", help="of models that differ only in names and weights, the first"
    )
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at a time (1)")
    made.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="the time limit of each (300)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write results as JSON, as they come")
    made.add_argument("--resume", action="store_true", help="take results from the JSON file, except what FAILED")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    made.add_argument("--note", type=Path, metavar="FILE", help="Markdown to put in front of the tables")
    return made


def shown(arguments: argparse.Namespace) -> str:
    """The command for the document: folders by their last names, and nothing that says where results go."""
    words = ["python", "tools/coverage.py"]
    for title, folder in arguments.section:
        words += ["--section", title, Path(folder).name]
    words += [path.name for path in arguments.models] + ["-k", str(arguments.k)]
    if arguments.strategy != "contiguous":
        words += ["--strategy", arguments.strategy, "--seed", str(arguments.seed)]
    if arguments.also:
        words += ["--also", ",".join(way.spelled for way in arguments.also)]
    return shlex.join(words + ["--distinct"] * arguments.distinct)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write; gives the exit code."""
    made = parser()
    arguments = made.parse_args(argv)
    if any(way.onnx for way in arguments.also):
        made.error("the models are ONNX files: 'onnx' is a way of tools/zoo.py")
    if arguments.resume and not arguments.json:
        made.error("--resume needs --json FILE")
    places = [("Models", path) for path in arguments.models]
    places += [(title, Path(folder)) for title, folder in arguments.section]
    for _, place in places:
        if not place.exists():
            made.error(f"there is no {str(place)!r}")
    models = find(places)
    total = len(models)
    if arguments.distinct:
        models = distinct(models)
    if not models:
        made.error("there is no model to try")
    known: dict[tuple[str, str, int, Way], Result] = {}
    if arguments.resume and arguments.json.exists():
        known = {r.key: r for r in read(arguments.json) if r.status != "FAILED"}
    order = {(model.section, model.title): number for number, model in enumerate(models)}
    way = Way(arguments.k, arguments.strategy, arguments.seed)
    results: list[Result] = []
    waiting = dict(known)
    for result in run(models, way, arguments.also, known, arguments.jobs, arguments.limit):
        results.append(result)
        print(line(result), flush=True)
        waiting.pop(result.key, None)
        if arguments.json:
            write(arguments.json, [*results, *waiting.values()])
    results.sort(key=lambda r: (order[r.section, r.title], r.way != way))
    if arguments.json:
        write(arguments.json, results)
    if arguments.markdown:
        note = arguments.note.read_text(encoding="utf-8") if arguments.note else ""
        arguments.markdown.write_text(markdown(results, command=shown(arguments), note=note), encoding="utf-8")
    found = Counter(result.status for result in results)
    print(
        f"\n{total} files, {len(models)} models tried: "
        + ", ".join(f"{found[status]} {status}" for status in ("exact", "refused", "FAILED"))
    )
    return 1 if found["FAILED"] else 0


def _one(path: str, way: str, answer: str) -> NoReturn:
    """The child's side."""
    found = examine(path, Way(**json.loads(way)))
    scratch = Path(answer + ".tmp")
    scratch.write_text(json.dumps(found), encoding="utf-8")
    scratch.replace(answer)
    sys.stdout.flush()
    os._exit(0)  # a runtime's threads and destructors have no say


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _one(*sys.argv[2:5])
    sys.exit(main())
