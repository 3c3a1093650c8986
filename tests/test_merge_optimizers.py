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
from tests.module_cases import TiedNorm  # noqa: E402
from tests.torch_nets import LeNet  # noqa: E402
from tests.torch_optimizers import NETS, OPTIONS, made, pending, trained  # noqa: E402


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


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("name", [*NETS, "folded"])
def test_the_users_own_module_gets_the_same(name: str, optimizer: str, nested: bool) -> None:
    """Merging after the pending step is the pending step after merging, in the original layers, scales that they fold too."""
    torch.manual_seed(0)
    module, inputs = {**NETS, "folded": (TiedNorm, lambda: (torch.randint(0, 20, (6,)),))}[name]
    args = inputs()
    outer = split_module(module().double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2) if nested else None
    tree = [inner or outer.submodels[0], outer.submodels[1]]
    leaves = [*(inner.submodels if inner else outer.submodels[:1]), outer.submodels[1]]
    optimizers = [trained(leaf, args, optimizer, count) for count, leaf in enumerate(leaves, start=3)]
    kind, options = OPTIONS[optimizer]
    into = getattr(torch.optim, kind)(outer.model.parameters(), **options)
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    if pending(into, next(iter(outer.model.parameters()))) is None:
        return
    with torch.no_grad():
        for leaf, steps in zip(leaves, optimizers, strict=True):
            for parameter in leaf.parameters():
                update = pending(steps, parameter) if parameter in steps.state else None  # not of an unused one
                parameter.zero_() if update is None else parameter.copy_(update)
    wanted = outer.merge_state_dict(tree)
    for key, parameter in outer.model.named_parameters():
        found = pending(into, parameter) if parameter in into.state else torch.zeros_like(parameter)
        assert torch.allclose(found, wanted[key], rtol=1e-9, atol=1e-12), key


def test_squares_follow_a_folded_scale() -> None:
    """A norm's weight that is halved has twice the gradient, and with it four times the squares."""
    args = (torch.randint(0, 20, (6,)),)
    split = split_module(TiedNorm().double(), args, k=2)
    optimizers = [trained(m, args, "Adam", 3) for m in split.submodels]
    into = torch.optim.Adam(split.model.parameters())
    split.merge_optimizers(optimizers, into=into)
    for key, factor in (("norm.weight", 4), ("body.bias", 1)):
        parts = [s.state[m.get_parameter(key)]["exp_avg_sq"] for s, m in zip(optimizers, split.submodels, strict=True)]
        found = into.state[split.model.get_parameter(key)]["exp_avg_sq"]
        assert torch.allclose(found, torch.cat(parts) * factor, rtol=1e-12), key


def test_other_modules_in_the_place_of_the_sub_models() -> None:
    """What was trained may be copies, or wrapped."""
    split, args, _ = made("lenet", "SGD")
    others = [copy.deepcopy(split.submodels[0]), nn.DataParallel(copy.deepcopy(split.submodels[1]))]
    optimizers = [trained(m, args, "Adam", 2) for m in others]
    into = torch.optim.Adam(split.model.parameters())
    with pytest.raises(MergeError, match="that sub-model 0 hasn't"):
        split.merge_optimizers(optimizers, into=into)
    split.merge_optimizers(optimizers, into=into, trained=others)
    assert all(float(state["step"]) == 2 for state in into.state.values())


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


def test_a_part_without_state_counts_for_no_average() -> None:
    """An optimizer that never stepped a tensor says nothing of its squares."""
    split, args, _ = made("lenet", "SGD")
    first = trained(split.submodels[0], args, "Adam", 3)
    second = torch.optim.Adam(split.submodels[1].parameters(), lr=0.01)
    into = torch.optim.Adam(split.model.parameters())
    split.merge_optimizers([first, second], into=into)
    bias, mine = split.model.fc2.bias, split.submodels[0].get_parameter("fc2.bias")
    assert torch.allclose(into.state[bias]["exp_avg_sq"], first.state[mine]["exp_avg_sq"], rtol=1e-12)
    assert torch.allclose(into.state[bias]["exp_avg"], first.state[mine]["exp_avg"] / 2, rtol=1e-12)


