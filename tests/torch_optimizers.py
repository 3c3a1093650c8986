"""Sub-models whose optimizers have taken steps, and the update that is pending."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphsplit.modules import ModuleSplit, split_module
from tests.torch_nets import LeNet, Residual, Transformer

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
