"""A split whose sub-models are written as checkpoints, and what tells that they come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphsplit.modules import ModuleSplit, split_module
from tests.torch_nets import Residual

IMAGE = torch.randn(2, 3, 8, 8)


@pytest.fixture(scope="module")
def split() -> ModuleSplit:
    torch.manual_seed(0)
    split = split_module(Residual(), (IMAGE,), k=2)
    with torch.no_grad():
        for module in split.submodels:
            for parameter in module.parameters():
                parameter.mul_(1 + torch.rand(parameter.shape))
    return split


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def lightning(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What Lightning writes (2.x): the weights among the state of everything else."""
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "best_model_path": ""}
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
        **more,
    }
