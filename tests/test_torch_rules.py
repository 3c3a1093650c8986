"""The rules of aten ops: complete for the usual networks, and held against the ops themselves by running them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from graphsplit.errors import RuleError, UnsupportedError  # noqa: E402
from graphsplit.formats import torch_nodes  # noqa: E402
from graphsplit.formats.torch_dialect import TorchDialect  # noqa: E402
from graphsplit.graph import Node  # noqa: E402
from graphsplit.notation import Bound, Rule, bind, parse  # noqa: E402
from graphsplit.rules import registry  # noqa: E402
from graphsplit.torch_network import prepare_torch  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "torch_rules.txt"
REWRITE = "python -c \"from graphsplit.rules import registry; print(*registry('torch'), sep='\\n')\""

torch.manual_seed(0)
R = torch.randn
IMAGE, PLANES, LINE, TOKENS = R(2, 8, 6, 6), R(2, 4, 4, 6, 6), R(2, 8, 9), R(2, 5, 8)
C, POSITIVE = R(8), torch.rand(8) + 0.5

CASES: list[tuple[Any, ...]] = [
    ("conv1d", LINE, R(6, 4, 3), R(6), [1], [1], [1], 2),
    ("conv2d", IMAGE, R(4, 8, 3, 3), R(4), [2, 2], [1, 1], [1, 1], 1),
    ("conv2d", IMAGE, R(8, 1, 3, 3), R(8), [1, 1], [1, 1], [1, 1], 8),
    ("conv2d", IMAGE[0], R(4, 8, 3, 3), None),
    ("conv3d", PLANES, R(2, 4, 3, 3, 3), R(2), [1, 1, 1], [1, 1, 1]),
    ("convolution", IMAGE, R(4, 4, 3, 3), R(4), [1, 1], [1, 1], [1, 1], False, [0, 0], 2),
    ("convolution", IMAGE, R(8, 2, 3, 3), R(4), [2, 2], [1, 1], [1, 1], True, [1, 1], 2),
    ("conv_transpose1d", LINE, R(8, 3, 4), R(6), [2], [1], [0], 2),
    ("conv_transpose2d.input", IMAGE, R(8, 4, 2, 2), R(4), [2, 2]),
    ("conv_transpose3d.input", PLANES, R(4, 4, 2, 2, 2), None, [2, 2, 2]),
    ("linear", TOKENS, R(6, 8), R(6)),
    ("bilinear", R(3, 4), R(3, 6), R(2, 4, 6), R(2)),
    ("matmul", TOKENS, R(8, 6)),
    ("matmul", R(2, 4, 5, 6), R(2, 4, 6, 8)),
    ("matmul", R(8), R(8, 6)),
    ("matmul", TOKENS, R(8)),
    ("mm", R(4, 8), R(8, 6)),
    ("bmm", TOKENS, R(2, 8, 6)),
    ("mv", R(4, 8), R(8)),
    ("dot", R(8), R(8)),
    ("outer", R(4), R(8)),
    ("addmm", R(6), R(4, 8), R(8, 6)),
    ("addmm", R(4, 6), R(4, 8), R(8, 6)),
    ("baddbmm", R(2, 5, 6), TOKENS, R(2, 8, 6)),
    ("einsum", "bsd,de->bse", [TOKENS, R(8, 6)]),
    ("scaled_dot_product_attention", R(2, 4, 5, 8), R(2, 4, 7, 8), R(2, 4, 7, 6)),
    ("scaled_dot_product_attention", R(2, 4, 5, 8), R(2, 4, 7, 8), R(2, 4, 7, 6), R(5, 7)),
    ("scaled_dot_product_attention", R(2, 4, 5, 8), R(2, 2, 7, 8), R(2, 2, 7, 6), {"enable_gqa": True}),
    ("scaled_dot_product_attention", R(2, 4, 5, 8), R(2, 2, 7, 8), R(2, 2, 7, 6), R(2, 1, 5, 7), {"enable_gqa": True}),
    ("scaled_dot_product_attention", R(2, 4, 5, 8), R(2, 2, 7, 8), R(2, 2, 7, 6), R(5, 7), {"enable_gqa": True}),
    ("scaled_dot_product_attention", R(2, 4, 5, 8), R(2, 2, 7, 8), R(2, 2, 7, 6), R(2, 4, 5, 7), {"enable_gqa": True}),
    ("cdist", R(2, 4, 8), R(2, 6, 8)),
    ("batch_norm", IMAGE, C, C, C, POSITIVE, False, 0.1, 1e-5, False),
    ("batch_norm", IMAGE, C, C, C.clone(), POSITIVE.clone(), True, 0.1, 1e-5, False),
    ("group_norm", IMAGE, 4, C, C),
    ("instance_norm", IMAGE, C, C, None, None, True, 0.1, 1e-5, False),
    ("layer_norm", TOKENS, [8], C, C),
    ("layer_norm", IMAGE, [6, 6]),
    ("native_layer_norm", TOKENS, [8], C, C, 1e-5),
    ("rms_norm", TOKENS, [8], C),
    ("softmax.int", TOKENS, 1),
    ("log_softmax.int", TOKENS, -1),
    ("cumsum", TOKENS, 1),
    ("sort", TOKENS, 1),
    ("topk", TOKENS, 2, 1),
    ("glu", TOKENS, -1),
    ("glu", IMAGE, 1),
    ("adaptive_avg_pool1d", LINE, [3]),
    ("adaptive_avg_pool2d", IMAGE, [2, 3]),
    ("adaptive_avg_pool2d", IMAGE[0], [2, 3]),
    ("adaptive_avg_pool3d", PLANES, [2, 2, 2]),
    ("adaptive_max_pool2d", IMAGE, [2, 3]),
    ("avg_pool1d", LINE, [3]),
    ("avg_pool2d", IMAGE, [3, 3], [2, 2], [1, 1]),
    ("avg_pool3d", PLANES, [2, 2, 2]),
    ("max_pool1d", LINE, [3]),
    ("max_pool2d", IMAGE, [3, 3], [2, 2], [1, 1]),
    ("max_pool3d", PLANES, [2, 2, 2]),
    ("max_pool2d_with_indices", IMAGE, [2, 2]),
    ("upsample_bilinear2d.vec", IMAGE, [9, 9], False, None),
    ("upsample_nearest2d.vec", IMAGE, None, [2.0, 2.0]),
    ("upsample_bicubic2d.vec", IMAGE, [9, 9], True, None),
    ("upsample_linear1d.vec", LINE, [12], False, None),
    ("upsample_trilinear3d.vec", PLANES, [5, 5, 5], False, None),
    ("grid_sampler", IMAGE, torch.rand(2, 4, 6, 2), 0, 0, False),
    ("im2col", IMAGE, [2, 2], [1, 1], [0, 0], [2, 2]),
    ("col2im", R(2, 32, 9), [6, 6], [2, 2], [1, 1], [0, 0], [2, 2]),
    ("mean.dim", IMAGE, [2, 3]),
    ("mean.dim", IMAGE, [-1], True),
    ("mean", TOKENS),
    ("sum.dim_IntList", IMAGE, [1]),
    ("amax", IMAGE, [1, -1], True),
    ("max.dim", TOKENS, 1),
    ("argmax", TOKENS, -1),
    ("linalg_vector_norm", TOKENS, 2, [-1], True),
    ("var_mean.correction", TOKENS, [1]),
    ("logsumexp", TOKENS, [1]),
    ("add.Tensor", TOKENS, R(5, 1)),
    ("sub.Tensor", TOKENS, 2.0),
    ("rsub.Scalar", TOKENS, 2.0),
    ("mul.Tensor", TOKENS, C),
    ("div.Tensor_mode", TOKENS, POSITIVE),
    ("pow.Scalar", 2.0, TOKENS),
    ("max.other", TOKENS, C),
    ("where.self", TOKENS > 0, TOKENS, R(1)),
    ("masked_fill.Scalar", TOKENS, TOKENS > 0, 0.0),
    ("clamp", TOKENS, -1, 1),
    ("clamp.Tensor", TOKENS, -POSITIVE, POSITIVE),
    ("addcmul", TOKENS, C, C),
    ("lerp.Tensor", TOKENS, R(2, 5, 8), POSITIVE),
    ("expand_as", R(5, 1), TOKENS),
    ("prelu", IMAGE, C),
    ("prelu", IMAGE, R(1)),
    ("embedding", R(10, 8), torch.randint(0, 10, (2, 6))),
    ("index.Tensor", R(10, 8), [torch.randint(0, 10, (2, 6))]),
    ("index.Tensor", TOKENS, [torch.arange(2), torch.randint(0, 5, (2,))]),
    ("index.Tensor", TOKENS, [None, torch.randint(0, 5, (3, 2))]),
    ("gather", TOKENS, 1, torch.randint(0, 5, (2, 3, 8))),
    ("index_select", TOKENS, 1, torch.randint(0, 5, (4,))),
    ("avg_pool2d", IMAGE, [2, 1]),
    ("max_pool2d", IMAGE, [3, 1], [2, 1], [1, 0]),
    ("index_add", TOKENS, 1, torch.randint(0, 5, (3,)), R(2, 3, 8)),
    ("scatter_add", TOKENS, 1, torch.randint(0, 5, (2, 3, 8)), R(2, 3, 8)),
    ("scatter_reduce.two", TOKENS, 1, torch.randint(0, 5, (2, 3, 8)), R(2, 3, 8), "amax"),
    *[(op, TOKENS) for op in ("relu", "gelu", "silu_", "sigmoid", "hardswish", "exp", "erf", "softplus", "zeros_like")],
]

Case = tuple[Node, list[Any], list[Any]]


def case_of(op: str, args: tuple[Any, ...]) -> Case:
    """A call as a node, its operands, and its results."""
    kwargs = {"rounding_mode": "floor"} if op == "div.Tensor_mode" else {}
    if isinstance(args[-1], dict):
        *args, kwargs = args
    base, _, overload = op.partition(".")
    found: dict[int, tuple[str, Any]] = {}

    def name(value: Any) -> str | None:
        if not isinstance(value, torch.Tensor):
            return None
        return found.setdefault(id(value), (f"t{len(found)}", value))[0]

    full = f"{base}.{overload or 'default'}"
    inputs, attributes = torch_nodes.encode("aten", full, args, kwargs, name)
    values = dict(found.values())
    operands = [values[n] if n else None for n in inputs]
    node = Node(op, full, "aten", 1, inputs, (), attributes)
    results = called(node, operands)
    return replace(node, outputs=tuple(f"r{i}" for i in range(len(results)))), operands, results


def called(node: Node, operands: list[Any]) -> list[Any]:
    return torch_nodes.call(node, [None if x is None else x.clone() for x in operands])


def shapes(tensors: list[Any]) -> list[tuple[int, ...] | None]:
    return [None if t is None else tuple(t.shape) for t in tensors]


def bound(case: Case, rules: tuple[Rule, ...] | None = None) -> Bound:
    node, operands, results = case
    dialect = TorchDialect()
    reasons = []
    for rule in rules or dialect.lookup(node):
        try:
            return bind(rule, shapes(operands), shapes(results), dialect.attributes(node))
        except RuleError as error:
            reasons.append(str(error))
    raise AssertionError(f"{node.op}: {reasons}")


def take(tensor: Any, axes: Any, fitted: Bound, factor: str, half: slice) -> Any:
    """The half of a tensor along one factor, also inside a composite axis."""
    for position, names in enumerate(axes or ()):
        if factor in names:
            grid = np.arange(tensor.shape[position]).reshape([fitted.sizes[n] for n in names])
            chosen = np.moveaxis(np.moveaxis(grid, names.index(factor), 0)[half], 0, names.index(factor))
            tensor = tensor.index_select(position, torch.from_numpy(chosen.ravel().copy()))
    return tensor


def counted(node: Node, fitted: Bound, factor: str, size: int) -> Node:
    """The node with attributes that hold this factor's size."""
    attributes = dict(node.attributes)
    for name, held in fitted.rule.counts:
        if held == factor:
            attributes[name] = size
        elif factor.startswith(f"{held}."):
            sizes = list(attributes[name])
            sizes[int(factor.rpartition(".")[2])] = size
            attributes[name] = tuple(sizes)
    return replace(node, attributes=attributes)


