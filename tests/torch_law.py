"""Law 1 on torch graphs: perturbed sub-models, the merged graph run op by op, and what the taps say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphsplit.assemble import Layout, Leaf, assemble
from graphsplit.formats.torch_nodes import call
from graphsplit.formats.torch_run import operands
from graphsplit.formats.torch_tensors import to_torch
from graphsplit.graph import ArrayTensor, Graph
from graphsplit.labels import OUTPUT
from graphsplit.narrow import narrow
from graphsplit.network import make
from graphsplit.planning import Plan
from graphsplit.torch_network import TorchNetwork


@dataclass(frozen=True)
class Outcome:
    """The largest relative difference at a tap, how many taps there were, and the share of a part's parameters."""

    error: float
    taps: int
    share: float
    sizes: tuple[int, ...]


def perturbed(array: Any, rng: np.random.Generator) -> Any:
    if array.dtype.kind != "f":
        return array
    factor = 1 + 0.3 * rng.random(array.shape) if (array > 0).all() else 1 + 0.3 * rng.standard_normal(array.shape)
    noise = 0 if (array > 0).all() else 0.1 * rng.standard_normal(array.shape)
    return (array * factor + noise).astype(array.dtype)


def values_of(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of a graph."""
    values = {**inputs, **{name: to_torch(tensor.numpy()) for name, tensor in graph.tensors.items()}}
    with torch.no_grad():
        for node in graph.nodes:
            given = [x.clone() if isinstance(x, torch.Tensor) else x for x in operands(values, node.inputs)]
            values.update(zip(node.outputs, call(node, given), strict=False))
    return values


def layout(plan: Plan) -> Layout:
    flowed = plan.flowed
    codes = {n: frozenset(int(c) for c in np.unique(labels.core) if c < 0) for n, labels in flowed.labels.items()}
    copied = frozenset(n for n, p in plan.parameters.items() if p.role == "duplicated")
    derived = frozenset(flowed.last.derived) - frozenset(plan.parameters)
    averaged = frozenset(flowed.averaged)
    return Layout(codes, frozenset(plan.parameters), derived, copied, plan.part_nodes, plan.activation, averaged)


def leaves_of(network: TorchNetwork, plan: Plan, rng: np.random.Generator) -> list[Leaf]:
    leaves = []
    for k in range(plan.parts):
        sub = narrow(plan, network.dialect, k)
        tensors = {
            name: ArrayTensor(perturbed(t.numpy(), rng)) if name in network.trained else t
            for name, t in sub.graph.tensors.items()
        }
        slices = {n: p.selection(plan.partition.owner, k) for n, p in plan.parameters.items()}
        graph = sub.graph.replace(tensors=tensors)
        leaves.append(Leaf((k,), 1 / plan.parts, graph, sub.origin, sub.selected, slices, sub.differing))
    return leaves


def merged(network: TorchNetwork, plan: Plan, leaves: list[Leaf]) -> Graph:
    found = assemble(network.graph, network.dialect, layout(plan), leaves)
    tensors = dict(found.graph.tensors)
    for name in found.whole:
        parameter = plan.parameters[name]
        full = np.zeros(parameter.shape, np.float64)
        for leaf in leaves:
            part = leaf.graph.tensors[name].numpy()
            for index, place in leaf.slices[name].blocks(parameter.shape):
                if parameter.role == "output":
                    full[np.ix_(*index)] += part[place] / plan.parts
                else:
                    full[np.ix_(*index)] = part[place]
        tensors[name] = ArrayTensor(full.astype(network.graph.tensors[name].dtype))
    return found.graph.replace(tensors=tensors)


def law_1(network: TorchNetwork, inputs: tuple[Any, ...], parts: int, *, strategy: str = "contiguous") -> Outcome:
    """Split, perturb, merge, and compare at every tap (a divided output: slice by slice)."""
    plan = make(network, parts, strategy=strategy)
    flowed, graph = plan.flowed, plan.graph
    leaves = leaves_of(network, plan, np.random.default_rng(1))
    given = {value.name: x for value, x in zip(graph.inputs, inputs, strict=True)}
    whole = values_of(merged(network, plan, leaves), given)
    each = [values_of(leaf.graph, given) for leaf in leaves]
    taps = set(flowed.averaged)
    for i in flowed.last.layout.frontier:
        names = [o for o in graph.nodes[i].outputs if o in flowed.labels]
        taps.update(name for name in names if (flowed.labels[name].core == OUTPUT).any())
    errors = []
    for tap in taps & whole.keys() & each[0].keys():
        mean = sum(values[tap] for values in each) / parts
        errors.append(float((whole[tap] - mean).abs().max() / (mean.abs().max() + 1e-12)))
    for value in graph.outputs:
        if value.name in flowed.labels and (flowed.labels[value.name].core > 0).any():
            for values, leaf in zip(each, leaves, strict=True):
                slice_ = whole[value.name]
                for axis, chosen in enumerate(leaf.selected[value.name].axes):
                    if chosen is not None:
                        slice_ = slice_.index_select(axis, torch.from_numpy(np.array(chosen)))
                errors.append(float((slice_ - values[value.name]).abs().max()))
    sizes = [sum(int(np.prod(leaf.graph.tensors[n].shape)) for n in network.trained) for leaf in leaves]
    full = sum(int(np.prod(graph.tensors[n].shape)) for n in network.trained)
    return Outcome(max(errors, default=np.inf), len(errors), max(sizes) / full, tuple(sizes))
