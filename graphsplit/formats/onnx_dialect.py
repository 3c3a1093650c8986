"""What the planner needs of ONNX: the rules of its ops, its shapes, and its movement ops run on integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from graphsplit.errors import RuleError, UnsupportedError
from graphsplit.facts import Fact, Facts
from graphsplit.formats import onnx_eval
from graphsplit.graph import Array, Graph, Node
from graphsplit.notation import Rule, shapes
from graphsplit.rules import Registry, registry

ATTRIBUTE = {"shape": "shape", "sizes": "split", "starts": "starts", "ends": "ends", "axes": "axes", "steps": "steps"}
"""Where an older version of an op keeps an argument: the attribute's name for each tag."""


def with_steps(attributes: Mapping[str, object]) -> Mapping[str, object]:
    """The attributes of an op with windows, with how far apart these are (`every`) if that is one number along all axes."""
    if "kernel_shape" not in attributes:
        return attributes
    steps = {int(step) for step in np.ravel(np.asarray(attributes.get("strides") or 1))}
    return {**attributes, "every": steps.pop() if len(steps) == 1 else None}


class OnnxDialect:
    """ONNX operators, with the project's rules and a user's."""

    def __init__(self, rules: Registry | None = None) -> None:
        self.rules = rules if rules is not None else registry("onnx")
        self._cache: dict[tuple[str, str, int], tuple[Rule, ...]] = {}

    def lookup(self, node: Node) -> tuple[Rule, ...]:
        """The rules of a node's op whose guards hold, in the order in which they are tried; () where there is none."""
        key = (node.domain, node.op, node.version)
        if key not in self._cache:
            self._cache[key] = self.rules.lookup(*key)
        rules = self._cache[key]
        if any(rule.guard for rule in rules):
            attributes = self.attributes(node)
            return tuple(rule for rule in rules if rule.holds(attributes))
        return rules

    def attributes(self, node: Node) -> Mapping[str, object]:
        """The node's attributes with the operator's defaults, and how far apart windows are (`every`), if that is one number."""
        rules = self._cache.get((node.domain, node.op, node.version), ())
        plain = onnx_eval.unfused(node, rules[0].fused) if rules and rules[0].fused else node
        return with_steps({**node.attributes, **onnx_eval.attributes_with_defaults(plain)})

    def argument(self, node: Node, tag: str, known: Callable[[str], Fact | None]) -> Array | None:
        """An argument that an older version of an op holds in an attribute; None where it holds none."""
        value = node.attributes.get(ATTRIBUTE.get(tag, tag))
        return None if value is None else np.asarray(value)

    def with_argument(
        self, node: Node, tag: str, value: Array, known: Callable[[str], Fact | None], emit: Callable[[Node], None]
    ) -> Node:
        """The node with such an attribute replaced."""
        return replace(
            node, attributes={**node.attributes, ATTRIBUTE.get(tag, tag): tuple(int(v) for v in np.ravel(value))}
        )

    def move(self, node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        """A movement op run on integer arrays."""
        return onnx_eval.move(node, arrays)

    def evaluate(self, graph: Graph, sizes: Mapping[str, int], parameters: frozenset[str]) -> Facts:
        """Shapes, and the content of small constants, for chosen sizes of the dynamic axes."""
        return onnx_eval.evaluate(graph, sizes, parameters, self._step(graph))

    def infer(self, graph: Graph, node: Node, inputs: Sequence[Fact | None]) -> list[Fact | None]:
        """Facts of one node's results, in a graph with these operator sets."""
        return self._step(graph)(node, list(inputs))

    def _step(self, graph: Graph) -> onnx_eval.Step:
        opsets = onnx_eval.opset_ids(graph)

        def step(node: Node, inputs: list[Fact | None]) -> list[Fact | None]:
            rules = self.lookup(node)
            if rules and rules[0].fused:
                plain = onnx_eval.unfused(node, rules[0].fused, graph.opsets.get("", 1))
                return onnx_eval.evaluate_node(plain, inputs[: len(plain.inputs)], opsets)
            found = onnx_eval.evaluate_node(node, inputs, opsets)
            unknown = found[0] is None or found[0].shape is None
            silent = unknown and not onnx_eval.infers_shapes(node, graph.opsets.get(node.domain, 1))
            return self._said(node, inputs, found) if silent else found

        return step

    def _said(self, node: Node, inputs: list[Fact | None], found: list[Fact | None]) -> list[Fact | None]:
        """Shapes of which onnx knows nothing, as the node's rule line says them."""
        known = [None if fact is None else fact.shape for fact in inputs]
        for rule in self.lookup(node):
            try:
                said = shapes(rule, known, len(node.outputs), self.attributes(node))
            except RuleError:
                continue
            types = [f.dtype for f, o in zip(inputs, rule.operands, strict=False) if f is not None and o.tag is None]
            dtype = next((t for t in types if t is not None and t.kind not in "iub"), types[0] if types else None)
            return [f if s is None else Fact(s, dtype) for s, f in zip(said, found, strict=True)]
        return found

    # -- the nodes that narrowing and merging insert -------------------------------------------------------------

    def pick(self, graph: Graph, name: str, value: str, index: str, result: str, axis: int) -> Node:
        """The elements of `value` at the positions `index` along an axis."""
        return self._node(graph, name, "Gather", (value, index), result, axis=axis)

    def pick_in_turn(
        self, graph: Graph, name: str, value: str, index: str, result: str, axis: int, period: int
    ) -> tuple[Node, ...]:
        """The elements at some positions of every run of `period` along an axis of dynamic size: no ONNX op does that."""
        raise UnsupportedError(
            f"{value!r} is divided along an axis whose size is only known at run time",
            hint="export the network with fixed sizes",
        )

    def join(self, graph: Graph, name: str, values: Sequence[str], result: str, axis: int) -> Node:
        """Values side by side along an axis."""
        return self._node(graph, name, "Concat", tuple(values), result, axis=axis)

    def same(self, graph: Graph, name: str, value: str, result: str) -> Node:
        """A value under another name."""
        return self._node(graph, name, "Identity", (value,), result)

    def add(self, graph: Graph, name: str, values: Sequence[str], result: str) -> Node:
        """The sum of values of one shape."""
        return self._node(graph, name, "Add" if len(values) == 2 else "Sum", tuple(values), result)

    def plus(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node:
        """The sum of two values, element by element."""
        return self._node(graph, name, "Add", values, result)

    def divide(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node:
        """The quotient, element by element; of whole numbers, rounded towards zero."""
        return self._node(graph, name, "Div", values, result)

    def multiply(self, graph: Graph, name: str, values: tuple[str, str], result: str) -> Node:
        """The product, element by element."""
        return self._node(graph, name, "Mul", values, result)

    def _node(self, graph: Graph, name: str, op: str, inputs: tuple[str, ...], result: str, **attributes: int) -> Node:
        version = onnx_eval.version_of(op, graph.opsets.get("", 1))
        return Node(name, op, "", version, inputs, (result,), attributes)
