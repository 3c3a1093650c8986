"""Bodies put in their place: `torch.no_grad` and autocast regions, which torch.export keeps as graphs of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

NO_GRAD = "wrap_with_set_grad_enabled"
AUTOCAST = "wrap_with_autocast"


def inlined(module: fx.GraphModule) -> fx.Graph:
    """A copy of a module's graph with the bodies of gradient switches and disabled autocast in it.

    What a body without gradients gives is detached. Other ops that hold a graph stay, to be refused.
    """
    found = fx.Graph()
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        body = _body(node, module)
        if body is not None:
            inner, operands, detach = body
            values[node] = _copied(found, inner, [fx.node.map_arg(o, values.__getitem__) for o in operands], detach)
        elif node.op == "call_function" and _name(node) == "getitem" and isinstance(values.get(node.args[0]), list):
            values[node] = values[node.args[0]][node.args[1]]
        else:
            values[node] = found.node_copy(node, values.__getitem__)
    for node in reversed(found.nodes):
        if node.op == "get_attr" and not node.users:
            found.erase_node(node)
    return found


def _copied(graph: fx.Graph, inner: fx.GraphModule, operands: list[Any], detach: bool) -> list[Any]:
    body = inlined(inner)
    holes = [node for node in body.nodes if node.op == "placeholder"]
    results = graph.graph_copy(body, dict(zip(holes, operands, strict=True)))
    listed = list(results) if isinstance(results, (tuple, list)) else [results]
    return [_detached(graph, r) if detach and isinstance(r, fx.Node) else r for r in listed]


def _detached(graph: fx.Graph, value: fx.Node) -> fx.Node:
    node = graph.call_function(torch.ops.aten.detach.default, (value,))
    node.meta = dict(value.meta)
    return node


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", ""))


def _body(node: fx.Node, module: fx.GraphModule) -> tuple[fx.GraphModule, list[Any], bool] | None:
    """The graph that a node holds, what it is called with, and whether its results carry no gradient."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
        return None
    name = _name(node)
    if name == NO_GRAD:
        enabled, inner, *operands = node.args
        detach = not enabled
    elif name == AUTOCAST and node.args[2] is False:
        inner, operands, detach = node.args[4], list(node.args[5:]), False
    else:
        return None
    assert isinstance(inner, fx.Node)
    found = module.get_submodule(str(inner.target))
    assert isinstance(found, fx.GraphModule)
    return found, list(operands), detach
