"""The public functions that aren't a room of their own: load, plan, split of whatever kind, and merge with its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from graphsplit import merging, splitting
from graphsplit.errors import MergeError
from graphsplit.formats.onnx_file import load
from graphsplit.graph import Graph
from graphsplit.manifest import Manifest
from graphsplit.merging import Layers, Merge
from graphsplit.network import prepare
from graphsplit.options import Choices, Scale, SplitOptions
from graphsplit.planning import Plan
from graphsplit.splitting import Progress, Split

if TYPE_CHECKING:
    from torch import nn

    from graphsplit.executor import OnnxModule
    from graphsplit.modules import ModuleSplit

__all__ = ["load", "load_module", "merge", "plan", "reopen", "split", "trainable", "write_weights"]


@overload
def split(
    model: Graph | str | os.PathLike[str],
    k: int,
    *,
    out: str | os.PathLike[str],
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SplitOptions],
) -> Split[Path]: ...


@overload
def split(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    k: int,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SplitOptions],
) -> ModuleSplit: ...


def split(model: Any, *args: Any, **options: Any) -> Split[Any]:
    """Cut a network by width into `k` standalone sub-models.

    An ONNX file (or a loaded Graph): `split(model, k, *, out, …)` writes the sub-models with their manifest into the folder
    `out`; nothing is written unless everything is. A torch module: `split(model, args, kwargs=None, *, k, …)` takes its inputs
    as `torch.export` does and gives modules; they are written as well where `out` is given.

    `init="rescale"` multiplies each hidden weight by the square root of how much its fan-in shrinks, so that signals keep
    their size; "keep" leaves slices as they are.

    Raises GraphsplitError for whatever can't be split exactly, with the reason.
    """
    if "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module):
        from graphsplit.modules import split_module

        return split_module(model, *args, **options)
    return splitting.split(model, *args, **options)


def load_module(path: str | os.PathLike[str]) -> nn.Module:
    """The torch module in a `.pt2` file that a split or a merge wrote, with the weights that lie beside it.

    It needs none of the code that the source was made of, is in evaluation mode, and trains in both. Raises FormatError.
    """
    from graphsplit.formats.torch_archive import load

    return load(path)


def trainable(
    model: Graph | str | os.PathLike[str], *, trainable: Iterable[str] = (), constant: Iterable[str] = ()
) -> OnnxModule:
    """The network of an ONNX file, or of a loaded graph, as a torch module with the file's names, in evaluation mode.

    What trains is what `split` divides; `trainable` and `constant` say otherwise. Raises UnsupportedError for an op that has no
    implementation, with its node, and FormatError.
    """
    from graphsplit.executor import trainable as make

    return make(model, trainable=trainable, constant=constant)


def write_weights(
    module: OnnxModule, path: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, force: bool = False
) -> Path:
    """Write a module's weights and running statistics into the ONNX file that it was made of, or into a copy, `out`.

    The file is replaced as a whole or not at all. Raises FormatError for a file that holds another network, OutputError.
    """
    from graphsplit.executor import write_weights as write

    return write(module, path, out=out, force=force)


def reopen(folder: str | os.PathLike[str], model: nn.Module | None = None) -> ModuleSplit:
    """The split of a torch module that was written into a folder, with the weights that its sub-models have there now.

    `model` is the module that was split, made again: `merge_optimizers` finds its parameters by identity.

    Raises ManifestError, FormatError or MergeError.
    """
    from graphsplit.modules.folder import open_folder

    return open_folder(folder, model)


def plan(model: Graph | str | os.PathLike[str], k: int, **options: Unpack[SplitOptions]) -> Plan:
    """Compute how a network would be split into `k` parts; nothing is written. Raises GraphsplitError."""
    chosen = Choices.of(options)
    return chosen.plan(prepare(model, **chosen.preparing), k)


def merge(
    folder: str | os.PathLike[str],
    trained: Sequence[str | os.PathLike[str]] = (),
    *,
    out: str | os.PathLike[str] | None = None,
    layers: Layers = "duplicated",
    output_scale: Scale = "weights",
    allow_nonfinite: bool = False,
    base: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Merge:
    """Put trained sub-models back together, and write the merged network to `out` if it is given.

    `trained` are files (ONNX, safetensors, torch state dicts) or folders of further splits, one for each part, in any order
    where they say which part they are; by default the sub-models in `folder` as they stand. `layers="duplicated"` repeats
    what each part must compute for itself, and equals the mean of the sub-models; "original" has the source's topology, and
    `Merge.difference` says how far that is from the mean. `output_scale` puts the 1/K of the mean into the output
    layers' weights, or behind them. `base` is the file of the network that was split, or of its weights: the cut weights then
    keep its values, so that other cuts can follow, and what is merged is no mean of the parts any more.

    Raises ManifestError, FormatError or MergeError, with nothing written.
    """
    from graphsplit.modules.folder import is_module_split, merge_folder

    if out is not None:
        _refuse_own_files(Path(folder), Path(out))
    merged = merge_folder if is_module_split(folder) else merging.merge
    done = merged(
        folder,
        trained,
        out=out,
        layers=layers,
        output_scale=output_scale,
        allow_nonfinite=allow_nonfinite,
        base=base,
        force=force,
        progress=progress,
    )
    if layers != "original" or not done.leaves:
        return done
    from graphsplit.verification.difference import difference  # a runtime is only loaded where something is run

    return replace(done, difference=difference(done.opened, done.leaves, done.graph))


def _refuse_own_files(folder: Path, out: Path) -> None:
    """A merged network must not take the place of what it is made of."""
    manifest = Manifest.read(folder)
    own = {folder / name for name in (manifest.source.file, *(entry.file for entry in manifest.submodels))}
    if out.resolve() in {path.resolve() for path in own}:
        raise MergeError(
            f"{str(out)!r} is a file of the split that is merged", hint="choose another name for the output"
        )