def carries(axes: Any, factor: str) -> bool:
    return axes is not None and any(factor in names for names in axes)


def halves(fitted: Bound, factor: str) -> Iterator[slice]:
    size = fitted.sizes[factor]
    yield slice(0, size // 2)
    yield slice(size // 2, size)


def same(made: list[Any], wanted: list[Any]) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4, equal_nan=True)
        for a, b in zip(made, wanted, strict=True)
    )


def passes(case: Case, fitted: Bound, factor: str) -> bool:
    """Whether the op on each half of a factor makes that half of its results; no when it can't run on a half."""
    node, operands, results = case
    try:
        for half in halves(fitted, factor):
            size = len(range(fitted.sizes[factor])[half])
            parts = [
                take(x, axes, fitted, factor, half) if x is not None else None
                for x, axes in zip(operands, fitted.operands, strict=True)
            ]
            made = called(counted(node, fitted, factor, size), parts)
            related = [i for i, axes in enumerate(fitted.results) if axes is not None]
            wanted = [take(results[i], fitted.results[i], fitted, factor, half) for i in related]
            if not same([made[i] for i in related], wanted):
                return False
    except (RuntimeError, IndexError, ValueError):
        return False
    return True


def passing(fitted: Bound) -> list[str]:
    held = [n for n, size in fitted.sizes.items() if size > 1 and n not in fitted.mix | fitted.whole | fitted.stat]
    return [
        n for n in held if any(carries(a, n) for a in fitted.operands) and any(carries(a, n) for a in fitted.results)
    ]


