"""Which sizes of inputs stay free in a sub-model, and what happens with the others."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import relu  # noqa: E402

from graphsplit.modules import split_module  # noqa: E402


class Viewing(nn.Module):
    """A network that asks for its batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(relu(self.conv(x)).view(x.shape[0], -1))


class Fixed(nn.Module):
    """A network for a batch of four only."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.place = nn.Linear(8, 12), nn.Linear(12, 5), nn.Parameter(torch.randn(4, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.down((self.up(x) + self.place).relu().reshape(4, 12))


@pytest.mark.parametrize("example", [1, 2, 5])
def test_the_batch_stays_free(example: int) -> None:
    model = Viewing().eval()
    parts = split_module(model, (torch.randn(example, 1, 6, 6),), k=2)
    x = torch.randn(7, 1, 6, 6)
    mean = sum(part(x) for part in parts.submodels) / 2
    assert torch.allclose(parts.merge()(x), mean, atol=1e-6)
    assert mean.shape == (7, 5)
    assert torch.allclose(parts.merge()(x[:1]), mean[:1], atol=1e-6)


def test_other_sizes_are_fixed_and_said_to_be() -> None:
    parts = split_module(Viewing(), (torch.randn(2, 1, 6, 6),), k=2)
    with pytest.raises(ValueError, match=r"'x' has shape \[2, 1, 7, 6\].*split for \[any, 1, 6, 6\].*dynamic_shapes"):
        parts.submodels[0](torch.randn(2, 1, 7, 6))
    with pytest.raises(ValueError, match=r"has shape \[2, 36\]"):
        parts.submodels[0](torch.randn(2, 36))


def test_a_batch_that_the_network_fixes_is_fixed() -> None:
    parts = split_module(Fixed().eval(), (torch.randn(4, 8),), k=2)
    assert parts.submodels[0](torch.randn(4, 8)).shape == (4, 5)
    with pytest.raises(ValueError, match=r"split for \[4, 8\]"):
        parts.submodels[0](torch.randn(3, 8))


def test_no_axis_is_free_when_none_shall_be() -> None:
    parts = split_module(Viewing(), (torch.randn(2, 1, 6, 6),), k=2, dynamic_shapes={"x": None})
    with pytest.raises(ValueError, match=r"split for \[2, 1, 6, 6\]"):
        parts.submodels[0](torch.randn(3, 1, 6, 6))


def test_inputs_without_a_common_first_axis_are_fixed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c((self.a(x).mean(0, keepdim=True) + self.b(y)).relu())

    parts = split_module(Two().eval(), (torch.randn(3, 4), torch.randn(1, 4)), k=2)
    assert parts.submodels[0](torch.randn(3, 4), torch.randn(1, 4)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"split for \[3, 4\]"):
        parts.submodels[0](torch.randn(2, 4), torch.randn(1, 4))
