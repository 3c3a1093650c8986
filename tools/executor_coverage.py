"""Build, run and train every ONNX model of some folders as a torch module, and say of each what came of it.

    python tools/executor_coverage.py FOLDER... [--distinct] [--largest 50] [--limit 300] [--json FILE [--resume]]
                                      [--coverage FILE]

*right* means that `graphsplit.trainable` built the module and that it gives, in evaluation mode, what onnxruntime gives: on
random inputs at up to two sizes of the dynamic axes, with every difference within 1e-4 of the output's largest element
(1e-2 where half precision is stored) plus 1e-6; or within ten times what moving weights and inputs by one rounding unit does
to onnxruntime's own result; or within 1e-3 and five times what single precision loses in the module itself; and whole
numbers equal. *wrong*: it was built and gives something else. *refused*: a
`GraphsplitError` said why not, or nothing runs the file on any inputs that were tried. *FAILED*: anything else.
*trains*: one SGD step in training mode on the mean of the squared outputs has a finite loss, and a finite gradient for every
parameter that it reaches. Each model has a process of its own. With `--coverage`, a JSON file that
`tools/coverage.py` wrote, those that it says are split exactly are counted by themselves.

Exit codes: 0 nothing was wrong or failed, 1 something was, 2 misused.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.append(str(Path(__file__).parent.parent))
from tools.shared.models import distinct, find
from tools.shared.tables import cell, counted, one_line, versions

Status = Literal["right", "wrong", "refused", "FAILED"]
VERSIONS = ("graphsplit", "onnx", "onnxruntime", "torch", "numpy")
ROUGH = 1e-3
TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-6}
LONGER = (32, 48, 64, 224, 512, 1024, 4000, 16000)
LARGEST_INPUT, LARGEST_LONGER = 8_000_000, 1_000_000
SIZES = 2
"""On how many sizes of the dynamic axes a model is run."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one model."""

    title: str
    bytes: int
    status: Status
    reason: str = ""
    error: float | None = None
    trains: bool = False
    training: str = ""
    parameters: int = 0
    untouched: int = 0
    seconds: float = 0.0


# -- one model, in a process of its own -----------------------------------------------------------


def examine(path: Path) -> dict[str, object]:
    """The fields of a `Result` but the first two. Never raises."""
    import graphsplit

    begin = time.perf_counter()
    found: dict[str, object]
    try:
        found = _examined(path)
    except graphsplit.GraphsplitError as error:
        found = {"status": "refused", "reason": str(error).replace(str(path), path.name)}
    except Exception as error:  # noqa: BLE001 - that nothing else is raised is what is tried
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        found = {"status": "FAILED", "reason": f"{type(error).__name__} at {where}: {error}"}
    return found | {"seconds": time.perf_counter() - begin}


def _examined(path: Path) -> dict[str, object]:
    import torch

    import graphsplit
    from graphsplit.errors import RunError
    from graphsplit.formats.onnx_runtime import Session

    torch.set_num_threads(1)
    torch.manual_seed(0)
    graph = graphsplit.load(path)
    module: Any = graphsplit.trainable(graph)
    session = Session(path)
    runs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    reason = ""
    for arrays in _draws(graph, module, runs):
        try:
            expected = session.run(arrays)
            with torch.no_grad():
                _outputs(module, arrays)
            runs.append((arrays, expected))
        except RunError as error:
            reason = str(error)
        except RuntimeError as error:
            if "too small" not in str(error) and "greater than actual input" not in str(error):
                raise  # torch has no windows without results, onnxruntime has
            reason = str(error)
    if not runs:
        return {"status": "refused", "reason": f"it runs on no inputs that were tried: {reason}"}
    worst, half = 0.0, any(t.dtype.name in ("float16", "bfloat16") for t in graph.tensors.values())
    with torch.no_grad():
        for given, known in runs:
            apart, complaint = _difference(module, given, known, graph, half)
            worst = max(worst, apart)
            if complaint:
                return {"status": "wrong", "reason": complaint, "error": apart}
    found: dict[str, object] = {"status": "right", "error": worst, "parameters": len(list(module.parameters()))}
    for given, _ in sorted(runs, key=lambda run: -max((v.shape[0] for v in run[0].values() if v.ndim), default=0)):
        found |= _trained(module, given)
        if found["trains"]:
            break
    return found


