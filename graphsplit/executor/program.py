"""A graph compiled once: what is constant is computed, what only shapes decide stays on the host, the rest is straight code.

Values are of three kinds. *Constants* are stored or computed from stored ones. *Sizes* are computed from shapes and
constants alone; they live on the CPU, and are kept for the next call with the same input shapes. All others are *data*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from graphsplit.errors import UnsupportedError
from graphsplit.executor.ops import Attributes, Frame, Op, Run, Tensor
from graphsplit.executor.table import implementation
from graphsplit.formats.onnx_eval import attributes_with_defaults
from graphsplit.formats.torch_tensors import TORCH, to_torch
from graphsplit.graph import Graph, Node

FOLDED = 1 << 24
"""Largest number of elements of a value that is computed beforehand."""
_CPU = torch.device("cpu")
_NOWHERE = Frame(training=False, device=_CPU)

Read = tuple[str, str]
"""A value as an operand of a line: its name, and how it is read (`tensor`, `numbers`)."""


@dataclass(frozen=True)
class Program:
    """A compiled graph. `stored` names the tensors that its functions take, in order, then the inputs follow.

    `whole` gives the outputs and what it read of sizes; `steady` takes these instead of computing them again, and is None
    where the sizes depend on more than the inputs' shapes.
    """

    stored: tuple[str, ...]
    constants: Mapping[str, Tensor]
    whole: Run
    steady: Run | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self


@dataclass(frozen=True, slots=True)
class _Line:
    """A node to run: its function, its operands, and what it gives."""

    node: Node
    op: Op
    run: Run
    operands: tuple[Any, ...]
    """For each operand a Read, or a Known."""
    host: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """An operand that is a Python value."""

    value: Any


@dataclass
class _State:
    """What the compiler knows so far."""

    constants: dict[str, Tensor] = field(default_factory=dict)
    host: set[str] = field(default_factory=set)
    ragged: set[str] = field(default_factory=set)
    lines: list[_Line] = field(default_factory=list)
    repeatable: bool = True


def compiled(graph: Graph, trained: Iterable[str]) -> Program:
    """Compile the nodes that the outputs depend on.

    Raises UnsupportedError for an op without implementation, a sub-graph, or an element type that torch lacks.
    """
    return _Compiler(graph, frozenset(trained)).program()


def implementations(graph: Graph) -> dict[int, Op]:
    """The implementation of every node that is run, by its index. Raises UnsupportedError for one that has none."""
    found = {}
    for i in sorted(graph.alive):
        node = graph.nodes[i]
        op = None if node.has_body else implementation(node.domain, node.op, node.version)
        if op is None:
            what = "it holds a sub-graph" if node.has_body else "there is no implementation of this op"
            raise UnsupportedError(
                f"{node.title} (version {node.version}) can't be trained: {what}",
                hint="train the sub-model with a tool that runs this op, and merge the files that it writes",
            )
        found[i] = op
    return found


class _Compiler:
    def __init__(self, graph: Graph, trained: frozenset[str]) -> None:
        self.graph, self.trained = graph, trained
        self.state = _State()
        self.implementations = implementations(graph)
        self.outputs = {value.name for value in graph.outputs}

    def program(self) -> Program:
        self._store_constants()
        for i in sorted(self.graph.alive):
            self._add(self.graph.nodes[i], self.implementations[i])
        writer = _Writer(self.graph, self.trained, self.state)
        whole = writer.function(steady=False)
        steady = writer.function(steady=True) if self.state.repeatable and self.state.host else None
        constants = {name: self.state.constants[name] for name in writer.stored if name not in self.trained}
        return Program(tuple(writer.stored), constants, whole, steady)

    def _store_constants(self) -> None:
        """Turn stored tensors that don't train and are read into torch's."""
        read = {name for i in self.graph.alive for name in self.graph.nodes[i].inputs} | self.outputs
        for name in sorted(read & self.graph.tensors.keys() - self.trained):
            tensor = self.graph.tensors[name]
            if tensor.dtype not in TORCH:
                raise UnsupportedError(
                    f"tensor {name!r} holds {tensor.dtype.name} elements, which torch doesn't compute with",
                    hint="train the float model",
                )
            self.state.constants[name] = to_torch(tensor.numpy())

    def _add(self, node: Node, op: Op) -> None:
        state = self.state
        given = [name for name in node.inputs if name]
        tracked = bool(op.statistics) and all(node.inputs[i] in self.trained for i in op.statistics)
        attributes = Attributes(node, attributes_with_defaults(node), tracked)
        operands = self._operands(node, op)
        line = _Line(node, op, op.make(attributes), operands, host=False)
        results = [name for name in node.outputs if name]
        if op.fixed and not op.sizes and all(name in state.constants for name in given):
            if self._fold(line):
                return
        elif op.sizes and given[0] in state.ragged:
            state.repeatable = False
        known = all(name in state.constants or name in state.host for name in given)
        if op.sizes or (op.fixed and given and known):
            state.host.update(results)
            state.lines.append(_Line(node, op, line.run, operands, host=True))
            return
        if op.ragged or any(name in state.ragged for name in given) or self._bounded_by_data(node, op):
            state.ragged.update(results)
        state.lines.append(line)

    def _bounded_by_data(self, node: Node, op: Op) -> bool:
        """Whether sizes or bounds of a node are data."""
        names = [node.inputs[i] for i in op.host if i < len(node.inputs) and node.inputs[i]]
        return any(name not in self.state.constants and name not in self.state.host for name in names)

    def _operands(self, node: Node, op: Op) -> tuple[Any, ...]:
        """How a node's operands are read; an older version's argument comes from its attribute."""
        found: list[Any] = []
        for position in range(max([len(node.inputs), *(p + 1 for p, n in op.host.items() if n in node.attributes)])):
            name = node.inputs[position] if position < len(node.inputs) else ""
            if not name:
                argument = node.attributes.get(op.host.get(position) or "")
                found.append(_Known(list(argument) if isinstance(argument, tuple) else argument))
            elif position in op.host:
                found.append(
                    _Known(_numbers(self.state.constants[name])) if name in self.state.constants else (name, "numbers")
                )
            elif position in op.numbers and name in self.state.constants and not self.state.constants[name].ndim:
                found.append(_Known(self.state.constants[name].item()))
            else:
                found.append((name, "tensor"))
        return tuple(found)

    def _fold(self, line: _Line) -> bool:
        """Compute a node of constants. False where what it gives is too large to be kept."""
        values = [o.value if isinstance(o, _Known) else self.state.constants[o[0]] for o in line.operands]
        with torch.no_grad():
            results = line.run(*([_NOWHERE] if line.op.framed else []), *values)
        results = tuple(results) if line.op.many else (results,)
        if sum(result.numel() for result in results) > FOLDED:
            return False
        self.state.constants.update((n, r) for n, r in zip(line.node.outputs, results, strict=False) if n)
        return True


def _numbers(tensor: Tensor) -> Any:
    """A tensor's elements as Python numbers: a list, or one number where it has no axes."""
    return tensor.tolist()


