"""What a verification says."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NOTHING_PROVED", "Check", "Verification"]

NOTHING_PROVED = "nothing was proved: the parts' values differ by no more than rounding could make them"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: whether it holds, what was looked at, and for numbers the worst deviation and what is allowed.

    Both are relative to the largest element of a value: the one whose deviation comes nearest to what is allowed, or
    goes furthest beyond it.
    """

    name: str
    passed: bool
    detail: str
    worst: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of a verification, and the runtime in which networks were run."""

    checks: tuple[Check, ...]
    runtime: str

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """The check of a name. Raises KeyError."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)
