"""`graphsplit inspect` and `graphsplit explain`: what is there, what a split does, and why."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsplit.cli.options import FORCE, JSON, MODEL, PATH, SHARES, planning
from graphsplit.cli.output import Bar, console, emit, show_report

if TYPE_CHECKING:
    from graphsplit.draw import Drawing
    from graphsplit.network import Network
    from graphsplit.report import Report

COMPARED = 8


@click.command(short_help="Show layers, sizes and what a split does.")
@click.argument("source", metavar="MODEL|DIR", type=PATH)
@click.option("-k", "k", metavar="K", type=click.IntRange(min=1), help="Show what a split into K parts would do.")
@click.option("--compare", is_flag=True, help=f"Compare the sizes of the parts for K = 1 to {COMPARED} (or to -k).")
@click.option(
    "-o",
    "out",
    metavar="FILE",
    type=PATH,
    help="Draw it instead: a page to explore (.html), a figure (.svg), or the drawing's facts (.json).",
)
@click.option("--open", "browse", is_flag=True, help="Open the page in the browser.")
@SHARES
@planning
@FORCE
@JSON
def inspect(
    source: Path,
    k: int | None,
    compare: bool,
    out: Path | None,
    browse: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show a model's layers and sizes, what a split into K parts would do, or what the split in DIR did."""
    _check(source, k, compare, out is not None or browse, options)
    if out is not None or browse:
        _draw(source, k, out, browse, force, as_json, options)
        return
    show_report(_report(source, k, compare, options), as_json)


def _check(source: Path, k: int | None, compare: bool, drawn: bool, options: dict[str, Any]) -> None:
    """Raise UsageError for options that don't go together."""
    shares = options["shares"]
    if source.is_dir() and (k is not None or compare or _given(options)):
        raise click.UsageError(
            f"{str(source)!r} is the folder of a split: it takes no options but -o, --open and --json"
        )
    if compare and drawn:
        raise click.UsageError("--compare prints a table; a page (-o FILE.html) with -k compares by itself")
    if compare and shares:
        raise click.UsageError("--shares are for one K, not for --compare")
    if (
        k is None
        and not compare
        and not source.is_dir()
        and _given({n: options[n] for n in ("shares", "keep", "outputs")})
    ):
        raise click.UsageError("--shares, --keep and --outputs say how to split: give -k, too")


def _report(source: Path, k: int | None, compare: bool, options: dict[str, Any]) -> Report:
    from graphsplit import report

    if source.is_dir():
        return report.inspect_folder(source)
    shares = options.pop("shares")
    if compare:
        return report.compare_splits(model_of(source, options), range(1, (k or COMPARED) + 1), **options)
    if k is not None:
        return report.inspect_split(model_of(source, options), k, shares=shares, **options)
    del options["keep"], options["outputs"]
    return report.inspect_model(model_of(source, options, strict=False), **options)


def _draw(
    source: Path, k: int | None, out: Path | None, browse: bool, force: bool, as_json: bool, options: dict[str, Any]
) -> None:
    from graphsplit.draw import write, writer

    path = out or Path(tempfile.mkdtemp(prefix="graphsplit-")) / "report.html"
    writer(path)
    with Bar() as progress:
        drawing = _drawing(source, k, options, progress)
    write(drawing, path, force=force)
    if as_json:
        emit({"path": str(path), "boxes": len(drawing.boxes)})
    else:
        from graphsplit.report.tables import say

        say(console(), f"drew {drawing.title} in {path}")
    if browse:
        webbrowser.open(path.resolve().as_uri())


def _drawing(source: Path, k: int | None, options: dict[str, Any], progress: Bar) -> Drawing:
    from graphsplit import draw

    if source.is_dir():
        return draw.draw_folder(source, progress=progress)
    if k is not None:
        return draw.draw_model(model_of(source, options), k, progress=progress, **options)
    for name in ("shares", "keep", "outputs"):
        del options[name]
    return draw.draw_graph(model_of(source, options, strict=False), **options)


def _given(options: dict[str, Any]) -> bool:
    """Whether any of the options that say what is divided differs from its default."""
    return any(value and value != "auto" for value in options.values())


def no_inputs(model: Path, inputs: tuple[str, ...]) -> None:
    """Raise UsageError where inputs are given for a file, which has its own."""
    if inputs:
        raise click.UsageError(f"--input is for torch modules (package.module:factory), and {str(model)!r} is a file")


def model_of(model: Path, options: dict[str, Any], *, strict: bool = True) -> Path | Network:
    """What the reports take of a model: a file as it is, a torch module ready to plan with its options."""
    from graphsplit.modules import factory

    inputs = options.pop("inputs")
    if not factory.names_module(model):
        no_inputs(model, inputs)
        return model
    given = factory.example(model, inputs, options.pop("sizes"))
    held = {name: options.pop(name) for name in ("trainable", "constant", "rules")}
    return factory.network_of(given, strict=strict, **held)


@click.command(short_help="Tell what must stay together, and why.")
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
@planning
@JSON
def explain(model: Path, name: str, other: str | None, as_json: bool, **options: Any) -> None:
    """Tell what must stay together with NAME, or through which chain of nodes two NAMEs are coupled.

    A NAME is that of a node, a parameter or a value; NAME:AXIS is one axis of it, NAME:AXIS:INDEX one index.
    """
    from graphsplit import report

    show_report(report.explain_model(model_of(model, options), name, other, **options), as_json)
