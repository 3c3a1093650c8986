"""Torch modules as files: torch.export's archive `.pt2`, with what graphsplit knows of the module inside it.

The archive holds the exported program of evaluation mode, which `torch.export.load` runs, and a description from which the
module is made again: in both modes, ready to train, by text and raw bytes alone. torch's own loader, which unpickles, is
never called; archives that hold pickled weights are refused.

Weights that training changes lie in a safetensors file beside the archive (`x.safetensors` beside `x.pt2`). Where there is
none, those in the archive count.
"""

from __future__ import annotations

import inspect
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from graphsplit.errors import FormatError, GraphsplitError
from graphsplit.files import OutputError, atomic_file
from graphsplit.formats.tensors import FileTensor, MappedFile
from graphsplit.formats.torch_description import dumps, loads
from graphsplit.formats.torch_graph import export
from graphsplit.formats.torch_holders import Source
from graphsplit.formats.torch_modes import Mode
from graphsplit.formats.torch_module import SplitModule, write
from graphsplit.formats.torch_tensors import NUMPY, TORCH, TorchTensor, to_numpy, to_torch
from graphsplit.formats.weights import read_trained, write_safetensors
from graphsplit.graph import ArrayTensor, Graph, Tensor, WeightlessTensor

DESCRIPTION = "graphsplit.json"
WEIGHTS, OURS = ".safetensors", "graphsplit."
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")
"""What torch.export notes of where a node came from: of generated code, and different each time."""


# -- writing ----------------------------------------------------------------------------------------------------


def save(
    source: Source,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    beside: bool = False,
    force: bool = False,
) -> None:
    """Write a module as an archive that appears complete or not at all; the same module gives the same bytes.

    `beside` writes the weights into a safetensors file beside it, too. Raises UnsupportedError where the module can't be
    exported again or has no form in a file, OutputError where the file exists and `force` is not set.
    """
    path = Path(path)
    stray = None if beside else path.with_suffix(WEIGHTS)
    if stray is not None and stray.exists() and not path.exists() and not force:
        raise OutputError(
            f"{str(stray)!r} would be taken for the weights of {str(path)!r}",
            hint="move it, choose another name, or add --force to remove it",
        )
    source = on_cpu(source)
    held = {**source.graph.metadata, **(metadata or {})}
    source = source.with_graph(source.graph.replace(metadata=held))
    extra = {DESCRIPTION: dumps(source, set(source.holders.names.values()) - source.holders.temporary)}
    program = _exported(source)
    with atomic_file(path, force=force) as staged, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, staged, extra_files=extra)
        if beside:
            write_safetensors(state_of(source), staged.with_suffix(WEIGHTS), metadata=held)
        elif stray is not None and force:
            stray.unlink(missing_ok=True)  # only now: nothing of the user's goes before its successor is written


def save_source(source: Source, path: str | os.PathLike[str], elsewhere: frozenset[str]) -> None:
    """Write what is known of a module without the weights named: text, from which a split is planned again."""
    with atomic_file(path) as staged:
        staged.write_text(dumps(on_cpu(source), elsewhere), encoding="utf-8")


def state_of(source: Source) -> dict[str, Tensor]:
    """What a module's state dict holds, each tensor once, under the first of its names."""
    found: dict[str, Tensor] = {}
    seen: set[str] = set()
    for name, known in source.holders.names.items():
        if known not in seen and known not in source.holders.temporary:
            seen.add(known)
            found[name] = source.graph.tensors[known]
    return found


def on_cpu(source: Source) -> Source:
    """A source as a machine without accelerators can run it: what was on the module's one device is on the CPU."""
    devices = set(source.holders.devices.values())
    names = {f"device:{device}" for device in devices if device.type != "cpu"}
    holders = replace(source.holders, devices={})
    if not names:
        return replace(source, holders=holders)
    tensors = {
        name: TorchTensor(tensor.tensor.cpu()) if isinstance(tensor, TorchTensor) else tensor
        for name, tensor in source.graph.tensors.items()
    }
    nodes = tuple(
        replace(node, attributes={k: "device:cpu" if v in names else v for k, v in node.attributes.items()})
        if any(isinstance(v, str) and v in names for v in node.attributes.values())
        else node
        for node in source.graph.nodes
    )
    return replace(source.with_graph(source.graph.replace(nodes=nodes, tensors=tensors)), holders=holders)


