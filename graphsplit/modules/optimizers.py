"""The sub-models' optimizers merged into one: parameters matched by identity, state by `recombine.moments`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsplit.errors import MergeError
from graphsplit.graph import Array
from graphsplit.merging import LeafModel, Opened
from graphsplit.modules.fold import folded
from graphsplit.modules.groups import Settings, merged_groups, refuse_missing_state
from graphsplit.modules.source import unwrapped
from graphsplit.recombine.moments import Adaptive, merge_adaptive, merge_linear, rescaled_moment
from graphsplit.recombine.tensors import Leaf

if TYPE_CHECKING:
    import torch
    from torch import nn

    from graphsplit.modules.split import ModuleSplit

KNOWN = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
"""The optimizers of torch whose updates are known to be what their state says. Others keep state of the same names, and
update by it in another way (RAdam's first steps, Lion, Muon)."""
LINEAR = ("momentum_buffer",)
FIRST = ("exp_avg", "grad_avg")
SECOND = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
DIVISORS = ("max_exp_avg_sq", "exp_avg_sq", "square_avg", "sum")
"""State by what it is: updates, averages of gradients, averages of their squares; and what an update divides by."""
CORRECTED = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}
"""Averages that an update divides by 1 - beta ** steps, and which of the betas that is."""


@dataclass(frozen=True)
class _Given:
    """A sub-model's optimizer: for each tensor's name its state, and the number of its group."""

    optimizer: torch.optim.Optimizer
    states: Mapping[str, Mapping[str, Any]]
    group: Mapping[str, int]

    def betas(self, name: str) -> Any:
        """The betas that a tensor's averages have, if any."""
        return self.optimizer.param_groups[self.group[name]].get("betas") if name in self.group else None


def merge_into(
    split: ModuleSplit,
    optimizers: Sequence[Any],
    into: torch.optim.Optimizer,
    trained: Sequence[Any] | None = None,
    settings: Settings = "submodels",
) -> None:
    """Merge the optimizers of a split's sub-models into that of its source or of a merged module. It changes at the end only."""
    if settings not in ("submodels", "into"):
        raise MergeError(f"there are no settings {settings!r} to take", hint="choose submodels or into")
    into = _own(into)
    modules = dict(_modules(split, trained))
    flat = list(_flat(optimizers))
    if len(flat) != len(modules):
        raise MergeError(
            f"{len(flat)} optimizer{'s were' if len(flat) != 1 else ' was'} given, and there are {len(modules)} sub-models",
            hint="give one for each, in their order; where a sub-model was split again, give what merge() takes: "
            "trained=[inner, parts.submodels[1], …]",
        )
    leaves = split.leaves(trained, allow_nonfinite=True)
    _check_kinds(flat, into)
    given = [
        _read(number, one, path, module, split.source.holders.names)
        for number, (one, (path, module)) in enumerate(zip(flat, modules.items(), strict=True))
    ]
    given = [given[number] for number in _order(leaves, list(modules.values()))]
    module, targets = _targets(split, into)
    scaled: frozenset[str] = frozenset()
    if module is split.model and split.plan.activation and split.parts > 1:
        scaled = folded(split.plan, split.opened.network.dialect)
    _merge(split.opened, leaves, given, into, targets, settings, scaled)


def merge_named_into(
    opened: Opened,
    leaves: Sequence[LeafModel],
    trained: Sequence[tuple[nn.Module, torch.optim.Optimizer]],
    into: torch.optim.Optimizer,
    module: nn.Module,
) -> None:
    """Merge the optimizers of networks that weren't split as modules, one for each leaf, into that of the merged `module`.

    All these modules name their parameters as the graphs do. Raises MergeError.
    """
    _check_kinds([optimizer for _, optimizer in trained], into)
    given = []
    for number, (one, optimizer) in enumerate(trained):
        names = {name: name for name in _by_identity(one).values()}
        given.append(_read(number, optimizer, str(number), one, names))
    known = _by_identity(module)
    targets = {parameter: known[id(parameter)] for group in into.param_groups for parameter in group["params"]}
    _merge(opened, leaves, given, into, targets, "submodels", frozenset())


def _merge(
    opened: Opened,
    leaves: Sequence[LeafModel],
    given: Sequence[_Given],
    into: torch.optim.Optimizer,
    targets: Mapping[Any, str],
    settings: Settings,
    scaled: frozenset[str],
) -> None:
    """Merge what was read; `into` changes at the end only."""
    suffixes = [leaf.graph.suffix for leaf in leaves]
    groups = into.param_groups if settings == "into" else merged_groups(given, into, targets, suffixes)
    merged: dict[Any, dict[str, Any]] = {}
    for group in groups:
        for parameter in group["params"]:
            name = targets[parameter]
            found = _state(opened, leaves, given, name, group.get("betas"), scaled=name in scaled)
            if found:
                merged[parameter] = {key: _as_torch(value, parameter, key, group) for key, value in found.items()}
    refuse_missing_state(groups, merged, targets)
    for parameter, state in merged.items():
        into.state[parameter].clear()
        into.state[parameter].update(state)
    into.param_groups[:] = groups


