"""What the commands write: results, progress, refusals and exit codes."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from graphsplit.report import Report

FAILED, REFUSED, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
TORCH = "the extra 'torch': pip install 'graphsplit[torch]'"


class Commands(click.Group):
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
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            _fail(ctx, f"{ctx.invoked_subcommand} needs torch for this, and it isn't installed", TORCH)
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


class Bar:
    """A progress bar on stderr: only on a terminal, and only once a second has passed."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.shown: Progress | None = None
        self.stages: dict[str, Any] = {}

    def __enter__(self) -> Bar:
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


def show_report(found: Report, as_json: bool) -> None:
    """Print a report, for people or as JSON."""
    if as_json:
        from graphsplit.report import plain

        emit(plain(found))
        return
    from graphsplit.report.tables import show

    show(console(), found)


def emit(content: object) -> None:
    """Print JSON."""
    from graphsplit.files import finite

    click.echo(json.dumps(finite(content), indent=2, allow_nan=False))


def console() -> Console:
    """Standard output: as wide as the terminal, 80 columns and no colour elsewhere."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 80

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself would exit with 1, which here says that a law failed

    return Piped(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
