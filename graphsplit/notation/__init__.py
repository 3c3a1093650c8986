"""Rule lines: how the axes of an op's operands and results relate, written in one line, parsed, printed and fitted.

    Conv   n (g i) *s, (g o) i *k, (g o) -> n (g o) *t   | mix i | set group=g

`rule` holds the parsed form (`Rule`, with its normal form in print), `line` the notation and its parser (`parse`), `fit`
what a line says of a node whose shapes are known (`bind` and `fitted`, and `shapes` of its results), `layout` the axes by
their factors.
"""

from graphsplit.notation.fit import Bound, bind, fitted, shapes
from graphsplit.notation.layout import Layout
from graphsplit.notation.line import TAGS, parse
from graphsplit.notation.rule import Factor, Operand, Rule

__all__ = ["TAGS", "Bound", "Factor", "Layout", "Operand", "Rule", "bind", "fitted", "parse", "shapes"]