def _flat(optimizers: Any) -> Iterator[Any]:
    """Optimizers in order, out of lists that may mirror the tree of splits."""
    for one in optimizers:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        else:
            yield _own(one)


def _own(optimizer: Any) -> Any:
    """The optimizer in a trainer's wrapper (Lightning's, Accelerate's)."""
    while hasattr(inner := getattr(optimizer, "optimizer", None), "param_groups"):
        optimizer = inner
    return optimizer


def _check_kinds(given: Sequence[torch.optim.Optimizer], into: torch.optim.Optimizer) -> None:
    import torch

    for one in given:
        if type(one) is not type(into):
            raise MergeError(
                f"a sub-model was trained with {type(one).__name__}, and {type(into).__name__} is to go on",
                hint="the optimizers must be of one class",
            )
    if not isinstance(into, tuple(getattr(torch.optim, name) for name in KNOWN)):
        raise MergeError(
            f"there is no rule to merge the state of {type(into).__name__}",
            hint=f"{', '.join(KNOWN)} have one; or start the optimizer of the merged module anew",
        )


# -- parameters by identity -------------------------------------------------------------------------------------


def _modules(split: ModuleSplit, trained: Sequence[Any] | None, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules at the ends of the tree of splits, by their path in it."""
    for part, item in enumerate(split.submodels if trained is None else trained):
        inner = unwrapped(item)
        if hasattr(item, "submodels"):
            yield from _modules(item, None, f"{path}{part}.")
        elif hasattr(inner, "named_parameters"):
            yield f"{path}{part}", inner
        else:
            raise MergeError(
                f"sub-model {path}{part} is given as {'a state dict' if isinstance(item, Mapping) else repr(item)}, and "
                "an optimizer knows its parameters, not their names",
                hint="give the module that was trained",
            )


def _order(leaves: Sequence[LeafModel], modules: Sequence[nn.Module]) -> Sequence[int]:
    """Which of the modules each leaf is: those that say which part they are may be given in any order."""
    first = [next((p.data_ptr() for p in module.parameters() if p.numel()), 0) for module in modules]
    found = [
        next((n for n, pointer in enumerate(first) if any(_pointer(t) == pointer for t in leaf.tensors.values())), -1)
        for leaf in leaves
    ]
    return found if sorted(found) == list(range(len(modules))) else range(len(modules))


def _pointer(tensor: Any) -> Any:
    held = getattr(tensor, "tensor", None)
    return None if held is None else held.data_ptr()


def _by_identity(module: nn.Module) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), name)
    return found


def _read(
    number: int, optimizer: torch.optim.Optimizer, path: str, module: nn.Module, names: Mapping[str, str]
) -> _Given:
    known = _by_identity(module)
    states: dict[str, Mapping[str, Any]] = {}
    group: dict[str, int] = {}
    for index, held in enumerate(optimizer.param_groups):
        for parameter in held["params"]:
            own = known.get(id(parameter))
            if own is None or own not in names:
                raise MergeError(
                    f"optimizer {number} holds a parameter of shape {list(parameter.shape)} that sub-model {path} hasn't",
                    hint="give the optimizers in the order of the sub-models; if they were made for copies of these, "
                    "give the copies: trained=[…]",
                )
            name = names[own]
            group[name] = index
            state = {key: value for key, value in optimizer.state.get(parameter, {}).items() if value is not None}
            for key in state:
                if key != "step" and key not in (*LINEAR, *FIRST, *SECOND):
                    raise MergeError(
                        f"{type(optimizer).__name__} keeps {key!r} for {name!r}, and there is no rule to merge that",
                        hint=f"the state that {', '.join(KNOWN)} keep has one; or start the optimizer anew",
                    )
            if state:
                states[name] = state
    return _Given(optimizer, states, group)


def _targets(split: ModuleSplit, into: torch.optim.Optimizer) -> tuple[nn.Module, dict[Any, str]]:
    """The module of an optimizer, and its parameters by the names that the graph, or its merged form, knows them by."""
    merged = [module for reference in reversed(split.written) if (module := reference()) is not None]
    for module in (known for known in (split.model, *merged) if known is not None):
        known = _by_identity(module)
        held = [parameter for group in into.param_groups for parameter in group["params"]]
        if all(id(parameter) in known for parameter in held):
            names = getattr(module, "split_names", split.source.holders.names)
            return module, {parameter: names[known[id(parameter)]] for parameter in held}
    raise MergeError(
        "the optimizer to merge into holds parameters of neither the source nor a merged module of this split",
        hint="make it from model.parameters(), or from those of what merge() gave",
    )


# -- state ------------------------------------------------------------------------------------------------------


def _state(
    opened: Opened, leaves: Sequence[LeafModel], given: Sequence[_Given], name: str, betas: Any, *, scaled: bool
) -> dict[str, Any] | None:
    """The merged state of a parameter, whose averages will go on with these betas; None where no sub-model has any.

    `scaled`: it takes the scale behind an output layer, as its weights do in the original layers.
    """
    entries = opened.entries
    if name not in entries:
        return _state_of_copy(entries, leaves, given, name, betas)
    found = [one.states.get(name) for one in given]
    held = [state for state in found if state]
    if not held:
        return None
    keys = list(dict.fromkeys(key for state in held for key in state))
    step = max((float(state["step"]) for state in held if "step" in state), default=0.0)
    arrays = [
        {
            key: _array(state, key, leaf.tensors[name].shape, one.betas(name), betas, step)
            for key in keys
            if key != "step"
        }
        for state, one, leaf in zip(found, given, leaves, strict=True)
    ]
    pieces = [Leaf(leaf.path, leaf.graph.slices[name], leaf.weight, leaf.tensors[name], leaf.label) for leaf in leaves]
    merged: dict[str, Any] = {}
    entry, groups = entries[name], opened.manifest.groups
    if scaled:
        behind = entry.scale == "activation"
        arrays = [_scaled(one, float(leaf.weight), behind=behind) for one, leaf in zip(arrays, leaves, strict=True)]
    for key in (key for key in keys if key in LINEAR):
        merged[key] = merge_linear(entry, groups, pieces, [held_arrays[key] for held_arrays in arrays])
    seconds = [key for key in keys if key in SECOND]
    if seconds:
        divisor = next(key for key in DIVISORS if key in seconds)
        firsts = [key for key in keys if key in FIRST]
        states = [
            Adaptive({k: a[k] for k in firsts}, {k: a[k] for k in seconds}, divisor, held=bool(state))
            for a, state in zip(arrays, found, strict=True)
        ]
        merged.update(merge_adaptive(entry, groups, pieces, states))
    if "step" in keys:
        like = next(state["step"] for state in held if "step" in state)
        merged["step"] = like.new_tensor(step) if hasattr(like, "new_tensor") else step
    return merged


def _scaled(arrays: Mapping[str, Array], weight: float, *, behind: bool) -> dict[str, Array]:
    """One leaf's state of a parameter that is multiplied by its weight in the original layers: its update is so as well.

    Its gradient will be larger by as much, and the averages of squares are brought to that. `behind`: not so for an output
    layer's own bias, whose gradient stays, as that of every output weight does.
    """
    factors = dict.fromkeys(LINEAR, weight)
    factors.update((key, weight if behind else 1.0) for key in FIRST)
    factors.update((key, 1.0 if behind else weight**-2) for key in SECOND)
    return {key: np.asarray(array, np.float64) * factors[key] for key, array in arrays.items()}


def _state_of_copy(
    entries: Mapping[str, Any], leaves: Sequence[LeafModel], given: Sequence[_Given], name: str, betas: Any
) -> dict[str, Any] | None:
    """The state of a parameter that the merged module has once for each part: that part's own."""
    for one, leaf in zip(given, leaves, strict=True):
        source = name.removesuffix(f".{leaf.graph.suffix}")
        if source == name or source not in entries:
            continue
        state, shape = one.states.get(source, {}), leaf.tensors[source].shape
        step = float(state.get("step", 0.0))
        return {
            k: v if k == "step" else _array(state, k, shape, one.betas(source), betas, step) for k, v in state.items()
        }
    return None


def _array(
    state: Mapping[str, Any] | None, key: str, shape: Sequence[int], before: Any, after: Any, step: float
) -> Array:
    """One leaf's state as an array, brought to a step count and to other betas; zeros where it has none yet."""
    if not state or key not in state:
        return np.zeros(shape)
    array: Array = state[key].detach().cpu().double().numpy()
    if key not in CORRECTED or before is None or after is None:
        return array
    old, new = float(before[CORRECTED[key]]), float(after[CORRECTED[key]])
    return rescaled_moment(array, old, float(state["step"]), step, onto=new)


def _as_torch(value: Any, parameter: torch.Tensor, key: str, group: Mapping[str, Any]) -> Any:
    import torch

    if key != "step":
        return torch.from_numpy(np.ascontiguousarray(value)).to(device=parameter.device, dtype=parameter.dtype)
    if group.get("capturable") or group.get("fused"):  # then the steps are counted where the parameter is
        return torch.as_tensor(value, dtype=torch.float32).detach().clone().to(parameter.device)
    return value.detach().clone().cpu() if isinstance(value, torch.Tensor) else value
