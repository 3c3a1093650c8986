"""The exception tree: everything that graphsplit refuses is a `GraphsplitError`.

A message says what was asked, what was found (both shapes), where (node, tensor, axis), and, as `hint`, what to type
next.
"""

from __future__ import annotations

from typing import Any


class GraphsplitError(ValueError):
    """A request that graphsplit refuses, with the reason and what to do next.

    `str()` of it is the whole text for a user: the message, then the hint on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class FormatError(GraphsplitError):
    """A file that is not what it should be: unreadable, another format, or damaged."""


class UnsupportedError(GraphsplitError):
    """A network that cannot be split exactly: an unknown op, control flow, a layer that has too few vertices."""


class RuleError(GraphsplitError):
    """A rule line that does not parse or does not fit its node."""


class PlanError(GraphsplitError):
    """A partition that cannot be made: bad K or shares, nothing to divide, or infeasible balances."""


class UnevenError(PlanError):
    """Equal counts that no whole numbers satisfy.

    `uneven` holds the nodes that ask for them, each with the classes of its vertices.
    """

    def __init__(self, message: str, uneven: tuple[tuple[int, Any], ...], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.uneven = uneven


class ManifestError(GraphsplitError):
    """A manifest that breaks its specification."""


class MergeError(GraphsplitError):
    """Sub-models that do not fit their manifest: missing, extra, misshapen or non-finite tensors, or another split."""


class RunError(GraphsplitError):
    """A network that a runtime doesn't load, or doesn't run on some inputs."""