def _draws(graph: Any, module: Any, runs: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Random inputs: at sizes that fit the shapes, with another batch, and if nothing ran yet with greater lengths."""
    from graphsplit.formats.onnx_dialect import OnnxDialect
    from graphsplit.formats.onnx_sizes import choose_sizes, symbols
    from graphsplit.verification.lookups import rows_of

    dialect, trained = OnnxDialect(), frozenset(module.state_dict())
    facts: dict[str, Any] = {}

    def evaluate(sizes: Mapping[str, int]) -> Any:
        facts.clear()
        facts.update(dialect.evaluate(graph, sizes, trained))
        return facts

    first = choose_sizes(graph, evaluate)
    batches, lengths = symbols(graph)
    rows = {v.name: rows_of(graph, facts, v.name) for v in graph.inputs if v.dtype.kind in "iu"}
    tried = [first, {**first, **dict.fromkeys(batches, 3)}] if batches else [first]
    tried += [{**first, **dict.fromkeys(batches, 1)}] if batches else []
    if len(lengths) > 1:  # lines of text, whose height isn't free
        tried += [{**first, lengths[-2]: height, lengths[-1]: 320} for height in (32, 48)]
    tried += [{**first, **dict.fromkeys(lengths, size)} for size in LONGER if lengths]
    for number, sizes in enumerate(tried):
        if len(runs) == SIZES or (runs and number > 1):
            return
        arrays = {v.name: _drawn(v, sizes, rows.get(v.name), number) for v in graph.inputs}
        if sum(array.size for array in arrays.values()) < (LARGEST_INPUT if sizes == first else LARGEST_LONGER):
            yield arrays


def _drawn(value: Any, sizes: Mapping[str, int], rows: int | None, seed: int) -> Any:
    """A random array: floats around 0, rows of the table that an input looks up, else zeros and ones."""
    rng = np.random.default_rng([11, seed])
    shape = tuple(
        dim if isinstance(dim, int) else sizes[dim if isinstance(dim, str) else f"{value.name}:{axis}"]
        for axis, dim in enumerate(value.shape or ())
    )
    if value.dtype.kind in "iub":
        whole = rng.integers(0, 2 if value.dtype.kind == "b" else min(rows or 2, 100), shape)
        if rows is None and whole.ndim and value.dtype.kind != "b":
            whole[..., :1] = 1  # a length isn't zero
        return np.asarray(whole).astype(value.dtype)
    return np.asarray(rng.standard_normal(shape)).astype(value.dtype)


def _tensors(module: Any, arrays: Mapping[str, Any]) -> list[Any]:
    from graphsplit.formats.torch_tensors import to_torch

    return [to_torch(np.asarray(arrays[name])) for name in module.input_names]


def _outputs(module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    found = module(*_tensors(module, arrays))
    return dict(zip(module.output_names, found if isinstance(found, tuple) else (found,), strict=True))


def _difference(
    module: Any, arrays: Mapping[str, Any], expected: Mapping[str, Any], graph: Any, half: bool
) -> tuple[float, str]:
    """The largest difference, relative to an output's largest element, and what is wrong, if anything is."""
    from graphsplit.formats.torch_tensors import to_numpy

    worst, moved = 0.0, None
    for name, tensor in _outputs(module, arrays).items():
        mine, wanted = to_numpy(tensor), np.asarray(expected[name])
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            return 1.0, f"{name!r} is {mine.dtype}{list(mine.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
        if wanted.dtype.kind not in "fV":
            if not np.array_equal(mine, wanted):
                return 1.0, f"{name!r}: {np.mean(mine != wanted):.2%} of its whole numbers differ"
            continue
        one, two = mine.astype(np.float64), wanted.astype(np.float64)
        if not np.array_equal(np.isfinite(one), np.isfinite(two)):
            return 1.0, f"{name!r}: other elements are finite"
        real = np.isfinite(two)
        error = float(np.abs(one - two)[real].max(initial=0.0) / max(np.abs(two)[real].max(initial=0.0), 1e-30))
        worst = max(worst, error)
        bound = TOLERANCE["float16" if half else wanted.dtype.name] + 1e-6 / max(
            np.abs(two)[real].max(initial=0.0), 1e-30
        )
        if error > bound:
            moved = moved or _moved(module, graph, arrays)
            noise = np.abs(np.asarray(moved[name]).astype(np.float64) - two)[real].max(initial=0.0)
            bound = max(bound, 10 * noise / max(np.abs(two)[real].max(initial=0.0), 1e-30))
        if error > bound and not (error < ROUGH and error < _rounding(module, arrays, name)):
            return error, f"{name!r} is off by {error:.1e} of its largest element"
    return worst, ""


def _rounding(module: Any, arrays: Mapping[str, Any], name: str) -> float:
    """Five times how far single precision is from double in the module, relative to the output's largest element."""
    exact = copy.deepcopy(module).double()
    wide = {n: np.asarray(a, np.float64) if np.asarray(a).dtype.kind == "f" else a for n, a in arrays.items()}
    one, two = _outputs(module, arrays)[name].double(), _outputs(exact, wide)[name].double()
    return 5 * float((one - two).abs().max() / two.abs().max().clamp(min=1e-30))


def _moved(module: Any, graph: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What onnxruntime gives with every weight and every input moved by a rounding unit, up or down."""
    from graphsplit.formats.onnx_file import save
    from graphsplit.formats.onnx_runtime import Session
    from graphsplit.graph import ArrayTensor
    from graphsplit.verification.perturb import jittered

    graph = graph.replace(tensors=jittered(graph.tensors, module.state_dict().keys()))
    inputs = jittered({name: ArrayTensor(np.asarray(array)) for name, array in arrays.items()}, arrays.keys())
    with tempfile.TemporaryDirectory() as folder:
        save(graph, Path(folder, "moved.onnx"))
        return Session(Path(folder, "moved.onnx")).run({name: tensor.numpy() for name, tensor in inputs.items()})


def _trained(module: Any, arrays: Mapping[str, Any]) -> dict[str, object]:
    """One step of SGD."""
    import torch

    module.train()
    module.zero_grad()
    try:
        loss = sum(o.float().square().mean() for o in _outputs(module, arrays).values() if o.requires_grad)
        if not isinstance(loss, torch.Tensor):
            return {"trains": False, "training": "no output depends on a parameter in a way that has a gradient"}
        loss.backward()  # type: ignore[no-untyped-call]
        named = dict(module.named_parameters())
        touched = {name: p.grad for name, p in named.items() if p.grad is not None}
        bad = [name for name, grad in touched.items() if not bool(torch.isfinite(grad).all())]
        if bad or not touched:
            return {
                "trains": False,
                "training": f"the gradient of {bad[0]!r} isn't finite" if bad else "nothing has a gradient",
            }
        torch.optim.SGD(named.values(), lr=1e-6).step()
    except (ValueError, RuntimeError) as error:
        return {"trains": False, "training": f"{type(error).__name__}: {error}"}
    finite = bool(torch.isfinite(loss))
    return {
        "trains": finite,
        "training": "" if finite else "the loss isn't finite",
        "untouched": len(named) - len(touched),
    }


# -- a run ----------------------------------------------------------------------------------------


def read(file: Path) -> list[Result]:
    """What an earlier run found, but for what it should try again: what was wrong, failed, or ran on no inputs."""
    if not file.exists():
        return []
    found = [Result(**r) for r in json.loads(file.read_text(encoding="utf-8"))["results"]]
    return [r for r in found if r.status in ("right", "refused") and "no inputs that were tried" not in r.reason]


def isolated(path: Path, limit: float) -> dict[str, Any]:
    """`examine` in a process of its own, ended when its time is over. It is forked: importing the runtimes takes longest."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine_into, args=(sender, path), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"status": "FAILED", "reason": f"it took longer than {limit:g} s"}
        found: dict[str, Any] = receiver.recv()
        return found
    except EOFError:
        process.join()
        return {"status": "FAILED", "reason": f"its process died ({process.exitcode})"}
    finally:
        process.kill()
        process.join()


def _examine_into(sender: Any, path: Path) -> None:
    sender.send(examine(path))


def table(results: Sequence[Result], command: str, split: Collection[str] = ()) -> str:
    """Counts, and what was wrong, failed, refused or didn't train, in Markdown."""
    text = [", ".join(f"{name} {number}" for name, number in versions(VERSIONS).items()), "", f"    {command}", ""]
    text += ["| files | tried | right | and train | wrong | refused | FAILED |", "|---|---:|---:|---:|---:|---:|---:|"]
    those = [("all", results), *([("that split exactly", [r for r in results if r.title in split])] if split else [])]
    for title, chosen in those:
        n = Counter(r.status for r in chosen)
        trains = sum(r.trains for r in chosen if r.status == "right")
        text.append(
            f"| {title} | {len(chosen)} | {n['right']} | {trains} | {n['wrong']} | {n['refused']} | {n['FAILED']} |"
        )
    text.append("")
    refused = [r for r in results if r.status == "refused"]
    text += counted([r.reason for r in refused]) if refused else []
    shown = [r for r in results if r.status in ("wrong", "FAILED") or (r.status == "right" and not r.trains)]
    if shown:
        text += ["| model | | what happened |", "|---|---|---|"]
    for r in shown:
        what = r.reason or r.training
        text.append(
            f"| {cell(r.title)} | {r.status if r.status != 'right' else 'no training'} | {cell(one_line(what))} |"
        )
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program, and give its exit code."""
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", metavar="FOLDER", nargs="+", type=Path)
    parser.add_argument("--distinct", action="store_true", help="of files of one topology only the first")
    parser.add_argument(
        "--largest", metavar="MB", type=float, default=50.0, help="leave out larger files; 50 by default"
    )
    parser.add_argument("--limit", metavar="S", type=float, default=300.0, help="seconds a model may take")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results there")
    parser.add_argument("--coverage", metavar="FILE", type=Path, help="what tools/coverage.py --json wrote")
    parser.add_argument(
        "--resume", action="store_true", help="keep what the --json file says of models that were right or refused"
    )
    given = parser.parse_args(arguments)
    if given.resume and not given.json:
        parser.error("--resume needs --json FILE")
    planned = json.loads(given.coverage.read_text())["results"] if given.coverage else []
    split = {r["title"] for r in planned if r["status"] == "exact"}
    models = find((place.name, place) for place in given.places)
    models = distinct(models) if given.distinct else models
    models = [model for model in models if model.path.stat().st_size <= given.largest * 1e6]
    if not models:
        print("there is no ONNX file to try", file=sys.stderr)
        return 2
    for name in ("torch", "onnxruntime", "graphsplit.executor", "graphsplit.api", "graphsplit.verification"):
        importlib.import_module(name)  # once, before the processes are forked
    known = {(r.title, r.bytes): r for r in (read(given.json) if given.resume else ())}
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False)) as bar:
        for model in bar.track(models, description="models"):
            key = model.title, model.path.stat().st_size
            results.append(known[key] if key in known else Result(*key, **isolated(model.path, given.limit)))
            if given.json:
                content = {"versions": versions(VERSIONS), "results": [asdict(r) for r in results]}
                given.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(table(results, f"python tools/executor_coverage.py {shlex.join(arguments or sys.argv[1:])}", split))
    return 1 if any(r.status in ("wrong", "FAILED") for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
