"""Torch modules through the same planner as ONNX files: law 1 on perturbed parts, sizes, dynamic axes, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import FormatError, PlanError, UnsupportedError  # noqa: E402
from graphsplit.graph import Graph  # noqa: E402
from graphsplit.narrow import narrow  # noqa: E402
from graphsplit.network import make  # noqa: E402
from graphsplit.torch_network import prepare_torch  # noqa: E402
from tests import torch_law  # noqa: E402
from tests.torch_networks import NETWORKS, Residual, example  # noqa: E402

DRAWS = ("lenet", "encoder_layer")
"""Networks with dropout: in training mode the merged network draws other numbers than the parts."""

SHARES = {"shuffle": 0.52, "group_norm": 0.47, "computed": 0.41, "sound": 0.41, "windows": 0.4}
"""Where a part of two has more than a third, because what is small or whole counts: at most this much."""


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_law_1(name: str, training: bool) -> None:
    if training and name in DRAWS:
        pytest.skip("draws")
    module, inputs = example(name, training=training)
    found = torch_law.law_1(prepare_torch(module, inputs), inputs, 2)
    assert found.error < 1e-12
    assert found.taps > 0
    assert found.share < SHARES.get(name, 1 / 3)


@pytest.mark.parametrize("strategy", ["interleaved", "random"])
@pytest.mark.parametrize("name", ["residual", "grouped", "transformer", "windows", "unet", "shuffle"])
def test_law_1_with_three_parts_in_any_order(name: str, strategy: str) -> None:
    module, inputs = example(name, training=False)
    try:
        found = torch_law.law_1(prepare_torch(module, inputs), inputs, 3, strategy=strategy)
    except UnsupportedError as refused:
        pytest.skip(f"refused: {refused.message}")
    assert found.error < 1e-12


def test_law_1_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts whose columns are mixed up are found out."""
    module, inputs = example("residual", training=False)
    network = prepare_torch(module, inputs)

    def swapped(network: Any, plan: Any, leaves: Any) -> Graph:
        return merged(network, plan, leaves[::-1])

    merged = torch_law.merged
    monkeypatch.setattr(torch_law, "merged", swapped)
    assert torch_law.law_1(network, inputs, 2).error < 1e-12  # the order of parts is no matter
    monkeypatch.setattr(torch_law, "merged", lambda n, p, leaves: merged(n, p, [leaves[0], leaves[0]]))
    assert torch_law.law_1(network, inputs, 2).error > 1e-3


def test_one_part_is_the_network() -> None:
    for name in NETWORKS:
        module, inputs = example(name, training=True)
        network = prepare_torch(module, inputs)
        sub = narrow(make(network, 1), network.dialect, 0)
        assert sub.graph.nodes == network.graph.nodes
        assert all(sub.graph.tensors[n] is t for n, t in network.graph.tensors.items())


@pytest.mark.parametrize("name", ["residual", "transformer", "encoder_layer", "windows", "unet", "shuffle"])
def test_dynamic_axes_stay_dynamic_in_a_part(name: str) -> None:
    module, inputs = example(name, training=False)
    network = prepare_torch(module, inputs, dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in inputs))
    assert torch_law.law_1(network, inputs, 2).error < 1e-12
    sub = narrow(make(network, 2), network.dialect, 0).graph
    more = {value.name: torch.cat([x, x.flip(0)]) for value, x in zip(sub.inputs, inputs, strict=True)}
    outputs = torch_law.values_of(sub, more)
    full = torch.utils._pytree.tree_leaves(module(*more.values()))
    assert [outputs[v.name].shape for v in sub.outputs] == [t.shape for t in full]


@pytest.mark.parametrize("name", ["lenet", "residual", "grouped", "dense", "transformer", "unet"])
def test_the_onnx_export_splits_alike(name: str, tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    from graphsplit.network import prepare

    module, inputs = example(name, training=False, double=False)
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, inputs, path, dynamo=True, optimize=False, verbose=False)
    ours, theirs = prepare_torch(module, inputs), prepare(path)
    a, b = make(ours, 2), make(theirs, 2)
    named = {n for n in ours.program.parameters if n in b.parameters}
    assert len(named) > len(ours.program.parameters) // 2
    for parameter in sorted(named):
        one, other = a.parameters[parameter], b.parameters[parameter]
        assert one.shape == other.shape
        assert one.role == other.role
        for k in range(2):
            here, there = one.selection(a.partition.owner, k), other.selection(b.partition.owner, k)
            for x, y in zip(here.axes, there.axes, strict=True):
                assert (x is None and y is None) or np.array_equal(x, y), parameter


