"""What is known of a value before any label flows: its shape, its type and, for small constants, its content."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphsplit.graph import Array


@dataclass(frozen=True, slots=True)
class Fact:
    """Shape (None where it depends on data), type, and the elements where they are known at plan time."""

    shape: tuple[int, ...] | None
    dtype: np.dtype[np.generic] | None
    data: Array | None = None


Facts = dict[str, Fact]


def same_numbers(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same, what is no number included."""
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
