"""The scale behind an output layer, folded into what stands in front of it: for modules that have no place of their own for it.

A weight that serves as embedding and as output layer can't be divided by K, so the merged network scales behind the product.
The original layers have no such place; but the product of a norm's result scales with the norm's own weight and bias, and
where these serve nothing else, they can take the scale.
"""

from __future__ import annotations

from typing import NoReturn

from graphsplit.errors import MergeError
from graphsplit.graph import Node
from graphsplit.labels import Dialect
from graphsplit.planning import Plan

JOINTLY_LINEAR = ("batch_norm", "group_norm", "layer_norm", "rms_norm", "native_layer_norm", "linear")
"""Ops whose result is the product with a weight, plus a bias: scaling all of their parameters scales it."""
PRODUCTS, SUMS = ("mul",), ("add",)


def folded(plan: Plan, dialect: Dialect) -> frozenset[str]:
    """The parameters that take the scale 1/K for every node of `plan.activation`.

    Raises MergeError where something else would be scaled too.
    """
    return _Folder(plan, dialect).run()


class _Folder:
    def __init__(self, plan: Plan, dialect: Dialect) -> None:
        self.plan, self.dialect, self.graph = plan, dialect, plan.graph
        self.scaled: set[str] = set()
        self.visited: set[int] = set(plan.activation)

    def run(self) -> frozenset[str]:
        for index in sorted(self.plan.activation):
            node = self.graph.nodes[index]
            names = [name for name in node.inputs if name]
            self.scaled.update(n for n in names if n in self.plan.parameters and self._only_here(n, {index}))
            data = [n for n in names if n not in self.plan.parameters and not self._made_of_parameters(n)]
            if len(data) != 1:
                self._refuse(node)
            self._scale(data[0], node)
        for name in self.scaled:
            readers = {i for i in self.graph.consumers.get(name, ()) if i in self.graph.alive}
            if not readers <= self.visited:
                self._refuse(self.graph.nodes[min(readers - self.visited)])
        return frozenset(self.scaled)

    def _only_here(self, name: str, nodes: set[int]) -> bool:
        """Whether a parameter serves only output layers that are scaled, as a bias does."""
        readers = {i for i in self.graph.consumers.get(name, ()) if i in self.graph.alive}
        return readers <= self.plan.activation and bool(readers & nodes) and len(self.plan.parameters[name].shape) == 1

    def _made_of_parameters(self, name: str) -> bool:
        return name in self.plan.flowed.last.derived

    def _scale(self, name: str, behind: Node) -> None:
        """Find what scales a value, and nothing but what is scaled behind it."""
        index = self.graph.producers.get(name)
        readers = {i for i in self.graph.consumers.get(name, ()) if i in self.graph.alive}
        if index is None or not readers <= self.visited or name in {value.name for value in self.graph.outputs}:
            self._refuse(behind)
        node = self.graph.nodes[index]
        if index in self.visited:
            return
        self.visited.add(index)
        base = node.op.partition(".")[0].removesuffix("_")
        rules = self.dialect.lookup(node)
        held = [n for n in node.inputs if n in self.plan.parameters]
        if rules and rules[0].move and len([n for n in node.inputs if n]) == 1:
            self._scale(node.inputs[0], node)
        elif base in JOINTLY_LINEAR and len(held) >= 1:
            state = node.inputs[3:5] if base == "batch_norm" else ()
            self.scaled.update(n for n in held if n not in state)
        elif base in PRODUCTS and len(held) == 1:
            self.scaled.update(held)
        elif base in SUMS and len(held) == 1:
            self.scaled.update(held)
            self._scale(next(n for n in node.inputs if n not in held), node)
        else:
            self._refuse(node)

    def _refuse(self, node: Node) -> NoReturn:
        scaled = self.graph.nodes[min(self.plan.activation)]
        raise MergeError(
            f"{scaled.title}: its result is scaled by 1/{self.plan.parts} behind it. The original layers have no "
            f"place for that, and {node.title} can't take the scale in front",
            hint="use merge(), whose module has it",
        )
