"""What a step of sub-models costs on one device, against one of the full model: the paper's speedups, and what stacking adds.

    python tools/experiments/steps.py [--steps 20] [--k 2 5 10] [--device cpu] [--threads 1] [-o docs/results/steps]

The paper's LeNet, batch 500, measured as `tools/benchmark_stacking.py` does: everything in turns in one run, medians. An epoch is
equally many steps of each, so its ratios are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch

from tools.benchmark_stacking import measured, multiply_adds, steps
from tools.experiments.pages import Page, ran_on
from tools.experiments.runner import clock_of, surroundings

PAPER = {2: 2.10, 5: 3.17, 10: 4.17}
"""How many times faster an iteration of one sub-model was than one of the full model, in the paper's Table 1 (GTX 760)."""


def page(found: Mapping[str, float], bounds: Mapping[int, float], command: str, device: str) -> str:
    """The ratios as Markdown."""
    full = found["full"]
    made = Page("Steps of sub-models", command, ())
    made.say(ran_on([surroundings(device, "as the rows say")]))
    made.say(
        f"LeNet, batch 500, SGD with momentum: a step of the full model takes {full:.0f} ms, and the figures are shares of it. "
        "Below 1, an epoch of all K sub-models on one device takes less time than one of the full model."
    )
    rows = [
        ("multiply-adds of all K", [f"{bounds[k]:.2f}" for k in bounds]),
        ("one sub-model", [f"{found[f'{k} in turn'] / k / full:.2f}" for k in bounds]),
        ("one sub-model, in the paper", [f"{1 / PAPER[k]:.2f}" if k in PAPER else "" for k in bounds]),
        ("K in turn", [f"{found[f'{k} in turn'] / full:.2f}" for k in bounds]),
        ("K in turn, in the paper", [f"{k / PAPER[k]:.2f}" if k in PAPER else "" for k in bounds]),
        ("K stacked, images as they are", [f"{found[f'{k} stacked'] / full:.2f}" for k in bounds]),
        ("K stacked, channels last", [f"{found[f'{k} stacked, channels last'] / full:.2f}" for k in bounds]),
        ("K by vmap of torch.func", [f"{found[f'{k} vmap'] / full:.2f}" for k in bounds]),
    ]
    made.table(("a step of", *(f"K = {k}" for k in bounds)), [(name, *values) for name, values in rows])
    last = found["full, channels last"]
    made.say(
        f"`--stack auto` takes the fastest of what it measures. With channels last the full model itself takes {last / full:.2f} "
        "of its time; against that the best of all K sub-models take "
        + ", ".join(f"{min(found[f'{k} {way}'] for way in WAYS) / last:.2f} (K = {k})" for k in bounds)
        + "."
    )
    return made.text()


WAYS = ("in turn", "stacked", "stacked, channels last")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--steps", type=int, default=20, metavar="N", help="steps of each (20)")
    made.add_argument("--k", type=int, nargs="+", default=[2, 5, 10], metavar="K", help="how many parts (2 5 10)")
    made.add_argument("--device", default="cpu", metavar="NAME", help="where to run (cpu)")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (1)")
    made.add_argument("-o", "--out", type=Path, default=Path("docs/results/steps"), metavar="OUT", help="OUT.md")
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    found = measured(
        steps(arguments.k, arguments.device), arguments.steps, arguments.device, clock_of(arguments.device)
    )
    bounds = {k: multiply_adds(k) / multiply_adds(1) for k in arguments.k}
    command = f"python tools/experiments/steps.py --steps {arguments.steps} --threads {arguments.threads}"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(page(found, bounds, command, arguments.device), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