def test_lenet_has_the_papers_size() -> None:
    module, inputs = example("lenet", training=True)
    network = prepare_torch(module, inputs)
    for parts, size in ((1, 431_080), (2, 109_295), (5, 18_224), (10, 4_867)):
        sub = narrow(make(network, parts), network.dialect, 0).graph
        assert sum(int(np.prod(sub.tensors[n].shape)) for n in network.trained) == size


def test_what_trains() -> None:
    module, inputs = example("computed", training=True)
    assert "scale" not in prepare_torch(module, inputs).trained  # nothing changes it
    assert "scale" in prepare_torch(module, inputs, trainable=["scale"]).trained
    assert "second.weight" in prepare_torch(module, inputs).trained  # frozen, and divided like the others
    module, inputs = example("residual", training=False)
    trained = prepare_torch(module, inputs).trained
    assert "1.bn1.running_mean" in trained
    assert "1.bn1.num_batches_tracked" not in trained
    with pytest.raises(FormatError, match="'nothing' is no parameter or buffer"):
        prepare_torch(module, inputs, constant=["nothing"])


def test_a_tie_is_found_by_its_second_name() -> None:
    module, inputs = example("transformer_tied", training=True)
    assert "embedding.weight" not in prepare_torch(module, inputs, constant=["head.weight"]).trained


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Residual(8)

    def forward(self, x: Any) -> Any:
        return torch.linalg.qr(self.body(x))[0]


def test_an_op_without_a_rule_is_refused_with_its_line() -> None:
    with pytest.raises(
        UnsupportedError, match=r"linalg_qr.*no rule for this op.*test_torch_plan.py:\d+: return torch.linalg.qr"
    ):
        prepare_torch(Complex(), (torch.randn(2, 8, 6, 6),))


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        y = self.a(x)
        return self.b(torch.fft.fftn(y, dim=(0, 1)).real)


def test_a_refusal_while_planning_names_its_line() -> None:
    network = prepare_torch(Spectrum(), (torch.randn(3, 4),))
    with pytest.raises(
        PlanError, match=r"fft_fftn.*needs all of its.*\(called at test_torch_plan.py:\d+: return self.b"
    ):
        make(network, 2)


class Pooled(nn.Module):
    """Heads that lie in the batch while one weight pools all of them (MViT)."""

    def __init__(self, heads: int = 4, size: int = 6) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.into, self.out = nn.Linear(5, heads * size), nn.Linear(heads * size, 3)
        self.pool = nn.Conv1d(size, size, 3, padding=1, groups=size)

    def forward(self, x: Any) -> Any:
        batch, time, _ = x.shape
        y = self.into(x).reshape(batch, time, self.heads, self.size).transpose(1, 2)
        y = self.pool(y.reshape(batch * self.heads, time, self.size).transpose(1, 2)).relu()
        y = y.reshape(batch, self.heads, self.size, time)
        return self.out(y.permute(0, 3, 1, 2).reshape(batch, time, -1))


def test_heads_in_a_free_batch_are_taken_apart_where_they_are_an_axis() -> None:
    """No positions that are known before anything runs take a part's heads out of an axis of batch times heads."""
    from graphsplit.modules.split import split_module

    x = torch.randn(2, 7, 5, dtype=torch.float64)
    parts = split_module(Pooled().double(), (x,), k=2)
    for part in parts.submodels:
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    more = torch.randn(5, 7, 5, dtype=torch.float64)
    mean = sum(part(more) for part in parts.submodels) / 2
    assert torch.allclose(parts.merge()(more), mean)
    assert parts.repeats
    assert sum(p.numel() for p in parts.submodels[0].parameters()) < 0.6 * 241


def same_as_the_mean(module: nn.Module, *example: Any, other: tuple[Any, ...] = ()) -> Any:
    """Split a module in two with a free batch, change the parts, and hold the merged module to their mean."""
    from graphsplit.modules.split import split_module

    parts = split_module(module.double().eval(), example, k=2)
    for part in parts.submodels:
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    given = other or example
    mean = sum(part(*given) for part in parts.submodels) / 2
    assert torch.allclose(parts.merge()(*given), mean)
    assert not torch.allclose(parts.submodels[0](*given), mean)
    return parts


class Biased(nn.Module):
    """Attention over a batch of heads, with a constant slope for each head (BLOOM)."""

    def __init__(self, heads: int = 4, size: int = 3) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.into, self.out = nn.Linear(5, heads * size), nn.Linear(heads * size, 3)

    def forward(self, x: Any) -> Any:
        batch, time, _ = x.shape
        q = self.into(x).reshape(batch, time, self.heads, self.size).transpose(1, 2)
        q = q.reshape(batch * self.heads, -1, self.size)
        slopes = torch.arange(1.0, self.heads + 1, dtype=x.dtype)[None, :, None, None]
        bias = (slopes * torch.ones_like(x[:, None, :1, :1])).reshape(batch * self.heads, 1, 1)
        y = torch.softmax(torch.baddbmm(bias, q, q.transpose(1, 2)) * bias, -1) @ q
        return self.out(y.reshape(batch, self.heads, time, -1).transpose(1, 2).flatten(2))


