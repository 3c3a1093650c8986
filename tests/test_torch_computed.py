"""Weights that are computed from other weights: norms, standardisation, products; exact on perturbed sub-models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import batch_norm, conv2d, linear  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from graphsplit.errors import UnsupportedError  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from graphsplit.verification import verify_opened  # noqa: E402

Make = Callable[..., nn.Module]


class Standardised(nn.Conv2d):
    """Weight standardisation, as BiT has it."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        return conv2d(x, (self.weight - mean) / torch.sqrt(variance + 1e-5), self.bias)


class Scaled(nn.Conv2d):
    """Weight standardisation with a gain, through a batch norm of the weight, as NFNet has it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat, gain = self.weight.reshape(1, self.out_channels, -1), (self.gain * 0.2).view(-1)
        weight = batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
        return conv2d(x, weight.reshape_as(self.weight), self.bias)


class LowRank(nn.Module):
    """A dense layer whose weight is a product of two."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(outputs, 3)), nn.Parameter(torch.randn(3, inputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.left @ self.right, self.bias)


class Outer(nn.Module):
    """A dense layer whose weight is an outer product: in a first layer, all rows share the columns' factors."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Parameter(torch.randn(outputs, 1)), nn.Parameter(torch.randn(1, inputs))
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.gain * self.rows * self.columns)


def weight_norm(module: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(module)


def as_it_is(module: nn.Module) -> nn.Module:
    return module


def network(conv: Make, wrap: Make = as_it_is, last: Make = as_it_is, dense: Make = nn.Linear) -> nn.Module:
    return nn.Sequential(
        wrap(conv(3, 8, 3)),
        nn.ReLU(),
        wrap(conv(8, 12, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        wrap(dense(12, 10)),
        nn.ReLU(),
        last(dense(10, 5)),
    )


CASES: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: network(nn.Conv2d, weight_norm),
    "weight norm of the output layer": lambda: network(nn.Conv2d, weight_norm, weight_norm),
    "standardised": lambda: network(Standardised),
    "scaled": lambda: network(Scaled),
    "low rank": lambda: network(nn.Conv2d, dense=LowRank),
    "outer product": lambda: network(nn.Conv2d, dense=Outer),
}


def made(name: str, k: int, **options: Any) -> ModuleSplit:
    torch.manual_seed(0)
    return split_module(CASES[name]().eval(), (torch.randn(2, 3, 12, 12),), k=k, **options)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_they_are_exact(name: str, k: int) -> None:
    split = made(name, k)
    found = verify_opened(split.opened, split.leaves())
    assert found.passed, [check for check in found.checks if not check.passed]


@pytest.mark.parametrize("name", CASES)
def test_parts_are_narrow(name: str) -> None:
    model, split = CASES[name](), made(name, 2)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, *split.submodels)]
    assert max(sizes[1:]) < 0.42 * sizes[0]
    assert not split.manifest.private


@pytest.mark.parametrize("name", CASES)
def test_a_part_computes_its_weights_from_its_own(name: str) -> None:
    """A sub-model is the same network, narrower: its module's own code gives what it gives."""
    split = made(name, 2)
    x = torch.randn(2, 3, 12, 12)
    for part in split.submodels:
        state = part.state_dict()
        model = CASES[name]().eval()
        for key in dict(model.named_parameters()):
            path, _, last = key.rpartition(".")
            setattr(model.get_submodule(path), last, nn.Parameter(state[key]))
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.out_channels = next(p for p in module.parameters() if p.ndim == 4).shape[0]
        assert torch.allclose(part(x), model(x), atol=1e-5)


def test_factors_that_all_rows_share_are_each_parts_own() -> None:
    """In the first layer no column belongs to a part: each part trains the columns' factors by itself."""
    torch.manual_seed(0)
    split = split_module(nn.Sequential(Outer(6, 8), nn.ReLU(), Outer(8, 4)).eval(), (torch.randn(3, 6),), k=2)
    roles = {name: entry.role for name, entry in split.manifest.parameters.items()}
    assert roles == {
        "0.columns": "duplicated",
        "0.gain": "duplicated",
        "0.rows": "owned",
        "2.columns": "owned",
        "2.gain": "duplicated",
        "2.rows": "duplicated",
    }
    assert verify_opened(split.opened, split.leaves()).passed


def test_what_looks_at_its_own_row_only_is_not_repeated() -> None:
    """The first layer's weights are divided by rows: each row's norm is the same in the whole network."""
    repeated = [note.node for note in made("weight norm", 2).manifest.repeated]
    assert repeated
    assert not [node for node in repeated if "'0" in node]


def test_a_spectral_norm_is_refused() -> None:
    model = network(nn.Conv2d, parametrizations.spectral_norm)
    with pytest.raises(UnsupportedError, match=r"parametrizations\.weight"):
        split_module(model, (torch.randn(2, 3, 12, 12),), k=2)
