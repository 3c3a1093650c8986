"""Sub-models as training could leave them: every trained tensor changed, in every part in its own way.

Law 1 says nothing on sub-models that were only split: many a wrong merge gives the mean of equal parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import ml_dtypes
import numpy as np

from graphsplit.graph import Array, Tensor

__all__ = ["jittered", "limits", "perturbed"]

SIGN_KEEPING = 0.2
"""How far tensors without changes of sign (variances, scales) are changed: the deviation of the logarithm."""
RELATIVE, ADDED = 0.3, 0.1
"""How far others are: the deviation relative to each element, and relative to that of the whole tensor."""
FROM_ZERO = 0.02
"""The deviation of what was all zeros: a new bias."""


def limits(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    """The rounding unit (the gap above 1) and the largest number of a floating-point type."""
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.eps), float(info.max)


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name.startswith(("bfloat", "float")))


@dataclass(frozen=True, slots=True)
class _Changed:
    """A tensor whose elements are changed at random when they are read: the same way every time."""

    base: Tensor
    seed: tuple[int, ...]
    strength: float
    jitter: bool = False
    unit: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.base.dtype

    def numpy(self) -> Array:
        array = self.base.numpy()
        if not _is_float(self.dtype) or not array.size:
            return array
        unit, largest = limits(self.dtype)
        unit = self.unit or unit
        rng = np.random.default_rng(self.seed)
        old = array.astype(np.float64)
        new = old * (1 + unit * rng.choice((-1.0, 1.0), old.shape)) if self.jitter else self._moved(old, rng)
        new = np.clip(new, -largest / 2, largest / 2)
        return np.where(np.isfinite(old) & (np.abs(old) <= largest / 4), new, old).astype(self.dtype)

    def _moved(self, old: np.ndarray[tuple[int, ...], np.dtype[np.float64]], rng: np.random.Generator) -> Array:
        finite = old[np.isfinite(old)]
        noise = rng.standard_normal(old.shape)
        if not finite.size:
            return old
        if not finite.any():
            return FROM_ZERO * self.strength * noise
        spread = float(finite.std()) or float(np.abs(finite).max())
        if (finite >= 0).all() or (finite <= 0).all():
            sign = 1.0 if finite.max() > 0 else -1.0
            grown: Array = old * np.exp(SIGN_KEEPING * self.strength * noise)
            return grown + np.where(old == 0, sign * ADDED * self.strength * spread * np.abs(noise), 0.0)
        added = ADDED * spread * rng.standard_normal(old.shape)
        moved: Array = old + self.strength * (RELATIVE * noise * old + added)
        return moved


def perturbed(
    tensors: Mapping[str, Tensor], names: Collection[str], path: Sequence[int], *, strength: float = 1.0, seed: int = 0
) -> dict[str, Tensor]:
    """The tensors with those in `names` changed, differently for each `path` (a part) and name."""
    return {
        name: _Changed(tensor, (seed, *path, crc32(name.encode())), strength) if name in names else tensor
        for name, tensor in tensors.items()
    }


def jittered(
    tensors: Mapping[str, Tensor], names: Collection[str], units: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """The tensors with every element of those in `names` moved by about one rounding unit, up or down.

    `units` are other units than those of the tensors' types, for some.
    """
    coarse = units or {}
    return {
        name: _Changed(tensor, (7, crc32(name.encode())), 0.0, jitter=True, unit=coarse.get(name))
        if name in names
        else tensor
        for name, tensor in tensors.items()
    }
