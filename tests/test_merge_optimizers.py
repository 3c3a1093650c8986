"""Optimizers of sub-models merged into one: the pending update merges like its weight."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import MergeError  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from tests.torch_nets import LeNet, Residual, Transformer  # noqa: E402

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adam": ("Adam", {"lr": 0.01}),
    "AdamW": ("AdamW", {"lr": 0.01, "weight_decay": 0.0}),
    "AMSGrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "RMSprop": ("RMSprop", {"lr": 0.01}),
    "centered RMSprop": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
}
NETS = {
    "lenet": (lambda: LeNet(6, 8, 12), lambda: (torch.randn(4, 1, 28, 28).double(),)),
    "residual": (Residual, lambda: (torch.randn(4, 3, 8, 8).double(),)),
    "tied": (lambda: Transformer(tied=True, depth=1), lambda: (torch.randint(0, 40, (2, 7)),)),
}


def made(name: str, optimizer: str) -> tuple[ModuleSplit, tuple[Any, ...], list[torch.optim.Optimizer]]:
    """A split whose sub-models have taken some steps, not equally many."""
    torch.manual_seed(0)
    module, inputs = NETS[name]
    args = inputs()
    split = split_module(module().double(), args, k=2)
    kind, options = OPTIONS[optimizer]
    optimizers = [getattr(torch.optim, kind)(m.parameters(), **options) for m in split.submodels]
    for count, (m, steps) in enumerate(zip(split.submodels, optimizers, strict=True), start=3):
        for _ in range(count):
            steps.zero_grad()
            m.train()(*args).square().mean().mul(count).backward()
            steps.step()
    return split, args, optimizers


def pending(optimizer: torch.optim.Optimizer, parameter: Any) -> Any:
    """What the state alone would change: the next update without its new gradient's part."""
    state = optimizer.state[parameter]
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    if "exp_avg" in state:
        step, (first, second) = float(state["step"]), group["betas"]
        root = state.get("max_exp_avg_sq", state["exp_avg_sq"]) / (1 - second**step)
        return state["exp_avg"] / (1 - first**step) / root.sqrt().clamp(min=1e-300)
    if "momentum_buffer" in state:
        return state["momentum_buffer"]
    if "grad_avg" in state:
        return state["grad_avg"] / state["square_avg"].sqrt()
    return None


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("name", NETS)
def test_the_pending_update_merges_like_its_weight(name: str, optimizer: str) -> None:
    """Merging after the pending step is the pending step after merging, in the merged module."""
    split, _, optimizers = made(name, optimizer)
    kind, options = OPTIONS[optimizer]
    merged = split.merge()
    into = getattr(torch.optim, kind)(merged.parameters(), **options)
    split.merge_optimizers(optimizers, into=into)
    if pending(into, next(iter(merged.parameters()))) is None:
        return
    # the same merge, of updates in the place of weights
    with torch.no_grad():
        for module, steps in zip(split.submodels, optimizers, strict=True):
            for parameter in module.parameters():
                parameter.copy_(pending(steps, parameter))
    wanted = split.merge()
    for (key, parameter), (_, update) in zip(merged.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.allclose(pending(into, parameter), update, rtol=1e-9, atol=1e-12), key


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
def test_second_moments_stay_with_their_owners(optimizer: str) -> None:
    split, _, optimizers = made("lenet", optimizer)
    into = getattr(torch.optim, optimizer)(split.model.parameters())
    split.merge_optimizers(optimizers, into=into)
    key = "exp_avg_sq" if optimizer == "Adam" else "square_avg"
    found = into.state[split.model.get_parameter("fc1.weight")][key]
    rows, columns = (len(split.submodels[0].state_dict()[n]) for n in ("fc1.bias", "conv2.bias"))
    parts = [s.state[m.get_parameter("fc1.weight")][key] for s, m in zip(optimizers, split.submodels, strict=True)]
    if optimizer == "Adam":
        parts = [p * ((1 - 0.999**4) / (1 - 0.999**n)) for p, n in zip(parts, (3, 4), strict=True)]
    assert torch.allclose(found[:rows, : columns * 16], parts[0], rtol=1e-12)
    assert torch.allclose(found[rows:, columns * 16 :], parts[1], rtol=1e-12)
    typical = torch.cat([p.flatten() for p in parts]).mean()
    assert torch.allclose(found[rows:, : columns * 16], typical, rtol=1e-12)  # cut: zero would make its first step huge
    head = into.state[split.model.get_parameter("fc2.weight")][key]
    assert torch.allclose(
        head[:, :rows] * 1.0, parts_of(split, optimizers, "fc2.weight", key, optimizer)[0], rtol=1e-12
    )


def parts_of(split: ModuleSplit, optimizers: Any, name: str, key: str, optimizer: str) -> list[Any]:
    parts = [s.state[m.get_parameter(name)][key] for s, m in zip(optimizers, split.submodels, strict=True)]
    if optimizer == "Adam":
        return [p * ((1 - 0.999**4) / (1 - 0.999**n)) for p, n in zip(parts, (3, 4), strict=True)]
    return parts


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_the_merged_optimizer_goes_on(optimizer: str) -> None:
    split, args, optimizers = made("residual", optimizer)
    kind, options = OPTIONS[optimizer]
    into = getattr(torch.optim, kind)(split.model.parameters(), **options)
    split.model.load_state_dict(split.merge_state_dict())
    split.merge_optimizers(optimizers, into=into)
    again = getattr(torch.optim, kind)(split.model.parameters(), **options)
    again.load_state_dict(copy.deepcopy(into.state_dict()))  # its state is in order
    split.model.train()(*args).square().sum().backward()
    into.step()
    steps = [float(s["step"]) for s in into.state.values() if "step" in s]
    assert set(steps) <= {5.0}
    assert all(bool(torch.isfinite(p).all()) for p in split.model.parameters())


def test_groups_and_their_settings_carry_over() -> None:
    split = split_module(LeNet(), (torch.randn(2, 1, 28, 28),), k=2)

    def grouped(module: nn.Module, **options: float) -> torch.optim.Optimizer:
        heads = [p for n, p in module.named_parameters() if n.startswith("fc")]
        body = [p for n, p in module.named_parameters() if not n.startswith("fc")]
        return torch.optim.SGD(
            [{"params": body, "lr": 0.5, "weight_decay": 0.1}, {"params": heads}], lr=0.01, **options
        )

    optimizers = [grouped(m) for m in split.submodels]
    into = torch.optim.SGD(split.model.parameters(), lr=7.0)
    split.merge_optimizers(optimizers, into=into)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in into.param_groups] == [(0.5, 0.1, 4), (0.01, 0, 4)]
    optimizers[1].param_groups[0]["lr"] = 0.25
    with pytest.raises(MergeError, match=r"'lr' of group 0 is 0.5 in one optimizer and 0.25"):
        split.merge_optimizers(optimizers, into=into)


