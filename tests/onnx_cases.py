"""Examples of ops to hold the rule tables against: onnx's own node tests, and ours where those are too small."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

from graphsplit.errors import RuleError
from graphsplit.formats.onnx_dialect import with_steps
from graphsplit.notation import Bound, Rule, bind
from graphsplit.rules import registry

Array = npt.NDArray[np.generic]

UNFITTED = {"test_einsum_batch_diagonal": "a letter twice in one operand (a diagonal) is no axis of its own"}


@dataclass(frozen=True)
class Case:
    """One of onnx's examples: a model of one node with its inputs and outputs."""

    name: str
    model: onnx.ModelProto
    version: int
    attributes: Mapping[str, object]
    inputs: tuple[Array | None, ...]
    outputs: tuple[Array | None, ...]

    @property
    def node(self) -> onnx.NodeProto:
        node: onnx.NodeProto = self.model.graph.node[0]
        return node


@cache
def onnx_cases() -> tuple[Case, ...]:
    """All of onnx's examples with one node. An absent or non-tensor value is None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return tuple(case for item in found if (case := _case(item.name, item.model, item.data_sets)))


def _case(name: str, model: onnx.ModelProto | None, data_sets: object) -> Case | None:
    if model is None or not data_sets or len(model.graph.node) != 1:
        return None
    node = model.graph.node[0]
    opset = {entry.domain: entry.version for entry in model.opset_import}[node.domain]
    known = onnx.defs.has(node.op_type, node.domain)
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain) if known else None
    read = onnx.helper.get_attribute_value
    listed = schema.attributes.items() if schema is not None else ()
    attributes = {n: read(a.default_value) for n, a in listed if a.default_value.name}
    attributes |= {a.name: read(a) for a in node.attribute}
    attributes = dict(with_steps(attributes))
    inputs, outputs = data_sets[0]  # type: ignore[index]
    values = dict(zip((v.name for v in model.graph.input), inputs, strict=False))
    values |= zip((v.name for v in model.graph.output), outputs, strict=False)

    def array(value: str) -> Array | None:
        held = values.get(value)
        if held is None or isinstance(held, (list, dict)):
            return None
        return onnx.numpy_helper.to_array(held) if isinstance(held, onnx.TensorProto) else np.asarray(held)

    found = tuple(map(array, node.input)), tuple(map(array, node.output))
    return Case(name, model, 1 if schema is None else schema.since_version, attributes, *found)


def rules_of(case: Case) -> tuple[Rule, ...]:
    """The lines for a case's op that don't refuse it."""
    found = registry().lookup(case.node.domain, case.node.op_type, case.version)
    return tuple(rule for rule in found if not rule.refuse)


def may_be_refused(case: Case) -> bool:
    """Whether the op's last line refuses what fits no other."""
    found = registry().lookup(case.node.domain, case.node.op_type, case.version)
    return bool(found) and bool(found[-1].refuse)


def fit(rules: tuple[Rule, ...], case: Case) -> Bound:
    """The first alternative that fits, as where no index is known before it runs. Raises the last one's RuleError."""
    if len(rules) > 1 and rules[0].move and rules[0].operands[0].axes is None:
        rules = rules[1:]
    shapes = (
        [None if a is None else a.shape for a in case.inputs],
        [None if a is None else a.shape for a in case.outputs],
    )
    for rule in rules:
        tags = {o.tag: a for o, a in zip(rule.operands, case.inputs, strict=False) if a is not None}
        known = {"axes": tags["axes"]} if "axes" in tags else {}
        try:
            return bind(rule, *shapes, {**case.attributes, **known})
        except RuleError as error:
            last = error
    raise last


