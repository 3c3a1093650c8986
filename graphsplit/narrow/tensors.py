"""Tensors of a sub-model: slices of the source's, read when asked for, and the constants that narrowing computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphsplit.graph import Array, ArrayTensor, Tensor
from graphsplit.selection import Selection


@dataclass(frozen=True, slots=True)
class SlicedTensor:
    """A part's slice of a stored tensor; nothing is read before `numpy` is called."""

    base: Tensor
    selection: Selection
    gain: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.selection.shape(tuple(self.base.shape))

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.base.dtype

    def numpy(self) -> Array:
        taken = self.selection.take(self.base.numpy())
        if self.gain == 1.0:
            return taken
        return (taken.astype(np.float64) * self.gain).astype(self.dtype)


@dataclass
class Constants:
    """Constants of the source, as they are or rewritten for the part.

    A constant that all readers want rewritten alike keeps its name; one that is wanted in several forms gets a name for each.
    """

    source: Mapping[str, Tensor]
    forms: dict[str, dict[tuple[tuple[int, ...], bytes], str]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    def rewritten(self, name: str, array: Array) -> str:
        """A placeholder name for this form of a constant (or of a new one), the same for the same content."""
        forms = self.forms.setdefault(name, {})
        array = np.ascontiguousarray(array)
        key = (tuple(array.shape), array.dtype.str.encode() + array.tobytes())
        if key not in forms:
            forms[key] = f"{name}\0{len(forms)}"
            self.arrays[forms[key]] = array
        return forms[key]

    def names(self, used: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
        """Final names of the placeholders: the constant's own where nothing else claims it."""
        used, taken = set(used), set(taken)
        final: dict[str, str] = {}
        for name, forms in sorted(self.forms.items()):
            placeholders = [p for p in forms.values() if p in used]
            for number, placeholder in enumerate(placeholders):
                own = number == 0 and name not in used and (name in self.source or name not in taken)
                wish = name if own else f"{name}.narrow{number or ''}"
                while not own and wish in taken:
                    wish += "_"
                taken.add(wish)
                final[placeholder] = wish
        return final

    def tensors(self, final: Mapping[str, str]) -> dict[str, Tensor]:
        """The rewritten constants by their final names."""
        return {name: ArrayTensor(self.arrays[placeholder]) for placeholder, name in final.items()}
