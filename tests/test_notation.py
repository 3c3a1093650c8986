"""The notation of rule lines: printed and parsed as inverses, every message of the parser and of the fit."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphsplit.errors import RuleError
from graphsplit.notation import TAGS, Factor, Operand, Rule, bind, fit, layout, line, parse

Shapes = Sequence[tuple[int, ...] | None]

CONV = "Conv n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | mix i | set group=g"

# ---- parse and print ------------------------------------------------------------------------------------------------

_LETTERS = [Factor(name) for name in ("n", "c", "i", "o", "g", "head")] + [Factor("4", size=4)]
_BUNDLES = [Factor(name, many=True) for name in ("s", "t", "...")]
_words = st.from_regex(r"[A-Za-z]\w{0,5}", fullmatch=True)


@st.composite
def _axes(draw: st.DrawFn) -> Operand:
    factors = draw(st.lists(st.sampled_from(_LETTERS + _BUNDLES), unique=True, max_size=6))
    axes: list[tuple[Factor, ...]] = []
    for factor in factors:
        joins = axes and not factor.many and not axes[-1][0].many and draw(st.booleans())
        axes[-1:] = [(*axes[-1], factor)] if joins else [*axes[-1:], (factor,)]
    return Operand(tuple(axes))


_others = st.one_of(st.just(Operand(None)), st.sampled_from(TAGS).map(lambda tag: Operand(None, tag)))
_repeated = st.sampled_from([Operand(None), Operand(None, ""), Operand(((Factor("...", many=True),),))])


@st.composite
def _sides(draw: st.DrawFn, least: int) -> tuple[Operand, ...]:
    operands = draw(st.lists(st.one_of(_axes(), _others), min_size=least, max_size=4))
    if draw(st.booleans()):
        last = draw(_repeated)
        operands.append(Operand(last.axes, last.tag, repeated=True))
    return tuple(operands)


@st.composite
def _rules(draw: st.DrawFn) -> Rule:
    operands, results = draw(_sides(0)), draw(_sides(1))
    read = sorted({f.name for o in operands for f in o.factors if f.size is None})
    made = {f.name for o in results for f in o.factors}
    single = sorted({a[0].name for o in operands for a in o.axes or () if len(a) == 1 and a[0].size is None})
    letters = [name for name in read if name.isalpha() and name not in "st"]
    some = st.sets(st.sampled_from(read)) if read else st.just(set())
    flags = {
        name: draw(st.booleans()) for name in ("move", "reduce", "equation", "opaque", "additive", "draws", "window")
    }
    unnamed = any(o.axes is None and o.tag is None for o in operands)
    refused = unnamed and not any(flags[name] for name in flags if name not in ("additive", "window"))
    reason = draw(st.text("ab ,->:", min_size=1).map(str.strip).filter(bool)) if refused or draw(st.booleans()) else ""
    values = st.one_of(st.integers(-9, 99), _words)
    return Rule(
        op=draw(_words),
        domain=draw(st.sampled_from(["", "com.microsoft", "aten"])),
        since=draw(st.integers(1, 30)),
        guard=tuple(sorted(draw(st.dictionaries(_words, values, max_size=2)).items())),
        operands=operands,
        results=results,
        mix=frozenset(draw(some) - made),
        whole=frozenset(draw(some)),
        stat=frozenset(draw(some)),
        refuse=reason,
        at=tuple(draw(st.lists(st.tuples(st.sampled_from(single), _words, st.integers(-4, 4))))) if single else (),
        counts=tuple(draw(st.lists(st.tuples(_words, st.sampled_from(letters))))) if letters else (),
        work=tuple(draw(st.lists(st.lists(st.sampled_from(letters), min_size=1).map("*".join)))) if letters else (),
        **flags,
    )


@given(_rules())
def test_print_then_parse_gives_the_rule_back(rule: Rule) -> None:
    assert parse(str(rule)) == rule


@given(_rules(), st.data())
def test_blanks_do_not_matter(rule: Rule, data: st.DataObject) -> None:
    if rule.refuse:
        return
    pieces = re.split(r"(\||->|,(?![^\[]*\]))", rule.line)
    padded = "".join(f"  {piece}\t" if i % 2 else piece for i, piece in enumerate(pieces))
    assert parse(f"{padded} ") == rule


@given(st.lists(st.sampled_from([*"nci*#+_()@[]=,:|. 0241", "->", " ", " | ", "...", "Op ", "mix ", "at ", "set "])))
def test_any_text_is_a_rule_or_refused(words: list[str]) -> None:
    try:
        rule = parse("Op " + "".join(words))
    except RuleError:
        return
    assert parse(rule.line) == rule


def test_normal_form() -> None:
    text = "ai.onnx::Op[b=x,a=-1]   (g  i)  ... ,  # ->  ( )|set z=g|stat i g |  sum| at ...=axis:-1 "
    assert str(parse(text)) == "Op[a=-1,b=x] (g i) ..., # -> () | stat g i | sum | at ...=axis:-1 | set z=g"
    assert str(parse("Loop | refuse control flow,  always")) == "Loop | refuse control flow,  always"
    assert str(parse("RandomNormal -> _ | draws")) == "RandomNormal -> _ | draws"


ILL_FORMED = [
    ("", 1, "expected an op such as", "found nothing"),
    ("(g i) -> g", 1, "expected an op such as", "found '(g'"),
    ("Op@0 n -> n", 4, "expected a version of 1 or more", "found '0'"),
    ("Op[a] n -> n", 4, "expected attribute=value, each attribute once", "found 'a'"),
    ("Op[a=1,a=2] n -> n", 8, "expected attribute=value, each attribute once", "found 'a=2'"),
    ("Op n -> n | mixes n", 13, "expected a qualifier (mix, whole", "found 'mixes'"),
    ("Op n -> n |", 12, "expected a qualifier (", "found nothing"),
    ("Op n -> n | sum | sum", 19, "expected 'sum' once", "found 'sum'"),
    ("Op n -> n | move n", 18, "expected nothing behind 'move'", "found 'n'"),
    ("Op n -> n | stat", 17, "expected something behind 'stat'", "found nothing"),
    ("Op n", 5, "expected operands, one '->', and results", "found nothing"),
    ("Op n -> n -> c", 14, "expected operands, one '->', and results", "found 'c'"),
    ("Op ...+, n -> n", 4, "expected the operand with '+' to be the last", "found '...+'"),
    ("Op n, #end -> n", 7, "expected an argument: #, #axes", "found '#end'"),
    ("Op n c+ -> n", 4, "expected '+' behind '_', '#' or '...' alone", "found 'n'"),
    ("Op n *n -> n", 6, "expected each factor once in an operand, 'n'", "found '*n'"),
    ("Op (g i -> n", 4, "expected ')' behind the factors", "found '(g'"),
    ("Op (g *i) -> n", 7, "expected a letter, a word or a number in a composite", "found '*i'"),
    ("Op n () -> n", 7, "expected a letter, a word or a number in a composite", "found nothing"),
    ("Op n, -> n", 6, "expected an axis: a letter or word", "found nothing"),
    ("Op n 0 -> n", 6, "expected an axis: a letter or word", "found '0'"),
    ("Op n *4 -> n", 6, "expected an axis: a letter or word", "found '*4'"),
    ("Op n -> *n", 9, "expected 'n' to be a letter or a bundle, not both", "found '*n'"),
    ("Op n, _ -> n", 7, "'_' has no axes: expected one of the qualifiers move", "found '_'"),
    ("Op n c -> n | mix n", 19, "expected a factor of an operand and of no result behind 'mix'", "found 'n'"),
    ("Op n -> n c | stat n c", 22, "expected a factor of an operand behind 'stat'", "found 'c'"),
    ("Op n -> n | whole -", 19, "expected a factor of an operand behind 'whole'", "found '-'"),
    ("Op n -> n | at n", 16, "expected factor=attribute:default, the factor an axis", "found 'n'"),
    ("Op (g i) -> i | at i=axis:0", 20, "expected factor=attribute:default, the factor an axis", "found 'i=axis:0'"),
    ("Op n -> n | back n", 18, "expected letter=letter, the first of an operand alone", "found 'n'"),
    ("Op n -> n | work n*x", 18, "expected products such as n*q*s*d, of letters and bundles", "found 'n*x'"),
    ("Op n -> n | work n* n", 18, "expected products such as n*q*s*d, of letters and bundles", "found 'n*'"),
    ("Op n j -> n | back n=n", 20, "expected letter=letter, the first of an operand alone", "found 'n=n'"),
    ("Op n -> n | set n", 17, "expected attribute=factor, the factor a letter or a bundle", "found 'n'"),
    ("Op n -> n | fused Conv Relu", 19, "expected one op behind 'fused'", "found 'Conv'"),
    ("Op ... -> ... | set a=...", 21, "expected attribute=factor, the factor a letter or a bundle", "found 'a=...'"),
]


@pytest.mark.parametrize(("text", "column", "expected", "found"), ILL_FORMED)
def test_ill_formed_lines(text: str, column: int, expected: str, found: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse(text)
    message = str(caught.value)
    assert f"column {column}: {expected}" in message
    assert message.endswith(found)


def _messages(module: object, start: str) -> list[str]:
    """How the messages in a module's source begin, up to what is filled in."""
    tree = ast.parse(Path(inspect.getsourcefile(module) or "").read_text())  # type: ignore[arg-type]
    firsts = [n.values[0] if isinstance(n, ast.JoinedStr) else n for n in ast.walk(tree) if not isinstance(n, ast.Expr)]
    texts = {f.value for f in firsts if isinstance(f, ast.Constant) and isinstance(f.value, str)}
    return sorted(text for text in texts if text.startswith(start) and "\n" not in text and len(text) > len(start))


