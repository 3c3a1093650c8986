"""Beyond the paper, on MNIST: trees of merges, rounds of random partitions, what sub-models start from, and when to merge.

    python tools/experiments/beyond.py --data-root FOLDER [--seeds 5] [--pretrain 10] [--epochs 20] [--images 5000] [--batch 100]
                                       [--device cpu] [--threads 1] [--stack auto] [-o docs/results/beyond]

A tree splits in four, merges pairs midway through the pre-training, and the two halves at its end. Rounds merge over the old
weights and split by another random partition, so that every weight trains. Initial weights are the slices as they are
(the paper), rescaled to their smaller fan-in, or drawn for the narrow width. Merges come at fixed epochs, or once the
sub-models' mean loss on held-out images hasn't fallen for some epochs. Few images and small batches are for the time it takes;
the network, the rate and the momentum are those of `mnist.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch
from torch.utils.data import DataLoader, TensorDataset

from graphsplit.training import load_task
from models import mnist_task
from models.lenet import LeNet
from tools.experiments.frame import carried_out, parsed, parser
from tools.experiments.pages import Page, curves, mean_and_deviation
from tools.experiments.trials import Setting, Trial, Way

TASK = Path(__file__).parent.parent.parent / "models" / "mnist_task.py"


PATIENCES = (1, 2)
HELD_OUT = 5000
"""The last training images, on which nothing trains: a plateau is seen on them."""


def ways(pretrain: int, epochs: int) -> list[Way]:
    """The baseline, and each thing by itself against the paper's way."""
    found = [Way(1, 0, epochs), *(Way(k, pretrain, epochs) for k in (2, 4))]
    found += [Way(4, pretrain, epochs, kind="tree")]
    found += [Way(2, pretrain, epochs, kind="rounds", rounds=rounds) for rounds in (2, 5) if rounds <= pretrain]
    found += [Way(k, pretrain, epochs, init=init) for k in (2, 4) for init in ("rescale", "fresh")]
    found += [Way(2, at, epochs) for at in fixed(pretrain, epochs)]
    return found + [Way(2, epochs, epochs, kind="plateau", patience=patience) for patience in PATIENCES]


def fixed(pretrain: int, epochs: int) -> list[int]:
    """The other epochs to merge at: halfway to the usual one, and halfway from there to the end."""
    return sorted({pretrain // 2, (pretrain + epochs) // 2} - {0, pretrain, epochs})


def held_out(root: str, batch: int) -> Iterable[Any]:
    """The held-out images in batches."""
    mnist_task.DATA_ROOT = root
    images, labels = (tensor[-HELD_OUT:] for tensor in mnist_task.digits("train").tensors)
    return DataLoader(TensorDataset(images, labels), batch_size=batch)


def page(trials: Sequence[Trial], pretrain: int, epochs: int, images: int, batch: int, command: str, out: Path) -> str:
    """The results as Markdown, with a picture beside it."""
    made = Page("Beyond the paper", command, trials)
    made.say(
        f"LeNet on MNIST with the rate and momentum of [mnist.md](mnist.md), on {images:,} images in batches of {batch}; "
        f"{epochs} epochs, of which the sub-models train {pretrain}. A plateau of 2 is one on which the sub-models' mean loss "
        f"on {HELD_OUT:,} other images hasn't fallen for two epochs, looked at every two."
    )
    made.ends("error", "test error %", 100)
    made.held_out("error", "error %", 100)
    made.stopped_early("error", "points of test error", 100)
    made.say("Just before the merge, and the merge itself (test error %):")
    rows = [
        (
            way,
            mean_and_deviation([100 * sum(p["error"] for p in t.parts) / len(t.parts) for t in made.of(way)], 2),
            mean_and_deviation([100 * t.merged["error"] for t in made.of(way)], 2),
            mean_and_deviation([t.merged["epoch"] for t in made.of(way)], 1),
        )
        for way in made.ways
        if made.of(way)[0].parts
    ]
    made.table(("way", "parts' mean", "merged", "at epoch"), rows)
    made.reached("error", "test error")
    made.picture(
        curves(made, out.with_name(f"{out.name}-curves.svg"), ("loss", "error"), "multiply_adds"), "loss and error"
    )
    return made.text()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and write the page."""
    made = parser(__doc__, "beyond", pretrain=10, epochs=20, rescale=False, layout="channels_last")
    made.add_argument("--images", type=int, default=5000, metavar="N", help="training images (5000)")
    made.add_argument("--batch", type=int, default=100, metavar="N", help="images a batch (100)")
    arguments = parsed(made, argv)
    root, images, batch = arguments.data_root, arguments.images, arguments.batch
    if not 1 <= images <= 60_000 - HELD_OUT:
        made.error(f"--images {images}: between 1 and {60_000 - HELD_OUT:,}, for the last {HELD_OUT:,} are held out")
    task = load_task(TASK, {"DATA_ROOT": root, "IMAGES": str(images), "BATCH": str(batch)})
    task = replace(task, validation_data=lambda: held_out(root, batch))
    about = f"{images} images in batches of {batch}"
    setting = Setting(LeNet, (torch.randn(1, 1, 28, 28),), lambda _: task, about=about)
    wanted = ways(arguments.pretrain, arguments.epochs)

    def made_of(trials: Sequence[Trial], command: str) -> str:
        return page(trials, arguments.pretrain, arguments.epochs, images, batch, command, arguments.out)

    return carried_out("beyond", ("pretrain", "epochs", "images", "batch"), arguments, setting, wanted, made_of)


if __name__ == "__main__":
    sys.exit(main())
