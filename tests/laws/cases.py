"""What the laws are tested on: every network with the parts, strategy and shares that its turn gives it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from graphsplit.errors import GraphsplitError
from tests.laws.check import STRATEGIES, Case, trained
from tests.networks import EXACT_OR_REFUSED, NETWORKS
from tests.networks.generate import random_network

ALL: Mapping[str, Callable[[], onnx.ModelProto]] = {**NETWORKS, **EXACT_OR_REFUSED}
UNEVEN = (2.0, 1.0, 1.0)
"""Shares of three parts of unequal width."""

Split = int | str
"""Into how many parts, or "uneven" for three by UNEVEN."""

SPLITS: tuple[Split, ...] = (2, 3, 4, "uneven")
SEEDS = range(60)
MORE_SEEDS = range(2000)

_NOTHING = "no hidden layer that can be divided"
_UNEQUAL = "no whole numbers satisfy the equal counts"
REFUSALS: Mapping[tuple[str, Split], str] = {
    # channel shuffles whose groups K equals or doesn't divide
    **{("shufflenet_v1_g4", k): _UNEQUAL for k in SPLITS},
    **{("shufflenet_v1_g3", k): _UNEQUAL for k in (3, 4, "uneven")},
    ("shufflenet_v1_g2", 4): _UNEQUAL,
}
"""Which networks may be refused for which split, and what the refusal has to say."""

SEEDS_REFUSED: Mapping[int, str] = {}
"""The same for generated networks: none of the first sixty is."""

REASONS = (
    _UNEQUAL,
    _NOTHING,
    "has fewer vertices than there are parts",
    "is wanted",
    "its movement of elements cannot be followed",
    "come out in an order that no permutation of one axis mends",
    "are only known when it runs",
)
"""Reasons that a reader accepts for a generated network: it is too narrow, or no order fits."""


def make(name: str, k: Split, folder: Path, **options: Any) -> Case:
    """A network split, trained and merged; the strategy takes its turn. Raises GraphsplitError."""
    turn = list(ALL).index(name) + SPLITS.index(k)
    return _made(ALL[name](), turn, k, folder, **options)


def make_seed(seed: int, folder: Path) -> Case:
    """A generated network split, trained and merged; parts and strategy take their turn. Raises GraphsplitError."""
    return _made(random_network(seed), seed // 4, SPLITS[seed % 4], folder)


def _made(model: onnx.ModelProto, turn: int, k: Split, folder: Path, **options: Any) -> Case:
    strategy = STRATEGIES[turn % len(STRATEGIES)]
    if isinstance(k, int):
        return trained(model, k, folder, strategy=strategy, seed=turn, **options)
    return trained(model, len(UNEVEN), folder, strategy=strategy, seed=turn, shares=UNEVEN, **options)


class Made:
    """Cases by name, each made once a session; a refusal is remembered as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[str, Split], Case | GraphsplitError] = {}

    def __call__(self, name: str, k: Split) -> Case:
        """The case, or the GraphsplitError that it is refused with."""
        if (name, k) not in self.known:
            try:
                self.known[name, k] = make(name, k, self.folder / f"{name}_{k}")
            except GraphsplitError as error:
                self.known[name, k] = error
        found = self.known[name, k]
        if isinstance(found, GraphsplitError):
            raise found
        return found


def in_turn(name: str) -> Split | None:
    """The split that a network is tested with in every run; None where all are refused. Each network has another one."""
    choices = [k for k in SPLITS if (name, k) not in REFUSALS]
    return choices[list(ALL).index(name) % len(choices)] if choices else None


def splits() -> list[Any]:
    """Networks and splits that aren't listed as refused, as parameters: all for 2, 3 and 4, some for uneven shares.

    What isn't a network's turn is slow, to keep a run short.
    """
    return [
        pytest.param(name, k, marks=() if k == in_turn(name) else pytest.mark.slow)
        for name in ALL
        for k in SPLITS
        if (name, k) not in REFUSALS and (k != "uneven" or k == in_turn(name))
    ]
