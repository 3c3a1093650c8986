"""Taking turns: half of the parameters, or one choice of each name, is run every time, and nothing is lost."""

from __future__ import annotations

from typing import Any

from tests.turns import every_other, one_each


def quick(params: list[Any]) -> list[tuple[Any, ...]]:
    return [param.values for param in params if not param.marks]


def test_half_is_quick() -> None:
    values = [(1,), (2,), (3,), (4,), (5,)]
    assert [param.values for param in every_other(values)] == values
    assert quick(every_other(values)) == [(1,), (3,), (5,)]
    assert quick(every_other(values, 1)) == [(2,), (4,)]


def test_each_name_is_quick_once_and_each_choice_has_its_turn() -> None:
    found = one_each("abcd", (2, 3, 4))
    assert len(found) == 12
    assert quick(found) == [("a", 2), ("b", 3), ("c", 4), ("d", 2)]