def _exported(source: Source) -> ExportedProgram:
    """The module's program in evaluation mode, as torch.export makes it."""
    module = write(source).eval()
    if source.signature is not None:
        module.__class__ = _called_as(source.signature)  # torch.export names inputs by what forward says
    mode = source.modes.modes[0]
    args, kwargs, shapes = _example(mode, source.graph, source.modes.program.sizes)
    program = export(module, args, kwargs, shapes)
    program._example_inputs = None  # or the archive would hold a pickle
    for graph_module in program.graph_module.modules():
        for node in getattr(getattr(graph_module, "graph", None), "nodes", ()):
            for trace in TRACES:
                node.meta.pop(trace, None)
    return program


def _called_as(signature: inspect.Signature) -> type[SplitModule]:
    """A class of modules whose forward says how the source's is called."""

    def forward(self: SplitModule, *args: Any, **kwargs: Any) -> Any:
        return SplitModule.forward(self, *args, **kwargs)

    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    held = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    if held and held[0].kind != inspect.Parameter.POSITIONAL_ONLY:
        first = first.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([first, *held])  # type: ignore[attr-defined]
    return type("SplitModule", (SplitModule,), {"forward": forward})


def _example(mode: Mode, graph: Graph, sizes: Mapping[str, int]) -> tuple[Any, Any, Any]:
    """Arguments of the form that a mode takes, all zeros, with the axes that are free."""
    values = {value.name: value for value in graph.inputs}
    leaves: list[Any] = [None] * (len(mode.convention.positions) + len(mode.convention.constants))
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for position, constant in mode.convention.constants.items():
        leaves[position] = constant
    for position, name in zip(mode.convention.positions, mode.inputs, strict=True):
        value = values[name]
        dims = value.shape or ()
        size = [dim if isinstance(dim, int) else sizes.get(str(dim), 2) for dim in dims]
        leaves[position] = torch.zeros(size, dtype=TORCH[value.dtype]) if dims else 0
        free = {axis: Dim.AUTO for axis, dim in enumerate(dims) if not isinstance(dim, int)}
        if free:
            shapes[leaves[position]] = free
    args, kwargs = pytree.tree_unflatten(leaves, mode.convention.in_spec)
    return args, kwargs, shapes


# -- reading ----------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> SplitModule:
    """The module in an archive that graphsplit wrote, in evaluation mode, with the weights beside it where there are some.

    It trains as the one that was written, and can be split again without arguments. Raises FormatError for any other file,
    and for a damaged one.
    """
    return module_of(load_filled(path))


def module_of(source: Source) -> SplitModule:
    """The module of a source, in evaluation mode."""
    try:
        made = write(source)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, SyntaxError) as error:
        if isinstance(error, GraphsplitError):
            raise
        raise FormatError(f"the description of {source.graph.name!r} is damaged: {error}") from error
    made.split_source = source.narrowed(source.graph)
    return made.eval()


def load_filled(path: str | os.PathLike[str]) -> Source:
    """What the module in an archive was written by, with its weights. Raises FormatError."""
    path = Path(path)
    return _filled(_described(path), read_weights(path), path)


def _described(path: Path) -> Source:
    with _opened(path) as archive:
        return loads(_text(archive, f"{_root(archive, path)}/extra/{DESCRIPTION}", path), repr(str(path)))


def _filled(source: Source, weights: Mapping[str, Tensor], path: Path) -> Source:
    """A source with the weights in the places that a description leaves empty."""
    names: dict[str, list[str]] = {}
    for name, known in source.holders.names.items():
        names.setdefault(known, []).append(name)
    tensors = dict(source.graph.tensors)
    for known, stub in source.graph.tensors.items():
        if not isinstance(stub, WeightlessTensor):
            continue
        found = next((weights[name] for name in names.get(known, ()) if name in weights), None)
        if found is None:
            raise FormatError(f"the weights of {str(path)!r} lack {names.get(known, [known])[0]!r}")
        if (found.shape, found.dtype) != (stub.shape, stub.dtype):
            raise FormatError(
                f"the weights of {str(path)!r} hold {known!r} as {found.dtype}{list(found.shape)}, and the network has it "
                f"as {stub.dtype}{list(stub.shape)}"
            )
        tensors[known] = found
    return source.with_graph(source.graph.replace(tensors=tensors))