def test_every_message_of_the_parser_has_an_ill_formed_line() -> None:
    messages = [message for message in _messages(line, "expected ") if not message.startswith("expected {")]
    assert len(messages) >= 12
    met = [expected for _, _, expected, _ in ILL_FORMED]
    for message in messages:
        assert any(expected[: len(message)] == message[: len(expected)] for expected in met), message


# ---- fit ------------------------------------------------------------------------------------------------------------


def test_convolution_dense_grouped_and_depthwise() -> None:
    rule = parse(CONV)
    dense = bind(rule, [(2, 6, 8, 8), (4, 6, 3, 3), (4,)], [(2, 4, 6, 6)], {"group": 1})
    assert dense.operands[0] == (("n",), ("i",), ("s.0",), ("s.1",))
    assert dense.operands[1] == (("o",), ("i",), ("k.0",), ("k.1",))
    assert dense.operands[2] == (("o",),)
    assert dense.results == ((("n",), ("o",), ("t.0",), ("t.1",)),)
    assert dense.mix == {"i"}
    assert dense.sizes["g"] == 1
    grouped = bind(rule, [(2, 6, 8), (4, 3, 3), None], [(2, 4, 6)], {"group": 2})
    assert grouped.operands == ((("n",), ("g", "i"), ("s.0",)), (("g", "o"), ("i",), ("k.0",)), None)
    depthwise = bind(rule, [(2, 6, 8), (6, 1, 3)], [None], {"group": np.int64(6)})
    assert depthwise.operands == ((("n",), ("g",), ("s.0",)), (("g",), (), ("k.0",)))
    assert depthwise.results == (None,)
    assert depthwise.mix == frozenset()


