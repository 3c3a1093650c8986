"""The sub-models' optimizers merged into one: parameters matched by identity, state by `recombine.moments`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsplit.errors import MergeError
from graphsplit.graph import Array
from graphsplit.merging import LeafModel
from graphsplit.recombine.moments import Adaptive, merge_adaptive, merge_linear, rescaled_moment
from graphsplit.recombine.tensors import Leaf

if TYPE_CHECKING:
    import torch
    from torch import nn

    from graphsplit.modules.split import ModuleSplit

LINEAR = ("momentum_buffer",)
FIRST = ("exp_avg", "grad_avg")
SECOND = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
DIVISORS = ("max_exp_avg_sq", "exp_avg_sq", "square_avg", "sum")
"""State by what it is: updates, averages of gradients, averages of their squares; and what an update divides by."""


@dataclass(frozen=True)
class _Given:
    """A sub-model's optimizer: for each tensor's name its state, and the number of its group."""

    optimizer: torch.optim.Optimizer
    states: Mapping[str, Mapping[str, Any]]
    group: Mapping[str, int]


def merge_into(
    split: ModuleSplit,
    leaves: Sequence[LeafModel],
    optimizers: Sequence[torch.optim.Optimizer],
    into: torch.optim.Optimizer,
) -> None:
    """Merge the optimizers of a split's sub-models into that of its source or of a merged module."""
    if len(optimizers) != split.parts:
        raise MergeError(f"{len(optimizers)} optimizers were given, and the split has {split.parts} parts")
    given = [_read(split, part, optimizer) for part, optimizer in enumerate(optimizers)]
    for one in given:
        if type(one.optimizer) is not type(into):
            raise MergeError(
                f"a sub-model was trained with {type(one.optimizer).__name__}, and {type(into).__name__} is to go on",
                hint="the optimizers must be of one class",
            )
    targets = _targets(split, into)
    merged: dict[Any, dict[str, Any]] = {}
    for parameter, name in targets.items():
        found = _state(split, leaves, given, name)
        if found:
            merged[parameter] = {key: _as_torch(value, parameter, key) for key, value in found.items()}
    groups = _groups(split, given, into, targets)
    for parameter, state in merged.items():
        into.state[parameter].clear()
        into.state[parameter].update(state)
    into.param_groups[:] = groups


# -- parameters by identity -------------------------------------------------------------------------------------


def _by_identity(module: nn.Module) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), name)
    return found


def _read(split: ModuleSplit, part: int, optimizer: torch.optim.Optimizer) -> _Given:
    known = _by_identity(split.submodels[part])
    states: dict[str, Mapping[str, Any]] = {}
    group: dict[str, int] = {}
    for number, held in enumerate(optimizer.param_groups):
        for parameter in held["params"]:
            if id(parameter) not in known:
                raise MergeError(
                    f"optimizer {part} holds a parameter of shape {list(parameter.shape)} that sub-model {part} hasn't",
                    hint="give the optimizers in the order of the sub-models",
                )
            name = split.source.holders.names[known[id(parameter)]]
            group[name] = number
            if optimizer.state.get(parameter):
                states[name] = optimizer.state[parameter]
    return _Given(optimizer, states, group)


def _targets(split: ModuleSplit, into: torch.optim.Optimizer) -> dict[Any, str]:
    """The parameters of an optimizer by the names that the graph, or its merged form, knows them by."""
    merged = [module for reference in reversed(split.written) if (module := reference()) is not None]
    for module in (split.model, *merged):
        known = _by_identity(module)
        held = [parameter for group in into.param_groups for parameter in group["params"]]
        if all(id(parameter) in known for parameter in held):
            names = getattr(module, "names", split.source.holders.names)
            return {parameter: names[known[id(parameter)]] for parameter in held}
    raise MergeError(
        "the optimizer to merge into holds parameters of neither the source nor a merged module of this split",
        hint="make it from model.parameters(), or from those of what merge() gave",
    )


# -- state ------------------------------------------------------------------------------------------------------


