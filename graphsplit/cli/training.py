"""The commands that train: `train` and `run`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import click

from graphsplit.cli.options import INIT, JSON, MODEL, PARTS, PATH, SHARES, STRATEGY, planning
from graphsplit.cli.output import Bar, console, emit

Command = TypeVar("Command", bound=Callable[..., Any])


def _settings(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in value:
        name, mark, setting = text.partition("=")
        if not mark or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE, such as DATA_ROOT=../data")
        found[name] = setting
    return found


def _engine(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if value.partition(":")[0] not in ("local", "ray") or value.startswith("local:"):
        raise click.BadParameter(f"{value!r} is none of local, ray and ray:ADDRESS")
    return value


OPTIONS = (
    click.option("--other-task", is_flag=True, help="Go on though the task has changed since."),
    click.option("--resume", is_flag=True, help="Go on with what an earlier training left."),
    click.option(
        "--checkpoint-every",
        "every",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=60,
        show_default=True,
        help="How often to write a checkpoint.",
    ),
    click.option("--device", metavar="NAME", help="Where to train: cpu, cuda, cuda:1; an accelerator if there is one."),
    click.option(
        "--jobs",
        metavar="N",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="How many sub-models to train side by side, each in a process.",
    ),
    click.option(
        "--layout",
        type=click.Choice(["contiguous", "channels_last"]),
        default="contiguous",
        show_default=True,
        help="How images lie in memory; channels_last makes convolutions faster on many machines.",
    ),
    click.option(
        "--stack",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Train sub-models of one device as one computation: where it is faster, always, never.",
    ),
    click.option(
        "--engine",
        metavar="NAME",
        default="local",
        show_default=True,
        callback=_engine,
        help="Where sub-models train: local processes, or a cluster: ray, ray:ADDRESS.",
    ),
    click.option(
        "--seed",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="The seed of data orders, dropout, and of a random strategy.",
    ),
    click.option(
        "--epochs",
        metavar="N",
        type=click.IntRange(min=1),
        help="How many epochs in all; the task's EPOCHS by default.",
    ),
    click.option(
        "--set",
        "settings",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_settings,
        help="Replace a constant of the task; repeatable.",
    ),
    click.option(
        "--task",
        metavar="FILE",
        type=PATH,
        required=True,
        help="A Python file with data, loss and optimizer.",
    ),
)
"""How networks are trained."""


def training(command: Command) -> Command:
    """The options that say how networks are trained."""
    for option in OPTIONS:
        command = option(command)
    return command


@click.command(short_help="Train sub-models, or a network.")
@click.argument("network", metavar="DIR|MODEL", type=PATH)
@click.option("-o", "out", metavar="FILE", type=PATH, help="What a single network becomes; MODEL-trained by default.")
@click.option(
    "--part",
    "parts",
    metavar="N",
    multiple=True,
    type=click.IntRange(min=0),
    help="Train this sub-model alone, as a job of an array does; repeatable.",
)
@click.option(
    "--schedule-epochs",
    "schedule",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many epochs the schedule is made for, if it goes on behind a merge.",
)
@training
@click.option("--force", is_flag=True, help="Start anew where an earlier training left something.")
@JSON
def train(network: Path, parts: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Train the sub-models of a split's folder DIR where they lie, or a MODEL, on a task.

    What is killed goes on with --resume, to the same result. MODEL is an .onnx or .pt2
    file, or package.module:factory.
    """
    from graphsplit import training as room
    from graphsplit.training.start import as_json as plain

    with redirect_stdout(sys.stderr), Bar() as progress:  # what a task prints is no result
        found = room.train(network, options.pop("task"), parts=parts or None, report=progress, **options)
    if as_json:
        emit({"outcomes": [plain(one) for one in found]})
        return
    from graphsplit.training.tables import show_outcomes

    show_outcomes(console(), found, split=network.is_dir())


@click.command(short_help="Split, train, merge, train on.")
@MODEL
@PARTS
@click.option(
    "--pretrain",
    metavar="N",
    type=click.IntRange(min=0),
    required=True,
    help="How many of the epochs sub-models train before they are merged.",
)
@click.option(
    "--merge-when",
    type=click.Choice(["epoch", "plateau"]),
    default="epoch",
    show_default=True,
    help="Merge at --pretrain, or earlier if the validation loss stops falling.",
)
@click.option(
    "--patience",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many epochs without a lower loss are a plateau.",
)
@click.option("-o", "out", metavar="DIR", type=PATH, help="The folder to write; MODEL-run by default.")
@STRATEGY
@SHARES
@INIT
@planning
@training
@click.option("--force", is_flag=True, help="Start over where an earlier run left something.")
@JSON
def run(
    model: Path,
    k: int,
    pretrain: int,
    out: Path | None,
    strategy: str,
    shares: Any,
    init: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the whole method on MODEL: split it, train the sub-models, merge them with their optimizers, train on.

    A run that is killed goes on with --resume, to the same result.
    """
    import torch

    from graphsplit import training as room
    from graphsplit.cli import split_model
    from graphsplit.training.start import as_json as plain

    waits = options.pop("patience")
    patience = waits if options.pop("merge_when") == "plateau" else None
    chosen = ("rules", "trainable", "constant", "sizes", "inputs", "keep", "outputs")
    planned = {name: options.pop(name) for name in chosen} | {
        "strategy": strategy,
        "shares": shares,
        "init": init,
        "seed": options["seed"],
    }
    folder = out or Path(f"{model.name.rpartition(':')[2].removesuffix(model.suffix)}-run")
    asked = _asked(model, k, planned)
    with redirect_stdout(sys.stderr), Bar() as progress:  # what a task prints is no result

        def split(where: Path) -> None:
            torch.manual_seed(options["seed"])  # a factory draws the first weights
            split_model(model, k, planned, {"out": where, "progress": progress})

        found = room.run(
            split,
            options.pop("task"),
            pretrain=pretrain,
            patience=patience,
            asked=asked,
            out=folder,
            report=progress,
            **options,
        )
    if as_json:
        emit(plain(found))
        return
    from graphsplit.training.tables import show_result

    show_result(console(), found)


def _asked(model: Path, k: int, planned: Mapping[str, Any]) -> dict[str, Any]:
    """What a split is asked for, as the folder of a run notes it: the same, however it is typed, is noted alike."""
    from graphsplit.files import sha256

    name = model.name if model.is_file() else str(model)
    content = f" (SHA-256 {sha256(model)[:12]})" if model.is_file() else ""
    given = planned["shares"] or ()
    least = min(given, default=0.0)
    shares = [] if len(set(given)) < 2 else [share / least if least > 0 else share for share in given]
    return {
        "model": name + content,
        "k": k,
        "shares": shares,
        "input": list(planned["inputs"]),
        "size": sorted(f"{axis}={size}" for axis, size in planned["sizes"].items()),
        "rules": list(planned["rules"]),
        **{name: sorted(set(planned[name])) for name in ("keep", "trainable", "constant")},
        **{name: planned[name] for name in ("strategy", "init", "outputs")},
    }