class _Writer:
    """The lines as the source of a function, which Python compiles."""

    def __init__(self, graph: Graph, trained: frozenset[str], state: _State) -> None:
        self.graph, self.trained, self.state = graph, trained, state
        self.names: dict[str, str] = {}
        self.scope: dict[str, Any] = {"numbers": _numbers}
        self.stored: list[str] = []
        for line in state.lines:
            reads = [o for o in line.operands if not isinstance(o, _Known)]
            self.stored += [n for n, _ in reads if n in trained or (n in state.constants and not line.host)]
        self.stored += [v.name for v in graph.outputs if v.name in trained or v.name in state.constants]
        self.stored = list(dict.fromkeys(self.stored))
        self.sizes = self._read_sizes()

    def _read_sizes(self) -> list[Read]:
        """What data lines, and outputs, read of sizes."""
        found: dict[Read, None] = {}
        for line in self.state.lines:
            for operand in line.operands if not line.host else ():
                if not isinstance(operand, _Known) and operand[0] in self.state.host:
                    found[operand] = None
        for value in self.graph.outputs:
            if value.name in self.state.host:
                found[value.name, "tensor"] = None
        return list(found)

    def name(self, value: str) -> str:
        return self.names.setdefault(value, f"v{len(self.names)}")

    def constant(self, value: Any) -> str:
        """A Python value, in the source where it may stand there."""
        if value is None or isinstance(value, (bool, int)):
            return repr(value)
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def function(self, *, steady: bool) -> Run:
        """The function that runs the lines; `steady`: with the sizes given."""
        arguments = ["frame", "stored", *(["sizes"] if steady else []), *(self.name(v.name) for v in self.graph.inputs)]
        text = [f"def run({', '.join(arguments)}):"]
        if self.stored:
            text.append(f" ({', '.join(map(self.name, self.stored))},) = stored")
        if steady and self.sizes:
            text.append(f" ({', '.join(map(self._size, self.sizes))},) = sizes")
        made: set[str] = set()
        lines = [line for line in self.state.lines if not (steady and line.host)]
        last = self._last_uses(lines)
        for position, line in enumerate(lines):
            text.append(" " + self._line(line))
            made.update(name for name in line.node.outputs if name)
            if not steady:
                text += [
                    f" {self._size(read)} = {self._size_of(read)}"
                    for read in self.sizes
                    if read[0] in line.node.outputs
                ]
            freed = [self.name(n) for n in last.get(position, ()) if n in made]
            text += [f" del {', '.join(freed)}"] if freed else []
        outputs = [self._output(value.name) for value in self.graph.outputs]
        sizes = "" if steady else f", ({''.join(self._size(read) + ', ' for read in self.sizes)})"
        text.append(f" return ({', '.join(outputs)},){sizes}")
        scope = dict(self.scope)
        exec("\n".join(text), scope)  # noqa: S102 - the source is made above, of generated names alone
        return cast(Run, scope["run"])

    def _line(self, line: _Line) -> str:
        function = self.constant(line.run)
        operands = [self._operand(operand, line.host) for operand in line.operands]
        call = f"{function}({', '.join(['frame'] * line.op.framed + operands)})"
        if not line.op.many:
            return f"{self.name(line.node.outputs[0])} = {call}"
        results = [self.name(name) if name else "_" for name in line.node.outputs]
        return f"{results[0]} = {call}[0]" if len(results) == 1 else f"{', '.join(results)}, *_ = {call}"

    def _operand(self, operand: Any, host: bool) -> str:
        if isinstance(operand, _Known):
            return self.constant(operand.value)
        name, kind = cast(Read, operand)
        if host and name in self.state.constants:
            return self.constant(self.state.constants[name])
        if not host and name in self.state.host:
            return self._size(operand)
        return f"numbers({self.name(name)})" if kind == "numbers" else self.name(name)

    def _output(self, name: str) -> str:
        return self._size((name, "tensor")) if name in self.state.host else self.name(name)

    def _size(self, read: Read) -> str:
        return f"{self.name(read[0])}_{read[1]}"

    def _size_of(self, read: Read) -> str:
        return f"numbers({self.name(read[0])})" if read[1] == "numbers" else f"frame.near({self.name(read[0])})"

    def _last_uses(self, lines: Sequence[_Line]) -> dict[int, list[str]]:
        """The values that a line is the last to read, or that nothing reads."""
        last: dict[str, int] = {}
        for position, line in enumerate(lines):
            names = [o[0] for o in line.operands if not isinstance(o, _Known)]
            last.update(dict.fromkeys((*names, *(n for n in line.node.outputs if n)), position))
        found: dict[int, list[str]] = {}
        for name, position in last.items():
            if name not in {value.name for value in self.graph.outputs}:
                found.setdefault(position, []).append(name)
        return found
