"""JSON read strictly: one reading of every text, and a message that says where something is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import NoReturn

import numpy as np

from graphsplit.errors import ManifestError
from graphsplit.manifest.ranges import Ranges

__all__ = ["LARGEST", "Field", "parse"]

LARGEST = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""


def parse(text: str, origin: str) -> Field:
    """The value of a JSON text.

    Raises ManifestError for text that is not JSON, duplicate keys, NaN and infinities, and numbers beyond LARGEST.
    """

    def refuse(message: str) -> NoReturn:
        raise ManifestError(f"{origin}: {message}")

    def integer(digits: str) -> int:
        if len(digits) > 20 or abs(int(digits)) > LARGEST:
            refuse(f"the number {_short(digits)} is too large: integers end at {LARGEST}")
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            refuse(f"the number {_short(digits)} is too large")
        return value

    def constant(name: str) -> NoReturn:
        refuse(f"{name} is not a number in JSON")

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                refuse(f"the key {key!r} occurs twice in one object")
            found[key] = value
        return found

    try:
        value = json.loads(
            text, parse_int=integer, parse_float=real, parse_constant=constant, object_pairs_hook=members
        )
    except json.JSONDecodeError as error:
        raise ManifestError(f"{origin}: not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise ManifestError(f"{origin}: not a manifest: its values are nested too deeply") from error
    return Field(value, origin, "")


class Field:
    """A JSON value, and where it stands."""

    __slots__ = ("origin", "value", "where")

    def __init__(self, value: object, origin: str, where: str) -> None:
        self.value, self.origin, self.where = value, origin, where

    def refuse(self, message: str, hint: str = "") -> NoReturn:
        """Raise ManifestError for this value."""
        raise ManifestError(f"{self.origin}: {self.where + ': ' if self.where else ''}{message}", hint=hint)

    def wrong(self, wanted: str) -> NoReturn:
        """Refuse a value of another type."""
        self.refuse(f"{_kind(self.value)} stands where {wanted} is wanted")

    def object(self, keys: Iterable[str]) -> dict[str, Field]:
        """The members of an object that has exactly these keys."""
        members = self.members()
        keys = tuple(keys)
        unknown = [key for key in members if key not in keys]
        if unknown:
            self.refuse(f"the key {_short(unknown[0])} is unknown")
        missing = [key for key in keys if key not in members]
        if missing:
            self.refuse(f"the key {missing[0]!r} is missing")
        return members

    def members(self) -> dict[str, Field]:
        """The members of an object, whatever their keys."""
        if not isinstance(self.value, dict):
            self.wrong("an object")
        for key in self.value:
            self._whole(key)
        dot = f"{self.where}." if self.where else ""
        return {
            key: Field(item, self.origin, f"{dot}{key}" if key.isidentifier() else f"{self.where}[{key!r}]")
            for key, item in self.value.items()
        }

    def items(self) -> list[Field]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            self.wrong("an array")
        return [Field(item, self.origin, f"{self.where}[{i}]") for i, item in enumerate(self.value)]

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self.wrong("a string")
        self._whole(self.value)
        return self.value

    def _whole(self, text: str) -> None:
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.refuse("a string holds half of a surrogate pair")

    def name(self) -> str:
        """A string that is not empty."""
        if not self.text():
            self.refuse("a name must not be empty")
        return self.text()

    def choice(self, choices: Collection[str]) -> str:
        """One of some strings."""
        text = self.text()
        if text not in choices:
            self.refuse(f"{_short(text)} is none of {', '.join(choices)}")
        return text

    def digest(self) -> str:
        """A SHA-256 in lower-case hexadecimal."""
        text = self.text()
        if len(text) != 64 or any(character not in "0123456789abcdef" for character in text):
            self.refuse(f"{_short(text)} is not a digest: 64 digits of lower-case hexadecimal")
        return text

    def integer(self, low: int = 0, high: int = LARGEST) -> int:
        """A whole number in low … high, written without a fraction or exponent."""
        if type(self.value) is not int:
            self.wrong("an integer")
        if not low <= self.value <= high:
            self.refuse(f"{self.value} is not in {low} … {high}")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in (int, float):
            self.wrong("a number")
        return float(self.value)  # type: ignore[arg-type]

    def names(self) -> tuple[str, ...]:
        """An array of different names."""
        found: dict[str, None] = {}
        for item in self.items():
            if item.name() in found:
                item.refuse(f"{_short(item.name())} occurs twice")
            found[item.name()] = None
        return tuple(found)

    def sorted_names(self) -> tuple[str, ...]:
        """An array of different names in order of their code points."""
        found = self.names()
        if list(found) != sorted(found):
            self.refuse("the names are not sorted")
        return found

    def ranges(self, size: int) -> Ranges:
        """Sorted, disjoint, merged half-open ranges in 0 … size."""
        if not isinstance(self.value, list):
            self.wrong("an array")
        for i, pair in enumerate(self.value):
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not int:
                Field(pair, self.origin, f"{self.where}[{i}]").refuse("a range is an array of two integers")
        found = Ranges(self.value)
        starts, ends = found.pairs[:, 0], found.pairs[:, 1]
        later, before = starts[1:], np.s_[:-1]
        for bad, wrong in (
            ((starts < 0) | (ends > size), f"is not in 0:{size}"),
            (starts >= ends, "is empty"),
            (np.r_[False, later < starts[before]], "is out of order"),
            (np.r_[False, later < ends[before]], "overlaps the one before it"),
            (np.r_[False, later == ends[before]], "continues the one before it: the two are one"),
        ):
            where = np.flatnonzero(bad[: len(starts)])
            if where.size:
                i = int(where[0])
                pair = found.pairs[i].tolist()
                self.refuse(f"the range {pair[0]}:{pair[1]} (number {i}) {wrong}")
        return found


def _kind(value: object) -> str:
    """What a JSON value is, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the string {_short(value)}"
    return "an object" if isinstance(value, Mapping) else "an array"


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}…"
