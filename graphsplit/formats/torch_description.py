"""What is known of a torch module besides its weights, as text: graph, modes, names, how it is called.

JSON of plain values, which is checked; reading it runs nothing and needs none of the code that the module was made of.
Tensors that are named as kept elsewhere (the weights) are described by shape and type; all others are there in base64.

A module is generated code, so what is read must not be able to write code: names hold no quotes, ops are torch's, and the
trees of arguments and results are built of containers whose reading imports nothing.
"""

from __future__ import annotations

import base64
import inspect
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (registers the element types that numpy lacks)
import numpy as np
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from graphsplit.errors import FormatError, UnsupportedError
from graphsplit.formats.tensors import raw_bytes
from graphsplit.formats.torch_graph import Convention, TorchProgram
from graphsplit.formats.torch_holders import Holders, Source
from graphsplit.formats.torch_modes import Mode, Modes
from graphsplit.graph import ArrayTensor, Graph, Node, Tensor, Value, WeightlessTensor

FORMAT, VERSION = "graphsplit module", 1
_KINDS = {kind.name: kind for kind in inspect._ParameterKind}
_NAME = re.compile(r"[^\"'`\\\x00-\x1f\x7f\u2028\u2029]*")
_IMPORTING = ("collections.defaultdict",)
"""Containers whose description names what torch would import to read it."""


# -- writing ----------------------------------------------------------------------------------------------------


def dumps(source: Source, elsewhere: Collection[str]) -> str:
    """A source as text; the same source gives the same text. Raises UnsupportedError for what has no form in it."""
    program = source.modes.program
    for name in (*source.holders.names, *program.graph.tensors):
        if not _NAME.fullmatch(name):
            raise UnsupportedError(f"the name {name!r} has no form in a file", hint="rename that module or parameter")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "graph": _graph(program.graph, elsewhere),
        "program": {
            "training": program.training,
            "parameters": program.parameters,
            "buffers": program.buffers,
            "frozen": sorted(program.frozen),
            "state": sorted(program.state),
            "temporary": sorted(program.temporary),
            "aliases": dict(program.aliases),
            "effects": program.effects,
            "sources": {name: line for name, line in program.sources.items() if line},
            "sizes": dict(program.sizes),
        },
        "modes": [_mode(mode) for mode in source.modes.modes],
        "names": list(source.holders.names.items()),
        "holders": {
            "parameters": sorted(source.holders.parameters),
            "frozen": sorted(source.holders.frozen),
            "temporary": sorted(source.holders.temporary),
        },
        "signature": _signature(source.signature),
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _graph(graph: Graph, elsewhere: Collection[str]) -> dict[str, Any]:
    return {
        "name": graph.name,
        "inputs": [_value(value) for value in graph.inputs],
        "outputs": [_value(value) for value in graph.outputs],
        "values": [_value(value) for value in graph.values.values()],
        "nodes": [_node(node) for node in graph.nodes],
        "tensors": [_tensor(name, tensor, name in elsewhere) for name, tensor in graph.tensors.items()],
        "metadata": dict(sorted(graph.metadata.items())),
    }


def _value(value: Value) -> list[Any]:
    return [value.name, value.dtype.name, value.shape]


def _node(node: Node) -> list[Any]:
    attributes = {key: _plain(value, node) for key, value in node.attributes.items()}
    return [node.name, node.op, node.domain, node.inputs, node.outputs, attributes]


def _plain(value: Any, node: Node) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item, node) for item in value]
    value = _number(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, dict):
        return value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UnsupportedError(f"{node.title} holds a {type(value).__name__}, which has no form in a file")


def _number(value: Any) -> Any:
    """A plain value; numbers that JSON has no word for by their names."""
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _tensor(name: str, tensor: Tensor, elsewhere: bool) -> list[Any]:
    content = None if elsewhere else base64.b64encode(bytes(raw_bytes(tensor.numpy()))).decode()
    return [name, tensor.dtype.name, tensor.shape, content]


def _mode(mode: Mode) -> dict[str, Any]:
    convention = mode.convention
    for constant in convention.constants.values():
        if not (constant is None or isinstance(constant, (bool, int, float, str))):
            raise UnsupportedError(
                f"an argument of the network is a {type(constant).__name__}, which has no form in a file",
                hint="split in memory, or make forward take tensors and plain values",
            )
    return {
        "training": mode.training,
        "inputs": mode.inputs,
        "results": [r if isinstance(r, str) else {"constant": _number(r.value)} for r in mode.results],
        "effects": [_node(node) for node in mode.effects],
        "in": _tree(convention.in_spec),
        "out": _tree(convention.out_spec),
        "positions": convention.positions,
        "constants": [(position, _number(value)) for position, value in convention.constants.items()],
    }


