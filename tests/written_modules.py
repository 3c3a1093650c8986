"""Sub-models and merged modules as they are written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphsplit.modules import ModuleSplit, split_module
from tests.torch_nets import Residual, Transformer

IMAGE = (torch.randn(2, 3, 16, 16),)
WORDS = (torch.randint(0, 40, (2, 7)),)


@pytest.fixture(scope="module")
def residual() -> ModuleSplit:
    return split_module(Residual(), IMAGE, k=2)


@pytest.fixture(scope="module")
def transformer() -> ModuleSplit:
    return split_module(Transformer(depth=1), WORDS, k=2)


@pytest.fixture(params=["sub-model", "merged"])
def written(request: pytest.FixtureRequest, residual: ModuleSplit) -> nn.Module:
    module = residual.submodels[0] if request.param == "sub-model" else residual.merge()
    return copy.deepcopy(module)