class Looked(nn.Module):
    """Each head's scores are looked up by positions that the example's sizes don't tell (DeBERTa)."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.into, self.out = nn.Linear(5, heads), nn.Linear(heads, 3)

    def forward(self, x: Any, places: Any) -> Any:
        scores = self.into(x).transpose(1, 2)
        found = torch.gather(scores, -1, places[:, None].expand(-1, self.heads, -1))
        return self.out((found * scores).transpose(1, 2))


class Tied(nn.Module):
    """An embedding that is the output layer too, with a layer between them (BERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle = nn.Embedding(9, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 9)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Any) -> Any:
        return self.head(self.middle(self.embed(tokens)).relu())


class Blocks(nn.Module):
    """One small matrix for each head, as a batch of products (RecurrentGemma)."""

    def __init__(self, heads: int = 4, size: int = 3) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.into, self.out = nn.Linear(5, heads * size), nn.Linear(heads * size, 3)
        self.weight = nn.Parameter(torch.randn(heads, size, size))
        self.bias = nn.Parameter(torch.randn(heads, size))

    def forward(self, x: Any) -> Any:
        y = self.into(x).reshape(-1, self.heads, self.size).transpose(0, 1)
        y = torch.baddbmm(self.bias[:, None, :], y, self.weight)
        return self.out(y.transpose(0, 1).reshape(*x.shape[:-1], -1))


class Grouped(nn.Module):
    """Attention with fewer heads of keys than of queries, repeated inside the op; shapes read off other values."""

    def __init__(self, heads: int = 4, few: int = 2, size: int = 3) -> None:
        super().__init__()
        self.heads, self.few, self.size = heads, few, size
        self.q, self.k = nn.Linear(5, heads * size), nn.Linear(5, few * size)
        self.v, self.out = nn.Linear(5, few * size), nn.Linear(heads * size, 3)

    def forward(self, x: Any) -> Any:
        q = self.q(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        k, v = (m(x).unflatten(-1, (self.few, self.size)).transpose(1, 2) for m in (self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
        return self.out(y.reshape_as(self.q(x)))


@pytest.mark.parametrize("module", [Biased, Blocks, Grouped])
def test_heads_and_free_batches(module: type[nn.Module]) -> None:
    torch.manual_seed(0)
    example, other = (torch.randn(n, 7, 5, dtype=torch.float64) for n in (2, 5))
    parts = same_as_the_mean(module(), example, other=(other,))
    full = sum(p.numel() for p in module().parameters())
    assert sum(p.numel() for p in parts.submodels[0].parameters()) < 0.6 * full


def test_what_is_looked_up_along_one_axis_passes_the_others() -> None:
    torch.manual_seed(0)
    example, other = ((torch.randn(n, 7, 5).double(), torch.randint(0, 7, (n, 7))) for n in (2, 5))
    parts = same_as_the_mean(Looked(), *example, other=other)
    assert parts.submodels[0].get_parameter("into.weight").shape == (2, 5)


def test_a_tied_layer_between_an_embedding_and_itself() -> None:
    torch.manual_seed(0)
    parts = same_as_the_mean(Tied(), torch.randint(0, 9, (2, 4)))
    assert parts.submodels[0].get_parameter("embed.weight").shape == (9, 4)
    assert parts.submodels[0].get_parameter("middle.weight").shape == (4, 4)


class Rescaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            self.a.weight.mul_(0.5)
        return self.b(self.a(x))


def test_a_parameter_that_running_the_module_changes_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"writes into the parameter 'a.weight'"):
        prepare_torch(Rescaled(), (torch.randn(3, 4),))


class Learned(nn.Module):
    """Statistics of a parameter: it is no layer's vertices that they're taken over."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.norm = nn.Parameter(torch.randn(8)), nn.LayerNorm(8)
        self.into, self.gate, self.out = nn.Linear(4, 8), nn.Parameter(torch.randn(8)), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        x = self.into(x) * torch.softmax(self.gate, 0) + self.norm(self.start.expand(len(x), -1))
        return self.out(x.relu())


def test_statistics_of_a_parameter_are_each_parts_own() -> None:
    torch.manual_seed(0)
    same_as_the_mean(Learned(), torch.randn(2, 4).double())
