"""The rule tables, looked up by domain, op and version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain

from graphsplit.errors import RuleError
from graphsplit.notation import Rule, parse

__all__ = ["Registry", "parse_lines", "registry"]

_Layer = Mapping[tuple[str, str], Mapping[int, tuple[Rule, ...]]]


class Registry:
    """Rules by domain, op and version, in layers: a later layer's rules are tried before an earlier one's."""

    def __init__(self, *layers: Iterable[Rule]) -> None:
        self._layers: tuple[_Layer, ...] = tuple(_by_op(layer) for layer in layers)

    def lookup(self, domain: str, op: str, version: int) -> tuple[Rule, ...]:
        """The alternatives for an op of this version, in the order in which to try them; empty if there are none.

        Of each layer they are the lines with the largest `@` that is not above the version.
        """
        key = ("" if domain == "ai.onnx" else domain, op)
        found: list[Rule] = []
        for layer in reversed(self._layers):
            lines = layer.get(key, {})
            best = max((since for since in lines if since <= version), default=None)
            found.extend(lines[best] if best is not None else ())
        return tuple(found)

    def extended(self, lines: Iterable[str]) -> Registry:
        """A registry in which these lines, of a user's rules file, are tried first. Raises RuleError with the line."""
        new = Registry(parse_lines("\n".join(line.rstrip("\r\n") for line in lines)))
        new._layers = self._layers + new._layers
        return new

    def __iter__(self) -> Iterator[Rule]:
        """All rules by domain, op and version; of equal ones in the order in which they are tried."""
        versions = chain.from_iterable(layer.values() for layer in reversed(self._layers))
        rules = chain.from_iterable(chain.from_iterable(lines.values()) for lines in versions)
        return iter(sorted(rules, key=lambda rule: (rule.domain, rule.op, rule.since)))


def registry(dialect: str = "onnx") -> Registry:
    """The table of a dialect, the names of ops in one kind of source. Raises RuleError if there is none."""
    if dialect not in ("onnx", "torch"):
        raise RuleError(f"there is no rule table for {dialect!r}", hint="the tables are: onnx, torch")
    return _registry(dialect)


def parse_lines(text: str) -> tuple[Rule, ...]:
    """The rules of a text: one a line, without blank lines and comments (`#` first). Raises RuleError with the line."""
    rules = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            rules.append(parse(line))
        except RuleError as error:
            raise RuleError(f"line {number}: {error.message}", hint=error.hint) from error
    return tuple(rules)


@lru_cache(maxsize=2)
def _registry(dialect: str) -> Registry:
    # a table is parsed when it is first asked for
    if dialect == "torch":
        from graphsplit.rules.aten_table import TABLE
    else:
        from graphsplit.rules.onnx_table import TABLE
    return Registry(parse_lines(TABLE))


def _by_op(rules: Iterable[Rule]) -> _Layer:
    found: dict[tuple[str, str], dict[int, tuple[Rule, ...]]] = {}
    for rule in rules:
        versions = found.setdefault((rule.domain, rule.op), {})
        versions[rule.since] = (*versions.get(rule.since, ()), rule)
    return found
