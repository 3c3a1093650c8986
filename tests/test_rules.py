"""The rule tables: printed whole, complete, fitting onnx's own examples, and extended by a user's lines."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphsplit.errors import RuleError
from graphsplit.notation import bind, shapes
from graphsplit.rules import Registry, parse_lines, registry
from tests.onnx_cases import UNFITTED, fit, may_be_refused, onnx_cases, own_cases, rules_of
from tools.operators import NO_RULE, document, entries

GOLDEN = Path(__file__).parent / "golden" / "onnx_rules.txt"
REWRITE = "python -c \"from graphsplit.rules import registry; print(*registry(), sep='\\n')\""

# ---- completeness ---------------------------------------------------------------------------------------------------


def test_golden() -> None:
    printed = "".join(f"{rule}\n" for rule in registry())
    assert printed == GOLDEN.read_text(encoding="utf-8"), f"rewrite with: {REWRITE} > {GOLDEN}"


def test_every_op_of_the_default_domain_has_a_rule_or_a_reason() -> None:
    newest: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            newest[schema.name] = max(schema.since_version, newest.get(schema.name, 0))
    without = {op for op, version in newest.items() if not registry().lookup("", op, version)}
    assert without == set()


def test_every_version_of_an_op_with_rules_has_one_and_every_at_names_a_version() -> None:
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
    assert [s.name for s in schemas if not registry().lookup("", s.name, s.since_version)] == []
    versions = {(s.name, s.since_version) for s in schemas}
    assert [r.line for r in registry() if not r.domain and r.since > 1 and (r.op, r.since) not in versions] == []


def test_attributes_that_rules_name_exist() -> None:
    for rule in registry():
        if rule.domain or not onnx.defs.has(rule.op):
            continue
        versions = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == rule.op and s.domain == ""]
        named = {name for name, _ in rule.guard} | {name for _, name, _ in rule.at} | {name for name, _ in rule.counts}
        if any(operand.tag == "axes" for operand in rule.operands):
            named.discard("axes")
        if any("kernel_shape" in schema.attributes for schema in versions):
            named.discard("every")  # the dialect reads it off `strides`
        for name in named:
            assert any(name in s.attributes for s in versions if s.since_version >= rule.since), (rule.line, name)


def test_operand_counts_are_those_of_the_op() -> None:
    wrong = []
    for schema in onnx.defs.get_all_schemas_with_history():
        rules = [] if schema.domain else registry().lookup("", schema.name, schema.since_version)
        rules = [rule for rule in rules if rule.results]
        if rules and not any(o.repeated for rule in rules for o in rule.operands):
            most = max(len(rule.operands) for rule in rules)
            if most < len(schema.inputs):
                wrong.append((schema.name, schema.since_version, most, len(schema.inputs)))
    assert wrong == []


def test_onnx_examples_fit() -> None:
    fitted: set[str] = set()
    misfits = {}
    for case in (*own_cases(), *onnx_cases()):
        try:
            fitted.update({fit(rules_of(case), case).rule.op} if rules_of(case) else ())
        except RuleError as error:
            misfits.update({} if may_be_refused(case) else {case.name: str(error)})
    assert set(misfits) == set(UNFITTED), misfits
    assert len(fitted) > 140


def test_refusals_say_what_to_do() -> None:
    refused = [rule for rule in registry() if rule.refuse]
    assert {"If", "Loop", "Scan", "QLinearConv", "DequantizeLinear", "SequenceMap"} <= {rule.op for rule in refused}
    assert [rule.line for rule in refused if not any(c in rule.refuse for c in (";", "no layers of neurons"))] == []


# ---- docs/operators.md ----------------------------------------------------------------------------------------------


def test_the_document_of_operators_is_up_to_date() -> None:
    written = (Path(__file__).parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")
    if f"onnx {onnx.__version__}\n" not in written:
        pytest.skip("the document is written for another version of onnx")
    assert written == document(registry()), "rewrite with: python tools/operators.py > docs/operators.md"


def test_every_operator_of_every_version_is_treated_or_refused_with_a_reason() -> None:
    found = entries(registry())
    assert [(entry.op, entry.versions) for entry in found if NO_RULE in entry.said] == []
    listed = {(entry.domain, entry.op, version) for entry in found for version in entry.versions}
    schemas = onnx.defs.get_all_schemas_with_history()
    assert {(s.domain, s.name, s.since_version) for s in schemas} <= listed


def test_an_operator_without_a_rule_is_noticed() -> None:
    """A control: no line for one op, and none for the newest version of another."""
    lines = [rule for rule in registry() if rule.op != "Relu" and (rule.op, rule.since) != ("Attention", 1)]
    found = {entry.op for entry in entries(Registry(lines)) if NO_RULE in entry.said}
    assert found == {"Relu", "Attention"}


def test_onnxruntimes_most_used_operators_are_listed() -> None:
    """Those of attention, norms and gates that its optimiser makes have a line each, whether it splits or says why not."""
    fused = """
        Attention BiasGelu DecoderMaskedMultiHeadAttention EmbedLayerNormalization FastGelu FusedConv GroupQueryAttention MoE
        MultiHeadAttention PackedAttention PackedMultiHeadAttention PagedAttention QuickGelu RotaryEmbedding
        SkipLayerNormalization SkipSimplifiedLayerNormalization
    """
    assert [op for op in fused.split() if not registry().lookup("com.microsoft", op, 1)] == []


# ---- the registry ---------------------------------------------------------------------------------------------------


def test_lookup_takes_the_largest_version_that_is_not_above() -> None:
    assert [rule.since for rule in registry().lookup("", "Softmax", 11)] == [1]
    assert [rule.since for rule in registry().lookup("ai.onnx", "Softmax", 13)] == [13]
    assert len(registry().lookup("", "Gemm", 13)) == 12
    assert registry().lookup("", "NoSuchOp", 1) == ()
    assert registry().lookup("com.microsoft", "Gelu", 1)[0].line == "com.microsoft::Gelu ... -> ..."


def test_products_absent_attributes_and_broadcast_groups() -> None:
    rule = parse_lines("Op[old=none] b (g r d), b (g d), (g r) -> b (g r) | set heads=g*r shared=g")[0]
    bound = bind(rule, [(2, 24), (2, 12), (1,)], [(2, 4)], {"heads": 4, "shared": 2})
    assert dict(bound.sizes) == {"b": 2, "g": 2, "r": 2, "d": 6}
    assert bound.operands[2] == ((),)
    assert shapes(rule, [(2, 24), (2, 12), None], 1, {"heads": 4, "shared": 2}) == [(2, 4)]
    with pytest.raises(RuleError, match="the factors of"):
        bind(rule, [(2, 24), (2, 12), None], [(2, 4)], {"heads": 6, "shared": 2})
    with pytest.raises(RuleError, match="the factors of"):
        bind(rule, [(2, 24), (2, 12), (3,)], [(2, 4)], {"heads": 4, "shared": 2})
    with pytest.raises(RuleError, match="its guard"):
        bind(rule, [(2, 24), (2, 12), None], [(2, 4)], {"heads": 4, "shared": 2, "old": 1})


def test_a_users_lines_win() -> None:
    lines = ["# mine\n", "\n", "my.domain::Twist n c -> c n\n", "Softmax ... -> ... | stat ...\n"]
    extended = registry().extended(lines)
    assert extended.lookup("my.domain", "Twist", 3)[0].line == "my.domain::Twist n c -> c n"
    assert [rule.since for rule in extended.lookup("", "Softmax", 13)] == [1, 13]
    assert registry().lookup("my.domain", "Twist", 3) == ()
    assert len(list(extended)) == len(list(registry())) + 2
    again = extended.extended(["Softmax@2 _ -> _ | opaque"])
    assert [rule.since for rule in again.lookup("", "Softmax", 13)] == [2, 1, 13]


def test_a_bad_line_is_named() -> None:
    with pytest.raises(RuleError, match=r"^line 3: rule line 'Op n', column 5: expected operands"):
        parse_lines("# a comment\n\nOp n\n")
    with pytest.raises(RuleError, match="no rule table for 'caffe'"):
        registry("caffe")


def test_iteration_is_sorted() -> None:
    keys = [(rule.domain, rule.op, rule.since) for rule in registry()]
    assert keys == sorted(keys)
    assert list(Registry(registry())) == list(registry())