# op (onnxruntime's with its domain), opset, attributes, inputs (a shape stands for random numbers, a list for these
# integers), number of outputs
Example = tuple[str, int, dict[str, Any], list[tuple[int, ...] | list[int] | Array | None], int]
OWN: list[Example] = [
    ("Conv", 11, {}, [(2, 4, 5, 5), (6, 4, 3, 3), (6,)], 1),
    ("Conv", 22, {"group": 2, "pads": [1, 1]}, [(2, 4, 5), (6, 2, 3), (6,)], 1),
    ("Conv", 11, {"group": 4}, [(2, 4, 5, 5), (8, 1, 3, 3), None], 1),
    ("Conv", 1, {}, [(2, 4, 3, 3, 3), (2, 4, 2, 2, 2)], 1),
    ("ConvTranspose", 11, {}, [(2, 4, 5, 5), (4, 6, 3, 3), (6,)], 1),
    ("ConvTranspose", 11, {"group": 2, "strides": [2, 2]}, [(2, 4, 3, 3), (4, 3, 2, 2), (6,)], 1),
    ("Gemm", 13, {"transB": 1}, [(2, 4), (6, 4), (6,)], 1),
    ("Gemm", 9, {"transA": 1, "alpha": 0.5}, [(4, 2), (4, 6), (2, 6)], 1),
    ("Gemm", 13, {"transA": 1, "transB": 1}, [(4, 2), (6, 4), ()], 1),
    ("Gemm", 13, {}, [(2, 4), (4, 6), (1, 6)], 1),
    ("MatMul", 13, {}, [(2, 1, 4, 6), (3, 6, 4)], 1),
    ("MatMul", 13, {}, [(6,), (2, 6, 4)], 1),
    ("MatMul", 13, {}, [(2, 4, 6), (6,)], 1),
    ("MatMul", 13, {}, [(6,), (6,)], 1),
    ("Einsum", 12, {"equation": "bhqd,bhkd->bhqk"}, [(2, 2, 3, 4), (2, 2, 5, 4)], 1),
    ("BatchNormalization", 9, {}, [(2, 4, 3), (4,), (4,), (4,), np.full(4, 2.0, np.float32)], 1),
    ("GroupNormalization", 21, {"num_groups": 4}, [(2, 8, 3), (8,), (8,)], 1),
    ("InstanceNormalization", 6, {}, [(2, 4, 5), (4,), (4,)], 1),
    ("LayerNormalization", 17, {"axis": 1}, [(4, 3, 2), (3, 2), (3, 2)], 3),
    ("Softmax", 11, {"axis": 2}, [(4, 2, 3)], 1),
    ("LogSoftmax", 13, {"axis": 0}, [(4, 2, 3)], 1),
    ("AveragePool", 11, {"kernel_shape": [2, 2]}, [(2, 4, 5, 5)], 1),
    ("MaxPool", 12, {"kernel_shape": [2]}, [(2, 4, 5)], 1),
    ("Resize", 13, {}, [(2, 4, 3, 3), None, np.array([1, 1, 2, 2], np.float32)], 1),
    ("Resize", 13, {}, [(2, 4, 3, 3), None, None, [2, 4, 5, 5]], 1),
    ("Upsample", 9, {}, [(2, 4, 3, 3), np.array([1, 1, 2, 2], np.float32)], 1),
    ("Col2Im", 18, {}, [(2, 12, 4), [3, 3], [2, 2]], 1),
    ("CumSum", 14, {}, [(4, 3, 2), np.array(1)], 1),
    ("PRelu", 16, {}, [(2, 4, 3), (4, 1)], 1),
    ("Erf", 13, {}, [(2, 4)], 1),
    ("Mish", 22, {}, [(2, 4)], 1),
    ("Sum", 13, {}, [(2, 4), (4,), (2, 1)], 1),
    ("Cast", 13, {"to": 11}, [(2, 4)], 1),
    ("Gather", 13, {"axis": 1}, [(2, 4, 6), [2, 0]], 1),
    ("GatherElements", 13, {"axis": 1}, [(2, 4, 6), np.arange(24).reshape(2, 2, 6) % 4], 1),
    ("ScatterElements", 13, {"axis": 1}, [(2, 4, 6), np.arange(24).reshape(2, 2, 6) % 4, (2, 2, 6)], 1),
    (
        "ScatterElements", 18, {"axis": 1, "reduction": "max"},
        [(2, 4, 6), np.arange(36).reshape(2, 3, 6) % 4, (2, 3, 6)], 1,
    ),
    ("TopK", 1, {"axis": 1, "k": 2}, [(2, 4, 6)], 2),
    ("TopK", 11, {"axis": 1}, [(2, 4, 6), [2]], 2),
    ("ReduceSum", 13, {"keepdims": 0}, [(2, 4, 6), [-1]], 1),
    ("ReduceMax", 11, {"axes": [1]}, [(2, 4, 6)], 1),
    ("Attention", 23, {}, [(2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6), (3, 5)], 1),
    ("Attention", 23, {}, [(2, 4, 3, 4), (2, 4, 5, 4), (2, 4, 5, 6), (4, 3, 5)], 1),
    ("Attention", 23, {"q_num_heads": 4, "kv_num_heads": 2}, [(2, 3, 16), (2, 5, 8), (2, 5, 8), (2, 1, 3, 5)], 3),
    ("Attention", 23, {"q_num_heads": 4, "kv_num_heads": 4}, [(2, 3, 16), (2, 5, 16), (2, 5, 8), (4, 3, 5)], 1),
    ("LayerNormalization", 17, {"axis": 1}, [(4, 3, 2), (2,), (2,)], 1),
    ("RMSNormalization", 23, {"axis": 1}, [(4, 3, 2), (3, 2)], 1),
    ("RMSNormalization", 23, {"axis": 1}, [(4, 3, 2), (2,)], 1),
    ("RotaryEmbedding", 23, {"num_heads": 2}, [(2, 3, 8), (3, 2), (3, 2), np.array([[0, 1, 2]] * 2)], 1),
    ("GroupNormalization", 18, {"num_groups": 4}, [(2, 8, 3), (4,), (4,)], 1),
    ("ReverseSequence", 10, {"batch_axis": 0, "time_axis": 1}, [(4, 3, 2), [3, 2, 1, 3]], 1),
    ("Slice", 1, {"axes": [1], "starts": [1], "ends": [3]}, [(2, 4)], 1),
    ("Slice", 10, {}, [(2, 4), [0], [3], [1], [2]], 1),
    ("Squeeze", 11, {"axes": [1]}, [(2, 1, 4)], 1),
    ("Unsqueeze", 11, {"axes": [1]}, [(2, 4)], 1),
    ("Pad", 2, {"pads": [0, 1, 0, 2], "mode": "constant"}, [(2, 4)], 1),
    ("Pad", 11, {}, [(2, 4), [0, 1, 0, 2]], 1),
    ("Split", 2, {"axis": 1, "split": [1, 3]}, [(2, 4)], 2),
    ("Clip", 6, {"min": 0.0}, [(2, 4)], 1),
    ("Dropout", 7, {}, [(2, 4)], 1),
    ("ReduceSum", 11, {"axes": [1], "keepdims": 0}, [(2, 4, 6)], 1),
    ("Gemm", 13, {"transB": 1}, [(2, 4), (6, 4), ()], 1),
    ("Gemm", 13, {"transA": 1}, [(4, 2), (4, 6), (6,)], 1),
    ("Gemm", 13, {"transA": 1}, [(4, 2), (4, 6), ()], 1),
    ("Gemm", 13, {"transA": 1, "transB": 1}, [(4, 2), (6, 4), (6,)], 1),
    ("Hardmax", 11, {"axis": 2}, [(4, 2, 3)], 1),
    ("LogSoftmax", 11, {"axis": 2}, [(4, 2, 3)], 1),
    ("GlobalLpPool", 2, {}, [(2, 4, 3, 3)], 1),
    ("MaxRoiPool", 1, {"pooled_shape": [1, 1]}, [(2, 4, 6, 6), np.array([[0, 0, 0, 5, 5]] * 2, np.float32)], 1),
    ("Resize", 10, {}, [(2, 4, 3, 3), np.array([1, 1, 2, 2], np.float32)], 1),
    ("Upsample", 7, {"scales": [1.0, 1.0, 2.0, 2.0]}, [(2, 4, 3, 3)], 1),
    ("BatchNormalization", 7, {}, [(2, 4, 3), (4,), (4,), (4,), np.full(4, 2.0, np.float32)], 1),
    *[
        (f"Reduce{name}", 11, {"axes": [1]}, [np.arange(1, 49, dtype=np.float32).reshape(2, 4, 6) / 40], 1)
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Min", "Prod", "SumSquare")
    ],
    ("GRU", 7, {"hidden_size": 4}, [(3, 2, 5), (1, 12, 5), (1, 12, 4), (1, 24)], 1),
    ("LSTM", 7, {"hidden_size": 4}, [(3, 2, 5), (1, 16, 5), (1, 16, 4), (1, 32)], 1),
    ("RNN", 7, {"hidden_size": 4}, [(3, 2, 5), (1, 4, 5), (1, 4, 4), (1, 8)], 1),
    ("com.microsoft::RotaryEmbedding", 1, {}, [(2, 4, 3, 8), np.array([0]), (3, 4), (3, 4)], 1),
    ("com.microsoft::RotaryEmbedding", 1, {}, [(2, 3, 16), np.array([0]), (3, 4), (3, 4)], 1),
    ("com.microsoft::RotaryEmbedding", 1, {"num_heads": 2}, [(2, 3, 16), np.array([[0, 1, 2]] * 2), (3, 4), (3, 4)], 1),
    ("com.microsoft::TransposeMatMul", 1, {}, [(2, 3, 4), (2, 4, 6)], 1),
    ("com.microsoft::TransposeMatMul", 1, {"transA": 1}, [(2, 4, 3), (2, 4, 6)], 1),
    ("com.microsoft::TransposeMatMul", 1, {"transA": 1, "transB": 1}, [(2, 4, 3), (2, 6, 4)], 1),
    ("com.microsoft::Attention", 1, {"num_heads": 2}, [(2, 3, 6), (6, 24), (24,)], 1),
    ("com.microsoft::MultiHeadAttention", 1, {"num_heads": 2}, [(2, 3, 8), (2, 5, 8), (2, 5, 8), (24,)], 1),
    ("com.microsoft::MultiHeadAttention", 1, {"num_heads": 4}, [(2, 3, 8), (2, 5, 8), (2, 5, 12)], 1),
    ("com.microsoft::MultiHeadAttention", 1, {"num_heads": 4}, [(2, 3, 8), (2, 4, 5, 2), (2, 4, 5, 2)], 1),
    (
        "com.microsoft::GroupQueryAttention", 1, {"num_heads": 4, "kv_num_heads": 2},
        [(2, 3, 32), (2, 3, 16), (2, 3, 16), None, None, np.array([2, 2], np.int32), np.array(3, np.int32)], 3,
    ),
    ("com.microsoft::RotaryEmbedding", 1, {}, [(2, 4, 3, 8), np.array([[0, 1, 2]] * 2), (3, 4), (3, 4)], 1),
    ("com.microsoft::RotaryEmbedding", 1, {}, [(2, 3, 16), np.array([[0, 1, 2]] * 2), (3, 4), (3, 4)], 1),
    ("com.microsoft::RotaryEmbedding", 1, {"num_heads": 2}, [(2, 3, 16), np.array([0]), (3, 4), (3, 4)], 1),
    (
        "com.microsoft::EmbedLayerNormalization", 1, {},
        [np.array([[0, 3, 1], [2, 2, 4]], np.int32), None, (5, 4), (6, 4), None, (4,), (4,)], 2,
    ),
    ("com.microsoft::SkipLayerNormalization", 1, {}, [(2, 3, 4), (2, 3, 4), (4,), (4,), (4,)], 1),
    ("com.microsoft::SkipSimplifiedLayerNormalization", 1, {}, [(2, 3, 4), (2, 3, 4), (4,), (4,)], 1),
    ("com.microsoft::BiasGelu", 1, {}, [(2, 3, 4), (4,)], 1),
    ("com.microsoft::FastGelu", 1, {}, [(2, 3, 4), (4,)], 1),
    ("com.microsoft::Gelu", 1, {}, [(2, 3, 4)], 1),
    ("com.microsoft::QuickGelu", 1, {"alpha": 1.5}, [(2, 3, 4)], 1),
    ("com.microsoft::FusedMatMul", 1, {}, [(2, 3, 4), (2, 4, 6)], 1),
    ("com.microsoft::FusedMatMul", 1, {"transA": 1}, [(2, 4, 3), (2, 4, 6)], 1),
    ("com.microsoft::FusedMatMul", 1, {"transB": 1}, [(2, 3, 4), (2, 6, 4)], 1),
    ("com.microsoft::FusedMatMul", 1, {"transA": 1, "transB": 1}, [(2, 4, 3), (2, 6, 4)], 1),
    ("com.microsoft::TransposeMatMul", 1, {"transB": 1}, [(2, 3, 4), (2, 6, 4)], 1),
    ("com.microsoft::Trilu", 1, {}, [(2, 4, 4)], 1),
    ("com.microsoft::FusedConv", 1, {"activation": "Relu", "group": 1}, [(2, 4, 5, 5), (6, 4, 3, 3), (6,)], 1),
    (
        "com.microsoft::FusedConv", 1, {"activation": "LeakyRelu", "activation_params": [0.3], "group": 2, "pads": [1] * 4},
        [(2, 4, 5, 5), (6, 2, 3, 3), (6,), (2, 6, 5, 5)], 1,
    ),
    *[
        ("com.microsoft::FusedGemm", 1, {"activation": "Tanh", **trans}, [*operands, added], 1)
        for trans, operands in (
            ({}, [(2, 4), (4, 6)]), ({"transB": 1}, [(2, 4), (6, 4)]), ({"transA": 1}, [(4, 2), (4, 6)]),
            ({"transA": 1, "transB": 1}, [(4, 2), (6, 4)]),
        )
        for added in ((6,), (2, 6), ())
    ],
    ("SimplifiedLayerNormalization", 1, {}, [(2, 3, 4), (4,)], 1),
]  # fmt: skip


