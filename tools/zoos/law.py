"""Law 1 and law 7 on one module: split, changed sub-models, merged, and compared at every tap."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphsplit.errors import GraphsplitError
from graphsplit.formats.torch_nodes import call
from graphsplit.formats.torch_run import operands
from graphsplit.formats.torch_tensors import to_torch
from graphsplit.graph import Graph, Node
from graphsplit.labels import OUTPUT
from graphsplit.modules.split import ModuleSplit, split_module
from graphsplit.report import inspect
from graphsplit.verification.perturb import perturbed
from tools.shared.ways import Way
from tools.zoos.example import Example, in_double, redrawn

DOUBLE_LIMIT = 150_000_000
"""Parameters above which a model is tried in single precision, for want of memory."""
ALLOWED = {torch.float64: 1e-8, torch.float32: 3e-3}
EVIDENCE = 1e-6
"""How far two parts' values must be apart, relative to their size, for their mean to prove anything."""

Found = dict[str, Any]


def examine(example: Example, way: Way) -> Found:
    """Split a module and check its laws: what a `ZooResult` says of it. Raises what the split raises."""
    size = sum(p.numel() for p in example.model.parameters())
    example = in_double(example) if size <= DOUBLE_LIMIT and runs_in_double(example) else example
    example.model.train().eval()  # some models keep what they computed with in evaluation mode until they train
    begin, clock = time.perf_counter(), _Clock()
    with clock:
        parts = split_module(example.model, example.args, example.kwargs, k=way.k, strategy=way.strategy, seed=way.seed)
    facts = inspect(parts.plan)
    found: Found = {
        "parameters": size,
        "share": max(facts.parameter_sizes.shares),
        "repeated": len(facts.repeated),
        "private": len(facts.private),
        "export": clock.seconds,
        "planning": time.perf_counter() - begin - clock.seconds,
    }
    try:
        worst, tolerance, problem = law_1(parts, example)
    except GraphsplitError as error:
        return found | {"status": "FAILED", "reason": f"the merge of fresh sub-models is refused: {error}"}
    return found | {
        "worst": worst,
        "tolerance": tolerance,
        "status": "exact" if not problem else "FAILED",
        "reason": problem,
    }


def runs_in_double(example: Example) -> bool:
    """Whether a model computes in double what it should: one that makes single-precision values by itself may not."""
    try:
        with torch.no_grad():
            wide = in_double(example)
            found = [
                x for x in pytree.tree_leaves(wide.model(*wide.args, **wide.kwargs)) if isinstance(x, torch.Tensor)
            ]
        fits = all(bool(x.isfinite().all()) for x in found if x.is_floating_point())
    except RuntimeError:
        fits = False
    if not fits:
        example.model.float()
    return fits


class _Clock:
    """Measures what torch.export takes while it is entered."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.export = torch.export.export

    def __enter__(self) -> None:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return self.export(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begin

        torch.export.export = timed

    def __exit__(self, *_: object) -> None:
        torch.export.export = self.export


def law_1(parts: ModuleSplit, example: Example) -> tuple[float, float, str]:
    """The worst relative difference at a tap, what is allowed, and what is wrong ("" where nothing is).

    Inputs have another batch than the example's where the batch stayed free. The graphs are run op by op, for that shows the
    taps; the modules that are written from them must give what they give.
    """
    for part, module in enumerate(parts.submodels):
        change(parts, module, part)
    mode = parts.source.modes.modes[0]
    free = bool(parts.source.modes.program.sizes)
    args, kwargs = redrawn((example.args, dict(example.kwargs)), 5, extra=int(free))
    flat = pytree.tree_leaves((args, kwargs))
    given = {name: flat[at] for name, at in zip(mode.inputs, mode.convention.positions, strict=True)}
    leaves = parts.leaves()
    taps = taps_of(parts)
    outputs = [name for name in mode.results if isinstance(name, str)]
    each: list[dict[str, Any]] = []
    for leaf, module in zip(leaves, parts.submodels, strict=True):
        graph = leaf.graph.graph
        values = values_of(
            graph.replace(tensors={**graph.tensors, **leaf.tensors}), mode.nodes(graph), given, taps | set(outputs)
        )
        each.append(values)
        problem = differing(module, args, kwargs, [values[o] for o in outputs], f"sub-model {len(each) - 1}")
        if problem:
            return np.inf, 0.0, problem
    graph = parts._graph(leaves, "duplicated")
    whole = values_of(graph, mode.nodes(graph), given, taps | set(outputs))
    merged = parts.merge()
    problem = differing(merged, args, kwargs, [whole[o] for o in outputs], "the merged module")
    if problem:
        return np.inf, 0.0, problem
    worst, tolerance, problem = compared(parts, taps, outputs, each, whole)
    return worst, tolerance, problem or trains(parts.submodels[0], args, kwargs)


def trains(module: nn.Module, args: Any, kwargs: Any) -> str:
    """What is wrong with a training step of a sub-model."""
    module.train()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        leaves = [x for x in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(x, torch.Tensor)]
        total = sum((x.double().square().mean() for x in leaves if x.requires_grad), torch.zeros(()))
        torch.autograd.backward(total)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
        return f"sub-model 0 doesn't train: {type(error).__name__}: {error}"
    return ""


def change(parts: ModuleSplit, module: nn.Module, part: int) -> None:
    """Change everything of a sub-model that trains, each part in its own way."""
    from graphsplit.formats.torch_tensors import TorchTensor

    names, trained = parts.source.holders.names, parts.opened.network.trained
    state = {names.get(name, name): tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    held = {name: TorchTensor(tensor) for name, tensor in state.items() if name in trained}
    with torch.no_grad():
        for name, tensor in perturbed(held, held.keys(), (part,), strength=0.5).items():
            state[name].copy_(to_torch(tensor.numpy()))


def taps_of(parts: ModuleSplit) -> set[str]:
    """The values of the evaluation mode at which law 1 is stated."""
    flowed = parts.plan.flowed
    taps = set(flowed.averaged)
    for i in flowed.last.layout.frontier:
        names = [name for name in parts.plan.graph.nodes[i].outputs if name in flowed.labels]
        taps.update(name for name in names if (flowed.labels[name].core == OUTPUT).any())
    return taps


def values_of(graph: Graph, nodes: tuple[Node, ...], given: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The wanted values of a graph; others are dropped as soon as nothing needs them."""
    last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    kept = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in given.items()}
    values = dict(kept)
    tensors = dict(graph.tensors)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, node in enumerate(nodes):
            for name in node.inputs:
                if name and name not in values:
                    values[name] = to_torch(tensors[name].numpy())
            operand = operands(values, node.inputs)
            results = call(node, [_own(x, name, last, i, wanted) for x, name in zip(operand, node.inputs, strict=True)])
            values.update((name, x) for name, x in zip(node.outputs, results, strict=False) if name)
            for name in {*node.inputs, *node.outputs} - wanted:
                if last.get(name, -1) <= i:
                    values.pop(name, None)
    for name in wanted & tensors.keys():
        values.setdefault(name, to_torch(tensors[name].numpy()))
    return values