@pytest.mark.parametrize(("op", "args"), [(c[0], c[1:]) for c in CASES], ids=lambda v: v if isinstance(v, str) else "")
def test_factors_that_pass_through_pass_through(op: str, args: tuple[Any, ...]) -> None:
    case = case_of(op, args)
    fitted = bound(case)
    wrong = [factor for factor in passing(fitted) if not passes(case, fitted, factor)]
    assert wrong == [], fitted.rule.line


@pytest.mark.parametrize(
    ("op", "args", "claim"),
    [
        ("softmax.int", (TOKENS, 1), "... -> ..."),
        ("group_norm", (IMAGE, 4, C, C), "n c *s, c, c -> n c *s"),
        ("layer_norm", (TOKENS, [8], C, C), "*a *c, *c, *c -> *a *c | set normalized_shape=c"),
        ("glu", (TOKENS, -1), "*a (c h) -> *a c"),
        ("conv2d", (IMAGE, R(6, 4, 3, 3), R(6), [1, 1], [1, 1], [1, 1], 2), "n c *s, c i *k, c -> n o *t"),
        ("batch_norm", (IMAGE, C, C, C, POSITIVE, True, 0.1, 1e-5, False), "n c *s, c, c, c, c -> n c *s"),
    ],
    ids=lambda v: v if isinstance(v, str) and " " not in v else "",
)
def test_a_line_that_claims_too_much_is_found_out(op: str, args: tuple[Any, ...], claim: str) -> None:
    case = case_of(op, args)
    try:
        fitted = bound(case, (parse(f"aten::{op.partition('.')[0]} {claim}"),))
    except AssertionError:
        return
    assert not all(passes(case, fitted, factor) for factor in passing(fitted))