OLD = ("BatchNormalization", "GRU", "GlobalLpPool", "Hardmax", "LSTM", "RNN", "Resize", "Upsample")
"""Ops whose older versions the reference evaluator gets wrong, or doesn't have."""


def _evaluate(model: onnx.ModelProto, feeds: Mapping[str, Array], *, reference: bool = True) -> list[Array]:
    """The outputs by onnx's reference evaluator, or by onnxruntime for the ops that the former gets wrong.

    The former doesn't know onnxruntime's own. It slices the weights of a grouped ConvTranspose by another size, and trains in
    every BatchNormalization up to 9.
    """
    op, opset, own = model.graph.node[0].op_type, model.opset_import[0].version, model.graph.node[0].domain
    old = opset < 14 and op in OLD
    if not reference or own or old or op in ("ConvTranspose", "MaxRoiPool", "SimplifiedLayerNormalization"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(a) for a in session.run(None, dict(feeds))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(feeds))]


@cache
def own_cases() -> tuple[Case, ...]:
    """Examples of ours where onnx's have one channel or one version only."""
    return cases_of(OWN)


def cases_of(examples: list[Example], *, reference: bool = True) -> tuple[Case, ...]:
    """Examples with random inputs; results by the reference evaluator, or else by onnxruntime."""
    draw = np.random.default_rng(0)
    found: list[Case] = []
    for title, opset, attributes, inputs, results in examples:
        domain, _, op = title.rpartition("::")
        arrays: list[Array | None] = []
        for given in inputs:
            if isinstance(given, tuple):
                arrays.append(np.asarray(draw.normal(size=given), np.float32))
            else:
                arrays.append(np.array(given, np.int64) if isinstance(given, list) else given)
        names = ["" if a is None else f"in{i}" for i, a in enumerate(arrays)]
        node = onnx.helper.make_node(op, names, [f"out{i}" for i in range(results)], domain=domain, **attributes)
        kind = onnx.helper.np_dtype_to_tensor_dtype
        values = [
            onnx.helper.make_tensor_value_info(n, kind(np.asarray(a).dtype), None)
            for n, a in zip(names, arrays, strict=True)
            if n
        ]
        made = [
            onnx.ValueInfoProto(name=n) if domain or not reference else onnx.helper.make_tensor_value_info(n, 1, None)
            for n in node.output
        ]
        graph = onnx.helper.make_graph([node], op, values, made)
        imports = [onnx.helper.make_opsetid(domain, opset), *([onnx.helper.make_opsetid("", 17)] if domain else [])]
        model = onnx.helper.make_model(graph, ir_version=8, opset_imports=imports)
        feeds = [a for a in arrays if a is not None]
        outputs = _evaluate(model, dict(zip([n for n in names if n], feeds, strict=True)), reference=reference)
        case = _case(f"own_{op}_{len(found)}", model, [(feeds, outputs)])
        assert case is not None
        found.append(case)
    return tuple(found)