def test_what_has_no_rule_is_refused() -> None:
    split, _, _ = made("lenet", "SGD")
    options: list[Any] = [torch.optim.Rprop(m.parameters()) for m in split.submodels]
    for steps, module in zip(options, split.submodels, strict=True):
        module(torch.randn(2, 1, 28, 28).double()).sum().backward()
        steps.step()
    with pytest.raises(MergeError, match="no rule to merge"):
        split.merge_optimizers(options, into=torch.optim.Rprop(split.model.parameters()))
    with pytest.raises(MergeError, match="is to go on"):
        split.merge_optimizers(options, into=torch.optim.SGD(split.model.parameters()))
    with pytest.raises(MergeError, match="neither the source nor a merged module"):
        split.merge_optimizers(options, into=torch.optim.Rprop(LeNet().parameters()))
    with pytest.raises(MergeError, match="order of the sub-models"):
        split.merge_optimizers(options[::-1], into=torch.optim.Rprop(split.model.parameters()))


def test_numbers_by_hand() -> None:
    """One hidden layer of two vertices: each number by the rule."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    split = split_module(model, (torch.ones(1, 1).double(),), k=2)
    optimizers = [torch.optim.Adam(m.parameters()) for m in split.submodels]
    for k, (steps, module) in enumerate(zip(optimizers, split.submodels, strict=True)):
        for parameter in module.parameters():
            full = torch.ones_like(parameter)
            steps.state[parameter] = {"step": torch.tensor(4.0), "exp_avg": full * (k + 1), "exp_avg_sq": full * 4**k}
    into = torch.optim.Adam(model.parameters())
    split.merge_optimizers(optimizers, into=into)
    found = {
        n: {k: np.asarray(v).ravel().tolist() for k, v in into.state[p].items()} for n, p in model.named_parameters()
    }
    assert found["0.weight"] == {"exp_avg_sq": [1, 4], "exp_avg": [1, 2], "step": [4]}
    assert found["2.weight"] == {"exp_avg_sq": [1, 4], "exp_avg": [0.5, 1], "step": [4]}
    # v = (1 + 4) / 2, m = sqrt(v) * mean(1 / 1, 2 / 2)
    assert found["2.bias"] == {"exp_avg_sq": [2.5], "exp_avg": [pytest.approx(2.5**0.5)], "step": [4]}