def test_ellipsis_aligns_from_the_right_and_broadcasts() -> None:
    bound = bind(parse("MatMul ... m i, ... i o -> ... m o | mix i"), [(2, 1, 4, 5), (3, 5, 6)], [(2, 3, 4, 6)], {})
    assert bound.operands == ((("....0",), (), ("m",), ("i",)), (("....1",), ("i",), ("o",)))
    assert bound.results == ((("....0",), ("....1",), ("m",), ("o",)),)
    scalar = bind(parse("Add ..., ... -> ... | sum"), [(), (3,)], [(3,)], {})
    assert scalar.operands == ((), (("....0",),))


def test_at_splits_bundles() -> None:
    norm = parse("LayerNormalization *a *c, *c, *c -> *a *c, *a *u, *a *u | stat c | at c=axis:-1")
    bound = bind(norm, [(2, 3, 4), (3, 4), (3, 4)], [(2, 3, 4), (2, 1, 1), (2, 1, 1)], {"axis": 1})
    assert bound.stat == {"c.0", "c.1"}
    assert bound.results[1] == (("a.0",), (), ())
    softmax = parse("Softmax@13 *a c *b -> *a c *b | stat c | at c=axis:-1")
    assert bind(softmax, [(2, 3, 4)], [(2, 3, 4)], {}).stat == {"c"}
    assert bind(softmax, [(2, 3, 4)], [(2, 3, 4)], {"axis": 0}).operands == ((("c",), ("b.0",), ("b.1",)),)
    running = parse("CumSum *a c *b, #axes -> *a c *b | stat c | at c=axes:0")
    bound = bind(running, [(2, 3), ()], [(2, 3)], {"axes": np.array(1)})
    assert bound.operands[0] == (("a.0",), ("c",))
    assert bound.tags == (None, "axes")