@pytest.mark.parametrize(("op", "args"), [(c[0], c[1:]) for c in CASES], ids=lambda v: v if isinstance(v, str) else "")
def test_mixed_factors_are_summed(op: str, args: tuple[Any, ...]) -> None:
    case = case_of(op, args)
    node, operands, results = case
    fitted = bound(case)

    def alone(x: Any, axes: Any, half: slice) -> Any:
        """What holds no mixed factor (a bias) is added once."""
        return x if any(carries(axes, name) for name in fitted.mix) else x * (half.start == 0)

    for factor in sorted(fitted.mix):
        parts = []
        for half in halves(fitted, factor):
            taken = [
                None if x is None else take(x, a, fitted, factor, half) if carries(a, factor) else alone(x, a, half)
                for x, a in zip(operands, fitted.operands, strict=True)
            ]
            parts.append(called(node, taken))
        assert same([a + b for a, b in zip(*parts, strict=True)], results), (fitted.rule.line, factor)


def test_golden() -> None:
    printed = "".join(f"{rule}\n" for rule in registry("torch"))
    assert printed == GOLDEN.read_text(encoding="utf-8"), f"rewrite with: {REWRITE} > {GOLDEN}"


def test_every_line_is_of_an_op_that_torch_has() -> None:
    for rule in registry("torch"):
        if rule.domain != "aten":
            continue
        base, _, overload = rule.op.partition(".")
        assert hasattr(torch.ops.aten, base) or hasattr(torch.ops.aten, f"{base}_"), rule.op
        assert not overload or hasattr(getattr(torch.ops.aten, base), overload), rule.op


