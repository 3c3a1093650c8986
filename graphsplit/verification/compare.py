"""The merged network against its parts: what a value should be, and how far rounding may take it from there.

The reference of a value is the weighted mean of the parts' (each element over the parts that have it), in float64.
Two networks that are equal in exact arithmetic differ by rounding, which layers amplify by as much as the network is
sensitive. That is measured: every sub-model runs again with each weight and each input moved by one rounding unit, and
the most that this does to a value in any part (one alone may be dead or saturated) is its *noise*. Allowed is, for a
value whose largest element is `scale`,

    tolerance = NOISE * noise  +  ROUNDING * unit * sqrt(depth) * scale

where the second term covers what no weight passes: each of `depth` operations in a row rounds, independently, to half a
unit. A comparison proves something only where a wrong merge would show: in `spread`, how far the parts are from their
mean. One that a single part would pass in the place of the mean (`spread` below RESOLUTION tolerances) counts for
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsplit.graph import Array

__all__ = ["NOISE", "RESOLUTION", "ROUNDING", "Comparison", "Places", "Reference", "compare", "noise"]

NOISE = 8.0
"""How many times its measured effect rounding may have: a merged layer sums more terms, in another order."""
ROUNDING = 8.0
"""How many rounding units of the largest element a value may be off, times the root of the longest path's length."""
RESOLUTION = 4.0
"""How many tolerances the parts must differ from their mean by, for the comparison to count."""

Floats = npt.NDArray[np.float64]


@dataclass
class Reference:
    """What a value should be: built part by part. `problem` says why it can't be compared."""

    total: Floats = field(default_factory=lambda: np.zeros(0))
    weight: Floats = field(default_factory=lambda: np.zeros(0))
    low: Floats = field(default_factory=lambda: np.zeros(0))
    high: Floats = field(default_factory=lambda: np.zeros(0))
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))
    noise: float = 0.0
    problem: str | None = None
    parts: int = 0

    def add(self, value: object, weight: float, places: Places | None = None) -> None:
        """A part's value; `places` says which elements of the whole one it holds, all of them by default."""
        if self.problem is not None:
            return
        self.problem = _problem(value)
        if self.problem is not None:
            return
        assert isinstance(value, np.ndarray)
        if self.parts == 0:
            self._begin(value, places)
        spot: Any = (...,) if places is None else places.index(value.ndim)
        if self.total[spot].shape != value.shape:
            self.problem = f"its shape is {list(value.shape)} in one part and {list(self.total[spot].shape)} in another"
            return
        numbers = value.astype(np.float64)
        with np.errstate(all="ignore"):
            self.total[spot] += weight * numbers
        self.weight[spot] += weight
        self.low[spot] = np.fmin(self.low[spot], numbers)
        self.high[spot] = np.fmax(self.high[spot], numbers)
        self.parts += 1

    def _begin(self, value: Array, places: Places | None) -> None:
        shape = list(value.shape)
        if places is not None:
            shape[places.axis] = places.size
        self.total, self.weight = np.zeros(shape), np.zeros(shape)
        self.low, self.high = np.full(shape, np.inf), np.full(shape, -np.inf)
        self.dtype = value.dtype

    @property
    def mean(self) -> Floats:
        with np.errstate(all="ignore"):
            found = self.total / self.weight
        # The mean of equal whole numbers is one; weights such as 1/3 leave a trace of rounding.
        return np.rint(found) if self.dtype.kind in "biu" else found


@dataclass(frozen=True)
class Places:
    """The elements of a whole value that a part holds: indices along an axis of `size`."""

    axis: int
    size: int
    indices: npt.NDArray[np.int64]

    def index(self, rank: int) -> tuple[object, ...]:
        return tuple(self.indices if axis == self.axis else slice(None) for axis in range(rank))


def _problem(value: object) -> str | None:
    if not isinstance(value, np.ndarray):
        return f"it is no tensor but a {type(value).__name__}"
    if value.size == 0:
        return "it is empty"
    if value.dtype.kind not in "fVbiu":
        return f"it holds {value.dtype} elements"
    return None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A value compared: the worst deviation and what is allowed, relative to its largest element.

    `telling` says that the parts differ by so much that a wrong merge would show; `problem` why nothing was compared.
    """

    name: str
    worst: float
    tolerance: float
    telling: bool
    problem: str | None = None

    @property
    def compared(self) -> bool:
        return self.problem is None

    @property
    def holds(self) -> bool:
        return self.problem is None and self.worst <= self.tolerance

    @property
    def ratio(self) -> float:
        """How much of what is allowed is used up."""
        return self.worst / self.tolerance if self.tolerance else (0.0 if self.worst == 0 else np.inf)


def compare(name: str, reference: Reference, value: object, *, depth: int, unit: float) -> Comparison:
    """A value of the merged network against its reference; `unit` is the coarsest rounding unit on the way."""
    problem = reference.problem or _problem(value)
    if problem is not None:
        return Comparison(name, 0.0, 0.0, False, problem)
    assert isinstance(value, np.ndarray)
    wanted = reference.mean
    if value.shape != wanted.shape:
        return Comparison(name, np.inf, 0.0, True)
    finite = np.isfinite(wanted)
    if not finite.any():
        return Comparison(name, 0.0, 0.0, False, "no element of it is finite")
    found = value.astype(np.float64)
    scale = float(np.abs(wanted[finite]).max())
    off = np.zeros(wanted.shape)
    with np.errstate(all="ignore"):
        off[finite] = np.abs(found[finite] - wanted[finite])
    off[np.isnan(off)] = np.inf
    if not _same_infinities(found, wanted, finite):
        off[...] = np.inf
    whole = reference.dtype.kind in "biu"
    allowed = 0.0 if whole else NOISE * reference.noise + ROUNDING * unit * float(np.sqrt(depth)) * scale
    spread = _spread(reference, wanted, finite)
    return Comparison(name, float(off.max()) / (scale or 1.0), allowed / (scale or 1.0), spread > RESOLUTION * allowed)


def _same_infinities(found: Floats, wanted: Floats, finite: npt.NDArray[np.bool_]) -> bool:
    """Whether infinities stand at the same places; where a part gives NaN the merged value may be anything."""
    infinite = np.isinf(wanted)
    return bool((found[infinite] == wanted[infinite]).all())


def _spread(reference: Reference, wanted: Floats, finite: npt.NDArray[np.bool_]) -> float:
    """How far the parts are from their mean; for what one part alone holds, from zero."""
    alone = finite & (reference.low == reference.high)
    shared = finite & ~alone
    apart = float((reference.high - reference.low)[shared].max()) / 2 if shared.any() else 0.0
    alone &= reference.weight < 1 - 1e-9
    return max(apart, float(np.abs(wanted[alone]).max()) if alone.any() else 0.0)


def noise(plain: Sequence[object], moved: Sequence[object]) -> list[float]:
    """How far values were moved by rounding units in weights and inputs: the largest element's way."""
    found = []
    for one, other in zip(plain, moved, strict=True):
        if _problem(one) or _problem(other):
            found.append(0.0)
            continue
        assert isinstance(one, np.ndarray)
        assert isinstance(other, np.ndarray)
        if one.shape != other.shape or one.dtype.kind in "biu":
            found.append(0.0)
            continue
        with np.errstate(all="ignore"):
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
        apart = apart[np.isfinite(apart)]
        found.append(float(apart.max()) if apart.size else 0.0)
    return found
