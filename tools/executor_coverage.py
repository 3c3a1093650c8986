"""Build, run and train every ONNX model of some folders as a torch module, and say of each what came of it.

    python tools/executor_coverage.py FOLDER... [--distinct] [--largest 50] [--limit 300] [--json FILE]

*right* means that `graphsplit.trainable` built the module and that it gives, in evaluation mode, what onnxruntime gives: on
random inputs at up to two sizes of the dynamic axes, with every difference within 1e-4 of the output's largest element
(1e-2 where half precision is stored) plus 1e-6; or within ten times what moving weights and inputs by one rounding unit does
to onnxruntime's own result; or within 1e-3 and five times what single precision loses in the module itself; and whole
numbers equal. *wrong*: it was built and gives something else. *refused*: a
`GraphsplitError` said why not, or nothing runs the file on any inputs that were tried. *FAILED*: anything else.
*trains*: one SGD step in training mode on the mean of the squared outputs has a finite loss, and a finite gradient for every
parameter that it reaches. *splits*: `graphsplit plan` with K = 2 accepts the file. Each model has a
process of its own.

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.append(str(Path(__file__).parent.parent))
from tools.coverage import distinct, find
from tools.shared.tables import cell, counted, one_line, versions

Status = Literal["right", "wrong", "refused", "FAILED"]
VERSIONS = ("graphsplit", "onnx", "onnxruntime", "torch", "numpy")
ROUGH = 1e-3
TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-6}
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
    splits: bool = False
    seconds: float = 0.0


# -- one model, in a process of its own -----------------------------------------------------------


def examine(path: Path) -> dict[str, object]:
    """The fields of a `Result` but the first two. Never raises."""
    import graphsplit

    begin = time.perf_counter()
    found: dict[str, object] = {"splits": _splits(path)}
    try:
        found |= _examined(path)
    except graphsplit.GraphsplitError as error:
        found |= {"status": "refused", "reason": str(error).replace(str(path), path.name)}
    except Exception as error:  # noqa: BLE001 - that nothing else is raised is what is tried
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        found |= {"status": "FAILED", "reason": f"{type(error).__name__} at {where}: {error}"}
    return found | {"seconds": time.perf_counter() - begin}


def _splits(path: Path) -> bool:
    import graphsplit

    try:
        graphsplit.plan(path, 2)
    except Exception:  # noqa: BLE001 - tools/coverage.py says what planning refuses
        return False
    return True


def _examined(path: Path) -> dict[str, object]:
    import torch

    import graphsplit
    from graphsplit.errors import RunError
    from graphsplit.formats.onnx_runtime import Session
    from graphsplit.network import prepare
    from graphsplit.verification.inputs import draws, elsewhere

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module: Any = graphsplit.trainable(path)
    network = prepare(path)
    session = Session(path)
    tried = [draw.arrays for draw in draws(network)[0]]
    runs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    reason = ""
    for arrays in _by_need(
        tried, lambda: [d.arrays for sizes in elsewhere(network) for d in draws(network, sizes)[0][:1]], runs
    ):
        if len(runs) == SIZES:
            break
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
    worst, half = 0.0, any(t.dtype.name in ("float16", "bfloat16") for t in network.graph.tensors.values())
    with torch.no_grad():
        for arrays, known in runs:
            apart, complaint = _difference(module, arrays, known, network, half)
            worst = max(worst, apart)
            if complaint:
                return {"status": "wrong", "reason": complaint, "error": apart}
    found: dict[str, object] = {"status": "right", "error": worst, "parameters": len(list(module.parameters()))}
    for arrays, _ in sorted(runs, key=lambda run: -max((v.shape[0] for v in run[0].values() if v.ndim), default=0)):
        found |= _trained(module, arrays)
        if found["trains"]:
            break
    return found


def _by_need(first: Sequence[Any], more: Any, runs: Sequence[Any]) -> Any:
    """The first inputs, and others only where none of these ran."""
    yield from first
    if not runs:
        yield from more()


def _tensors(module: Any, arrays: Mapping[str, Any]) -> list[Any]:
    from graphsplit.formats.torch_tensors import to_torch

    return [to_torch(np.asarray(arrays[name])) for name in module.input_names]


def _outputs(module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    found = module(*_tensors(module, arrays))
    return dict(zip(module.output_names, found if isinstance(found, tuple) else (found,), strict=True))


def _difference(
    module: Any, arrays: Mapping[str, Any], expected: Mapping[str, Any], network: Any, half: bool
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
            moved = moved or _moved(network, arrays)
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


def _moved(network: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What onnxruntime gives with every weight and every input moved by a rounding unit, up or down."""
    from graphsplit.formats.onnx_file import save
    from graphsplit.formats.onnx_runtime import Session
    from graphsplit.graph import ArrayTensor
    from graphsplit.verification.perturb import jittered

    graph = network.graph.replace(tensors=jittered(network.graph.tensors, network.trained))
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
    return {"trains": bool(torch.isfinite(loss)), "training": "", "untouched": len(named) - len(touched)}


# -- a run ----------------------------------------------------------------------------------------


def isolated(path: Path, limit: float) -> dict[str, object]:
    """`examine` in a process of its own, ended when its time is over. It is forked: importing the runtimes takes longest."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine_into, args=(sender, path), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"status": "FAILED", "reason": f"it took longer than {limit:g} s"}
        found: dict[str, object] = receiver.recv()
        return found
    except EOFError:
        process.join()
        return {"status": "FAILED", "reason": f"its process died ({process.exitcode})"}
    finally:
        process.kill()
        process.join()


def _examine_into(sender: Any, path: Path) -> None:
    sender.send(examine(path))


def table(results: Sequence[Result], command: str) -> str:
    """Counts, and what was wrong, failed, refused or didn't train, in Markdown."""
    text = [", ".join(f"{name} {number}" for name, number in versions(VERSIONS).items()), "", f"    {command}", ""]
    text += ["| files | tried | right | and train | wrong | refused | FAILED |", "|---|---:|---:|---:|---:|---:|---:|"]
    for title, chosen in (("all", results), ("that split in two", [r for r in results if r.splits])):
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
    given = parser.parse_args(arguments)
    models = find((place.name, place) for place in given.places)
    models = distinct(models) if given.distinct else models
    models = [model for model in models if model.path.stat().st_size <= given.largest * 1e6]
    if not models:
        print("there is no ONNX file to try", file=sys.stderr)
        return 2
    for name in ("torch", "onnxruntime", "graphsplit.executor", "graphsplit.api", "graphsplit.verification"):
        importlib.import_module(name)  # once, before the processes are forked
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False)) as bar:
        for model in bar.track(models, description="models"):
            found: Any = isolated(model.path, given.limit)
            results.append(Result(model.title, model.path.stat().st_size, **found))
            if given.json:
                content = {"versions": versions(VERSIONS), "results": [asdict(r) for r in results]}
                given.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(table(results, f"python tools/executor_coverage.py {shlex.join(arguments or sys.argv[1:])}"))
    return 1 if any(r.status in ("wrong", "FAILED") for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