def test_adagrad_sums_merge_like_averages_of_squares() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    split = split_module(model, (torch.ones(1, 1).double(),), k=2)
    optimizers = [torch.optim.Adagrad(m.parameters(), lr=0.1) for m in split.submodels]
    for k, (steps, module) in enumerate(zip(optimizers, split.submodels, strict=True)):
        for parameter in module.parameters():
            steps.state[parameter] = {"step": torch.tensor(3.0 + k), "sum": torch.full_like(parameter, 4.0**k)}
    into = torch.optim.Adagrad(model.parameters(), lr=0.1)
    split.merge_optimizers(optimizers, into=into)
    found = {n: {k: v.flatten().tolist() for k, v in into.state[p].items()} for n, p in model.named_parameters()}
    assert found["0.weight"] == {"sum": [1, 4], "step": [4]}
    assert found["2.weight"] == {"sum": [1, 4], "step": [4]}
    assert found["2.bias"] == {"sum": [2.5], "step": [4]}
    model(torch.ones(1, 1).double()).sum().backward()
    into.step()


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


# -- whose optimizers merge -------------------------------------------------------------------------------------------

NO_RULE = ["Adadelta", "Adafactor", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop", "LBFGS"]


@pytest.mark.parametrize("optimizer", NO_RULE)
def test_what_has_no_rule_is_refused_by_name(optimizer: str) -> None:
    split, args, _ = made("lenet", "SGD")
    kind = getattr(torch.optim, optimizer)
    optimizers = [kind(m.parameters()) for m in split.submodels]
    for steps, module in zip(optimizers, split.submodels, strict=True):
        steps.step(lambda module=module: module(*args).square().mean())
    into = kind(split.model.parameters())
    before = copy.deepcopy(into.state_dict())
    with pytest.raises(MergeError, match=rf"no rule to merge .* {optimizer}\n.*start .* anew"):
        split.merge_optimizers(optimizers, into=into)
    assert into.state_dict()["param_groups"] == before["param_groups"]


def test_optimizers_of_others() -> None:
    """A subclass is known by what it keeps; another class with familiar names isn't known at all."""

    class Mine(torch.optim.AdamW):
        pass

    class Lion(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

    split, _, _ = made("lenet", "SGD")
    for kind in (Mine, Lion):
        optimizers = [kind(m.parameters()) for m in split.submodels]
        for steps, module in zip(optimizers, split.submodels, strict=True):
            for parameter in module.parameters():
                full = torch.ones_like(parameter)
                steps.state[parameter] = {"exp_avg": full}
                if kind is Mine:
                    steps.state[parameter].update(step=torch.tensor(1.0), exp_avg_sq=full)
        into = kind(split.model.parameters())
        if kind is Mine:
            split.merge_optimizers(optimizers, into=into)
            assert into.state[split.model.fc2.bias]["exp_avg_sq"].eq(1).all()
        else:
            with pytest.raises(MergeError, match="Lion"):
                split.merge_optimizers(optimizers, into=into)


def test_trainers_wrap_optimizers() -> None:
    class Wrapper(torch.optim.Optimizer):
        """As Accelerate's: an optimizer that hands everything on."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        @property
        def param_groups(self) -> Any:
            return self.optimizer.param_groups

    split, _, optimizers = made("lenet", "Adam")
    into = torch.optim.Adam(split.model.parameters())
    split.merge_optimizers([Wrapper(Wrapper(steps)) for steps in optimizers], into=Wrapper(into))
    assert all(float(state["step"]) == 4 for state in into.state.values())
    assert len(into.state) == 8


def test_optimizers_that_do_not_fit_are_refused() -> None:
    split, _, optimizers = made("lenet", "Adam")
    into = torch.optim.Adam(split.model.parameters())
    with pytest.raises(MergeError, match="is to go on"):
        split.merge_optimizers(optimizers, into=torch.optim.SGD(split.model.parameters()))
    with pytest.raises(MergeError, match="neither the source nor a merged module"):
        split.merge_optimizers(optimizers, into=torch.optim.Adam(LeNet().parameters()))
    with pytest.raises(MergeError, match="order of the sub-models"):
        split.merge_optimizers(optimizers[::-1], into=into)
    with pytest.raises(MergeError, match="1 optimizer was given"):
        split.merge_optimizers(optimizers[:1], into=into)
    for steps in optimizers:
        for state in steps.state.values():
            state["mystery"] = torch.ones(1)
    with pytest.raises(MergeError, match="'mystery'"):
        split.merge_optimizers(optimizers, into=into)
