"""What the experiments' command lines share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch


def parser(text: str | None, name: str, *, pretrain: int, epochs: int, seeds: int = 5) -> argparse.ArgumentParser:
    """The arguments of an experiment; `text` is its program's docstring."""
    made = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    made.add_argument("--data-root", required=True, metavar="FOLDER", help="the folder that holds the data set")
    made.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"how many seeds ({seeds})")
    if pretrain:
        made.add_argument(
            "--pretrain", type=int, default=pretrain, metavar="N", help=f"epochs of the sub-models ({pretrain})"
        )
    made.add_argument("--epochs", type=int, default=epochs, metavar="N", help=f"epochs in all ({epochs})")
    made.add_argument("--device", default="cpu", metavar="NAME", help="where to train (cpu)")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (1)")
    made.add_argument(
        "--stack", choices=("auto", "off"), default="auto", help="train sub-models stacked where that is faster (auto)"
    )
    made.add_argument("--curve", type=int, metavar="N", help="batches of test data that curves are measured on (all)")
    place = Path("docs/results") / name
    made.add_argument("-o", "--out", type=Path, default=place, metavar="OUT", help="OUT.md, OUT.json and pictures")
    return made


def parsed(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with as many threads set as they say."""
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    return arguments


def shown(name: str, arguments: argparse.Namespace, settings: Sequence[str]) -> str:
    """The command for the page, without what says where data and results are."""
    words = [f"python tools/experiments/{name}.py --data-root FOLDER --seeds {arguments.seeds}"]
    settings = (*settings, *(("curve",) if arguments.curve else ()), "threads", "stack")
    words += [f"--{setting} {getattr(arguments, setting)}" for setting in settings]
    return " ".join(words)
