"""Optimizers of sub-models merged into one: the pending update merges like its weight."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import MergeError  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from tests.test_modules import TiedNorm  # noqa: E402
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


def trained(module: nn.Module, args: tuple[Any, ...], optimizer: str, count: int) -> torch.optim.Optimizer:
    """An optimizer of a module after `count` steps."""
    kind, options = OPTIONS[optimizer]
    steps = getattr(torch.optim, kind)(module.parameters(), **options)
    for _ in range(count):
        steps.zero_grad()
        module.train()(*args).square().mean().mul(count).backward()
        steps.step()
    return steps


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


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("name", NETS)
def test_leaves_of_a_tree_weigh_what_their_paths_say(name: str, optimizer: str) -> None:
    """The same through a nested split, of leaves that weigh 1/4, 1/4 and 1/2."""
    torch.manual_seed(0)
    module, inputs = NETS[name]
    args = inputs()
    outer = split_module(module().double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    tree, leaves = [inner, outer.submodels[1]], [*inner.submodels, outer.submodels[1]]
    optimizers = [trained(leaf, args, optimizer, count) for count, leaf in enumerate(leaves, start=3)]
    kind, options = OPTIONS[optimizer]
    merged = outer.merge(tree)
    into = getattr(torch.optim, kind)(merged.parameters(), **options)
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    flat = {n: {k: v.clone() for k, v in into.state[p].items()} for n, p in merged.named_parameters()}
    outer.merge_optimizers([optimizers[:2], optimizers[2]], into=into, trained=tree)  # lists may mirror the tree
    for n, p in merged.named_parameters():
        assert all(torch.equal(v, flat[n][k]) for k, v in into.state[p].items())
    if pending(into, next(iter(merged.parameters()))) is None:
        return
    with torch.no_grad():
        for leaf, steps in zip(leaves, optimizers, strict=True):
            for parameter in leaf.parameters():
                parameter.copy_(pending(steps, parameter))
    wanted = outer.merge(tree)
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


def test_the_merged_step_of_a_tree_is_the_merge_of_the_steps() -> None:
    """With the weights too: where no gradient comes, merging after a step is a step after merging."""
    args = NETS["lenet"][1]()
    outer = split_module(LeNet(6, 8, 12).double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    tree, leaves = [inner, outer.submodels[1]], [*inner.submodels, outer.submodels[1]]
    optimizers = [trained(leaf, args, "SGD", 3) for leaf in leaves]
    merged = outer.merge(tree)
    into = torch.optim.SGD(merged.parameters(), **OPTIONS["SGD"][1])
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    for module, steps in zip([merged, *leaves], [into, *optimizers], strict=True):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        steps.step()
    wanted = outer.merge(tree)
    for (key, parameter), (_, other) in zip(merged.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.allclose(parameter, other, rtol=1e-10, atol=1e-13), key


def test_level_by_level_is_the_same() -> None:
    """Law 5, of optimizer state: the inner split first, then the outer one."""
    args = NETS["lenet"][1]()
    outer = split_module(LeNet(6, 8, 12).double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    tree, leaves = [inner, outer.submodels[1]], [*inner.submodels, outer.submodels[1]]
    optimizers = [trained(leaf, args, "Adam", count) for count, leaf in enumerate(leaves, start=3)]
    into, again, between = (torch.optim.Adam(m.parameters()) for m in (outer.model, outer.model, inner.model))
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    inner.model.load_state_dict(inner.merge_state_dict())
    inner.merge_optimizers(optimizers[:2], into=between)
    outer.merge_optimizers([between, optimizers[2]], into=again)
    for name, parameter in outer.model.named_parameters():
        one, other = into.state[parameter], again.state[parameter]
        assert torch.allclose(one["exp_avg"] != 0, other["exp_avg"] != 0)
        reached = one["exp_avg"] != 0  # what was cut has the tensor's mean, which each level takes of its own
        for key in one:
            if key != "step":
                assert torch.allclose(one[key][reached], other[key][reached], rtol=1e-10), (name, key)
        assert one["step"] == other["step"] == 5


def test_sub_models_that_say_which_part_they_are_may_be_in_any_order(tmp_path: Path) -> None:
    from graphsplit.modules.folder import open_folder

    args = NETS["lenet"][1]()
    split_module(LeNet(6, 8, 12).double(), args, k=2, out=tmp_path / "parts")
    outer = open_folder(tmp_path / "parts")
    tree = [split_module(module, k=2) for module in outer.submodels][::-1]
    leaves = [leaf for inner in tree for leaf in inner.submodels]
    optimizers = [trained(leaf, args, "SGD", count) for count, leaf in enumerate(leaves, start=1)]
    merged = outer.merge(tree)
    into = torch.optim.SGD(merged.parameters(), **OPTIONS["SGD"][1])
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    with torch.no_grad():
        for leaf, steps in zip(leaves, optimizers, strict=True):
            for parameter in leaf.parameters():
                parameter.copy_(pending(steps, parameter))
    wanted = outer.merge(tree)
    for (key, parameter), (_, update) in zip(merged.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.allclose(pending(into, parameter), update, rtol=1e-12, atol=1e-15), key


def test_what_a_tree_asks_for_is_said() -> None:
    args = NETS["lenet"][1]()
    outer = split_module(LeNet(6, 8, 12).double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    optimizers = [torch.optim.SGD(m.parameters(), momentum=0.9) for m in (*inner.submodels, outer.submodels[1])]
    into = torch.optim.SGD(outer.model.parameters(), momentum=0.9)
    with pytest.raises(MergeError, match=r"3 optimizers were given, and there are 2 sub-models\n.*trained=\["):
        outer.merge_optimizers(optimizers, into=into)
    with pytest.raises(MergeError, match=r"optimizer 0 holds a parameter .* that sub-model 0\.0 hasn't"):
        outer.merge_optimizers(optimizers[::-1], into=into, trained=[inner, outer.submodels[1]])
    with pytest.raises(MergeError, match=r"sub-model 1 is given as a state dict.*\n.*give the module"):
        outer.merge_optimizers(optimizers, into=into, trained=[inner, outer.submodels[1].state_dict()])


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
    with pytest.raises(
        MergeError, match=r"'lr' of group 0 is 0.5 in optimizer 0 and 0.25 in optimizer 1\n.*settings='into'"
    ):
        split.merge_optimizers(optimizers, into=into)
    again = torch.optim.SGD([{"params": [p], "lr": 7.0 + i} for i, p in enumerate(split.model.parameters())], lr=7.0)
    split.merge_optimizers(optimizers, into=again, settings="into")
    assert [(g["lr"], g["weight_decay"]) for g in again.param_groups] == [(7.0 + i, 0) for i in range(8)]
    with pytest.raises(MergeError, match="no settings 'mine'"):
        split.merge_optimizers(optimizers, into=into, settings="mine")  # type: ignore[arg-type]


def test_own_settings_still_get_the_state() -> None:
    split, args, _ = made("lenet", "SGD")
    optimizers = [trained(m, args, "Adam", 3) for m in split.submodels]
    kept, carried = (torch.optim.Adam(split.model.parameters(), lr=0.5) for _ in range(2))
    split.merge_optimizers(optimizers, into=carried)
    for group, rate in zip((o.param_groups[0] for o in optimizers), (0.1, 0.2), strict=True):
        group["lr"] = rate
    split.merge_optimizers(optimizers, into=kept, settings="into")
    assert (kept.param_groups[0]["lr"], carried.param_groups[0]["lr"]) == (0.5, 0.01)
    for parameter in split.model.parameters():
        for key, value in carried.state[parameter].items():
            assert torch.equal(kept.state[parameter][key], value)


def test_averages_with_other_betas_keep_their_corrected_values() -> None:
    split, args, _ = made("lenet", "SGD")
    optimizers = [trained(m, args, "Adam", 3) for m in split.submodels]
    one, other = (torch.optim.Adam(split.model.parameters(), betas=b) for b in ((0.9, 0.999), (0.5, 0.9)))
    for into in (one, other):
        split.merge_optimizers(optimizers, into=into, settings="into")
    for parameter in split.model.parameters():
        assert torch.allclose(pending(one, parameter), pending(other, parameter), rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "there", "missing"),
    [
        ("Adam", {"amsgrad": True}, "amsgrad"),
        ("RMSprop", {"centered": True}, "centered"),
        ("RMSprop", {"momentum": 0.5}, "momentum"),
    ],
)
def test_settings_that_ask_for_other_state_are_refused(optimizer: str, there: dict[str, Any], missing: str) -> None:
    split, args, _ = made("lenet", "SGD")
    optimizers = [trained(m, args, optimizer, 2) for m in split.submodels]
    into = getattr(torch.optim, optimizer)(split.model.parameters(), **there)
    with pytest.raises(MergeError, match=f"has {missing!r}"):
        split.merge_optimizers(optimizers, into=into, settings="into")
    split.merge_optimizers(optimizers, into=into)  # else the sub-models' settings are taken
    split.model(*args).sum().backward()
    into.step()


def test_schedulers_go_on() -> None:
    split, _, _ = made("lenet", "SGD")
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0, momentum=0.9) for m in split.submodels]
    for steps in optimizers:
        schedule = torch.optim.lr_scheduler.StepLR(steps, 2, 0.1)
        for _ in range(3):
            steps.step()
            schedule.step()
    into = torch.optim.SGD(split.model.parameters(), lr=9.0)
    split.merge_optimizers(optimizers, into=into)
    assert into.param_groups[0]["initial_lr"] == 1.0
    schedule = torch.optim.lr_scheduler.StepLR(into, 2, 0.1, last_epoch=3)
    into.step()
    schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(0.01)]


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable", "differentiable"])
def test_how_steps_are_computed_is_the_merged_optimizers_own(flag: str) -> None:
    split, args, _ = made("lenet", "SGD")
    first, second = (torch.optim.Adam(m.parameters()) for m in split.submodels)
    for module, steps in zip(split.submodels, (first, second), strict=True):
        module(*args).sum().backward()
        steps.step()
    first.param_groups[0][flag] = True  # one part was trained on another machine
    into = torch.optim.Adam(split.model.parameters(), fused=True)
    split.merge_optimizers([first, second], into=into)
    assert into.param_groups[0]["fused"]
    assert flag == "fused" or not into.param_groups[0][flag]
    split.model(*args).sum().backward()
    into.step()


def test_steps_of_plain_numbers_become_tensors_where_they_must() -> None:
    split, args, _ = made("lenet", "SGD")
    optimizers = [trained(m, args, "Adam", 2) for m in split.submodels]
    for steps in optimizers:
        for state in steps.state.values():
            state["step"] = int(state["step"])  # an old checkpoint's
    into = torch.optim.Adam(split.model.parameters(), fused=True)
    split.merge_optimizers(optimizers, into=into)
    assert all(s["step"].dtype == torch.float32 for s in into.state.values())
    split.model(*args).sum().backward()
    into.step()


def test_maximize_carries_over() -> None:
    split, args, _ = made("lenet", "SGD")
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, maximize=True) for m in split.submodels]
    for module, steps in zip(split.submodels, optimizers, strict=True):
        module(*args).sum().backward()
        steps.step()
    into = torch.optim.SGD(split.model.parameters(), lr=0.1, momentum=0.9)
    split.merge_optimizers(optimizers, into=into)
    assert into.param_groups[0]["maximize"]
    optimizers[0].param_groups[0]["maximize"] = False
    with pytest.raises(MergeError, match="'maximize' of group 0 is False in optimizer 0 and True in optimizer 1"):
        split.merge_optimizers(optimizers, into=into)


def test_learning_rates_that_are_tensors() -> None:
    split, _, _ = made("lenet", "SGD")
    optimizers = [torch.optim.Adam(m.parameters(), lr=torch.tensor(0.25)) for m in split.submodels]
    into = torch.optim.Adam(split.model.parameters())
    split.merge_optimizers(optimizers, into=into)
    assert float(into.param_groups[0]["lr"]) == 0.25
    assert into.param_groups[0]["lr"] is not optimizers[0].param_groups[0]["lr"]
    with torch.no_grad():
        optimizers[1].param_groups[0]["lr"].fill_(0.5)
    with pytest.raises(MergeError, match="'lr' of group 0"):
        split.merge_optimizers(optimizers, into=into)


def test_groups_of_named_parameters() -> None:
    split, args, _ = made("residual", "SGD")

    def named(module: nn.Module, head: float) -> torch.optim.Optimizer:
        pairs = list(module.named_parameters())
        heads = [(n, p) for n, p in pairs if n.startswith("fc")]
        body = [(n, p) for n, p in pairs if not n.startswith("fc")]
        groups: list[dict[str, Any]] = [{"params": heads, "lr": head, "name": "head"}, {"params": body, "name": "body"}]
        return torch.optim.Adam(groups, lr=0.5)

    optimizers = [named(m, 0.25) for m in split.submodels]
    for module, steps in zip(split.submodels, optimizers, strict=True):
        module(*args).sum().backward()
        steps.step()
    for module in (split.model, split.merge()):
        into = torch.optim.Adam(module.named_parameters(), lr=9.0)
        split.merge_optimizers(optimizers, into=into)
        assert [(g["name"], g["lr"]) for g in into.param_groups] == [("head", 0.25), ("body", 0.5)]
        for group in into.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                assert module.get_parameter(name) is parameter
        plain = torch.optim.Adam(module.parameters())
        split.merge_optimizers(optimizers, into=plain)
        assert all("param_names" not in group for group in plain.param_groups)
        fresh = torch.optim.Adam(plain.param_groups)
        fresh.load_state_dict(plain.state_dict())


def test_a_frozen_backbone_has_no_state() -> None:
    """The sub-models' optimizers hold the head alone; that of the whole network everything."""
    split, args, _ = made("residual", "SGD")
    optimizers = []
    for module in split.submodels:
        module.requires_grad_(False)
        head = [p.requires_grad_() for n, p in module.named_parameters() if n.startswith("fc")]
        optimizers.append(torch.optim.Adam(head, lr=0.25))
        module(*args).sum().backward()
        optimizers[-1].step()
    into = torch.optim.Adam(split.model.parameters(), lr=0.5)
    split.merge_optimizers(optimizers, into=into)
    names = {id(p): n for n, p in split.model.named_parameters()}
    assert {names[id(p)] for p, s in into.state.items() if s} == {"fc.weight", "fc.bias"}
    groups = [({names[id(p)] for p in g["params"]}, g["lr"]) for g in into.param_groups]
    assert groups[0] == ({"fc.weight", "fc.bias"}, 0.25)
    assert groups[1] == (set(names.values()) - {"fc.weight", "fc.bias"}, 0.5)  # what none of them has stays
    split.model(*args).sum().backward()
    into.step()
    alone = torch.optim.Adam([split.model.fc.weight])  # and the other way round: it may hold less
    split.merge_optimizers(optimizers, into=alone)
    assert len(alone.state) == 1


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