def run(case: Case, inputs: list[Array | None], attributes: Mapping[str, int]) -> list[Array]:
    """Run the example's op on other inputs, with some attributes changed."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in attributes.items())])
    feeds = {name: a for name, a in zip(node.input, inputs, strict=True) if name and a is not None}
    return _evaluate(model, feeds)


def _computes(bound: Bound) -> bool:
    rule = bound.rule
    named = any(axes is not None for axes in bound.operands) and any(axes is not None for axes in bound.results)
    return named and not (rule.refuse or rule.opaque or rule.draws)


@cache
def fitted() -> tuple[tuple[Case, Bound], ...]:
    """Our examples and up to four small ones of onnx's a rule and its factors, of those that name axes."""
    found: dict[tuple[str, frozenset[str]], list[tuple[Case, Bound]]] = {}
    for case in (*own_cases(), *onnx_cases()):
        try:
            bound = fit(rules_of(case), case) if rules_of(case) and case.name not in UNFITTED else None
        except RuleError:
            if not may_be_refused(case):
                raise
            continue
        if bound is None:
            continue
        if _computes(bound) and all(a is None or a.size <= 3000 for a in case.inputs):
            found.setdefault((bound.rule.line, bound.mix | bound.stat | bound.whole), []).append((case, bound))
    return tuple(
        entry for entries in found.values() for i, entry in enumerate(entries) if i < 4 or entry[0] in own_cases()
    )
