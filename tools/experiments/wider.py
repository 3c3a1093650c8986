"""Net2WiderNet as the paper runs it: one half-width sub-model is trained, then each of its hidden units is there K times.

What a unit gives is divided by K where it goes out, so that the wide network computes what the narrow one did; then noise is
added, uniform up to two hundredths of each parameter's largest element, or the copies would stay alike for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import torch
from torch import nn

from graphsplit.modules import ModuleSplit

NOISE = 0.02


def widened(split: ModuleSplit, narrow: nn.Module, noise: float = NOISE, seed: int = 0) -> nn.Module:
    """The merged network of a split with the weights of one trained sub-model, widened.

    `narrow` is sub-model 0 of equal shares. What the merged network has once for each part is the narrow one's own.
    """
    wide = split.merge()
    held: Mapping[str, torch.Tensor] = {**dict(narrow.named_parameters()), **dict(narrow.named_buffers())}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in {**dict(wide.named_parameters()), **dict(wide.named_buffers())}.items():
            source = name if name in held else name.rpartition(".part_")[0]
            if source not in held:  # what the merge adds of its own
                continue
            found = held[source] if name not in held else _wide(split, name, held[name])
            parameter.copy_(found)
            if parameter.is_floating_point() and isinstance(parameter, nn.Parameter):
                amplitude = noise * float(parameter.abs().max())
                parameter.add_(amplitude * (2 * torch.rand(parameter.shape, generator=generator) - 1).to(parameter))
    return wide


def _wide(split: ModuleSplit, name: str, narrow: torch.Tensor) -> torch.Tensor:
    """A parameter in all combinations of parts along its divided axes, divided by K where hidden units go into it."""
    known = split.source.holders.names.get(name, name)
    if known not in split.manifest.parameters:
        return narrow
    entry, k = split.manifest.parameters[known], split.parts
    selections = [split.manifest.selection(known, part).axes for part in range(k)]
    divided = [axis for axis, chosen in enumerate(selections[0]) if chosen is not None]
    full = narrow.new_zeros(split.plan.parameters[known].shape)
    for parts in product(range(k), repeat=len(divided)):
        index = [np.arange(size) for size in full.shape]
        for axis, part in zip(divided, parts, strict=True):
            index[axis] = np.asarray(selections[part][axis], np.int64)
        full[np.ix_(*index)] = narrow
    entered = len(divided) > 1 or (entry.role == "output" and len(divided) == 1)
    return full / k if entered else full