def test_movement_runs_on_integers() -> None:
    """Whatever only moves elements can be run on labels, in torch's own integers or by way of floats."""
    dialect = TorchDialect()
    for op, args in [
        ("pad", (IMAGE, [1, 1], "constant", 2.5)),
        ("pad", (IMAGE, [1, 1, 1, 1], "reflect")),
        ("pixel_shuffle", (IMAGE, 2)),
        ("roll", (IMAGE, [1], [2])),
        ("view", (IMAGE, [2, 8, 36])),
        ("unfold", (IMAGE, 2, 3, 1)),
        ("select_scatter", (IMAGE, IMAGE[:, 0], 1, 3)),
        ("tril", (IMAGE,)),
    ]:
        node, operands, results = case_of(op, args)
        moved = dialect.move(node, [np.arange(1, x.numel() + 1).reshape(x.shape) for x in operands])
        flat = torch.cat([x.flatten() for x in operands[:1]])
        if len(operands) == 1:
            known = torch.cat([torch.zeros(1), flat])[torch.from_numpy(moved[0])]
            there = torch.from_numpy(moved[0]) > 0
            assert torch.equal(known[there], results[0][there]), op
        assert moved[0].shape == tuple(results[0].shape), op


class Custom(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.b(torch.ops.graphsplit_test.double_it(self.a(x)))


@pytest.fixture(scope="module", autouse=True)
def custom_op() -> None:
    @torch.library.custom_op("graphsplit_test::double_it", mutates_args=())
    def double_it(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    double_it.register_fake(torch.empty_like)


def test_a_custom_op_needs_one_line() -> None:
    with pytest.raises(
        UnsupportedError, match=r"graphsplit_test::double_it.*no rule for this op.*called at test_torch_rules"
    ):
        prepare_torch(Custom(), (R(3, 4),))
    network = prepare_torch(Custom(), (R(3, 4),), rules=["graphsplit_test::double_it ... -> ..."])
    assert network.trained == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_labels_are_reshaped_as_the_op_does_it() -> None:
    rng = np.random.default_rng(0)
    pairs = [((2, 6, 4, 1), (2, 3, 2, 4)), ((2, 6, 4), (12, 4, 1)), ((4, 6), (2, 12)), ((1, 6), (6,)), ((6,), (2, 3))]
    for before, after in pairs:
        for held in range(1 << len(before)):
            core = rng.integers(0, 9, [size if held >> axis & 1 else 1 for axis, size in enumerate(before)])
            array = np.broadcast_to(core, before)
            node = Node("v", "view.default", "aten", 1, ("x",), ("y",), {"size": after})
            assert np.array_equal(TorchDialect().move(node, [array])[0], array.reshape(after))


def test_labels_are_joined_as_the_op_does_it() -> None:
    a = np.broadcast_to(np.arange(1, 4)[:, None], (2, 3, 5))
    b = np.broadcast_to(np.arange(4, 6)[:, None], (2, 2, 5))
    node = Node("c", "cat.default", "aten", 1, ("x", "y"), ("z",), {"dim": -2})
    joined = TorchDialect().move(node, [a, b])[0]
    assert np.array_equal(joined, np.concatenate([a, b], axis=1))
    assert joined.strides[0] == joined.strides[2] == 0
