"""Sub-models of a network that was merged from others before: its outputs' scale undone, and its momentum handed on.

A merge averages outputs, so it multiplies each part's output weights by its share. Slices of the merged network have these
small weights, and by themselves outputs a share as large; likewise with momentum, where it was scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

MOMENTUM = "momentum_buffer"


def resumed(split: Any, optimizers: Sequence[Optimizer], whole: Optimizer, cut: Callable[[nn.Module], Any]) -> None:
    """Make a split's sub-models, and their fresh optimizers, what merges to the network that was split.

    whole: the network's own optimizer, of which SGD's momentum is handed on. cut: splits a network as this one was.
    """
    if len({leaf.weight for leaf in split.leaves()}) > 1:
        raise ValueError("rounds are for parts of equal weight")
    model, kept = split.model, _kept_of_weights(split)
    for part in split.submodels:
        _divide(part, kept)
    momenta = [whole.state.get(parameter, {}).get(MOMENTUM) for parameter in model.parameters()]
    if any(momentum is None for momentum in momenta):
        return
    twin = deepcopy(model)
    with torch.no_grad():
        for parameter, momentum in zip(twin.parameters(), momenta, strict=True):
            parameter.copy_(momentum)
    kept = _kept_of_momenta(split, model)
    for part, own, optimizer in zip(split.submodels, cut(twin).submodels, optimizers, strict=True):
        _divide(own, kept)
        _with_momenta(optimizer, part, dict(own.named_parameters()))


def _kept_of_weights(split: Any) -> dict[str, float]:
    """What a merge multiplies the weights of each parameter by: what becomes of ones, where they aren't cut."""
    known = [deepcopy(part.state_dict()) for part in split.submodels]
    with torch.no_grad():
        for part in split.submodels:
            for parameter in part.parameters():
                parameter.fill_(1.0)
    found = split.merge_state_dict()
    for part, state in zip(split.submodels, known, strict=True):
        part.load_state_dict(state)
    return _largest((name, found[name]) for name, _ in split.model.named_parameters())


def _kept_of_momenta(split: Any, model: nn.Module) -> dict[str, float]:
    """What a merge multiplies the momenta of each parameter by."""
    ones = [SGD(part.parameters(), lr=1.0, momentum=0.9) for part in split.submodels]
    for part, one in zip(split.submodels, ones, strict=True):
        _with_momenta(one, part, {name: torch.ones_like(parameter) for name, parameter in part.named_parameters()})
    into = SGD(model.parameters(), lr=1.0, momentum=0.9)
    split.merge_optimizers(ones, into=into)
    return _largest((name, into.state[parameter][MOMENTUM]) for name, parameter in model.named_parameters())


def _largest(found: Iterable[tuple[str, Tensor]]) -> dict[str, float]:
    return {name: float(value.abs().max()) for name, value in found}


def _divide(part: nn.Module, kept: Mapping[str, float]) -> None:
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            parameter.div_(kept[name])


def _with_momenta(optimizer: Optimizer, part: nn.Module, momenta: Mapping[str, Tensor]) -> None:
    for name, parameter in part.named_parameters():
        optimizer.state[parameter][MOMENTUM] = momenta[name].detach().clone()