def _state(
    split: ModuleSplit, leaves: Sequence[LeafModel], given: Sequence[_Given], name: str
) -> dict[str, Any] | None:
    entries = split.opened.entries
    if name not in entries:
        for part, leaf in enumerate(leaves):
            source = name.removesuffix(f".{leaf.graph.suffix}")
            if source != name and source in entries:
                return dict(given[part].states.get(source, {})) or None
        return None
    found = [one.states.get(name) for one in given]
    held = [state for state in found if state]
    if not held:
        return None
    keys = list(dict.fromkeys(key for state in held for key in state if state[key] is not None))
    for key in keys:
        if key != "step" and key not in (*LINEAR, *FIRST, *SECOND):
            raise MergeError(
                f"{type(given[0].optimizer).__name__} keeps {key!r} for {name!r}, and there is no rule to merge that",
                hint="SGD, Adam, AdamW, RMSprop and Adagrad have one; or start the optimizer anew",
            )
    step = max((float(state["step"]) for state in held if "step" in state), default=0.0)
    arrays = [
        _arrays(state, one, name, leaf, keys, step) for state, one, leaf in zip(found, given, leaves, strict=True)
    ]
    pieces = [Leaf(leaf.path, leaf.graph.slices[name], leaf.weight, leaf.tensors[name], leaf.label) for leaf in leaves]
    merged: dict[str, Any] = {}
    entry, groups = entries[name], split.manifest.groups
    for key in (key for key in keys if key in LINEAR):
        merged[key] = merge_linear(entry, groups, pieces, [held_arrays[key] for held_arrays in arrays])
    seconds = [key for key in keys if key in SECOND]
    if seconds:
        divisor = next(key for key in DIVISORS if key in seconds)
        firsts = [key for key in keys if key in FIRST]
        states = [Adaptive({k: a[k] for k in firsts}, {k: a[k] for k in seconds}, divisor) for a in arrays]
        merged.update(merge_adaptive(entry, groups, pieces, states))
    if "step" in keys:
        like = next(state["step"] for state in held if "step" in state)
        merged["step"] = like.new_tensor(step) if hasattr(like, "new_tensor") else step
    return merged


def _arrays(
    state: Mapping[str, Any] | None, one: _Given, name: str, leaf: LeafModel, keys: Sequence[str], step: float
) -> dict[str, Array]:
    """One leaf's state as arrays, brought to a step count; zeros where it has none yet."""
    betas = one.optimizer.param_groups[one.group[name]].get("betas") if name in one.group else None
    decays = {"exp_avg": betas[0], "exp_avg_sq": betas[1], "max_exp_avg_sq": betas[1]} if betas else {}
    found: dict[str, Array] = {}
    for key in (key for key in keys if key != "step"):
        if not state or state.get(key) is None:
            found[key] = np.zeros(leaf.tensors[name].shape)
            continue
        array = state[key].detach().cpu().double().numpy()
        found[key] = rescaled_moment(array, decays[key], float(state["step"]), step) if key in decays else array
    return found


def _as_torch(value: Any, parameter: torch.Tensor, key: str) -> Any:
    import torch

    if key == "step":  # a number, or a tensor: on the CPU, or with the parameter
        on_cpu = not isinstance(value, torch.Tensor) or value.device.type == "cpu"
        return value if on_cpu else value.to(parameter.device)
    if isinstance(value, torch.Tensor):
        return value.detach().clone().to(parameter.device)
    return torch.from_numpy(np.ascontiguousarray(value)).to(device=parameter.device, dtype=parameter.dtype)


# -- groups -----------------------------------------------------------------------------------------------------


def _groups(
    split: ModuleSplit, given: Sequence[_Given], into: torch.optim.Optimizer, targets: Mapping[Any, str]
) -> list[dict[str, Any]]:
    """The groups of the merged optimizer: the sub-models', with their settings. Parameters that none of them has stay."""
    settings = [_settings(given, number) for number in range(len(given[0].optimizer.param_groups))]
    members: list[list[Any]] = [[] for _ in settings]
    rest: list[dict[str, Any]] = []
    for group in into.param_groups:
        left: list[Any] = []
        for parameter in group["params"]:
            number = _group_of(split, given, targets[parameter])
            (left if number is None else members[number]).append(parameter)
        if left:
            rest.append({**group, "params": left})
    first = into.param_groups[0]
    found = [{**first, **s, "params": held} for s, held in zip(settings, members, strict=True) if held]
    return [*found, *rest]


def _group_of(split: ModuleSplit, given: Sequence[_Given], name: str) -> int | None:
    names = [name, *(name.removesuffix(f".part_{part}") for part in range(split.parts))]
    found = {one.group[n] for one in given for n in names if n in one.group}
    if len(found) > 1:
        raise MergeError(
            f"{name!r} is in group {min(found)} of one optimizer and in group {max(found)} of another",
            hint="group the sub-models' parameters alike",
        )
    return found.pop() if found else None


def _settings(given: Sequence[_Given], number: int) -> dict[str, Any]:
    """A group's settings, which must be the same in all parts."""
    if any(number >= len(one.optimizer.param_groups) for one in given):
        raise MergeError(
            "the optimizers have different numbers of groups", hint="group the sub-models' parameters alike"
        )
    held = [one.optimizer.param_groups[number] for one in given]
    for key, value in held[0].items():
        other = next((h.get(key) for h in held if key != "params" and h.get(key) != value), value)
        if other is not value and key != "params":
            raise MergeError(
                f"{key!r} of group {number} is {value!r} in one optimizer and {other!r} in another",
                hint="bring the optimizers to the same settings before the merge",
            )
    return {key: value for key, value in held[0].items() if key != "params"}
