"""What the reports of several tools share: texts for table cells, and refusals counted by what they say."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

_NAMED = (
    (re.compile(r"^.+ (?=has no hidden layer|holds no tensor)"), "the network "),
    (re.compile(r" \(version \d+\)"), ""),
    (re.compile(r"(?<!\w)'[^']*'"), "…"),
    (re.compile(r"\"[^\"]*\""), "…"),
    (re.compile(r"\[[^\]]*\]"), "[…]"),
    (re.compile(r"\b\d[\d.,]*(?<!,)\b"), "N"),
)


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of those of the named packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def one_line(text: str) -> str:
    """Text on one line, its hint behind a dash."""
    return " ".join(text.replace("\n  hint: ", " - ").split())


def cell(text: str) -> str:
    """Text that stands for itself in a cell of a table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def kind(reason: str) -> str:
    """A refusal without the names and numbers of its model: what is counted."""
    text = reason.partition("\n")[0]
    for pattern, instead in _NAMED:
        text = pattern.sub(instead, text)
    return re.sub(r"^(\S+) …: ", r"\1: ", " ".join(text.split()))


def counted(reasons: Sequence[str], title: str = "refused") -> list[str]:
    """A table of kinds of reasons, the most frequent first."""
    kinds = Counter(kind(reason) for reason in reasons)
    rows = [f"| {cell(reason)} | {number} |" for reason, number in sorted(kinds.items(), key=lambda i: (-i[1], i[0]))]
    return [f"| reason | {title} |", "|---|---:|", *rows, ""]
