"""graphsplit: split a neural network by width into standalone sub-models, train them apart, merge them exactly."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from graphsplit.errors import (
    FormatError,
    GraphsplitError,
    ManifestError,
    MergeError,
    PlanError,
    RuleError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from graphsplit.api import load, load_module, merge, plan, reopen, split, trainable, write_weights
    from graphsplit.merging import Merge
    from graphsplit.modules import ModuleSplit
    from graphsplit.splitting import Split
    from graphsplit.training import run, train
    from graphsplit.verification import Verification, verify

__all__ = [
    "FormatError",
    "GraphsplitError",
    "ManifestError",
    "Merge",
    "MergeError",
    "ModuleSplit",
    "PlanError",
    "RuleError",
    "Split",
    "UnsupportedError",
    "Verification",
    "load",
    "load_module",
    "merge",
    "plan",
    "reopen",
    "run",
    "split",
    "train",
    "trainable",
    "verify",
    "write_weights",
]

_HOMES = {
    "load": "graphsplit.api",
    "load_module": "graphsplit.api",
    "reopen": "graphsplit.api",
    "plan": "graphsplit.api",
    "split": "graphsplit.api",
    "Split": "graphsplit.splitting",
    "ModuleSplit": "graphsplit.modules",
    "train": "graphsplit.training",
    "run": "graphsplit.training",
    "merge": "graphsplit.api",
    "trainable": "graphsplit.api",
    "write_weights": "graphsplit.api",
    "Merge": "graphsplit.merging",
    "verify": "graphsplit.verification",
    "Verification": "graphsplit.verification",
}


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def __getattr__(name: str) -> object:
    """Load the public functions when they are first used: `import graphsplit` itself costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'graphsplit' has no attribute {name!r}")
