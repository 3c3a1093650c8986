"""The paper's experiment on MNIST (Table 1, Figures 2 and 3), with the controls that it lacks.

    python tools/experiments/mnist.py --data-root FOLDER [--seeds 5] [--pretrain 5] [--epochs 10] [--images 60000]
                                      [--device cpu] [--threads 1] [--stack auto] [-o docs/results/mnist]

The defaults are scaled to an hour on two cores: 5 epochs of pre-training of 10, where the paper has 100 of 200 (`--pretrain 100
--epochs 200`). Everything else is the paper's. Sub-models start from slices of the same initial weights as the baseline of the
same seed, and train stacked where that is faster; `tools/benchmark_stacking.py` measures single steps. The control is the
baseline stopped when it has cost as much as the method. Trials are kept in OUT.json as they end, and taken up again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch
from torch import nn

from graphsplit.training import load_task
from models.lenet import LeNet
from tools.experiments.frame import carried_out, parsed, parser, with_rescaled
from tools.experiments.pages import Page, curves, mean_and_deviation, scatter
from tools.experiments.trials import Setting, Trial, Way

TASK = Path(__file__).parent.parent.parent / "models" / "mnist_task.py"
PARTS = (2, 5, 10)
SCATTERED = 400
"""Test images whose probabilities are kept for Figure 2."""


def probabilities(parts: Sequence[nn.Module], data: Sequence[Any], device: str) -> dict[str, Any]:
    """What each sub-model gives the correct class, and how alike the sub-models are in that."""
    found = []
    with torch.no_grad():
        for part in parts:
            part.eval()
            pieces = [part(x.to(device)).softmax(-1).cpu().gather(1, y[:, None])[:, 0] for x, y in data]
            found.append(torch.cat(pieces))
            part.train()
    together = torch.stack(found)
    correlation = torch.corrcoef(together)
    off = correlation[~torch.eye(len(parts), dtype=torch.bool)]
    gap = (together[:, None] - together[None]).abs().mean() * len(parts) / (len(parts) - 1)
    kept = [[round(float(p), 4) for p in row[:SCATTERED]] for row in together]
    return {"correlation": float(off.mean()), "gap": float(gap), "probabilities": kept}


def ways(pretrain: int, epochs: int) -> list[Way]:
    """The baseline, the method for each K, and merging at once. At a constant rate a shorter baseline is a point of its curve."""
    return [Way(1, 0, epochs), *(Way(k, pretrain, epochs) for k in PARTS), Way(2, 0, epochs, name="K=2, merged at 0")]


def page(trials: Sequence[Trial], pretrain: int, epochs: int, command: str, out: Path) -> str:
    """The results as Markdown, with pictures beside it."""
    made = Page("MNIST", command, trials)
    made.say(
        f"LeNet with 431,080 parameters, SGD with learning rate 0.1 and momentum 0.9, batches of 500; {epochs} epochs, of "
        f"which the sub-models train {pretrain}. Seconds are those of all sub-models on one device."
    )
    made.ends("error", "test error %", 100)
    made.stopped_early("error", "points of test error", 100)
    made.reached("error", "test error")
    made.say("Just before the merge, the merge itself, and the end (test error %):")
    made.table(
        ("way", "parts' mean", "best part", "merged", "at the end", "correlation of the parts", "gap of the parts"),
        [_merge_row(made, way) for way in made.ways if made.of(way)[0].parts],
    )
    made.picture(
        curves(made, out.with_name(f"{out.name}-curves.svg"), ("loss", "error"), "epoch"), "loss and error by epoch"
    )
    made.picture(
        curves(made, out.with_name(f"{out.name}-work.svg"), ("loss", "error"), "multiply_adds"),
        "loss and error by multiply-adds",
    )
    made.picture(scatter(made, out.with_name(f"{out.name}-diversity.svg")), "diversity of the sub-models")
    return made.text()


def _merge_row(made: Page, way: str) -> tuple[str, ...]:
    found = made.of(way)
    return (
        way,
        mean_and_deviation([100 * sum(p["error"] for p in t.parts) / len(t.parts) for t in found], 2),
        mean_and_deviation([100 * min(p["error"] for p in t.parts) for t in found], 2),
        mean_and_deviation([100 * t.merged["error"] for t in found], 2),
        mean_and_deviation([100 * t.final["error"] for t in found], 2),
        mean_and_deviation([t.extra["correlation"] for t in found], 3),
        mean_and_deviation([t.extra["gap"] for t in found], 3),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and write the page."""
    made = parser(__doc__, "mnist", pretrain=5, epochs=10, layout="channels_last")
    made.add_argument("--images", type=int, default=60_000, metavar="N", help="training images (60000)")
    arguments = parsed(made, argv)
    task = load_task(TASK, {"DATA_ROOT": arguments.data_root, "IMAGES": str(arguments.images)})
    assert task.test_data is not None
    data = list(task.test_data())

    def watch(parts: Sequence[nn.Module]) -> dict[str, Any]:
        return probabilities(parts, data, arguments.device)

    setting = Setting(
        LeNet, (torch.randn(1, 1, 28, 28),), lambda _: task, watch=watch, about=f"{arguments.images} images"
    )
    wanted = with_rescaled(ways(arguments.pretrain, arguments.epochs), arguments)

    def made_of(trials: Sequence[Trial], command: str) -> str:
        return page(trials, arguments.pretrain, arguments.epochs, command, arguments.out)

    return carried_out("mnist", ("pretrain", "epochs", "images"), arguments, setting, wanted, made_of)


if __name__ == "__main__":
    sys.exit(main())
