"""What the planner needs of torch: the rules of its ops, its shapes, and its movement ops run on integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from graphsplit.facts import Fact, Facts
from graphsplit.formats import torch_arguments, torch_eval
from graphsplit.formats.torch_nodes import OWN, defaults, size_names
from graphsplit.graph import Array, AttributeValue, Graph, Node
from graphsplit.notation import Operand, Rule
from graphsplit.rules import Registry, registry


class TorchDialect:
    """Torch operators, with the project's rules and a user's. `changing` are buffers that running the module updates."""

    def __init__(self, rules: Registry | None = None, changing: frozenset[str] = frozenset()) -> None:
        self.rules = rules if rules is not None else registry("torch")
        self.changing = changing
        self._cache: dict[tuple[str, str], tuple[Rule, ...]] = {}

    def lookup(self, node: Node) -> tuple[Rule, ...]:
        """The rules of a node's op whose guards hold: those for its overload first, then those for the op."""
        key = (node.domain, node.op)
        if key not in self._cache:
            base = torch_arguments.base(node.op)
            overload = f"{base}.{node.op.partition('.')[2]}"
            self._cache[key] = self.rules.lookup(node.domain, overload, 1) + self.rules.lookup(node.domain, base, 1)
        rules = self._cache[key]
        if any(rule.guard for rule in rules):
            attributes = self.attributes(node)
            rules = tuple(rule for rule in rules if rule.holds(attributes))
        sizes = len(size_names(node))
        return tuple(_with_sizes(rule, len(node.inputs) - sizes, sizes) for rule in rules) if sizes else rules

    def attributes(self, node: Node) -> Mapping[str, object]:
        """The node's attributes and its op's defaults; an axis and whether it is kept also under the names that rules use."""
        found: dict[str, object] = {**defaults(node.domain, node.op), **node.attributes}
        dim = found.get("dim")
        if isinstance(dim, tuple):
            found["axes"] = dim
        elif dim is not None:
            found["axis"] = dim
        found["keepdims"] = found.get("keepdim", 0)
        found["every"] = _every(found.get("stride") or found.get("kernel_size"))
        found["still"] = _still(found)
        found["operands"] = len(node.inputs) - len(size_names(node))
        if torch_arguments.base(node.op) == "index":
            found["axis"] = next((i for i, name in enumerate(node.inputs[1:]) if name), 0)
        return found

    def argument(self, node: Node, tag: str, known: torch_arguments.Known) -> Array | None:
        """An argument that a node holds in its attributes."""
        return torch_arguments.argument(node, tag, known)

    def with_argument(
        self, node: Node, tag: str, value: Array, known: torch_arguments.Known, emit: torch_arguments.Emit
    ) -> Node:
        """The node with such an argument replaced."""
        return torch_arguments.with_argument(node, tag, value, known, emit)

    def move(self, node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        """A movement op run on integer arrays."""
        return torch_eval.move(node, arrays)

    def evaluate(self, graph: Graph, sizes: Mapping[str, int], parameters: frozenset[str]) -> Facts:
        """Shapes, and the content of small constants, for chosen sizes of the dynamic axes."""
        return torch_eval.evaluate(graph, sizes, parameters | self.changing)

    def infer(self, graph: Graph, node: Node, inputs: Sequence[Fact | None]) -> list[Fact | None]:
        """Facts of one node's results."""
        return list(torch_eval.step(node, inputs))

    # -- the nodes that narrowing and merging insert -------------------------------------------------------------

    def pick(self, graph: Graph, name: str, value: str, index: str, result: str, axis: int) -> Node:
        """The elements of `value` at the positions `index` along an axis."""
        return self._node(name, "index_select.default", (value, index), result, dim=axis)

    def pick_in_turn(
        self, graph: Graph, name: str, value: str, index: str, result: str, axis: int, period: int
    ) -> tuple[Node, ...]:
        """The elements at the positions `index` of every run of `period` along an axis."""
        apart, taken = f"{result}.apart", f"{result}.taken"
        return (
            self._node(apart, "unflatten.int", (value,), apart, dim=axis, sizes=(-1, period)),
            self._node(taken, "index_select.default", (apart, index), taken, dim=axis + 1),
            self._node(name, "flatten.using_ints", (taken,), result, start_dim=axis, end_dim=axis + 1),
        )

    def join(self, graph: Graph, name: str, values: Sequence[str], result: str, axis: int) -> Node:
        """Values side by side along an axis."""
        return self._node(name, "cat.default", tuple(values), result, dim=axis)

    def same(self, graph: Graph, name: str, value: str, result: str) -> Node:
        """A value under another name."""
        return self._node(name, "alias.default", (value,), result)

    def add(self, graph: Graph, name: str, values: Sequence[str], result: str) -> Node:
        """The sum of values of one shape."""
        if len(values) == 2:
            return self._node(name, "add.Tensor", tuple(values), result, alpha=1)
        return Node(name, "sum", OWN, 1, tuple(values), (result,))

    def plus(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node:
        """The sum of two values, element by element."""
        return self._node(name, "add.Tensor", values, result)

    def divide(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node:
        """The quotient, element by element; of whole numbers, rounded towards zero."""
        return self._node(name, "div.Tensor_mode", values, result, rounding_mode="trunc")

    def multiply(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node:
        """The product, element by element."""
        return self._node(name, "mul.Tensor", values, result)

    def _node(self, name: str, op: str, inputs: tuple[str, ...], result: str, **attributes: AttributeValue) -> Node:
        return Node(name, op, "aten", 1, inputs, (result,), attributes)


def _still(attributes: Mapping[str, object]) -> int:
    """1 where the windows of an op are one element wide along its last axis and stand side by side: it leaves that axis alone."""
    size = attributes.get("kernel_size") or 0
    step, border = attributes.get("stride") or size, attributes.get("padding") or 0
    last = [value[-1] if isinstance(value, tuple | list) else value for value in (size, step, border)]
    return int(last == [1, 1, 0])


def _every(stride: object) -> object:
    """How far apart windows are, if that is the same along all axes."""
    steps = {*stride} if isinstance(stride, (tuple, list)) else {stride}
    return steps.pop() if len(steps) == 1 else None


@lru_cache(maxsize=4096)
def _with_sizes(rule: Rule, tensors: int, sizes: int) -> Rule:
    """A rule for a node that has named sizes behind its tensors: they are arguments."""
    held = rule.operands
    if not held and rule.refuse:
        return rule
    last = replace(held[-1], repeated=False) if held and held[-1].repeated else Operand(None)
    front = tuple(replace(o, repeated=False) for o in held[:tensors])
    front += (last,) * (tensors - len(front))
    return replace(rule, operands=front + (Operand(None, tag=""),) * sizes)
