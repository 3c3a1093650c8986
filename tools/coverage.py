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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.append(str(Path(__file__).parent.parent))
from tools.shared.models import Model, distinct, find
from tools.shared.results import Result, line, markdown, read, write
from tools.shared.ways import Way, ways_of

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
