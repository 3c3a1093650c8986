"""What the rule tables claim of ONNX ops, held against the ops themselves by running them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import prod

import numpy as np

from graphsplit.errors import RuleError
from graphsplit.notation import Bound, Rule, parse, shapes
from graphsplit.rules import registry
from tests.onnx_cases import Array, Case, fit, fitted, run

INDICES = "the indices of MaxPool count over the whole tensor; MaxUnpool alone reads them, and splits with them"
WITHOUT_EXAMPLE = {
    "[broadcast=0]": "element by element up to opset 6, which no runtime runs any more",
    "BatchNormalization[spatial": "with one scale a pixel, or of batch statistics: as above",
    "BatchNormalization@9 n c *s, c, c, c, c -> n c *s, c, c, c, c": "batch statistics, which the runtimes don't give",
    "RotaryEmbedding b s (h d), b s r, b s r": "as with heads of their own, which has one",
    "[num_heads=0]": "the same as without the attribute",
    "BiasAdd": "runs on a GPU only",
    "LpPool n": "with strides: as AveragePool",
    "com.microsoft::SimplifiedLayerNormalization": "as in ONNX's own domain, where onnxruntime runs it",
    "PRelu n c *s, c -> n c *s": "up to opset 6, as above",
}
CLAIMED_LESS = {"MaxPool": INDICES, "MaxUnpool": INDICES}


def _take(array: Array, axes: tuple[tuple[str, ...], ...], bound: Bound, factor: str, half: slice) -> Array:
    """The half of an array along one factor, also inside a composite axis."""
    for position, names in enumerate(axes):
        if factor in names:
            grid = np.arange(array.shape[position]).reshape([bound.sizes[name] for name in names])
            chosen = np.moveaxis(np.moveaxis(grid, names.index(factor), 0)[half], 0, names.index(factor))
            array = np.take(array, chosen.ravel(), axis=position)
    return array


def _carries(axes: tuple[tuple[str, ...], ...] | None, factor: str) -> bool:
    return axes is not None and any(factor in names for names in axes)


def _passing(bound: Bound) -> list[str]:
    """The factors that a rule claims to pass straight through."""
    held = [name for name, size in bound.sizes.items() if size > 1]
    plain = [name for name in held if name not in bound.mix | bound.whole | bound.stat]
    return [
        n for n in plain if any(_carries(a, n) for a in bound.operands) and any(_carries(a, n) for a in bound.results)
    ]


def _halves(case: Case, bound: Bound, factor: str) -> Iterator[tuple[list[Array], list[Array]]]:
    """For each half of a factor: what the op makes of that half of its operands, and that half of its results."""
    size = bound.sizes[factor]
    for half in (slice(0, size // 2), slice(size // 2, size)):
        narrowed = len(range(size)[half])
        inputs: list[Array | None] = []
        for array, axes, tag in zip(case.inputs, bound.operands, bound.tags, strict=True):
            if array is not None and axes is not None:
                inputs.append(_take(array, axes, bound, factor, half))
            elif array is not None and tag == "shape" and bound.results[0] is not None:
                there = [factor in names for names in bound.results[0]]
                inputs.append(np.where(there, narrowed, array).astype(np.int64))
            else:
                inputs.append(array)
        sizes = {**bound.sizes, factor: narrowed}
        held = [(name, counted.split("*")) for name, counted in bound.rule.counts]
        counts = {name: prod(sizes[f] for f in factors) for name, factors in held if factor in factors}
        made = run(case, inputs, counts)
        expected = [
            _take(array, axes, bound, factor, half) if axes is not None else array
            for array, axes in zip(case.outputs, bound.results, strict=True)
            if array is not None
        ]
        yield made, expected


def _same(made: list[Array], expected: list[Array]) -> bool:
    return all(
        a.shape == b.shape
        and (np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) if a.dtype.kind in "fciub" else (a == b).all())
        for a, b in zip(made, expected, strict=False)
    )


def _passes(case: Case, bound: Bound, factor: str) -> bool:
    """Whether the op on each half of a factor makes that half of the results; no when it cannot run on a half."""
    try:
        return all(_same(made, expected) for made, expected in _halves(case, bound, factor))
    except Exception:  # noqa: BLE001 - each op and each runtime has its own way of saying so
        return False


def test_factors_that_pass_through_pass_through() -> None:
    checked: set[str] = set()
    wrong = []
    for case, bound in fitted():
        if case.node.op_type in CLAIMED_LESS or bound.rule.back:
            continue
        for factor in _passing(bound):
            checked.add(bound.rule.op)
            if not _passes(case, bound, factor):
                wrong.append((case.name, bound.rule.line, factor))
    assert wrong == []
    assert len(checked) > 110


def test_factors_that_pass_through_pass_through_control() -> None:
    """A line that claims too much is found out."""
    claims = {
        "Softmax": "... -> ...",
        "LRN": "n c *s -> n c *s",
        "CumSum": "..., # -> ...",
        "InstanceNormalization": "n c *s, c, c -> n c *s",
        "GroupNormalization": "n c *s, c, c -> n c *s",
        "LayerNormalization": "*a *c, *c, *c -> *a *c, *a *u, *a *u | at c=axis:-1",
        "Conv": "n c *s, o i *k, o -> n o *t",
        "ReverseSequence": "t n *s, n -> t n *s",
        "RMSNormalization": "*a *c, *c -> *a *c | at c=axis:-1",
        "RotaryEmbedding": "b h s d, p r, p r, b s -> b h s d",
        # the queries of one key-value head stand side by side
        "Attention": "b (r g) s d, b g t d, b g t e, s t -> b (r g) s e | whole s t d e",
        "GroupQueryAttention": "b s (r g d), b s (g d), b s (g d), (), (), b, () -> b s (r g d), b g u d, b g u d | whole s d"
        " | set num_heads=g*r kv_num_heads=g",
        "MultiHeadAttention": "b s (d h), b t (d h), b t (d h), (3 d h) -> b s (d h) | whole s t d | set num_heads=h",
        "LinearAttention": "b t (g r d), b t (g d), b t (g e), (), b t (g d), b t g -> b t (g r e), b g d e"
        " | whole d e | set kv_num_heads=g q_num_heads=g*r",
        "CausalConvWithState": "b c t, c 1 k, c, () -> b c t, b c u",
    }
    found = set()
    for case, bound in fitted():
        claim = claims.get(case.node.op_type)
        try:
            said = fit((parse(f"{bound.rule.op} {claim}"),), case) if claim else None
        except RuleError:
            said = None
        if said is not None and not all(_passes(case, said, factor) for factor in _passing(said)):
            found.add(case.node.op_type)
    assert found == set(claims)


def _mixes(case: Case, bound: Bound, factor: str) -> bool:
    """Whether the results are the sum over both halves of a mixed factor, what doesn't hold it (a bias) added once."""
    parts = []
    size = bound.sizes[factor]
    for half in (slice(0, size // 2), slice(size // 2, size)):
        inputs: list[Array | None] = []
        for array, axes in zip(case.inputs, bound.operands, strict=True):
            if array is None or axes is None:
                inputs.append(array)
            elif _carries(axes, factor):
                inputs.append(_take(array, axes, bound, factor, half))
            else:
                inputs.append(array * (half.start == 0))
        parts.append(run(case, inputs, {}))
    whole = [first + second for first, second in zip(*parts, strict=True)]
    return _same(whole, [a for a in case.outputs if a is not None])


def test_mixed_factors_are_summed() -> None:
    checked = set()
    for case, bound in fitted():
        # What is whole besides isn't summed: attention with its projections. Its heads are tested above. Nor is what is bent.
        for factor in sorted(bound.mix) if not (bound.rule.back or bound.rule.whole or bound.rule.fused) else ():
            assert _mixes(case, bound, factor), (case.name, bound.rule.line, factor)
            checked.add(bound.rule.op)
    softmax = next(case for case, bound in fitted() if bound.rule.op == "Softmax")
    claim = fit((parse("Softmax *a c *b -> *a *c2 *b | mix c | at c=axis:-1"),), softmax)
    assert not _mixes(softmax, claim, "c")  # a control: no sum over its axis
    assert checked == {"Conv", "ConvTranspose", "Einsum", "FusedMatMul", "Gemm", "MatMul", "TransposeMatMul"}


def test_shapes_are_those_that_the_lines_say() -> None:
    """Where a line names the results' axes by operands' it gives their shapes, for ops of which onnx knows nothing."""
    told = 0
    for case, bound in fitted():
        inputs = [None if a is None else a.shape for a in case.inputs]
        axes = {
            o.tag: a
            for o, a in zip(bound.rule.operands, case.inputs, strict=False)
            if o.tag == "axes" and a is not None
        }
        if bound.rule.reduce or bound.rule.equation:
            continue
        try:
            said = shapes(bound.rule, inputs, len(case.outputs), {**case.attributes, **axes})
        except RuleError:  # a size stands in the result alone
            continue
        for shape, made in zip(said, case.outputs, strict=True):
            assert shape is None or made is None or shape == made.shape, (case.name, bound.rule.line)
            told += shape is not None and made is not None
    assert told > 200


def _fits_once(rule: Rule) -> bool:
    """Whether a line says where axes go, so that an example can contradict it."""
    return not (rule.refuse or rule.opaque or rule.draws or rule.move) and any(
        o.axes for o in (*rule.operands, *rule.results)
    )


def test_every_line_has_an_example() -> None:
    """What has none is listed, with the reason."""
    tried = {bound.rule.line for _, bound in fitted()}
    without = {rule.line for rule in registry() if _fits_once(rule) and rule.line not in tried}
    listed = {line for line in without if any(words in line for words in WITHOUT_EXAMPLE)}
    assert without - listed == set()
    assert all(any(words in line for line in without) for words in WITHOUT_EXAMPLE)


def _without_crossings(case: Case, bound: Bound, letter: str, fed: str) -> Case:
    """A recurrent case whose weights between the two halves of its units are zero, with the results that it then has."""
    size = bound.sizes[fed]
    inputs: list[Array | None] = []
    for array, axes in zip(case.inputs, bound.operands, strict=True):
        if array is None or axes is None or not _carries(axes, letter):
            inputs.append(array)
            continue
        kept = np.zeros_like(array)
        for half in (slice(0, size // 2), slice(size // 2, size)):
            rows = _take(np.ones_like(array) * np.arange(array.size).reshape(array.shape), axes, bound, fed, half)
            block = _take(rows, axes, bound, letter, half).astype(np.int64)
            kept.ravel()[block] = array.ravel()[block]
        inputs.append(kept)
    made = iter(run(case, inputs, {}))
    outputs = [None if array is None else next(made) for array in case.outputs]
    return dataclasses.replace(case, inputs=inputs, outputs=outputs)


def test_recurrent_units_whose_crossing_weights_are_zero_run_apart() -> None:
    checked = set()
    for case, bound in fitted():
        for letter, fed in bound.rule.back:
            if bound.sizes[fed] < 2:
                continue
            apart = _without_crossings(case, bound, letter, fed)
            size = bound.sizes[fed]
            for half in (slice(0, size // 2), slice(size // 2, size)):
                inputs = list(apart.inputs)
                for position, axes in enumerate(bound.operands):
                    for name in (fed, letter):
                        if inputs[position] is not None and axes is not None and _carries(axes, name):
                            inputs[position] = _take(inputs[position], axes, bound, name, half)
                counts = {name: len(range(size)[half]) for name, counted in bound.rule.counts if counted == fed}
                expected = [
                    _take(array, axes, bound, fed, half)
                    for array, axes in zip(apart.outputs, bound.results, strict=True)
                    if array is not None and axes is not None
                ]
                assert _same(run(case, inputs, counts), expected), (case.name, bound.rule.line)
            checked.add(case.node.op_type)
    assert checked == {"GRU", "LSTM", "RNN"}


def _averages(case: Case) -> bool:
    """Whether the op on the mean of two sets of operands makes the mean of its results."""
    shifted = [None if a is None else np.asarray(1 - a.astype(np.float64), a.dtype) for a in case.inputs]
    middle = [None if a is None else (a + b) / 2 for a, b in zip(case.inputs, shifted, strict=True)]  # type: ignore[operator]
    mean = [(a + b) / 2 for a, b in zip(run(case, list(case.inputs), {}), run(case, shifted, {}), strict=True)]  # type: ignore[operator]
    return _same(run(case, [None if a is None else a.astype(np.float32) for a in middle], {}), mean)


def test_sums_average() -> None:
    found: dict[str, set[bool]] = {}
    for case, bound in fitted():
        if (
            all(a is None or a.dtype == np.float32 for a in case.inputs)
            and case.node.op_type in "Add Sub Sum Mean Mul Max"
        ):
            found.setdefault(case.node.op_type, set()).add(_averages(case))
            assert bound.rule.additive == (case.node.op_type not in ("Mul", "Max"))
    assert found.pop("Mul") == {False}
    assert False in found.pop("Max")
    assert found == {"Add": {True}, "Sub": {True}, "Sum": {True}, "Mean": {True}}