def load_source(path: str | os.PathLike[str]) -> Source:
    """What `save_source` wrote. Raises FormatError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot read {os.fspath(path)!r}: {error}") from error
    return loads(text, repr(os.fspath(path)))


def read_weights(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """The weights of an archive: those beside it where there are some, else its own. Raises FormatError."""
    path = Path(path)
    beside = path.with_suffix(WEIGHTS)
    if not beside.exists():
        return _inside(path)
    tensors, metadata = read_trained(beside)
    said, known = (
        {key: text for key, text in m.items() if key.startswith(OURS)} for m in (metadata, read_metadata(path))
    )
    if said and said != known:
        raise FormatError(
            f"{str(beside)!r} holds the weights of another sub-model than {str(path)!r}",
            hint="put its own weights there",
        )
    return tensors


def read_metadata(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """The metadata of an archive; nothing for one that graphsplit didn't write."""
    path = Path(path)
    with _opened(path) as archive:
        ours = f"{_root(archive, path)}/extra/{DESCRIPTION}" in archive.namelist()
    return _described(path).graph.metadata if ours else {}


def _inside(path: Path) -> Mapping[str, Tensor]:
    """The weights in an archive, memory-mapped: torch stores each as the bytes of its storage."""
    with _opened(path) as archive:
        root = _root(archive, path)
        config = _text(archive, f"{root}/data/weights/model_weights_config.json", path)
        places = {
            info.filename.rpartition("/")[2]: _place(path, info)
            for info in archive.infolist()
            if info.filename.startswith(f"{root}/data/weights/weight_")
        }
    file = MappedFile(path)
    try:
        entries = json.loads(config)["config"]
        return {str(name): _weight(file, entry, places, path) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{str(path)!r} is damaged: its list of weights can't be read ({error})") from error


def _weight(file: MappedFile, entry: Mapping[str, Any], places: Mapping[str, tuple[int, int]], path: Path) -> Tensor:
    from torch._export.serde.serialize import deserialize_scalar_type

    if entry["use_pickle"]:
        raise FormatError(
            f"{str(path)!r} holds pickled weights, which are never loaded",
            hint="save a state dict instead: torch.save(program.state_dict, 'trained.pt')",
        )
    meta = entry["tensor_meta"]
    dtype = NUMPY[deserialize_scalar_type(meta["dtype"])]
    sizes, strides = ([int(item["as_int"]) for item in meta[key]] for key in ("sizes", "strides"))
    start, length = places[entry["path_name"]]
    first = int(meta["storage_offset"]["as_int"])
    span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if 0 not in sizes and (first < 0 or min(strides, default=0) < 0 or (first + span) * dtype.itemsize > length):
        raise FormatError(f"{str(path)!r} is damaged: a tensor of shape {sizes} doesn't fit into {length} bytes")
    if strides == _dense(sizes):
        return FileTensor(file, start + first * dtype.itemsize, tuple(sizes), dtype)
    whole = FileTensor(file, start, (length // dtype.itemsize,), dtype)
    strided = torch.as_strided(to_torch(whole.numpy()), sizes, strides, first)
    return ArrayTensor(np.ascontiguousarray(to_numpy(strided)))


def _dense(sizes: list[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]


# -- the zip ----------------------------------------------------------------------------------------------------


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{str(path)!r} is no archive of torch.export: {error}") from error


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """The folder in which everything in an archive lies."""
    for name in archive.namelist():
        root, _, rest = name.partition("/")
        if rest == "archive_format" and archive.read(name) == b"pt2":
            return root
    raise FormatError(
        f"{str(path)!r} is no archive of torch.export", hint="graphsplit split and merge write such files"
    )


def _text(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    try:
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # it could unpack to anything
            raise FormatError(f"{str(path)!r} is damaged: {name.rpartition('/')[2]} is compressed")
        return archive.read(name).decode()
    except KeyError:
        raise FormatError(
            f"{str(path)!r} is an archive that graphsplit didn't write (it has no {name.rpartition('/')[2]})",
            hint="split the module that it was made from: package.module:factory",
        ) from None
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise FormatError(f"{str(path)!r} is damaged: {error}") from error


def _place(path: Path, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a record's bytes begin in the file, and how many there are."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"{str(path)!r} is damaged: its weights are compressed")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        header = file.read(4)
    name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (0, 2))
    return info.header_offset + 30 + name + extra, info.file_size
