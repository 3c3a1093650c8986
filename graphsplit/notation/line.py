"""The notation of rule lines, and its parser.

    line      = key [ operands "->" results ] { "|" qualifier }
    key       = [ domain "::" ] op [ "@" version ] [ "[" attribute "=" value { "," attribute "=" value } "]" ]
    operands  = [ operand { "," operand } ]             (results likewise, at least one)
    operand   = "_" | "#" [ tag ] | "()" | axis { axis }     with "+" behind "_", "#" or "...": one or more of these
    axis      = factor | "*" word | "..." | "(" factor { factor } ")"
    factor    = word | number

Only a line that says `refuse` may leave out its operands and results: it then fits every node of its op.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import NoReturn

from graphsplit.errors import RuleError
from graphsplit.notation.rule import ELLIPSIS, FLAGS, Factor, Operand, Rule

TAGS = ("", "axes", "ends", "fill", "index", "like", "repeats", "shape", "sizes", "starts", "steps")

_KEY = re.compile(r"(?:([A-Za-z][\w.]*)::)?([A-Za-z_][\w.]*)(?:@(\d+))?(\[[^\]]*\])?(?=[\s|]|$)")
_GUARD = re.compile(r"\s*([A-Za-z_]\w*)=([\w.-]+)\s*")
_FACTOR = re.compile(r"[A-Za-z]\w*|[1-9]\d*(?!\w)")
_NAME = re.compile(r"\.\.\.|[A-Za-z]\w*|[1-9]\d*")
_OP = re.compile(r"[A-Za-z]\w*")
_PLACE = re.compile(r"(\.\.\.|[A-Za-z]\w*)=([A-Za-z_]\w*):(-?\d+)")
_COUNT = re.compile(r"([A-Za-z_]\w*)=([A-Za-z]\w*)")
_SIZE = re.compile(r"([A-Za-z_]\w*)=([A-Za-z]\w*(?:\*[A-Za-z]\w*)*)")
_QUALIFIERS = ("mix", "whole", "stat", *FLAGS, "at", "set", "back", "work", "fused", "refuse")
_PRODUCT = re.compile(r"(?:\.\.\.|[A-Za-z]\w*)(?:\*(?:\.\.\.|[A-Za-z]\w*))*")
_NEEDS_NO_AXES = ("move", "reduce", "equation", "opaque", "draws", "refuse")


def parse(line: str) -> Rule:
    """The rule that a line says. Raises RuleError with the column and what was expected there."""
    head, *tail = _pieces(line, "|", 0, len(line))
    key = _KEY.match(line, head[0])
    if not key:
        _fail(line, head[0], "expected an op such as Conv, com.microsoft::Gelu, Softmax@13 or Gemm[transB=1]")
    domain, op, since, guard = key.groups()
    if since == "0":
        _fail(line, key.start(3), "expected a version of 1 or more")
    qualifiers = _qualifiers(line, tail)
    operands, results = _sides(line, key.end(), head[1], "refuse" in qualifiers)
    check = _Check(line, operands, results)
    for start, end in check.unnamed(qualifiers):
        _fail(line, start, f"'_' has no axes: expected one of the qualifiers {', '.join(_NEEDS_NO_AXES)}", end)
    letters = {word: check.names(word, qualifiers.get(word)) for word in ("mix", "whole", "stat")}
    flags = {word: word in qualifiers for word in FLAGS}
    return Rule(
        op=op,
        domain="" if domain in (None, "ai.onnx") else domain,
        since=int(since or 1),
        guard=_guard(line, key.start(4), key.end(4)) if guard else (),
        operands=tuple(operand for operand, _ in operands),
        results=tuple(operand for operand, _ in results),
        additive=flags.pop("sum"),
        at=check.places(qualifiers.get("at")),
        counts=check.sizes(qualifiers.get("set")),
        back=check.fed(qualifiers.get("back")),
        work=check.products(qualifiers.get("work")),
        fused=check.op(qualifiers.get("fused")),
        refuse=line[slice(*qualifiers["refuse"])] if "refuse" in qualifiers else "",
        **letters,  # type: ignore[arg-type]
        **flags,  # type: ignore[arg-type]
    )


Span = tuple[int, int]
Found = list[tuple[Operand, Span]]


def _fail(line: str, column: int, expected: str, end: int | None = None) -> NoReturn:
    """Raise the parser's error. `column` counts from 0 here and from 1 in the message."""
    found = re.split(r"[|,\s]", line[column:end].strip(), maxsplit=1)[0]
    where = f"found {found!r}" if found else "found nothing"
    raise RuleError(f"rule line {line.strip()!r}, column {column + 1}: {expected}, {where}")