def _tree(spec: Any) -> Any:
    try:
        return json.loads(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedError(
            f"the network takes or gives a {_strange(spec)}, which has no form in a file",
            hint="make forward take and return tensors, tuples, lists or dicts, or split in memory",
        ) from error


def _strange(spec: Any) -> str:
    if spec.type in (tuple, list, dict, None):
        found = [_strange(child) for child in spec.children()]
        return next((name for name in found if name), "")
    return str(getattr(spec.type, "__name__", spec.type))


def _signature(signature: inspect.Signature | None) -> list[Any] | None:
    if signature is None:
        return None
    found = []
    for parameter in signature.parameters.values():
        default = parameter.default
        plain = default is None or isinstance(default, (bool, int, float, str))
        found.append([parameter.name, parameter.kind.name, *([_number(default)] if plain else [])])
    return found


# -- reading ----------------------------------------------------------------------------------------------------


def loads(text: str, origin: str) -> Source:
    """The source that a text describes, with stubs for the tensors that are kept elsewhere.

    Raises FormatError for a text that isn't one.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise FormatError(f"{origin} doesn't describe a module")
        if content["version"] != VERSION:
            raise FormatError(
                f"{origin} has version {content['version']!r}, and this graphsplit reads {VERSION}",
                hint="read it with the version that wrote it",
            )
        return _read(content)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{origin} is damaged: {type(error).__name__}: {error}", hint="write it again with graphsplit split"
        ) from error


def _read(content: Mapping[str, Any]) -> Source:
    graph, held = _read_graph(content["graph"]), content["program"]
    modes = tuple(_read_mode(mode) for mode in content["modes"])
    program = TorchProgram(
        graph,
        modes[0].convention,
        bool(held["training"]),
        tuple(held["parameters"]),
        tuple(held["buffers"]),
        frozenset(held["frozen"]),
        frozenset(held["state"]),
        frozenset(held["temporary"]),
        dict(held["aliases"]),
        tuple(held["effects"]),
        dict(held["sources"]),
        modes[0].results,
        {str(name): int(size) for name, size in held["sizes"].items()},
    )
    names = {_name(name): _name(known) for name, known in content["names"]}
    strange = sorted(set(names.values()) - graph.tensors.keys())
    if strange:
        raise ValueError(f"there is no tensor {strange[0]!r}")
    holders = content["holders"]
    kinds = (frozenset(holders["parameters"]), frozenset(holders["frozen"]), frozenset(holders["temporary"]))
    return Source(Modes(program, modes), Holders(names, *kinds), _read_signature(content["signature"]))


def _read_graph(content: Mapping[str, Any]) -> Graph:
    tensors: dict[str, Tensor] = {}
    for name, kind, sizes, data in content["tensors"]:
        _name(name)
        shape, dtype = tuple(int(size) for size in sizes), np.dtype(kind)
        if data is None:
            tensors[name] = WeightlessTensor(shape, dtype)
        else:
            tensors[name] = ArrayTensor(np.frombuffer(base64.b64decode(data, validate=True), dtype).reshape(shape))
    values = tuple(map(_read_value, content["values"]))
    return Graph(
        str(content["name"]),
        tuple(map(_read_value, content["inputs"])),
        tuple(map(_read_value, content["outputs"])),
        tuple(map(_read_node, content["nodes"])),
        tensors,
        {value.name: value for value in values},
        metadata={str(key): str(text) for key, text in content["metadata"].items()},
    )


def _read_value(content: Sequence[Any]) -> Value:
    name, kind, shape = content
    return Value(_name(name), np.dtype(kind), None if shape is None else tuple(map(_dim, shape)))


def _dim(dim: Any) -> int | str | None:
    return dim if dim is None or isinstance(dim, int) else _name(dim)


def _name(text: Any) -> str:
    """A name, which may become part of generated code."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise FormatError(f"{text!r:.80} is no name that a module's description may hold")
    return text


def _read_node(content: Sequence[Any]) -> Node:
    name, op, domain, inputs, outputs, attributes = content
    held = {_name(key): _restored(value) for key, value in attributes.items()}
    return Node(_name(name), _name(op), _name(domain), 1, tuple(map(_name, inputs)), tuple(map(_name, outputs)), held)


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_restored, value))
    return float(value["float"]) if isinstance(value, dict) else value


def _read_mode(content: Mapping[str, Any]) -> Mode:
    convention = Convention(
        _read_tree(content["in"]),
        _read_tree(content["out"]),
        tuple(int(position) for position in content["positions"]),
        {int(position): _restored(value) for position, value in content["constants"]},
    )
    results = tuple(
        _name(r) if isinstance(r, str) else ConstantArgument("", _restored(r["constant"])) for r in content["results"]
    )
    effects = tuple(map(_read_node, content["effects"]))
    return Mode(bool(content["training"]), tuple(map(_name, content["inputs"])), results, effects, convention)


def _read_tree(content: Any) -> Any:
    _, schema = content
    _check_tree(schema)
    try:
        return pytree.treespec_loads(json.dumps(content))
    except NotImplementedError as error:
        raise FormatError(
            f"the network takes or gives a type that isn't known here: {error}",
            hint="import the library that defines it first",
        ) from error


def _check_tree(schema: Mapping[str, Any]) -> None:
    """Refuse what torch would import a module for: it takes names out of descriptions of enumerations and factories."""
    context = schema["context"]
    held = json.loads(context) if isinstance(context, str) else context
    if schema["type"] in _IMPORTING or _holds_enumeration(held):
        raise FormatError("the network takes or gives a container that has no form in a file")
    for child in schema["children_spec"]:
        _check_tree(child)


def _holds_enumeration(content: Any) -> bool:
    if isinstance(content, dict):
        return "__enum__" in content or any(map(_holds_enumeration, content.values()))
    return isinstance(content, list) and any(map(_holds_enumeration, content))


def _read_signature(content: Sequence[Any] | None) -> inspect.Signature | None:
    if content is None:
        return None
    return inspect.Signature(
        [
            inspect.Parameter(name, _KINDS[kind], default=_restored(default[0]) if default else inspect.Parameter.empty)
            for name, kind, *default in content
        ]
    )
