"""The command line: arguments, exit codes and nothing else; every command calls the public API.

Results go to stdout, progress and diagnostics to stderr. Exit codes: 0 done, 1 a verification failed, 2 refused or
misused, 130 interrupted. Whatever takes long to import is imported inside the commands.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from graphsplit.report import Report

FAILED, REFUSED, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
COMPARED = 8
Command = TypeVar("Command", bound=Callable[..., Any])


class _Commands(click.Group):
    """The commands, with every refusal turned into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> None:
        from graphsplit.errors import GraphsplitError

        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except GraphsplitError as error:
            _fail(ctx, error.message, error.hint)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except OSError as error:
            _fail(ctx, f"{error.filename!r}: {error.strerror}" if error.filename and error.strerror else str(error))
        except MemoryError:
            _fail(ctx, "out of memory")
        except KeyboardInterrupt:
            _fail(ctx, "interrupted", code=INTERRUPTED)


def _fail(ctx: click.Context, message: str, hint: str = "", code: int = REFUSED) -> NoReturn:
    click.echo(f"graphsplit: error: {_one_line(message)}", err=True)
    if hint:
        click.echo(f"  hint: {_one_line(hint)}", err=True)
    ctx.exit(code)


def _one_line(text: str) -> str:
    """A message on one line, control characters spelled out: names in it come from files."""
    joined = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


class _Greedy(click.Command):
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


class _Bar:
    """A progress bar on stderr: only on a terminal, and only once a second has passed."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.shown: Progress | None = None
        self.stages: dict[str, Any] = {}

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self.shown is not None:
            self.shown.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """What the API calls: the stage's name, steps done, steps in all."""
        if self.shown is None:
            if time.monotonic() - self.begin < 1 or not sys.stderr.isatty():
                return
            from rich.console import Console
            from rich.progress import Progress

            self.shown = Progress(console=Console(stderr=True, markup=False), transient=True)
            self.shown.start()
        if stage not in self.stages:
            self.stages[stage] = self.shown.add_task(_one_line(stage).replace("[", "\\["), total=total)
        self.shown.update(self.stages[stage], completed=done, total=total)


# -- options that several commands have -----------------------------------------------------------


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


PATH: click.Path = click.Path(path_type=Path)
MODEL = click.argument("model", metavar="MODEL.onnx", type=PATH)
FOLDER = click.argument("folder", metavar="DIR", type=PATH)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
SHARES = click.option(
    "--shares", metavar="S,S,…", callback=_shares, help="Widths of the parts, such as 2,1,1; equal by default."
)
FORCE = click.option("--force", is_flag=True, help="Replace what is there already.")


def _planning(command: Command) -> Command:
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
            "--keep",
            metavar="NAME",
            multiple=True,
            help="A node, parameter or value whose layer isn't divided; repeatable.",
        ),
    ):
        command = option(command)
    return command


# -- commands -------------------------------------------------------------------------------------


