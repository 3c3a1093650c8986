"""Movement ops run on the numbers of their elements, held against what onnx's own examples make of the elements."""

from __future__ import annotations

import numpy as np

from graphsplit.errors import UnsupportedError
from graphsplit.formats.onnx_eval import move
from graphsplit.graph import Node
from graphsplit.labels.trainable import operand_tag
from graphsplit.notation import Rule, parse
from graphsplit.rules import registry
from tests.onnx_cases import Case, onnx_cases, own_cases, rules_of

TRAINING = {case.name for case in onnx_cases() if case.node.op_type == "Dropout" and "training" in case.name}
"""What is dropped is drawn: no movement."""


def _node(case: Case) -> Node:
    given = {a.name: case.attributes[a.name] for a in case.node.attribute}
    held = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    names = tuple(case.node.input), tuple(case.node.output)
    return Node(case.name, case.node.op_type, case.node.domain, case.version, *names, held)  # type: ignore[arg-type]


def _moves(case: Case, rule: Rule) -> bool | None:
    """Whether each result has the elements whose numbers the op gives, run on the numbers of its operands'.

    A result's element that no operand holds (the border of a Pad) has number 0. None where nothing can be compared.
    """
    tags = [operand_tag(rule, position) for position in range(len(case.inputs))]
    data = [a for a, tag in zip(case.inputs, tags, strict=True) if a is not None and tag is None]
    if not data or any(a.dtype != data[0].dtype or a.dtype.kind not in "fciub" for a in data):
        return None
    starts = np.cumsum([1, *(a.size for a in data)])
    numbers = iter([np.arange(at, at + a.size).reshape(a.shape) for at, a in zip(starts, data, strict=False)])
    given = []
    for array, tag in zip(case.inputs, tags, strict=True):
        fill = np.zeros((), np.int64) if tag == "fill" else array
        given.append(None if array is None else next(numbers) if tag is None else fill)
    try:
        found = move(_node(case), given)
    except UnsupportedError:
        return None
    values = np.concatenate([np.zeros(1, data[0].dtype), *(a.ravel() for a in data)])
    for places, made in zip(found, case.outputs, strict=False):
        if made is None or made.dtype != values.dtype:  # a mask beside the result
            continue
        if places.shape != made.shape or not (places >= 0).all() or not (places < len(values)).all():
            return False
        if not np.array_equal(values[places][places > 0], made[places > 0]):
            return False
    return True


def test_movement_ops_move_what_their_examples_say() -> None:
    moved: dict[str, list[bool]] = {}
    for case in (*own_cases(), *onnx_cases()):
        rules = [rule for rule in rules_of(case) if rule.move and rule.holds(case.attributes)]
        held = _moves(case, rules[0]) if rules and case.name not in TRAINING else None
        if held is not None:
            assert held, (case.name, rules[0].line)
            moved.setdefault(case.node.op_type, []).append(held)
    assert set(moved) == {rule.op for rule in registry() if rule.move}
    assert sum(map(len, moved.values())) > 120


def test_an_op_that_computes_is_no_movement() -> None:
    """A control: lines that call other ops movement are found out."""
    claims = {op: parse(f"{op} _, # -> _ | move") for op in ("Relu", "CumSum", "ReverseSequence", "AveragePool", "Neg")}
    found: dict[str, set[bool | None]] = {}
    for case in onnx_cases():
        claim = claims.get(case.node.op_type)
        if claim is not None:
            found.setdefault(case.node.op_type, set()).add(_moves(case, claim))
    assert True not in found["Relu"] | found["CumSum"] | found["AveragePool"] | found["Neg"]
    assert False in found["CumSum"] | found["Relu"]
    assert True in found["ReverseSequence"]  # it does move, and its line says which axes stay apart