def test_reduction_reads_its_axes() -> None:
    rule = parse("ReduceMean@18 _, #axes -> _ | reduce")
    bound = bind(rule, [(2, 3, 4), (1,)], [(2, 1, 4)], {"axes": np.array([-2]), "keepdims": 1})
    assert bound.stat == {"a.1"}
    assert bound.results == ((("a.0",), (), ("a.2",)),)
    dropped = bind(rule, [(2, 3, 4), (1,)], [(2, 4)], {"axes": (1,), "keepdims": 0})
    assert dropped.results == ((("a.0",), ("a.2",)),)
    assert bind(rule, [(2, 3)], [(1, 1)], {}).stat == {"a.0", "a.1"}
    assert bind(rule, [(2, 3)], [(2, 3)], {"noop_with_empty_axes": 1}).stat == frozenset()
    assert bind(parse("ArgMax _ -> _ | reduce"), [(2, 3)], [(1, 3)], {"axis": 0}).stat == {"a.0"}


def test_equation_is_read() -> None:
    rule = parse("Einsum _+ -> _ | equation")
    bound = bind(rule, [(2, 3, 4), (4, 5)], [(2, 3, 5)], {"equation": b"...j, jk"})
    assert bound.operands == ((("....0",), ("....1",), ("j",)), (("j",), ("k",)))
    assert bound.mix == {"j"}
    assert bound.rule is rule
    assert bind(rule, [(2, 3)], [(2,)], {"equation": "ij->i"}).stat == {"j"}
    assert bind(rule, [(3,), (3,)], [()], {"equation": "i,i"}).mix == {"i"}


def test_arguments_absent_operands_and_refusals() -> None:
    clip = bind(parse("Clip ..., #, # -> ..."), [(2, 3), None, ()], [(2, 3)], {})
    assert clip.operands == ((("....0",), ("....1",)), None, None)
    assert clip.tags == (None, "", "")
    loop = bind(parse("Loop | refuse control flow"), [(1,), None], [None], {})
    assert loop.rule.refuse == "control flow"
    assert loop.operands == (None, None)
    assert parse("Op[mode=up] h -> h").holds({"mode": b"up"})
    assert not parse("Op[mode=up] h -> h").holds({})
    assert bind(parse("Op[mode=up] (2 h) -> h"), [(6,)], [(3,)], {"mode": b"up"}).sizes == {"2": 2, "h": 3}