@click.group(
    cls=_Commands, name="graphsplit", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(package_name="graphsplit", prog_name="graphsplit", message="%(prog)s %(version)s")
def main() -> None:
    """Split a neural network by width into standalone sub-models, train them anywhere, and merge them exactly.

    Exit codes: 0 done, 1 a verification failed, 2 refused or misused.
    """


@main.command(short_help="Split a model into K sub-models.")
@MODEL
@click.option("-k", "k", metavar="K", type=click.IntRange(min=1), required=True, help="How many parts.")
@click.option("-o", "out", metavar="DIR", type=PATH, help="The folder to write; MODEL-parts by default.")
@click.option(
    "--strategy",
    metavar="NAME",
    default="contiguous",
    show_default=True,
    help="Which vertices go together: contiguous, interleaved or random.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The seed of a random strategy.",
)
@SHARES
@click.option(
    "--init",
    type=click.Choice(["keep", "rescale"]),
    default="keep",
    show_default=True,
    help="Take weights as they are, or restore the signal that slicing shrinks.",
)
@_planning
@FORCE
@JSON
def split(model: Path, k: int, out: Path | None, as_json: bool, **options: Any) -> None:
    """Split MODEL.onnx into K standalone sub-models, written to a folder with a manifest."""
    import graphsplit

    with _Bar() as progress:
        done = graphsplit.split(model, k, out=out or Path(f"{model.stem}-parts"), progress=progress, **options)
    from graphsplit.report import inspect, split_summary

    found = inspect(done.plan)
    files = [str(done.folder / entry.file) for entry in done.manifest.submodels]
    if as_json:
        _emit(split_summary(found, str(done.folder), files))
    else:
        from graphsplit.report.tables import show_split

        show_split(_console(), found, str(done.folder))


@main.command(short_help="Merge trained sub-models.")
@FOLDER
@click.argument("trained", metavar="[TRAINED]...", nargs=-1, type=PATH)
@click.option("-o", "out", metavar="FILE", type=PATH, help="The file to write; DIR/merged.onnx by default.")
@click.option(
    "--layers",
    type=click.Choice(["duplicated", "original"]),
    default="duplicated",
    show_default=True,
    help="Repeat what only holds part by part (exact), or keep the source's layers (not exact).",
)
@click.option(
    "--output-scale",
    type=click.Choice(["weights", "activation"]),
    default="weights",
    show_default=True,
    help="Scale the output layers' weights by 1/K, or what they compute.",
)
@click.option("--allow-nonfinite", is_flag=True, help="Merge weights that are infinite or not a number, too.")
@FORCE
@JSON
def merge(folder: Path, trained: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Merge the sub-models of a split's folder DIR, trained in place, or K TRAINED files in any order."""
    import graphsplit

    with _Bar() as progress:
        done = graphsplit.merge(folder, trained, out=out or folder / "merged.onnx", progress=progress, **options)
    if as_json:
        _emit({"path": str(done.path), "parts": done.parts, "difference": done.difference})
        return
    from graphsplit.report.tables import say

    say(_console(), f"merged {done.parts} parts into {done.path}")
    if done.difference is not None:
        say(_console(), f"the original layers differ from the parts' mean by up to {done.difference:.3g}")


@main.command(cls=_Greedy, short_help="Check a split, and its merge.")
@FOLDER
@click.argument("merged", metavar="[MERGED.onnx]", required=False, type=PATH)
@click.option(
    "--trained",
    metavar="FILE…",
    multiple=True,
    type=PATH,
    help="Trained files instead of the sub-models in DIR.",
)
@click.option("--inputs", metavar="X.npz", type=PATH, help="Inputs to try, by name, instead of random ones.")
@JSON
def verify(folder: Path, merged: Path | None, trained: tuple[Path, ...], inputs: Path | None, as_json: bool) -> None:
    """Check every law of a split's folder DIR, and of the merge where MERGED.onnx is given.

    Exits with 1 when a law fails.
    """
    import graphsplit

    with _Bar() as progress:
        done = graphsplit.verify(folder, merged, trained=trained, inputs=inputs, progress=progress)
    if as_json:
        names = ("name", "passed", "detail", "worst", "tolerance")
        checks = [{name: getattr(check, name) for name in names} for check in done.checks]
        _emit({"passed": done.passed, "runtime": done.runtime, "checks": checks})
    else:
        from graphsplit.report.tables import show_verification

        show_verification(_console(), done)
    if not done.passed:
        click.get_current_context().exit(FAILED)


@main.command(short_help="Show layers, sizes and what a split does.")
@click.argument("source", metavar="MODEL.onnx|DIR", type=PATH)
@click.option("-k", "k", metavar="K", type=click.IntRange(min=1), help="Show what a split into K parts would do.")
@click.option("--compare", is_flag=True, help=f"Compare the sizes of the parts for K = 1 to {COMPARED} (or to -k).")
@SHARES
@_planning
@JSON
def inspect(
    source: Path, k: int | None, compare: bool, as_json: bool, shares: tuple[float, ...] | None, **options: Any
) -> None:
    """Show a model's layers and sizes, what a split into K parts would do, or what the split in DIR did."""
    from graphsplit import report

    found: Report
    if source.is_dir():
        if k is not None or compare or shares or any(options.values()):
            raise click.UsageError(f"{str(source)!r} is the folder of a split: it takes no options but --json")
        found = report.inspect_folder(source)
    elif compare:
        if shares:
            raise click.UsageError("--shares are for one K, not for --compare")
        found = report.compare_splits(source, range(1, (k or COMPARED) + 1), **options)
    elif k is not None:
        found = report.inspect_split(source, k, shares=shares, **options)
    else:
        if shares or options.pop("keep"):
            raise click.UsageError("--shares and --keep say how to split: give -k, too")
        found = report.inspect_model(source, **options)
    _report(found, as_json)


@main.command(short_help="Tell what must stay together, and why.")
@MODEL
@click.argument("name", metavar="NAME")
@click.argument("other", metavar="[NAME]", required=False)
@click.option(
    "-k",
    "k",
    metavar="K",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="For a split into so many parts.",
)
@_planning
@JSON
def explain(model: Path, name: str, other: str | None, as_json: bool, **options: Any) -> None:
    """Tell what must stay together with NAME, or through which chain of nodes two NAMEs are coupled.

    A NAME is that of a node, a parameter or a value; NAME:AXIS is one axis of it, NAME:AXIS:INDEX one index.
    """
    from graphsplit import report

    _report(report.explain_model(model, name, other, **options), as_json)


# -- results --------------------------------------------------------------------------------------


def _report(found: Report, as_json: bool) -> None:
    if as_json:
        from graphsplit.report import plain

        _emit(plain(found))
        return
    from graphsplit.report.tables import show

    show(_console(), found)


def _emit(content: object) -> None:
    click.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(content: object) -> object:
    """The content with numbers that JSON has no word for as text: "inf", "-inf", "nan"."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def _console() -> Console:
    """Standard output: as wide as the terminal, 80 columns and no colour elsewhere."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 80

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself would exit with 1, which here says that a law failed

    return Piped(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