def _own(value: Any, name: str, last: Mapping[str, int], now: int, wanted: set[str]) -> Any:
    """An operand that the op may write into: a copy where somebody reads it later."""
    return value.clone() if isinstance(value, torch.Tensor) and (last[name] > now or name in wanted) else value


def differing(module: nn.Module, args: Any, kwargs: Any, wanted: list[Any], title: str) -> str:
    """How a written module's results differ from its graph's; "" where they don't, up to rounding."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            args, kwargs = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (args, kwargs))
            found = [x for x in pytree.tree_leaves(module.eval()(*args, **kwargs)) if isinstance(x, torch.Tensor)]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
            return f"{title} doesn't run: {type(error).__name__}: {error}"
    tensors = [x for x in wanted if isinstance(x, torch.Tensor)]
    if len(found) != len(tensors):
        return f"{title} gives {len(found)} results instead of {len(tensors)}"
    for one, other in zip(found, tensors, strict=True):
        if one.shape != other.shape:
            return f"{title} gives {tuple(one.shape)} where its graph gives {tuple(other.shape)}"
        if distance(one, other) > ALLOWED.get(one.dtype, 0.0):
            return f"{title} gives other values than its graph ({distance(one, other):.1e})"
    return ""


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference relative to the largest element; what isn't finite must be alike."""
    if not one.numel():
        return 0.0
    if one.dtype == torch.bool or not (one.is_floating_point() or one.is_complex()):
        return float((one != other).any())
    same = (one == other) | (one.isnan() & other.isnan())
    if not (one.isfinite() == other.isfinite()).all() or not (same | one.isfinite()).all():
        return float("inf")
    if bool(same.all()):
        return 0.0
    scale = torch.where(other.isfinite(), other, torch.zeros_like(other)).abs().max()
    return float(torch.where(same, torch.zeros_like(one), one - other).abs().max() / (scale + 1e-30))


def compared(
    parts: ModuleSplit, taps: set[str], outputs: list[str], each: list[dict[str, Any]], whole: dict[str, Any]
) -> tuple[float, float, str]:
    """The merged network against the mean of the parts, at every tap; divided outputs slice by slice."""
    flowed = parts.plan.flowed
    errors: list[tuple[float, float, str]] = []
    evidence = 0.0
    for tap in sorted(taps & whole.keys() & each[0].keys()):
        mean = sum(values[tap] for values in each) / len(each)
        evidence = max(evidence, distance(each[0][tap], each[-1][tap]))
        errors.append((distance(whole[tap], mean), ALLOWED.get(whole[tap].dtype, 0.0), tap))
    for name in outputs:
        if name not in flowed.labels or not (flowed.labels[name].core > 0).any():
            continue
        for values, leaf in zip(each, parts.leaves(), strict=True):
            piece = whole[name]
            for axis, chosen in enumerate(leaf.graph.selected[name].axes):
                if chosen is not None:
                    piece = piece.index_select(axis, torch.from_numpy(np.array(chosen)))
            evidence = max(evidence, 1.0)
            errors.append((distance(piece, values[name]), ALLOWED.get(piece.dtype, 0.0), name))
    if not errors:
        return np.inf, 0.0, "nothing was proved: the network has no tap"
    error, allowed, name = max(errors, key=lambda e: e[0] / max(e[1], 1e-300))
    if not np.isfinite(error) or error > allowed:
        return error, allowed, f"law 1: {name!r} differs by {error:.1e} from the mean of the parts"
    if not evidence > EVIDENCE:
        return error, allowed, "nothing was proved: all parts give the same values"
    return error, allowed, ""