MISFITS: list[tuple[str, Shapes, Shapes, Mapping[str, object], str]] = [
    ("Op[a=1] n -> n", [(2,)], [(2,)], {"a": 0}, "its guard is for other attributes than {'a': 0}"),
    ("Op n c -> n", [(2, 3), (2,)], [(2,)], {}, "the node has 2 inputs, the rule 1"),
    ("Op n -> n", [(2,)], [(2,), (2,)], {}, "the node has 2 outputs, the rule 1"),
    ("Op n c -> n", [(2, 3, 4)], [(2,)], {}, "'n c' does not describe a value of rank 3"),
    ("Op n c *s -> n", [(2,)], [(2,)], {}, "'n c *s' does not describe a value of rank 1"),
    ("Op ... n -> n", [()], [(2,)], {}, "'... n' does not describe a value of rank 0"),
    ("Op *a *b -> n", [(2, 3)], [(2,)], {}, "the ranks do not tell how many axes the bundles of '*a *b' have"),
    ("Op *a c *b -> n | at c=axis:5", [(2, 3)], [(2,)], {}, "axis 5 is out of range for an operand of rank 2"),
    ("Op *a c -> n | at c=axis:0", [(2, 3)], [(2,)], {"axis": "x"}, "attribute axis is 'x', not an integer"),
    ("Op n, n -> n", [(2,), (3,)], [(2,)], {}, "the sizes of n disagree: 2 and 3"),
    ("Op n -> n", [(2,)], [(3,)], {}, "the sizes of n disagree: 2 and 3 in the result"),
    ("Op g -> g | set k=g", [(2,)], [(2,)], {"k": 3}, "the sizes of g disagree: 3 and 2"),
    ("Op (g i) -> n", [(6,)], [(2,)], {}, "the size 6 of (g i) does not tell the sizes of its factors"),
    ("Op (g i), g, i -> n", [(6,), (2,), (2,)], [(2,)], {}, "the factors of (g i) make 4, the axis has size 6"),
    ("Op (g i), g -> n", [(6,), (4,)], [(2,)], {}, "the axis (g i) has size 6, which is no multiple of 4"),
    ("Op g -> g | set k=g", [(2,)], [(2,)], {}, "attribute k is None, not an integer"),
    ("Op _, #axes -> _ | reduce", [(2,), (1,)], [(1,)], {}, "the value of its operand #axes isn't known"),
    ("Op _ -> _ | reduce", [None], [(1,)], {}, "the shape of its first input isn't known"),
    ("Op _ -> _ | reduce", [(2,)], [(2,)], {}, "the result has shape (2,), not (1,)"),
    ("Op _ -> _ | reduce", [(2,)], [(1,)], {"axes": (3,)}, "axes [3] are out of range for rank 1"),
    ("Op _+ -> _ | equation", [(2, 2)], [(2,)], {"equation": "ii->i"}, "the equation 'ii->i' is not one that splits"),
    ("Op _+ -> _ | equation", [(2,)], [()], {"equation": "i,i->"}, "has 2 operands, the node 1"),
]


@pytest.mark.parametrize(("text", "inputs", "outputs", "attributes", "reason"), MISFITS)
def test_misfits(text: str, inputs: Shapes, outputs: Shapes, attributes: Mapping[str, object], reason: str) -> None:
    with pytest.raises(RuleError, match=re.escape(reason)):
        bind(parse(text), inputs, outputs, attributes)


def test_every_message_of_the_fit_has_a_misfit() -> None:
    sources = [inspect.getsource(module) for module in (fit, layout)]
    calls = [call for source in sources for call in re.findall(r'misfit\(\s*rule,\s*f?"([^"{]+)', source)]
    assert len(calls) >= 12
    for call in calls:
        assert any(call.strip() in reason for *_, reason in MISFITS), call


@given(st.data())
def test_fit_finds_the_sizes_that_made_the_shapes(data: st.DataObject) -> None:
    size = st.integers(2, 5)
    sizes = {name: data.draw(size) for name in ("n", "c", "g", "i", "o")}
    lengths = {"s": data.draw(st.integers(0, 3)), "t": data.draw(st.integers(0, 3))}
    for name, length in lengths.items():
        sizes |= {f"{name}.{k}": data.draw(size) for k in range(length)}
    rule = parse("Op n (g i) *s, c *t g, (g o i), o -> *s (c i), *t n")

    def shape(text: str) -> tuple[int, ...]:
        dims: list[int] = []
        for word in text.split():
            if word in lengths:
                dims += [sizes[f"{word}.{k}"] for k in range(lengths[word])]
            else:
                dims.append(prod(sizes[name] for name in word.split(".")))
        return tuple(dims)

    bound = bind(
        rule, [shape("n g.i s"), shape("c t g"), shape("g.o.i"), shape("o")], [shape("s c.i"), shape("t n")], {}
    )
    assert bound.sizes == sizes
    assert bound.results[0] == (*[(f"s.{k}",) for k in range(lengths["s"])], ("c", "i"))
