"""Recurrent layers of torch (LSTM, GRU, RNN, their cells): split, merged, run at other lengths, trained, refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.export import Dim  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

import graphsplit  # noqa: E402
from graphsplit.errors import UnsupportedError  # noqa: E402
from graphsplit.formats.torch_graph import read  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from graphsplit.network import make, prepare  # noqa: E402
from graphsplit.torch_network import prepare_torch  # noqa: E402
from graphsplit.verification import verify_opened  # noqa: E402
from tests.torch_recurrent_nets import (  # noqa: E402
    KINDS,
    Attention,
    Continued,
    Convolved,
    Crnn,
    Language,
    Last,
    Loop,
    Started,
    TimeMixed,
    Translation,
    Unbatched,
    Viewed,
    Written,
)

Inputs = tuple[Any, ...]


class Steps(nn.Module):
    """A linear layer behind each step of a sequence."""

    def __init__(self, kind: str = "lstm", **options: Any) -> None:
        super().__init__()
        self.rnn = KINDS[kind](5, 12, **options)
        self.head = nn.Linear(24 if options.get("bidirectional") else options.get("proj_size") or 12, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0])


@dataclass(frozen=True)
class Case:
    """A network, its inputs, other inputs at dynamic sizes, and what is dynamic."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    others: Callable[[], Inputs] | None = None
    dynamic: Any = None


def x(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64)


def words(*shape: int) -> Any:
    return torch.randint(0, 30, shape)


BATCH, TIME = Dim("batch"), Dim("time")
TIME_FIRST, BATCH_FIRST = ({0: TIME, 1: BATCH},), ({0: BATCH, 1: TIME},)

CASES: dict[str, Case] = {
    "rnn relu": Case(lambda: Steps("rnn", nonlinearity="relu", num_layers=2), lambda: (x(6, 4, 5),)),
    "rnn cell relu": Case(lambda: Loop("rnn", nonlinearity="relu"), lambda: (x(6, 4, 5),)),
    "crnn": Case(
        Crnn,
        lambda: (x(3, 1, 8, 16),),
        lambda: (x(2, 1, 8, 24),),
        ({0: BATCH, 3: Dim("width", min=4, max=64)},),
    ),
    "language": Case(Language, lambda: (words(3, 7),), lambda: (words(5, 11),), BATCH_FIRST),
    "language, tied": Case(lambda: Language(tied=True), lambda: (words(3, 7),), lambda: (words(5, 11),), BATCH_FIRST),
    "translation": Case(
        Translation,
        lambda: (words(3, 7), words(3, 5)),
        lambda: (words(2, 4), words(2, 9)),
        ({0: BATCH, 1: TIME}, {0: BATCH, 1: Dim("there")}),
    ),
    "started": Case(Started, lambda: (x(6, 4, 5),), lambda: (x(9, 2, 5),), TIME_FIRST),
    "written by hand": Case(Written, lambda: (x(4, 3, 5),), lambda: (x(4, 7, 5),), ({1: BATCH},)),
    "convolved": Case(Convolved, lambda: (x(2, 3, 2, 5, 5),), lambda: (x(4, 3, 2, 5, 5),), ({0: BATCH},)),
    "viewed": Case(Viewed, lambda: (x(4, 6, 5),), lambda: (x(3, 9, 5),), BATCH_FIRST),
    "attention": Case(Attention, lambda: (x(4, 6, 5),), lambda: (x(3, 9, 5),), BATCH_FIRST),
}
for kind in KINDS:
    CASES |= {
        kind: Case(lambda kind=kind: Steps(kind), lambda: (x(6, 4, 5),), lambda: (x(9, 2, 5),), TIME_FIRST),
        f"{kind}, two layers, both ways": Case(
            lambda kind=kind: Steps(kind, num_layers=2, bidirectional=True, batch_first=True),
            lambda: (x(4, 6, 5),),
            lambda: (x(3, 9, 5),),
            BATCH_FIRST,
        ),
        f"{kind}, last state, no bias": Case(
            lambda kind=kind: Last(kind, num_layers=2, batch_first=True, bias=False),
            lambda: (x(4, 6, 5),),
            lambda: (x(3, 9, 5),),
            BATCH_FIRST,
        ),
        f"{kind}, last states, dropout": Case(
            lambda kind=kind: Last(kind, num_layers=2, bidirectional=True, dropout=0.3),
            lambda: (x(6, 4, 5),),
            lambda: (x(9, 2, 5),),
            TIME_FIRST,
        ),
        f"{kind}, one layer, batch first": Case(lambda kind=kind: Last(kind, batch_first=True), lambda: (x(4, 6, 5),)),
        f"{kind}, unbatched": Case(lambda kind=kind: Unbatched(kind), lambda: (x(6, 5),)),
        f"{kind} cell": Case(lambda kind=kind: Loop(kind), lambda: (x(6, 4, 5),), lambda: (x(6, 2, 5),), ({1: BATCH},)),
        f"{kind} cell, no bias": Case(lambda kind=kind: Loop(kind, bias=False), lambda: (x(6, 4, 5),)),
        f"{kind} behind time": Case(lambda kind=kind: TimeMixed(kind), lambda: (x(20, 4, 2),)),
    }
    states = (lambda n: (x(2, n, 12), x(2, n, 12))) if kind == "lstm" else (lambda n: x(2, n, 12))
    axes: Any = ({1: BATCH}, {1: BATCH}) if kind == "lstm" else {1: BATCH}
    CASES[f"{kind}, continued"] = Case(
        lambda kind=kind: Continued(kind),
        lambda states=states: (x(6, 4, 5), states(4)),
        lambda states=states: (x(9, 2, 5), states(2)),
        ({0: TIME, 1: BATCH}, axes),
    )

