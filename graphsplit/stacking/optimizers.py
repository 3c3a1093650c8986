"""Optimizers of stacked modules: the parts' state as one, and back; and gradients clipped for each part by itself.

An optimizer that updates each element by what it knows of that element alone does to K stacked parameters what K of it
do to the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graphsplit.errors import MergeError, UnsupportedError
from graphsplit.modules.source import unwrapped
from graphsplit.stacking.modules import parts_of

ELEMENTWISE = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD")
"""The optimizers of torch whose update of an element depends on nothing but that element's gradients, and the step count."""

HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_backward_hooks", "_post_accumulate_grad_hooks")
"""Where torch keeps what users hang onto steps and gradients."""

COUNTS = frozenset(["step", "mu_product", "eta", "mu"])
"""State that is one number for a parameter, whatever its shape."""


def stack_optimizers(optimizers: Sequence[Optimizer], stacked: nn.Module, modules: Sequence[nn.Module]) -> Optimizer:
    """One optimizer for a stacked module, with the settings and the state of those of its parts, in their order.

    Raises UnsupportedError for an optimizer whose update isn't known to be element by element, and where the parts'
    settings, groups or step counts differ.
    """
    if len(optimizers) != len(modules) or len(modules) != parts_of(stacked):
        raise UnsupportedError(
            f"{len(optimizers)} optimizers and {len(modules)} modules were given for {parts_of(stacked)} parts",
            hint="give those that belong to the stack, in its order",
        )
    for one in optimizers:
        refuse_unknown(one)
    kinds = {type(one) for one in optimizers}
    if len(kinds) != 1:
        raise UnsupportedError(f"the optimizers are of several classes: {sorted(kind.__name__ for kind in kinds)}")
    given = [_by_name(one, module) for one, module in zip(optimizers, modules, strict=True)]
    if any(one != given[0] for one in given):
        raise UnsupportedError("the optimizers' groups hold other parameters in one part than in another")
    own, parts = dict(stacked.named_parameters()), [dict(unwrapped(module).named_parameters()) for module in modules]
    groups = [
        {**_settings(index, optimizers), "params": [own[name] for name in names]}
        for index, names in enumerate(given[0])
    ]
    kind: Any = kinds.pop()
    made: Optimizer = kind(groups)
    for name in (name for names in given[0] for name in names):
        states = [one.state.get(part[name], {}) for one, part in zip(optimizers, parts, strict=True)]
        made.state[own[name]] = _stacked_state(name, states, own[name])
    return made


def unstack_optimizer(
    optimizer: Optimizer, stacked: nn.Module, optimizers: Sequence[Optimizer], modules: Sequence[nn.Module]
) -> None:
    """Put a stacked optimizer's state and settings into those of the parts, which hold the parameters of `modules`.

    Nothing is changed unless everything fits. Raises UnsupportedError or MergeError.
    """
    refuse_unknown(optimizer)
    if len(optimizers) != len(modules) or len(modules) != parts_of(stacked):
        raise MergeError(
            f"{len(optimizers)} optimizers and {len(modules)} modules were given for {parts_of(stacked)} parts"
        )
    names = {id(parameter): name for name, parameter in stacked.named_parameters()}
    layout = [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]
    for one, module in zip(optimizers, modules, strict=True):
        if type(one) is not type(optimizer) or _by_name(one, module) != layout:
            raise MergeError(
                "an optimizer of a part is of another class, or its groups hold other parameters than the stack's",
                hint="make it as the stack's was made: the same class, groups and order",
            )
    for number, (one, module) in enumerate(zip(optimizers, modules, strict=True)):
        own = dict(unwrapped(module).named_parameters())
        for group, settings in zip(one.param_groups, optimizer.param_groups, strict=True):
            group.update({key: value for key, value in settings.items() if key != "params"})
        for parameter, state in optimizer.state.items():
            one.state[own[names[id(parameter)]]] = {
                key: value[number].clone() if _each(key, value, parameter) else _copied(value)
                for key, value in state.items()
            }


def clip_grad_norm_(stacked: nn.Module, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale each part's gradients so that their norm, over that part's parameters, is at most `max_norm`.

    What `torch.nn.utils.clip_grad_norm_` does to each of the parts: its own would take all of them for one network.
    Gives the norms as they were, shape (K,).
    """
    gradients = [parameter.grad for parameter in stacked.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.zeros(parts_of(stacked))
    each = torch.stack([torch.linalg.vector_norm(grad.flatten(1), norm_type, 1) for grad in gradients])
    norms: Tensor = torch.linalg.vector_norm(each, norm_type, 0)
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    with torch.no_grad():
        for grad in gradients:
            grad.mul_(factors.to(grad.dtype).view(-1, *[1] * (grad.ndim - 1)))
    return norms


def refuse_unknown(optimizer: Optimizer) -> None:
    """Raise UnsupportedError for an optimizer whose update isn't known to be element by element, or that has hooks."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(getattr(one, name, None) for one in (optimizer, *held) for name in HOOKS):
        raise UnsupportedError(
            f"{type(optimizer).__name__} or its parameters have hooks, which would see all sub-models as one",
            hint="train the sub-models one after another; graphsplit.stacking.clip_grad_norm_ clips those of a stack",
        )
    if type(optimizer) in {getattr(torch.optim, name) for name in ELEMENTWISE}:
        return
    raise UnsupportedError(
        f"{type(optimizer).__name__} isn't known to update each element by itself, so that over stacked sub-models it might "
        "mix them",
        hint=f"{', '.join(ELEMENTWISE)} do; or train the sub-models one after another",
    )


def _by_name(optimizer: Optimizer, module: nn.Module) -> list[list[str]]:
    """The names of the parameters in each of an optimizer's groups."""
    known = {id(parameter): name for name, parameter in unwrapped(module).named_parameters()}
    found = [[known.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
    if any("" in names for names in found):
        raise UnsupportedError(
            "an optimizer holds parameters that aren't those of its module",
            hint="give optimizers and modules in one order",
        )
    return found


def _settings(index: int, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """One group's settings, the same in all parts."""
    first = optimizers[0].param_groups[index]
    for one in optimizers:
        for key, value in one.param_groups[index].items():
            if key != "params" and not _alike(value, first.get(key)):
                raise UnsupportedError(
                    f"group {index} has {key} {value!r} in one part and {first.get(key)!r} in another",
                    hint="one optimizer has one setting for all parts; train parts of different settings one after another",
                )
    return {key: _copied(value) for key, value in first.items() if key != "params"}


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) == isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _stacked_state(name: str, states: Sequence[Mapping[str, Any]], parameter: nn.Parameter) -> dict[str, Any]:
    """What the parts' optimizers keep for one parameter, side by side; what isn't of its shape is the same in all."""
    if any(state.keys() != states[0].keys() for state in states):
        raise UnsupportedError(
            f"the optimizers keep {sorted(map(sorted, (state.keys() for state in states)))} for {name!r}: some parts have made "
            "steps, and some haven't",
            hint="stack before the first step, or after equally many",
        )
    found: dict[str, Any] = {}
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if isinstance(first, Tensor) and first.shape == parameter.shape[1:] and key not in COUNTS:
            found[key] = torch.stack([value.detach() for value in values])
        elif all(_alike(value, first) for value in values):
            found[key] = _copied(first)
        else:
            raise UnsupportedError(
                f"the optimizers' {key!r} for {name!r} differs between the parts: {values}",
                hint="stack sub-models that have made equally many steps",
            )
    return found


def _each(key: str, value: Any, parameter: Tensor) -> bool:
    """Whether state holds something for each element of a parameter."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and key not in COUNTS
