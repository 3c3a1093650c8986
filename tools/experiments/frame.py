"""What the experiments' command lines share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from graphsplit.training.trainee import Layout
from tools.experiments.methods import run_all
from tools.experiments.trials import Setting, Trial, Way


def parser(
    text: str | None,
    name: str,
    *,
    pretrain: int,
    epochs: int,
    seeds: int = 5,
    rescale: bool = True,
    layout: Layout = "contiguous",
) -> argparse.ArgumentParser:
    """The arguments of an experiment; `text` is its program's docstring, `layout` that in which its network trains fastest."""
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
    if rescale:
        made.add_argument("--rescale", action="store_true", help="merge from rescaled initial weights, too")
    made.add_argument(
        "--layout",
        choices=get_args(Layout),
        default=layout,
        help=f"of images in memory, where they aren't stacked ({layout})",
    )
    made.add_argument("--curve", type=int, metavar="N", help="batches of test data that curves are measured on (all)")
    place = Path("docs/results") / name
    made.add_argument("-o", "--out", type=Path, default=place, metavar="OUT", help="OUT.md, OUT.json and pictures")
    return made


def with_rescaled(ways: Sequence[Way], arguments: argparse.Namespace) -> list[Way]:
    """The ways, and where it is asked for each merge of the paper's from rescaled initial weights."""
    merged = [way for way in ways if way.kind == "once" and way.k > 1 and way.merge_at > 0 and way.init == "keep"]
    return [*ways, *(replace(way, init="rescale") for way in merged if arguments.rescale)]


def parsed(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with as many threads set as they say."""
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    return arguments


def shown(name: str, arguments: argparse.Namespace, settings: Sequence[str]) -> str:
    """The command for the page, without what says where data and results are."""
    words = [f"python tools/experiments/{name}.py --data-root FOLDER --seeds {arguments.seeds}"]
    settings = (*settings, *(("curve",) if arguments.curve else ()), "device", "threads", "stack", "layout")
    for setting in settings:
        value = getattr(arguments, setting)
        words += [
            f"--{setting}",
            *map(str, value if isinstance(value, Sequence) and not isinstance(value, str) else [value]),
        ]
    words += ["--rescale"] * getattr(arguments, "rescale", False)
    return " ".join(words)


def carried_out(
    name: str,
    settings: Sequence[str],
    arguments: argparse.Namespace,
    setting: Setting,
    ways: Sequence[Way],
    page: Callable[[Sequence[Trial], str], str],
) -> int:
    """Run the trials that are missing, and write the page that `page` makes of all of them and of the command."""
    setting = replace(setting, device=arguments.device, stack=arguments.stack, curve=arguments.curve)
    setting = replace(setting, layout=arguments.layout)
    trials = run_all(setting, ways, range(arguments.seeds), arguments.out.with_suffix(".json"))
    text = page(trials, shown(name, arguments, settings))
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0
