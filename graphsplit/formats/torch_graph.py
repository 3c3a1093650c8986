"""Reading torch modules: torch.export's program as a neutral graph, with all that writing a module back needs."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from textwrap import shorten
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.formats.torch_fx import Reader
from graphsplit.formats.torch_recurrent import AnyLength, named_as_torch
from graphsplit.formats.torch_source import source_line
from graphsplit.formats.torch_tensors import TorchTensor, is_real
from graphsplit.graph import Graph, Tensor

Shapes = Mapping[str, Any] | Sequence[Any] | None


@dataclass(frozen=True)
class Convention:
    """How a program is called: which flat arguments are tensors, which ones the export has fixed, and their trees."""

    in_spec: Any
    out_spec: Any
    positions: tuple[int, ...]
    constants: Mapping[int, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        # trees as tuples: torch warns when it unpickles its own class of leaves
        return _convention_of, (_tuples(self.in_spec), _tuples(self.out_spec), self.positions, dict(self.constants))


def _convention_of(in_spec: Any, out_spec: Any, *rest: Any) -> Convention:
    return Convention(_tree(in_spec), _tree(out_spec), *rest)


def _tuples(spec: Any) -> Any:
    return () if spec.is_leaf() else (spec.type, spec.context, [_tuples(child) for child in spec.children()])


def _tree(tuples: Any) -> Any:
    if not tuples:
        return pytree.treespec_leaf()
    kind, context, children = tuples
    return pytree.TreeSpec(kind, context, [_tree(child) for child in children])


@dataclass(frozen=True)
class TorchProgram:
    """A module as torch.export sees it: its neutral graph, and what the graph doesn't say.

    `parameters` and `buffers` are the names of tensors by kind, in the module's order; `frozen` are the parameters that take
    no gradient, `state` the buffers that running the module may change, and `temporary` those that a state dict leaves out.
    `aliases` gives, for each further name of a tied tensor, the name that the graph knows it by. `effects` are the indices of
    nodes that only update a buffer. `sources` holds the user's line for each node's name. `results` says for each flat output
    which value it is, or which constant. `sizes` are those of the dynamic axes in the example that was exported.
    """

    graph: Graph
    convention: Convention
    training: bool
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    frozen: frozenset[str]
    state: frozenset[str]
    temporary: frozenset[str]
    aliases: Mapping[str, str]
    effects: tuple[int, ...]
    sources: Mapping[str, str]
    results: tuple[str | ConstantArgument, ...]
    sizes: Mapping[str, int]


def read(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Shapes = None,
) -> TorchProgram:
    """The graph of a module in its current mode (or of a program that was exported already), nothing run but torch.export.

    Raises UnsupportedError for a module that can't be exported, or whose graph has no neutral form, with the line of the
    user's source where there is one.
    """
    exported = model if isinstance(model, ExportedProgram) else export(model, args, kwargs, dynamic_shapes)
    names = _Names(exported, model if isinstance(model, torch.nn.Module) else None)
    reader = Reader(exported, names.values)
    nodes = reader.nodes()
    tensors: dict[str, Tensor] = {name: TorchTensor(tensor) for name, tensor in names.tensors.items()}
    name = type(model).__name__ if isinstance(model, torch.nn.Module) else "program"
    graph = Graph(
        name=name,
        inputs=tuple(reader.values[n] for n in reader.inputs),
        outputs=tuple(dict.fromkeys(reader.values[n] for n in reader.results if isinstance(n, str))),
        nodes=nodes,
        tensors=tensors,
        values=reader.values,
    )
    changed = {reader.names[hole] for hole in reader.changed} & tensors.keys()
    return TorchProgram(
        graph,
        _convention(exported),
        model.training if isinstance(model, torch.nn.Module) else _training(graph),
        names.parameters,
        names.buffers,
        names.frozen,
        frozenset(changed & set(names.buffers)),
        names.temporary,
        names.aliases,
        _effects(graph, reader),
        reader.sources,
        tuple(reader.results),
        reader.hints,
    )


def _convention(exported: ExportedProgram) -> Convention:
    specs = [s for s in exported.graph_signature.input_specs if s.kind == InputKind.USER_INPUT]
    constants = {i: s.arg.value for i, s in enumerate(specs) if isinstance(s.arg, ConstantArgument)}
    call = exported.call_spec
    return Convention(call.in_spec, call.out_spec, tuple(i for i in range(len(specs)) if i not in constants), constants)


def _effects(graph: Graph, reader: Reader) -> tuple[int, ...]:
    """The nodes that only update a buffer, with what they need: no part could make up an update from its own activations."""
    needed: set[str] = set()
    found: list[int] = []
    for i in sorted(set(range(len(graph.nodes))) - graph.alive, reverse=True):
        node = graph.nodes[i]
        if reader.updates.get(node.name) in reader.inputs:
            called = f", called {reader.sources[node.name]}" if reader.sources.get(node.name) else ""
            raise UnsupportedError(
                f"{node.title}{called} writes into the input {reader.updates[node.name]!r}, and nothing reads it behind that",
                hint="give back what is computed instead of writing it into an input; run without a cache",
            )
        if reader.updates.get(node.name) in graph.tensors or needed & set(node.outputs):
            found.append(i)
            needed.update(name for name in node.inputs if name)
    own = {name for i in found for name in graph.nodes[i].outputs}
    kept = {reader.updates.get(graph.nodes[i].name) for i in found}
    strange = [n for n in sorted(needed - own - kept) if n not in graph.tensors or is_real(graph.tensors[n].dtype)]
    if strange:
        node = next(graph.nodes[i] for i in found if strange[0] in graph.nodes[i].inputs)
        source = f", called {reader.sources[node.name]}" if reader.sources.get(node.name) else ""
        raise UnsupportedError(
            f"{node.title}{source} updates a buffer with {strange[0]!r}: such an update can't be divided",
            hint="split the module in evaluation mode, or update the buffer outside forward",
        )
    return tuple(sorted(found))


def export(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, dynamic_shapes: Shapes = None
) -> ExportedProgram:
    """torch.export, without tracing Python itself. Raises UnsupportedError for what it can't follow."""
    if not isinstance(module, torch.nn.Module):
        raise FormatError(f"{type(module).__name__} is no torch module", hint="give an nn.Module and its inputs")
    try:
        with _quiet(), own_backwards() as functions, AnyLength():
            shapes: Any = dynamic_shapes
            found = torch.export.export(module, tuple(args), dict(kwargs or {}), dynamic_shapes=shapes, strict=False)
        for name in functions:
            warnings.warn(
                f"{name} has a backward of its own, which torch.export doesn't keep: sub-models get the gradient of its forward",
                stacklevel=2,
            )
        return named_as_torch(found)
    except Exception as error:  # torch.export raises whatever tracing the user's code does
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedError(
            f"torch.export can't follow {type(module).__name__}{source_line(error)}: {shorten(reason, 160)}",
            hint="its forward must not depend on the values of tensors; torch.export.export(module, args) shows the whole error",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and the user's code say on the way: a failure prints the whole graph, and results alone go to stdout."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def own_backwards() -> Iterator[list[str]]:
    """The names of the user's autograd functions that are applied meanwhile."""
    functions: list[str] = []
    base = torch.autograd.Function
    apply = base.__dict__["apply"]

    def noted(cls: type, *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch.") and cls.__qualname__ not in functions:
            functions.append(cls.__qualname__)
        return apply.__func__(cls, *args, **kwargs)

    base.apply = classmethod(noted)  # type: ignore[assignment, method-assign, unused-ignore]
    try:
        yield functions
    finally:
        base.apply = apply  # type: ignore[method-assign]


def _training(graph: Graph) -> bool:
    """Whether a program was exported in training mode, as far as its ops tell."""
    flags = ("training", "train", "use_input_stats")
    return any(node.attributes.get(flag) is True for node in graph.nodes for flag in flags)


class _Names:
    """The tensors of a program by qualified name, each once, however many names it has."""

    def __init__(self, exported: ExportedProgram, module: torch.nn.Module | None) -> None:
        self.values: dict[str, str] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.aliases: dict[str, str] = {}
        parameters: list[str] = []
        buffers: list[str] = []
        temporary: set[str] = set()
        first: dict[Any, str] = {}
        for spec in exported.graph_signature.input_specs:
            if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                continue
            name = str(spec.target)
            held = exported.constants if spec.kind == InputKind.CONSTANT_TENSOR else exported.state_dict
            tensor = held[name] if name in held else exported.constants[name]
            known = first.setdefault(_identity(tensor), name)
            self.values[spec.arg.name] = known
            if known != name:
                self.aliases[name] = known
                continue
            self.tensors[name] = tensor
            if spec.kind == InputKind.PARAMETER:
                parameters.append(name)
            elif spec.kind == InputKind.BUFFER:
                buffers.append(name)
                if spec.persistent is False:
                    temporary.add(name)
        own = dict(module.named_parameters(remove_duplicate=False)) if module is not None else {}
        for name, parameter in own.items():
            known = first.get(_identity(parameter), name)
            if known != name:
                self.aliases.setdefault(name, known)
        self.parameters, self.buffers = tuple(parameters), tuple(buffers)
        self.temporary = frozenset(temporary)
        self.frozen = frozenset(name for name in parameters if not self.tensors[name].requires_grad)


def _identity(tensor: torch.Tensor) -> Any:
    """The same for two names of one tensor."""
    if tensor.numel() == 0:
        return id(tensor)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, str(tensor.device))
