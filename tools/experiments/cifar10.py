"""The paper's experiment on CIFAR-10 (Table 2), with the control that it lacks.

    python tools/experiments/cifar10.py --data-root FOLDER [--seeds 3] [--epochs 13] [--images 10000] [--device cpu]
                                        [--merges all] [--threads 1] [--stack off] [-o docs/results/cifar10]

The paper trains 520 epochs; the defaults scale its schedule to 13 (a fortieth), for a CPU; `--epochs 520 --device cuda` is the
paper's. Merges come at the same fractions of the schedule as in the paper. "Original" has one normalisation a layer, "Duplicated"
one for each part. The control is the Original with its schedule shortened to the multiply-adds of a merge. Sub-models are
trained once for all merges of a seed. Trials are kept in OUT.json as they end, and taken up again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch

from graphsplit.training import Task, load_task
from models.cuda_convnet import CudaConvnet
from tools.experiments.frame import carried_out, parsed, parser, with_rescaled
from tools.experiments.pages import Page, curves
from tools.experiments.trials import Setting, Trial, Way

TASK = Path(__file__).parent.parent.parent / "models" / "cifar10_task.py"
PAPER = 520
MERGES = (100, 200, 300, 400, 450, 500)
SHARE = 5.57 / 19.51
"""A sub-model's multiply-adds for an image, as a share of the whole network's."""


def ways(epochs: int, at: Sequence[int]) -> list[Way]:
    """Original, Duplicated, merges at so many epochs of the paper's, Net2WiderNet, and the Original cut short."""
    merges = sorted({round(epoch * epochs / PAPER) for epoch in at} - {0, epochs})
    found = [Way(1, 0, epochs, name="Original"), Way(2, 0, epochs, kind="duplicated")]
    found += [Way(2, at, epochs) for at in merges]
    found += [Way(2, at, epochs, kind="wider") for at in merges]
    cut = sorted({round(epochs - at + 2 * SHARE * at) for at in merges} - {epochs})
    return found + [Way(1, 0, shorter, name=f"Original, {shorter} epochs") for shorter in cut]


def page(trials: Sequence[Trial], epochs: int, images: int, command: str, out: Path) -> str:
    """The results as Markdown, with pictures beside it."""
    made = Page("CIFAR-10", command, trials)
    made.say(
        f"cuda-convnet's 11 % network, 2,112,970 parameters; {epochs} epochs where the paper has {PAPER}, its learning rates and "
        f"its growing set of training files, {images:,} images of each, scaled to them. Both sub-models train one after "
        "another, so seconds are those of both; side by side they would take the next column's."
    )
    made.ends("error", "test error %", 100, parallel=True)
    made.stopped_early("error", "points of test error", 100)
    made.reached("error", "test error")
    made.picture(
        curves(made, out.with_name(f"{out.name}-curves.svg"), ("loss", "error"), "multiply_adds"), "loss and error"
    )
    return made.text()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and write the page."""
    made = parser(__doc__, "cifar10", pretrain=0, epochs=13, seeds=3)
    made.add_argument(
        "--images", type=int, default=10_000, metavar="N", help="images of each of the five files (10000)"
    )
    made.add_argument(
        "--merges",
        type=int,
        nargs="+",
        default=MERGES,
        metavar="EPOCH",
        help="of the paper's 520 (those of its Table 2)",
    )
    made.set_defaults(stack="off")  # in turn, so that what they take side by side is known as well
    arguments = parsed(made, argv)
    settings = {"DATA_ROOT": arguments.data_root, "IMAGES": str(arguments.images)}

    @lru_cache
    def task(epochs: int) -> Task:
        return load_task(TASK, {**settings, "EPOCHS": str(epochs)})

    setting = Setting(CudaConvnet, (torch.randn(1, 3, 24, 24),), task, about=f"{arguments.images} images")
    wanted = with_rescaled(ways(arguments.epochs, arguments.merges), arguments)

    def made_of(trials: Sequence[Trial], command: str) -> str:
        return page(trials, arguments.epochs, arguments.images, command, arguments.out)

    return carried_out("cifar10", ("epochs", "images", "merges"), arguments, setting, wanted, made_of)


if __name__ == "__main__":
    sys.exit(main())