def _pieces(line: str, mark: str, start: int, end: int) -> list[Span]:
    """The spans between marks, without the blanks around them."""
    spans = []
    for piece in line[start:end].split(mark):
        blank = len(piece) - len(piece.lstrip())
        spans.append((start + blank if piece.strip() else start, start + len(piece.rstrip())))
        start += len(piece) + len(mark)
    return spans


def _guard(line: str, start: int, end: int) -> tuple[tuple[str, int | str], ...]:
    """The attributes and values between brackets, sorted."""
    found: dict[str, int | str] = {}
    for begin, stop in _pieces(line, ",", start + 1, end - 1):
        match = _GUARD.fullmatch(line, begin, stop)
        if not match or match[1] in found:
            _fail(line, begin, "expected attribute=value, each attribute once", stop)
        found[match[1]] = int(match[2]) if re.fullmatch(r"-?\d+", match[2]) else match[2]
    return tuple(sorted(found.items()))


def _qualifiers(line: str, spans: Iterable[Span]) -> dict[str, Span]:
    """Where the text behind each qualifier's word lies."""
    found: dict[str, Span] = {}
    for start, end in spans:
        word = (line[start:end].split() or [""])[0]
        if word not in _QUALIFIERS:
            _fail(line, start, f"expected a qualifier ({', '.join(_QUALIFIERS)})", end)
        if word in found:
            _fail(line, start, f"expected {word!r} once", end)
        text = line[start + len(word) : end]
        begin = end - len(text.lstrip())
        if word in FLAGS and begin != end:
            _fail(line, begin, f"expected nothing behind {word!r}", end)
        if word not in FLAGS and begin == end:
            _fail(line, begin, f"expected something behind {word!r}", end)
        found[word] = (begin, end)
    return found


def _sides(line: str, start: int, end: int, refused: bool) -> tuple[Found, Found]:
    """Operands and results with their spans."""
    if refused and not line[start:end].strip():
        return [], []
    sides = _pieces(line, "->", start, max(start, end))
    if len(sides) != 2:
        _fail(line, sides[2][0] if len(sides) > 2 else end, "expected operands, one '->', and results", end)
    (begin, middle), (behind, stop) = sides
    operands = _side(line, begin, middle) if line[begin:middle].strip() else []
    return operands, _side(line, behind, stop)


def _side(line: str, start: int, end: int) -> Found:
    """The operands of one side of the arrow."""
    spans = _pieces(line, ",", start, end)
    found = [(_operand(line, *span), span) for span in spans]
    for operand, (begin, stop) in found[:-1]:
        if operand.repeated:
            _fail(line, begin, "expected the operand with '+' to be the last", stop)
    return found


def _operand(line: str, start: int, end: int) -> Operand:
    text = line[start:end]
    repeated = text.endswith("+")
    if repeated:
        text = text[:-1].rstrip()
    if text.startswith("#"):
        if text[1:] not in TAGS:
            _fail(line, start, f"expected an argument: {', '.join(f'#{tag}' for tag in TAGS)}", end)
        return Operand(None, text[1:], repeated)
    if text == "_":
        return Operand(None, repeated=repeated)
    if repeated and text != ELLIPSIS:
        _fail(line, start, "expected '+' behind '_', '#' or '...' alone", end)
    if re.fullmatch(r"\(\s*\)", text):
        return Operand(())
    axes: list[tuple[Factor, ...]] = []
    stop, position = start + len(text), start
    seen: set[str] = set()
    while position < stop or not axes:
        axis, after = _axis(line, position, stop)
        for factor in axis:
            if factor.name in seen:
                _fail(line, position, f"expected each factor once in an operand, {factor.name!r} is there twice", stop)
            seen.add(factor.name)
        axes.append(axis)
        position = after + len(line[after:stop]) - len(line[after:stop].lstrip())
    return Operand(tuple(axes), repeated=repeated)


def _axis(line: str, position: int, stop: int) -> tuple[tuple[Factor, ...], int]:
    """The axis that starts at `position`, and where it ends."""
    if line.startswith(ELLIPSIS, position, stop):
        return (Factor(ELLIPSIS, many=True),), position + len(ELLIPSIS)
    many = line.startswith("*", position, stop)
    if line.startswith("(", position, stop):
        close = line.find(")", position, stop)
        if close < 0:
            _fail(line, position, "expected ')' behind the factors of a composite axis", stop)
        words = [(m.start(), m.end()) for m in re.compile(r"\S+").finditer(line, position + 1, close)]
        for begin, end in words or [(position + 1, position + 1)]:
            if not _FACTOR.fullmatch(line, begin, end):
                _fail(line, begin, "expected a letter, a word or a number in a composite axis", close)
        return tuple(_factor(line[begin:end]) for begin, end in words), close + 1
    match = _FACTOR.match(line, position + many, stop)
    if not match or (many and match[0].isdigit()):
        _fail(line, position, "expected an axis: a letter or word, *bundle, ..., a number or (composite)", stop)
    return (Factor(match[0], many=True) if many else _factor(match[0]),), match.end()


