"""Tensors that tell when they are read: how far a merge has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphsplit.graph import Tensor

__all__ = ["reporting"]

Progress = Callable[[str, int, int], None]


def reporting(tensors: Mapping[str, Tensor], report: Progress) -> dict[str, Tensor]:
    """The same tensors; `report` is called with their number each time that one is read."""
    done = [0]

    def step() -> None:
        done[0] += 1
        report("merging", done[0], len(tensors))

    return {name: _Watched(tensor, step) for name, tensor in tensors.items()}


@dataclass(frozen=True, slots=True)
class _Watched:
    """A tensor that tells when its elements are read."""

    tensor: Tensor
    step: Callable[[], None]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.tensor.dtype

    def numpy(self) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        self.step()
        return self.tensor.numpy()
