"""Settings of merged optimizers: groups, rates and schedules of the sub-models', or of their own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import MergeError  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from tests.torch_nets import LeNet  # noqa: E402
from tests.torch_optimizers import made, pending, trained  # noqa: E402


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
