"""From the nodes of an exported fx graph to neutral nodes: names, results, writes into memory, refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from graphsplit.errors import UnsupportedError
from graphsplit.formats import torch_nodes
from graphsplit.formats.torch_alias import Memory, written
from graphsplit.formats.torch_inline import inlined
from graphsplit.formats.torch_nodes import SYM, SYM_OPS
from graphsplit.formats.torch_recurrent import written_out
from graphsplit.formats.torch_source import node_source
from graphsplit.formats.torch_tensors import numpy_dtype
from graphsplit.graph import Node, Value, fresh_names

CHECKS = ("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range", "_guards_fn")
"""Ops that only check what torch.export has assumed."""

KEEPS_STATE = {"batch_norm": (3, 4), "instance_norm": (3, 4), "native_batch_norm": (3, 4), "cudnn_batch_norm": (3, 4)}
"""Ops that update some of their operands, though their schema doesn't say so: the positions."""


LIKE = {"view_as": "view.default", "reshape_as": "reshape.default"}
"""Ops that read a shape off another value, and the op that is told it."""


class Reader:
    """Reads one exported program. `names` gives the value of each fx node: a parameter's qualified name, else the node's."""

    def __init__(self, exported: ExportedProgram, tensors: dict[str, str]) -> None:
        self.graph, self.tensors = written_out(inlined(exported.graph_module)), tensors
        self.signature = exported.graph_signature
        self.names: dict[fx.Node, str] = {}
        self.lists: dict[fx.Node, list[str]] = {}
        self.values: dict[str, Value] = {}
        self.sources: dict[str, str] = {}
        self.inputs: list[str] = []
        self.results: list[str | ConstantArgument] = []
        self.updates: dict[str, str] = {}
        self.hints: dict[str, int] = {}
        self.changed: set[fx.Node] = set()
        self.trained: set[fx.Node] = set()
        self.found: list[Node] = []
        self.titles = titles(self.graph)
        self.fresh = fresh_names(set(tensors.values()))
        next(self.fresh)
        position = {node: i for i, node in enumerate(self.graph.nodes)}
        self.memory = Memory(position, self._extra, self.refusal)

    def nodes(self) -> tuple[Node, ...]:
        """All neutral nodes, in order."""
        specs = iter(self.signature.input_specs)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                spec = next(specs)
                self._placeholder(node, spec.kind, spec.arg)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node)
            elif not (node.op == "call_module" and str(node.target) in CHECKS):
                raise self.refusal(node, f"{node.op} {node.target} holds a graph or an object of its own")
        return tuple(self.found)

    # -- inputs and outputs --------------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node, kind: InputKind, argument: Any) -> None:
        if argument.name in self.tensors:
            self.names[node] = self.tensors[argument.name]
            self.trained.update([node] if kind == InputKind.PARAMETER else [])
        elif isinstance(argument, ConstantArgument):
            return
        elif kind == InputKind.USER_INPUT and isinstance(node.meta.get("val"), (torch.Tensor, torch.SymInt)):
            self.names[node] = self.fresh.send(argument.name)
            self.inputs.append(self.names[node])
        else:
            raise self.refusal(node, f"the input {argument.name!r} is neither a tensor nor a number")
        value = node.meta.get("val")
        self._describe(self.names[node], value)
        for size in _dims(value):
            if not isinstance(size, int) and isinstance(size.node.hint, int):
                self.hints[str(size)] = size.node.hint
        self.memory.seen(node)

    def _outputs(self, node: fx.Node) -> None:
        results = node.args[0]
        assert isinstance(results, (tuple, list))
        for spec, value in zip(self.signature.output_specs, results, strict=True):
            if spec.kind != OutputKind.USER_OUTPUT:
                continue
            known = self._name(value)
            self.results.append(known if known is not None else ConstantArgument("", value))

    def _describe(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            shape = tuple(size if isinstance(size, int) else str(size) for size in _dims(value))
            self.values[name] = Value(name, numpy_dtype(value.dtype), shape)
        elif value is not None:
            kind = np.float64 if isinstance(value, (float, torch.SymFloat)) else np.int64
            self.values[name] = Value(name, np.dtype(kind), ())

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        name = str(getattr(node.target, "__name__", node.target))
        source = node.args[0] if node.args else None
        if name == "getitem" and isinstance(source, fx.Node) and source in self.lists:
            self.names[node] = self.lists[source][int(node.args[1])]  # type: ignore[arg-type]
            self.memory.seen(node)
            return
        if name.partition(".")[0] in CHECKS:
            return
        domain, op = self._op(node)
        args: tuple[Any, ...] = node.args
        if op.partition(".")[0] in LIKE:
            op, args = LIKE[op.partition(".")[0]], (args[0], self._shape_of(args[1]))
        inputs, attributes = torch_nodes.encode(domain, op, args, node.kwargs, self._name)
        if op == "repeat_interleave.self_int":
            attributes.pop("output_size", None)  # it says nothing new, and a part's is another
        outputs = self._result_names(node, domain, op)
        for output, value in zip(outputs, self._result_values(node), strict=False):
            if output:
                self._describe(output, value)
        title = self.titles[node]
        self.sources[title] = node_source(node)
        self.found.append(Node(title, op, domain, 1, inputs, outputs, attributes))
        self.memory.seen(node)
        self._written(node, op)

    def _shape_of(self, value: Any) -> list[Any]:
        """The sizes of a value's axes: numbers, or nodes that read them off it when the program runs."""
        sizes: list[Any] = []
        for axis, size in enumerate(_dims(value.meta["val"])):
            if isinstance(size, int):
                sizes.append(size)
                continue
            name = self.fresh.send(f"{value.name}.size{axis}")
            self.found.append(Node(name, "size", SYM, 1, (str(self._name(value)), ""), (name,), {"arg1": axis}))
            self._describe(name, size)
            sizes.append(_Extra(name))
        return sizes

    def _written(self, node: fx.Node, op: str) -> None:
        target = written(node)
        if target is not None:
            self._note(node, target, self.titles[node])
            self.memory.write(node, target)
        for position in KEEPS_STATE.get(op.partition(".")[0], ()):
            state = node.args[position] if position < len(node.args) else None
            if isinstance(state, fx.Node):
                self._note(node, state)

    def _note(self, node: fx.Node, target: fx.Node, update: str = "") -> None:
        """Note that a node writes to a placeholder's memory, also through a view of it."""
        while target.op != "placeholder" and target.args and isinstance(target.args[0], fx.Node):
            if not self.memory.shares(target, target.args[0]):
                return
            target = target.args[0]
        if target in self.trained:
            raise self.refusal(node, f"it writes into the parameter {self.names[target]!r}")
        self.changed.add(target)
        if update and target in self.names:
            self.updates[update] = self.names[target]

    def _op(self, node: fx.Node) -> tuple[str, str]:
        target: Any = node.target
        schema = getattr(target, "_schema", None)
        if schema is not None:
            domain, _, base = schema.name.partition("::")
            if domain == "aten" and base in ("sym_size", "sym_numel"):
                return SYM, base.removeprefix("sym_")
            return domain, f"{base}.{schema.overload_name or 'default'}"
        name = str(getattr(target, "__name__", target))
        name = name.strip("_") if name.strip("_") in SYM_OPS else name
        if name in SYM_OPS:
            return SYM, name
        raise self.refusal(node, f"{name} holds a graph or works on Python objects")

    def _name(self, value: Any) -> str | None:
        """The name of the value that stands for an argument now; None for one that isn't a value."""
        if isinstance(value, _Extra):
            return value.name
        if not isinstance(value, fx.Node):
            return None
        latest = self.memory.latest(value)
        return latest.name if isinstance(latest, _Extra) else self.names.get(latest)

    def _result_values(self, node: fx.Node) -> list[Any]:
        value = node.meta.get("val")
        return list(value) if isinstance(value, (tuple, list)) else [value]

    def _result_names(self, node: fx.Node, domain: str, op: str) -> tuple[str, ...]:
        value = node.meta.get("val")
        if not isinstance(value, (tuple, list)):
            self.names[node] = self.fresh.send(self.titles[node])
            return (self.names[node],)
        read = {u.args[1] for u in node.users if getattr(u.target, "__name__", "") == "getitem"}
        every = torch_nodes.returns_list(domain, op)
        self.lists[node] = [
            self.fresh.send(f"{self.titles[node]}_{i}") if every or i in read else "" for i in range(len(value))
        ]
        return tuple(self.lists[node])

    def _extra(self, near: fx.Node, target: Any, args: tuple[Any, ...]) -> Any:
        """A node that isn't in the program, to carry a write to whoever else looks at the same memory."""
        schema = target._schema
        domain, _, base = schema.name.partition("::")
        op = f"{base}.{schema.overload_name or 'default'}"
        name = self.fresh.send(f"{self.titles[near]}.{base}")
        inputs, attributes = torch_nodes.encode(domain, op, args, {}, self._name)
        self.found.append(Node(name, op, domain, 1, inputs, (name,), attributes))
        self.sources[name] = node_source(near)
        return _Extra(name)

    def refusal(self, node: fx.Node, reason: str) -> UnsupportedError:
        """A refusal that names a node and the user's line."""
        source = node_source(node)
        where = f", called {source}" if source else ""
        return UnsupportedError(
            f"{self.titles.get(node, node.name)!r} ({node.target}{where}) can't be split: {reason}",
            hint="write this step with plain tensor ops, or split the modules around it",
        )


def titles(graph: fx.Graph) -> dict[fx.Node, str]:
    """How each op's node is called: by the module of the user's in which it is the only one, else by module and op."""
    paths: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            paths[node] = str(stack[-1][0]).partition("@")[0] if stack else ""
    alone = Counter(path for node, path in paths.items() if not _is_part(node))
    return {
        node: path if path and alone[path] == 1 and not _is_part(node) else ".".join(filter(None, (path, node.name)))
        for node, path in paths.items()
    }


def _is_part(node: fx.Node) -> bool:
    """Whether a node belongs to another one: it takes an element of its results, asks for a size, or counts a step."""
    name = str(getattr(node.target, "__name__", node.target))
    base = name.partition(".")[0]
    first = node.args[0] if node.args else None
    counts = base.endswith("_") and isinstance(first, fx.Node) and first.op == "placeholder"
    return name == "getitem" or name.startswith("sym_size") or base in CHECKS or counts


def _dims(value: Any) -> list[Any]:
    """The sizes of a tensor's axes; one that torch.export has fixed after all is a number."""
    shape = value.shape if isinstance(value, torch.Tensor) else ()
    return [int(str(size)) if str(size).isdigit() else size for size in shape]


class _Extra:
    """A value that a node made by the reader computes."""

    def __init__(self, name: str) -> None:
        self.name = name
