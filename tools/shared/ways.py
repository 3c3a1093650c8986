"""How the tools split a network, and how that is said on a command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """How a model is split. `onnx`: as its ONNX export, where the model is a torch module."""

    k: int
    strategy: str = "contiguous"
    seed: int = 0
    onnx: bool = False

    def __str__(self) -> str:
        strategy = f" {self.strategy}" if self.strategy != "contiguous" else ""
        return f"K={self.k}{strategy}" + " through ONNX" * self.onnx

    @property
    def spelled(self) -> str:
        """The way as `way_of` reads it."""
        if self.onnx:
            return f"{self.k}:onnx"
        return f"{self.k}" + f":{self.strategy}:{self.seed}" * (self.strategy != "contiguous")


def way_of(text: str) -> Way:
    """A way from `K[:strategy[:seed]]`, or `K:onnx`."""
    k, _, rest = text.partition(":")
    strategy, _, seed = rest.partition(":")
    try:
        if strategy == "onnx":
            return Way(int(k), onnx=True)
        return Way(int(k), strategy or "contiguous", int(seed or 0))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not K or K:STRATEGY or K:STRATEGY:SEED") from None


def ways_of(text: str) -> list[Way]:
    """Several ways, separated by commas."""
    return [way_of(item) for item in text.split(",") if item]