def _factor(word: str) -> Factor:
    return Factor(str(int(word)), size=int(word)) if word.isdigit() else Factor(word)


class _Check:
    """Qualifiers read against the factors that the operands and results hold."""

    def __init__(self, line: str, operands: Found, results: Found) -> None:
        self.line, self.operands, self.results = line, operands, results
        self.read = {factor.name: factor for operand, _ in operands for factor in operand.factors}
        self.made = {factor.name: factor for operand, _ in results for factor in operand.factors}
        for operand, span in (*operands, *results):
            for factor in operand.factors:
                other = self.read.get(factor.name, self.made.get(factor.name))
                if other != factor:
                    _fail(line, span[0], f"expected {factor.name!r} to be a letter or a bundle, not both", span[1])

    def unnamed(self, qualifiers: dict[str, Span]) -> list[Span]:
        """The operands `_` of a rule that has to name its axes."""
        if any(word in qualifiers for word in _NEEDS_NO_AXES) or all(r.tag is not None for r, _ in self.results):
            return []
        return [span for operand, span in self.operands if operand.axes is None and operand.tag is None]

    def names(self, word: str, span: Span | None) -> frozenset[str]:
        """The factors behind mix, whole or stat: of an operand, and those behind mix of no result."""
        expected = "a factor of an operand and of no result" if word == "mix" else "a factor of an operand"
        found = set()
        for begin, match in self._words(span, _NAME, f"expected {expected} behind {word!r}"):
            name = match[0]
            if name not in self.read or (word == "mix" and name in self.made):
                _fail(self.line, begin, f"expected {expected} behind {word!r}", match.end())
            found.add(name)
        return frozenset(found)

    def places(self, span: Span | None) -> tuple[tuple[str, str, int], ...]:
        """The entries behind `at`: each a factor that is an axis by itself in an operand."""
        expected = "expected factor=attribute:default, the factor an axis by itself in an operand"
        own = {axis[0].name for operand, _ in self.operands for axis in operand.axes or () if len(axis) == 1}
        found = []
        for begin, match in self._words(span, _PLACE, expected):
            if match[1] not in own:
                _fail(self.line, begin, expected, match.end())
            found.append((match[1], match[2], int(match[3])))
        return tuple(found)

    def sizes(self, span: Span | None) -> tuple[tuple[str, str], ...]:
        """The entries behind `set`: an attribute and the factor whose size it holds (of a bundle: the sizes), or `a*b`."""
        expected = "expected attribute=factor, the factor a letter or a bundle of the line"
        found = []
        for begin, match in self._words(span, _SIZE, expected):
            names = match[2].split("*")
            factors = [self.read.get(name, self.made.get(name)) for name in names]
            if any(f is None or (f.many and len(names) > 1) for f in factors):
                _fail(self.line, begin, expected, match.end())
            found.append((match[1], match[2]))
        return tuple(found)

    def fed(self, span: Span | None) -> tuple[tuple[str, str], ...]:
        """The entries behind `back`: each a letter of an operand, and the letter of a result that is fed back along it."""
        expected = "expected letter=letter, the first of an operand alone, the second of a result"
        found = []
        for begin, match in self._words(span, _COUNT, expected):
            here, there = self.read.get(match[1]), self.made.get(match[2])
            if here is None or there is None or here.many or there.many or match[1] in self.made:
                _fail(self.line, begin, expected, match.end())
            found.append((match[1], match[2]))
        return tuple(found)

    def products(self, span: Span | None) -> tuple[str, ...]:
        """The entries behind `work`: each a product of factors, of which one may come twice."""
        expected = "expected products such as n*q*s*d, of letters and bundles of the line"
        found = []
        for begin, match in self._words(span, _PRODUCT, expected):
            if not set(match[0].split("*")) <= self.read.keys() | self.made.keys():
                _fail(self.line, begin, expected, match.end())
            found.append(match[0])
        return tuple(found)

    def op(self, span: Span | None) -> str:
        """The op behind `fused`: one, of ONNX's own domain."""
        found = [match[0] for _, match in self._words(span, _OP, "expected one op behind 'fused'")]
        if span is not None and len(found) > 1:
            _fail(self.line, span[0], "expected one op behind 'fused'", span[1])
        return found[0] if found else ""

    def _words(self, span: Span | None, pattern: re.Pattern[str], expected: str) -> Iterable[tuple[int, re.Match[str]]]:
        fail: Callable[..., NoReturn] = partial(_fail, self.line)
        for word in re.compile(r"\S+").finditer(self.line, *(span or (0, 0))):
            match = pattern.fullmatch(self.line, word.start(), word.end())
            if not match:
                fail(word.start(), expected, word.end())
            yield word.start(), match
