"""Beyond the paper, on MNIST: trees of merges, rounds of random partitions, and what sub-models start from.

    python tools/experiments/beyond.py --data-root FOLDER [--seeds 5] [--pretrain 4] [--epochs 8] [--images 60000]
                                       [--device cpu] [-o docs/results/beyond]

A tree splits in four, merges pairs midway through the pre-training, and the two halves at its end. Rounds merge over the old
weights and split by another random partition, so that every weight trains. Initial weights are the slices as they are
(the paper), rescaled to their smaller fan-in, or drawn for the narrow width. Everything else is as in `mnist.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch

from graphsplit.training import load_task
from models.lenet import LeNet
from tools.experiments.frame import parser, shown
from tools.experiments.pages import Page, curves, mean_and_deviation
from tools.experiments.trials import Setting, Trial, Way, run_all

TASK = Path(__file__).parent.parent.parent / "models" / "mnist_task.py"


def ways(pretrain: int, epochs: int) -> list[Way]:
    """The baseline, and each thing by itself against the paper's way."""
    found = [Way(1, 0, epochs), Way(2, pretrain, epochs), Way(4, pretrain, epochs)]
    found += [Way(4, pretrain, epochs, kind="tree")]
    found += [Way(2, pretrain, epochs, kind="rounds", rounds=rounds) for rounds in (2, 4) if rounds <= pretrain]
    return found + [Way(k, pretrain, epochs, init=init) for k in (2, 4) for init in ("rescale", "fresh")]


def page(trials: Sequence[Trial], pretrain: int, epochs: int, command: str, out: Path) -> str:
    """The results as Markdown, with a picture beside it."""
    made = Page("Beyond the paper", command, trials)
    made.say(f"LeNet on MNIST as in [mnist.md](mnist.md); {epochs} epochs, of which the sub-models train {pretrain}.")
    made.ends("error", "test error %", 100)
    made.say("Just before the merge, and the merge itself (test error %):")
    rows = [
        (
            way,
            mean_and_deviation([100 * sum(p["error"] for p in t.parts) / len(t.parts) for t in made.of(way)], 2),
            mean_and_deviation([100 * t.merged["error"] for t in made.of(way)], 2),
        )
        for way in made.ways
        if made.of(way)[0].parts
    ]
    made.table(("way", "parts' mean", "merged"), rows)
    made.reached("error", "test error")
    made.picture(
        curves(made, out.with_name(f"{out.name}-curves.svg"), ("loss", "error"), "multiply_adds"), "loss and error"
    )
    return made.text()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and write the page."""
    made = parser(__doc__, "beyond", pretrain=4, epochs=8)
    made.add_argument("--images", type=int, default=60_000, metavar="N", help="training images (60000)")
    arguments = made.parse_args(argv)
    task = load_task(TASK, {"DATA_ROOT": arguments.data_root, "IMAGES": str(arguments.images)})
    setting = Setting(
        LeNet, (torch.randn(1, 1, 28, 28),), lambda _: task, arguments.device, about=f"{arguments.images} images"
    )
    wanted = ways(arguments.pretrain, arguments.epochs)
    trials = run_all(setting, wanted, range(arguments.seeds), arguments.out.with_suffix(".json"))
    command = shown("beyond", arguments, ("pretrain", "epochs", "images"))
    text = page(trials, arguments.pretrain, arguments.epochs, command, arguments.out)
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
