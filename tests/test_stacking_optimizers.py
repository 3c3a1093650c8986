"""Optimizers of stacked sub-models: they go on as apart, and what may mix parts is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import UnsupportedError  # noqa: E402
from graphsplit.stacking import clip_grad_norm_, part_losses, stack, stack_optimizers, unstack  # noqa: E402
from tests.torch_stacks import OPTIMIZERS, Optimize, data, distance, loss_of, parts_made, train_apart, train_stacked  # noqa: E402


def stepped(parts: Sequence[nn.Module], make: Optimize, steps: int = 1) -> list[Any]:
    optimizers = [make(part.parameters()) for part in parts]
    train_apart(parts, optimizers, data("lenet", 2, steps))
    return optimizers


def test_optimizers_that_may_mix_elements_are_refused() -> None:
    parts = parts_made("lenet")
    stacked = stack(parts)
    with pytest.raises(UnsupportedError, match="LBFGS isn't known to update each element by itself"):
        stack_optimizers([torch.optim.LBFGS(part.parameters()) for part in parts], stacked, parts)

    class Lamb(torch.optim.SGD):
        """It could scale by norms."""

    with pytest.raises(UnsupportedError, match="Lamb isn't known"):
        stack_optimizers([Lamb(part.parameters(), lr=0.1) for part in parts], stacked, parts)


def test_optimizers_that_differ_are_refused() -> None:
    parts = parts_made("lenet")
    stacked = stack(parts)
    sgd = [torch.optim.SGD(part.parameters(), lr=lr) for part, lr in zip(parts, (0.1, 0.2), strict=True)]
    with pytest.raises(UnsupportedError, match=r"group 0 has lr 0\.2 in one part and 0\.1 in another"):
        stack_optimizers(sgd, stacked, parts)
    adam = stepped(parts, OPTIMIZERS["adam"])
    adam[0].step()
    with pytest.raises(UnsupportedError, match=r"'step'.*differs between the parts"):
        stack_optimizers(adam, stacked, parts)
    fresh = [adam[0], OPTIMIZERS["adam"](parts[1].parameters())]
    with pytest.raises(UnsupportedError, match="some parts have made steps"):
        stack_optimizers(fresh, stacked, parts)
    with pytest.raises(UnsupportedError, match="parameters that aren't those of its module"):
        stack_optimizers(adam[::-1], stacked, parts)
    with pytest.raises(UnsupportedError, match="1 optimizers and 2 modules"):
        stack_optimizers(adam[:1], stacked, parts)
    mixed = [adam[0], torch.optim.SGD(parts[1].parameters(), lr=0.1)]
    with pytest.raises(UnsupportedError, match="several classes"):
        stack_optimizers(mixed, stacked, parts)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD"]
)
def test_every_known_optimizer_goes_on_stacked(name: str) -> None:
    def make(parameters: Any) -> Any:
        return getattr(torch.optim, name)([{"params": list(parameters), "lr": 0.01}], weight_decay=0.01)

    parts = parts_made("lenet")
    apart = stepped(parts, make, 2)
    stacked = stack(parts)
    together = stack_optimizers(apart, stacked, parts)
    batches = data("lenet", 2, 3)
    train_stacked(stacked, together, batches)
    train_apart(parts, apart, batches)
    assert distance(parts, unstack(stacked)) < 1e-11


def test_gradients_are_clipped_for_each_part() -> None:
    parts = parts_made("lenet")
    stacked = stack(parts)
    (x, y), limit = data("lenet", 2, 1)[0], 0.05
    with torch.no_grad():
        stacked.fc2.weight[1] *= 30  # a part with much larger gradients
        parts[1].fc2.weight *= 30
    part_losses(stacked(x), y, loss_of).sum().backward()
    norms = clip_grad_norm_(stacked, limit)
    for k, part in enumerate(parts):
        loss_of(part(x[k]), y[k]).backward()
        assert float(torch.nn.utils.clip_grad_norm_(part.parameters(), limit)) == pytest.approx(float(norms[k]))
        for name, parameter in part.named_parameters():
            assert torch.allclose(parameter.grad, stacked.get_parameter(name).grad[k], atol=1e-14)
    stacked.zero_grad()
    part_losses(stacked(x), y, loss_of).sum().backward()
    torch.nn.utils.clip_grad_norm_(stacked.parameters(), limit)  # takes all parts for one network
    assert not torch.allclose(parts[0].fc2.bias.grad, stacked.fc2.bias.grad[0], atol=1e-6)
