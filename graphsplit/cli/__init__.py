"""The command line: arguments, exit codes and nothing else; every command calls the public API.

Results go to stdout, progress and diagnostics to stderr. Exit codes: 0 done, 1 a verification failed, 2 refused or
misused, 130 interrupted. Whatever takes long to import is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsplit.cli.inspecting import explain, inspect, no_inputs
from graphsplit.cli.options import FOLDER, FORCE, INIT, JSON, MODEL, PARTS, PATH, SHARES, STRATEGY, Greedy, planning
from graphsplit.cli.output import FAILED, Bar, Commands, console, emit
from graphsplit.cli.training import run, train

if TYPE_CHECKING:
    from graphsplit.splitting import Split


@click.group(
    cls=Commands, name="graphsplit", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(package_name="graphsplit", prog_name="graphsplit", message="%(prog)s %(version)s")
def main() -> None:
    """Split a neural network by width into standalone sub-models, train them anywhere, and merge them exactly.

    Exit codes: 0 done, 1 a verification failed, 2 refused or misused.
    """


@main.command(short_help="Split a model into K sub-models.")
@MODEL
@PARTS
@click.option("-o", "out", metavar="DIR", type=PATH, help="The folder to write; MODEL-parts by default.")
@STRATEGY
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The seed of a random strategy.",
)
@SHARES
@INIT
@planning
@FORCE
@JSON
def split(model: Path, k: int, out: Path | None, as_json: bool, **options: Any) -> None:
    """Split MODEL into K standalone sub-models, written to a folder with a manifest.

    MODEL is an ONNX file; package.module:factory, a function that makes a torch module, with its inputs as --input; or a
    sub-model of an earlier split.
    """
    from graphsplit.report import inspect as inspected
    from graphsplit.report import split_summary

    folder = out or Path(f"{model.name.rpartition(':')[2].removesuffix(model.suffix)}-parts")
    with Bar() as progress:
        done = split_model(model, k, options, {"out": folder, "progress": progress})
    found = inspected(done.plan)
    files = [str(folder / entry.file) for entry in done.manifest.submodels]
    if as_json:
        emit(split_summary(found, str(folder), files))
    else:
        from graphsplit.report.tables import show_split

        show_split(console(), found, str(folder))


def split_model(model: Path, k: int, options: dict[str, Any], outputs: dict[str, Any]) -> Split[Any]:
    """Split what a command line names as MODEL, with the options of `planning`."""
    import graphsplit
    from graphsplit.modules import factory

    inputs, named = options.pop("inputs"), factory.names_module(model)
    if not named:
        no_inputs(model, inputs)
        return graphsplit.split(model, k, **outputs, **options)
    outputs["progress"]("importing", 0, 1)
    given = factory.example(model, inputs, options.pop("sizes"))
    shapes = given.dynamic_shapes
    return graphsplit.split(given.module, given.args, given.kwargs, k=k, dynamic_shapes=shapes, **outputs, **options)


@main.command(short_help="Merge trained sub-models.")
@FOLDER
@click.argument("trained", metavar="[TRAINED]...", nargs=-1, type=PATH)
@click.option("-o", "out", metavar="FILE", type=PATH, help="The file to write; DIR/merged.onnx or .pt2 by default.")
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
@click.option(
    "--cut",
    type=click.Choice(["zero", "base"]),
    default="zero",
    show_default=True,
    help="What cut weights become: zero (the mean of the parts), or what they are in --base.",
)
@click.option("--base", metavar="FILE", type=PATH, help="The network that was split, or its weights, for --cut base.")
@click.option("--allow-nonfinite", is_flag=True, help="Merge weights that are infinite or not a number, too.")
@FORCE
@JSON
def merge(folder: Path, trained: tuple[Path, ...], out: Path | None, cut: str, as_json: bool, **options: Any) -> None:
    """Merge the sub-models of a split's folder DIR, trained in place, or K TRAINED files in any order."""
    import graphsplit
    from graphsplit.modules.folder import is_module_split

    if (cut == "base") != (options["base"] is not None):
        raise click.UsageError("--cut base and --base FILE go together: a split's folder has no weights of its source")
    kind = ".pt2" if is_module_split(folder) else ".onnx"
    target = out or folder / f"merged{kind}"
    if (folder / "manifest.json").is_file() and target.suffix.lower() != kind:
        raise click.UsageError(f"-o {str(target)!r}: the merged network of {str(folder)!r} is a {kind} file")
    with Bar() as progress:
        done = graphsplit.merge(folder, trained, out=target, progress=progress, **options)
    if as_json:
        emit({"path": str(done.path), "parts": done.parts, "difference": done.difference})
        return
    from graphsplit.report.tables import say

    say(console(), f"merged {done.parts} parts into {done.path}")
    if cut == "base":
        say(console(), "cut weights keep their old values, so the merged network isn't the mean of the parts")
    if done.difference is not None:
        say(console(), f"the original layers differ from the parts' mean by up to {done.difference:.3g}")


@main.command(cls=Greedy, short_help="Check a split, and its merge.")
@FOLDER
@click.argument("merged", metavar="[MERGED]", required=False, type=PATH)
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
    """Check every law of a split's folder DIR, and of the merge where the file MERGED is given.

    Exits with 1 when a law fails.
    """
    import graphsplit

    with Bar() as progress:
        done = graphsplit.verify(folder, merged, trained=trained, inputs=inputs, progress=progress)
    if as_json:
        names = ("name", "passed", "detail", "worst", "tolerance")
        checks = [{name: getattr(check, name) for name in names} for check in done.checks]
        emit({"passed": done.passed, "runtime": done.runtime, "checks": checks})
    else:
        from graphsplit.report.tables import show_verification

        show_verification(console(), done)
    if not done.passed:
        click.get_current_context().exit(FAILED)


main.add_command(inspect)
main.add_command(explain)
main.add_command(train)
main.add_command(run)
