"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Greedy(click.Command):
    """A command whose option `--trained` takes every file behind it, as well as being given several times."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: list[str] = []
        taken = -1  # files behind the last --trained, -1 where another option came since
        for argument in args:
            if argument.startswith("-"):
                taken = 0 if argument == "--trained" else -1
            elif taken >= 0:
                found += ["--trained"] if taken else []
                taken += 1
            found.append(argument)
        return super().parse_args(ctx, found)


def _shares(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(map(float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 2,1,1") from None


def _rule_lines(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> tuple[str, ...]:
    if value is None:
        return ()
    try:
        return tuple(value.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise click.BadParameter(f"{str(value)!r} is not a text file in UTF-8") from None


def _sizes(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for text in value:
        name, _, number = text.rpartition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise click.BadParameter(f"{text!r} is not of the form NAME=SIZE, such as batch=4")
        found[name] = int(number)
    return found


PATH: click.Path = click.Path(path_type=Path)
MODEL = click.argument("model", metavar="MODEL", type=PATH)
FOLDER = click.argument("folder", metavar="DIR", type=PATH)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
INIT = click.option(
    "--init",
    type=click.Choice(["keep", "rescale"]),
    default="keep",
    show_default=True,
    help="Take weights as they are, or restore the signal that slicing shrinks.",
)
SHARES = click.option(
    "--shares", metavar="S,S,…", callback=_shares, help="Widths of the parts, such as 2,1,1; equal by default."
)
PARTS = click.option("-k", "k", metavar="K", type=click.IntRange(min=1), required=True, help="How many parts.")
STRATEGY = click.option(
    "--strategy",
    metavar="NAME",
    default="contiguous",
    show_default=True,
    help="Which vertices go together: contiguous, interleaved or random.",
)
FORCE = click.option("--force", is_flag=True, help="Replace what is there already.")


def planning(command: Command) -> Command:
    """The options that say what is divided."""
    for option in (
        click.option(
            "--rules",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            callback=_rule_lines,
            help="A text file with rule lines for custom ops.",
        ),
        click.option(
            "--trainable",
            metavar="NAME",
            multiple=True,
            help="A tensor that trains though it doesn't look like it; repeatable.",
        ),
        click.option(
            "--constant",
            metavar="NAME",
            multiple=True,
            help="A tensor that doesn't train though it looks like it; repeatable.",
        ),
        click.option(
            "--size",
            "sizes",
            metavar="NAME=N",
            multiple=True,
            callback=_sizes,
            help="A size to plan with for a dynamic axis; repeatable.",
        ),
        click.option(
            "--input",
            "inputs",
            metavar="SPEC",
            multiple=True,
            help="An input of a torch module: 1x3x224x224, ids=NxS:int64; repeatable.",
        ),
        click.option(
            "--keep",
            metavar="NAME",
            multiple=True,
            help="A node, parameter or value whose layer isn't divided; repeatable.",
        ),
        click.option(
            "--outputs",
            type=click.Choice(["auto", "mean", "concat"]),
            default="auto",
            show_default=True,
            help="How outputs merge: as the parts' mean, side by side, or side by side where no output layer makes them.",
        ),
    ):
        command = option(command)
    return command
