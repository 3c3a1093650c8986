"""A character language model on tinyshakespeare: the method on a small pre-norm transformer, K = 2 and 4.

    python tools/experiments/char_lm.py --data-root FOLDER [--seeds 3] [--pretrain 5 ...] [--epochs 10] [--steps 250]
                                        [--batch 8] [--device cpu] [--threads 1] [--stack auto] [-o docs/results/char_lm]

An epoch is `--steps` batches of `--batch` windows of 128 characters. The control is the baseline with as many epochs as fit the
multiply-adds of the method, its schedule shortened to them. Several `--pretrain` are so many merges, of sub-models that are
trained once for all of them. Trials are kept in OUT.json as they end, and taken up again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch

from graphsplit.training import load_task
from models.char_lm import SYMBOLS, CharLM
from tools.experiments.frame import carried_out, parsed, parser, with_rescaled
from tools.experiments.pages import Page, curves
from tools.experiments.trials import Setting, Trial, Way

TASK = Path(__file__).parent.parent.parent / "models" / "shakespeare_task.py"
SHARES = {2: 0.59, 4: 0.38}
"""What a step of all K sub-models costs, as a share of one of the whole network's multiply-adds (the first column says more)."""


def ways(pretrain: Sequence[int], epochs: int) -> list[Way]:
    """The baseline, the method, and the baseline cut short."""
    merges = sorted(set(pretrain))
    found = [Way(1, 0, epochs), *(Way(k, at, epochs) for k in SHARES for at in merges)]
    cut = sorted({round(epochs - at + share * at) for share in SHARES.values() for at in merges} - {epochs})
    return found + [Way(1, 0, shorter, name=f"baseline, {shorter} epochs") for shorter in cut]


def page(trials: Sequence[Trial], epochs: int, command: str, out: Path) -> str:
    """The results as Markdown, with pictures beside it."""
    made = Page("A character language model", command, trials)
    made.say(
        f"A pre-norm transformer of four blocks, width 128, eight heads; AdamW on a cosine schedule; {epochs} epochs. Losses are "
        "nats a character, on the last tenth of the text."
    )
    made.ends("loss", "test loss")
    made.stopped_early("loss", "test loss")
    made.reached("loss", "test loss")
    made.picture(curves(made, out.with_name(f"{out.name}-curves.svg"), ("loss",), "multiply_adds", "seconds"), "loss")
    return made.text()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and write the page."""
    made = parser(__doc__, "char_lm", pretrain=0, epochs=10, seeds=3)
    made.add_argument(
        "--pretrain", type=int, nargs="+", default=[5], metavar="N", help="epochs of the sub-models, for each merge (5)"
    )
    made.add_argument("--steps", type=int, default=250, metavar="N", help="batches an epoch (250)")
    made.add_argument("--batch", type=int, default=8, metavar="N", help="windows a batch (8)")
    arguments = parsed(made, argv)
    steps, batch = arguments.steps, arguments.batch
    task = load_task(TASK, {"DATA_ROOT": arguments.data_root, "STEPS": str(steps), "BATCH": str(batch)})
    task = replace(task, test_data=task.validation_data)
    setting = Setting(CharLM, (torch.randint(SYMBOLS, (2, 128)),), lambda _: task, about=f"{steps} steps of {batch}")
    wanted = with_rescaled(ways(arguments.pretrain, arguments.epochs), arguments)

    def made_of(trials: Sequence[Trial], command: str) -> str:
        return page(trials, arguments.epochs, command, arguments.out)

    return carried_out("char_lm", ("pretrain", "epochs", "steps", "batch"), arguments, setting, wanted, made_of)


if __name__ == "__main__":
    sys.exit(main())