FEW = ("lstm", "gru, two layers, both ways", "rnn, last states, dropout", "lstm cell", "translation", "lstm, continued")


def made(name: str, k: int, **options: Any) -> tuple[ModuleSplit, Inputs]:
    torch.manual_seed(0)
    case = CASES[name]
    args = case.inputs()
    return split_module(case.make().double(), args, k=k, dynamic_shapes=case.dynamic, **options), args


def perturb(split: ModuleSplit, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in split.submodels:
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def outputs(module: nn.Module, args: Inputs) -> list[Any]:
    with torch.no_grad():
        found: list[Any] = pytree.tree_leaves(module.eval()(*args))
    return found


def difference(split: ModuleSplit, merged: nn.Module, args: Inputs) -> float:
    """How far each output is from the mean of the sub-models', or from their slices side by side; relative."""
    worst = 0.0
    parts = [outputs(module, args) for module in split.submodels]
    entries = [e for e in split.manifest.outputs if not e.name.startswith("training:")]
    for entry, whole, *pieces in zip(entries, outputs(merged, args), *parts, strict=True):
        if entry.merge == "concat":
            owners = split.manifest.groups[entry.group]
            chosen = [torch.from_numpy(owners.kept(k).indices()) for k in range(split.parts)]
            pairs = [(whole.index_select(entry.axis, c), p) for c, p in zip(chosen, pieces, strict=True)]
        else:
            pairs = [(whole, sum(pieces) / split.parts)]
        worst = max(worst, *(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
    return worst


# -- the laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "k", "strategy"), [*((n, 3, "random") for n in CASES), *((n, 2, "contiguous") for n in FEW)]
)
def test_the_merged_network_is_the_mean_of_perturbed_sub_models(name: str, k: int, strategy: str) -> None:
    split, args = made(name, k, strategy=strategy)
    full = sum(p.numel() for p in split.model.parameters())
    if "behind time" not in name:
        assert split.repeats == 0 or name == "attention"
        assert max(sum(p.numel() for p in part.parameters()) for part in split.submodels) < full / k**2 + 0.13 * full
    perturb(split)
    merged = split.merge()
    assert difference(split, merged, args) < 1e-10
    others = CASES[name].others
    if others is not None:
        assert difference(split, merged, others()) < 1e-10
    assert list(split.submodels[0].state_dict()) == list(split.model.state_dict())
    with torch.no_grad():  # a negative control: another network isn't the mean
        next(p for n, p in merged.named_parameters() if n.endswith("weight") or "hh" in n).mul_(1.5)
    assert difference(split, merged, args) > 1e-9


@pytest.mark.parametrize("name", FEW)
def test_verification_passes(name: str) -> None:
    split, _ = made(name, 2, strategy="interleaved")
    perturb(split)
    assert verify_opened(split.opened, split.leaves()).passed


@pytest.mark.parametrize("name", FEW)
def test_a_sub_model_is_split_again(name: str) -> None:
    outer, args = made(name, 2)
    perturb(outer, 5)
    inner = [split_module(module, k=2) for module in outer.submodels]
    for i, split in enumerate(inner):
        perturb(split, i)
    leaves = [module for split in inner for module in split.submodels]
    mean = sum(outputs(module, args)[0] for module in leaves) / 4
    merged = outputs(outer.merge(inner), args)[0]
    assert float((merged - mean).abs().max() / mean.abs().max()) < 1e-10


def test_a_hidden_unit_is_one_vertex_with_all_its_gates() -> None:
    split, _ = made("lstm", 3, strategy="random")
    gates = split.model.rnn.weight_hh_l0.view(4, 12, 12)
    entry = split.manifest.parameters["rnn.weight_hh_l0"]
    assert entry.role == "owned"
    seen = []
    for k, part in enumerate(split.submodels):
        rows, columns = (axis.view(4, -1) if axis.numel() > 12 else axis for axis in _indices(split, k))
        assert torch.equal(rows % 12, columns.expand(4, -1))
        seen += columns.tolist()
        assert torch.equal(part.rnn.weight_hh_l0.view(4, 4, 4), gates[:, columns][:, :, columns])
    assert sorted(seen) == list(range(12))


def _indices(split: ModuleSplit, part: int) -> list[Any]:
    selection = split.manifest.selection("rnn.weight_hh_l0", part)
    return [torch.from_numpy(np.array(axis)) for axis in selection.axes]


# -- the same numbers as torch's own ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_one_part_is_the_layer_itself(kind: str, batch_first: bool, both: bool) -> None:
    """Outputs, dropout between the layers with its random numbers, and gradients."""
    torch.manual_seed(0)
    model = Steps(kind, num_layers=3, bidirectional=both, batch_first=batch_first, dropout=0.4).double()
    args = (x(6, 4, 5),)
    part = split_module(model, args, k=1).submodels[0]
    assert torch.allclose(*outputs(part, args), *outputs(model, args), rtol=0, atol=1e-14)
    results = []
    for module in (part.train(), model.train()):
        torch.manual_seed(1)
        results.append(module(*args))
        results[-1].square().sum().backward()
    assert torch.allclose(*results, rtol=0, atol=1e-14)
    for name, parameter in model.named_parameters():
        assert torch.allclose(part.get_parameter(name).grad, parameter.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["language", "lstm, last states, dropout", "gru cell"])
def test_sub_models_train_and_merge_with_their_optimizers(name: str) -> None:
    split, args = made(name, 2)
    optimizers = []
    for part in split.submodels:
        optimizers.append(torch.optim.Adam(part.train().parameters(), lr=1e-2))
        for _ in range(3):
            optimizers[-1].zero_grad()
            part(*args).square().mean().backward()
            optimizers[-1].step()
    merged = split.merge()
    assert difference(split, merged, args) < 1e-10
    split.model.load_state_dict(split.merge_state_dict())
    assert torch.allclose(*outputs(split.model, args), *outputs(merged, args), rtol=0, atol=1e-12)
    into = torch.optim.Adam(split.model.parameters())
    split.merge_optimizers(optimizers, into)
    assert len(into.state) == len(list(split.model.parameters()))
    split.model.train()(*args).square().mean().backward()
    into.step()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_sub_models_are_compiled_around_recurrent_layers(kind: str) -> None:
    model, args = Steps(kind, num_layers=2), (torch.randn(6, 4, 5),)
    part = split_module(model, args, k=2).submodels[0].train()
    found = torch.compile(part, backend="aot_eager")(*args)
    found.sum().backward()
    assert torch.allclose(found, part(*args), atol=1e-6)
    torch.export.export(part.eval(), args, strict=True)


def test_a_sub_model_is_an_ordinary_module(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, args, longer = Steps(num_layers=2, bidirectional=True), (torch.randn(6, 4, 5),), torch.randn(9, 4, 5)
    split = graphsplit.split(model, args, k=2, out=tmp_path / "parts")
    part = split.submodels[0].eval()
    for again in (
        pickle.loads(pickle.dumps(part)),
        graphsplit.load_module(tmp_path / "parts" / "submodel_0.pt2").eval(),
        torch.export.load(tmp_path / "parts" / "submodel_0.pt2").module(),
    ):
        assert torch.equal(again(longer), part(longer))


def test_a_program_that_was_exported_already_is_written_out_too() -> None:
    torch.manual_seed(0)
    model, args = Last(num_layers=2, bidirectional=True, batch_first=True).double().eval(), (x(4, 6, 5),)
    program = read(torch.export.export(model, args))
    assert [node.op for node in program.graph.nodes].count("lstm.input") == 4
    assert {node.attributes["num_layers"] for node in program.graph.nodes if node.op == "lstm.input"} == {1}


def test_long_sequences_are_not_run_step_by_step() -> None:
    network = prepare_torch(Steps(num_layers=2), (torch.randn(5000, 2, 5),))
    assert len(network.graph.nodes) < 20


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_onnx_export_splits_alike(kind: str, tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    model, args = Steps(kind, num_layers=2, bidirectional=True).eval(), (torch.randn(6, 4, 5),)
    torch.onnx.export(model, args, tmp_path / "model.onnx", dynamo=True, optimize=False, verbose=False)
    a, b = make(prepare_torch(model, args), 2), make(prepare(tmp_path / "model.onnx"), 2)
    for name in dict(model.named_parameters()):
        one, other = a.parameters[name], b.parameters[name]
        assert (one.shape, one.role) == (other.shape, other.role)
        for k in range(2):
            here, there = one.selection(a.partition.owner, k), other.selection(b.partition.owner, k)
            assert all(np.array_equal(i, j) for i, j in zip(here.axes, there.axes, strict=True)), name


# -- refusals ---------------------------------------------------------------------------------------------------


class Packed(Steps):
    def forward(self, x: Any, lengths: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0])


def test_packed_sequences_are_refused() -> None:
    args = (torch.randn(6, 4, 5), torch.tensor([6, 3, 2, 5]))
    with pytest.raises(UnsupportedError, match=r"packed sequences .* give padded ones"):
        prepare_torch(Packed(), args)


@pytest.mark.parametrize("bias", [True, False])
def test_projections_are_refused(bias: bool) -> None:
    with pytest.raises(
        UnsupportedError, match=r"lstm.input 'rnn.*write proj_size as a linear layer.*test_torch_recurrent"
    ):
        prepare_torch(Steps(proj_size=6, num_layers=2, bias=bias), (torch.randn(6, 4, 5),))
