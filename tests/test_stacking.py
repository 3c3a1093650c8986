"""Stacked sub-models train as they do apart."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils import _pytree as pytree  # noqa: E402

from graphsplit.formats.torch_module import code  # noqa: E402
from graphsplit.formats.torch_nodes import overload, signature  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from graphsplit.stacking import choose, part_losses, stack, stack_optimizers, unstack, unstack_optimizer  # noqa: E402
from graphsplit.stacking.stacker import Stacker  # noqa: E402
from graphsplit.stacking.table import CONTRACTS, DRAWS_EACH, MOVED, RISING, SAMPLES, SELECTING  # noqa: E402
from tests.test_torch_generated import over_images, over_tokens  # noqa: E402
from tests.torch_nets import Forked, LeNet  # noqa: E402
from tests.torch_networks import NETWORKS, example  # noqa: E402
from tests.torch_stacks import (  # noqa: E402
    MADE,
    OPTIMIZERS,
    STEPS,
    data,
    distance,
    lenet,
    loss_of,
    parts_made,
    train_apart,
    train_stacked,
)
from tests.torch_structures import IMAGES, TOKENS  # noqa: E402

# -- as apart ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MADE)
def test_it_trains_as_the_parts_do_apart(name: str, optimizer: str) -> None:
    parts, make = parts_made(name), OPTIMIZERS[optimizer]
    stacked = stack(parts)
    together = make(stacked.parameters())
    batches = data(name, len(parts), STEPS)
    train_stacked(stacked, together, batches)
    before = distance(parts, unstack(stacked))
    apart = [make(part.parameters()) for part in parts]
    train_apart(parts, apart, batches)
    assert before > 1e-3  # it has learned something that could be compared
    assert distance(parts, unstack(stacked)) < 1e-11


@pytest.mark.parametrize("name", ["lenet", "residual", "grouped", "transformer"])
def test_a_part_that_diverges_leaves_the_others_alone(name: str) -> None:
    parts = parts_made(name)
    (x, y) = data(name, 2, 1)[0]
    with torch.no_grad():
        for parameter in parts[1].parameters():
            parameter.fill_(torch.nan)
    stacked = stack(parts)
    losses = part_losses(stacked(x), y, loss_of)
    losses.sum().backward()
    assert losses.isnan().tolist() == [False, True]
    for parameter in stacked.parameters():
        assert parameter.grad[0].isfinite().all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_state_goes_into_the_stack_and_back_in_the_middle_of_training(layout: Any) -> None:
    parts, make = parts_made("residual"), OPTIMIZERS["adam"]
    alone = copy.deepcopy(parts)
    batches = data("residual", 2, 6)
    reference = [make(part.parameters()) for part in alone]
    train_apart(alone, reference, batches)

    apart = [make(part.parameters()) for part in parts]
    train_apart(parts, apart, batches[:2])
    stacked = stack(parts, layout=layout)
    together = stack_optimizers(apart, stacked, parts)
    train_stacked(stacked, together, batches[2:4])
    unstack(stacked, parts)
    unstack_optimizer(together, stacked, apart, parts)
    train_apart(parts, apart, batches[4:])
    assert distance(parts, [part.state_dict() for part in alone]) < 1e-11
    for one, other in zip(apart, reference, strict=True):
        for left, right in zip(one.state.values(), other.state.values(), strict=True):
            assert left.keys() == right.keys()
            assert all(torch.allclose(torch.as_tensor(left[k]), torch.as_tensor(right[k]), atol=1e-11) for k in left)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_modules_are_stacked_as_well(name: str, training: bool) -> None:
    assert difference(*others(name, training)) < 1e-11


def others(name: str, training: bool) -> tuple[nn.Module, list[nn.Module], tuple[Tensor, ...]]:
    """Three copies of a module with other weights, stacked, and inputs."""
    module, args = example(name, training=training)
    for inner in module.modules():
        for key in ("p", "dropout"):
            if isinstance(getattr(inner, key, None), float):
                setattr(inner, key, 0.0)
    torch.manual_seed(0)
    modules = [copy.deepcopy(module) for _ in range(3)]
    with torch.no_grad():
        for tensor in (t for one in modules for t in one.parameters()):
            tensor.add_(torch.randn_like(tensor) * 0.1)
    joint = tuple(
        torch.stack([a + 0.1 * torch.randn_like(a) if a.is_floating_point() else a.roll(k) for k in range(3)])
        for a in args
    )
    return stack(modules, args), modules, joint


def difference(stacked: nn.Module, modules: Sequence[nn.Module], joint: tuple[Tensor, ...]) -> float:
    """The largest difference of values, gradients and buffers between a stack and its parts, in proportion."""
    for one in (stacked, *modules):
        one.zero_grad()
    outputs = tensors_of(stacked(*joint))
    wanted = [tensors_of(module(*(x[k] for x in joint))) for k, module in enumerate(modules)]
    for values in (outputs, *wanted):
        sum(value.square().sum() for value in values).backward()  # type: ignore[union-attr]
    pairs = [(torch.stack([values[i] for values in wanted]), output) for i, output in enumerate(outputs)]
    for name, parameter in stacked.named_parameters():
        own = [dict(module.named_parameters())[name].grad for module in modules]
        if any(grad is not None for grad in own):
            pairs.append((torch.stack(own), parameter.grad))
    for name, buffer in stacked.named_buffers():
        own = [dict(module.named_buffers()).get(name) for module in modules]
        if own[0] is not None:
            pairs.append((torch.stack(own).double(), buffer.double()))
    assert all(one.shape == other.shape for one, other in pairs)
    return max(
        float((one - other).detach().abs().max()) / (1 + float(one.detach().abs().max())) for one, other in pairs
    )


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


class Of(nn.Module):
    """A function of images with a parameter for each channel and one for each position."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.randn(6, 4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function(x, self.w)
        return found


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "flatten": lambda x, w: (x * w[..., None]).flatten(1),
    "flatten from behind": lambda x, w: (x * w[..., None]).flatten(-2),
    "view and permute": lambda x, w: (x * w[..., None]).view(x.shape[0], 3, 8, 5).permute(0, -1, 1, 2),
    "expand": lambda x, w: w.expand(x.shape[0], 6, 4) * x[..., 0],
    "repeat": lambda x, w: w.repeat(2, 3, 1)[:, :6] * x[0, :, :, 0],
    "cat with what is shared": lambda x, w: torch.cat([w, torch.ones(6, 4, dtype=w.dtype)], -1),
    "stack and unbind": lambda x, w: torch.stack(w.unbind(), -1) + x.mean((0, 1, 3))[:, None],
    "split": lambda x, w: x.split([2, 4], 1)[1] * w[2:, :, None],
    "chunk": lambda x, w: x.chunk(2, 1)[0] * w.chunk(2)[1][..., None],
    "select and slice": lambda x, w: x[:, 2, 1:] * w[3, 1:, None],
    "roll and flip": lambda x, w: x.roll((1, 2), (1, -1)).flip(2) * w[..., None],
    "movedim": lambda x, w: x.movedim(1, 3) @ w,
    "transpose and matmul": lambda x, w: x.transpose(1, 3) @ w,
    "a matrix times a batch": lambda x, w: w.t() @ x[:, :, 0],
    "linear on a vector": lambda x, w: F.linear(x[0, 0, :, 0], w),
    "linear on images": lambda x, w: F.linear(x.transpose(2, 3), w),
    "addmm": lambda x, w: torch.addmm(w[:, 0], x[:, 0].mT.reshape(-1, 4), w.t()),
    "diagonal": lambda x, w: x[:, :4, :4].diagonal(0, 1, 2) + w[:4, 0],
    "squeeze and unsqueeze": lambda x, w: x[:, :1].squeeze(1).unsqueeze(-1) * w[0, :, None, None],
    "squeeze every axis": lambda x, w: x[:1, :, :1].squeeze() * w[:, :1],
    "pads": lambda x, w: F.pad(x * w[..., None], (1, 2, 0, 1), "reflect") + F.pad(x, (1, 2, 0, 1), value=3.0),
    "unfold": lambda x, w: (x * w[..., None]).unfold(2, 2, 1),
    "gather": lambda x, w: w.sum() * x.gather(2, (w > 0).long()[None, :, :, None].expand(x.shape[0], -1, -1, 5)),
    "a shared index": lambda x, w: w[torch.tensor([3, 1, 1])],
    "softmax and sums": lambda x, w: (x * w[..., None]).softmax(1).sum((0, 3)) + x.sum((0, 3)).cumsum(1),
    "a statistic of everything": lambda x, w: x / x.std() + w.norm() + x.amax(),
    "largest": lambda x, w: torch.max(x * w[..., None], 2)[0],
    "sort": lambda x, w: x.sort(1)[0] + (x * w[..., None]).topk(6, 1)[0],
    "where": lambda x, w: torch.where(x > 0, x, w[..., None]).clamp(min=w[:, :1, None]),
    "broadcast against few axes": lambda x, w: x[..., 0] * w + w[0],
    "outer and einsum": lambda x, w: torch.outer(w[0], w[1]) + torch.einsum("ncls,cl->ls", x, w)[:, :4],
    "einsum over a batch": lambda x, w: torch.einsum("ncl,nkl->nck", x[..., 0] * w, x[..., 1]),
    "write into a view": lambda x, w: written_into(x * w[..., None]),
    "write another type": lambda x, w: (x > 0).float().add_(w[..., None]).double() * x,
    "a number of another type": lambda x, w: (x.float() * w.mean()).double() + w[..., None],
    "tril": lambda x, w: (x * w[..., None]).tril(),
    "norm without parameters": lambda x, w: F.layer_norm(x * w[..., None], (4, 5)),
    "sizes": lambda x, w: (x * w[..., None]).reshape(x.shape[0] * x.shape[1], -1) / x.numel() * x.shape[0],
    "pool behind a function": lambda x, w: F.max_pool2d(F.relu(x - w[..., None]), 2),
    "function read twice": lambda x, w: read_twice(F.relu(x[..., 0] - w)),
    "a convolution of what is shared": lambda x, w: F.conv2d(
        torch.ones_like(x[0, 0]).expand(1, 4, 4, 5), w[..., None, None]
    ),
    "no operand differs": lambda x, w: torch.arange(4, dtype=w.dtype).expand(6, 4) * 2 + 0 * w.sum(),
}


def read_twice(y: Tensor) -> Tensor:
    return F.max_pool1d(y, 2).sum(-1) + y.sum(-1)


def written_into(y: Tensor) -> Tensor:
    y[:, :2] = y[:, 2:4] * 2
    y.mul_(3).add_(1)
    return y


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_generated_networks_are_stacked(seed: int) -> None:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    make, x = draw.choice([(over_tokens, TOKENS), (over_images, IMAGES)])
    modules = [make(draw, draw.randint(1, 4)).double()] * 2
    modules = [copy.deepcopy(module) for module in modules]
    with torch.no_grad():
        for tensor in (t for module in modules for t in module.parameters()):
            tensor.add_(torch.randn_like(tensor) * 0.05)
    for training in (False, True):
        for drop in (inner for module in modules for inner in module.train(training).modules() if hasattr(inner, "p")):
            drop.p = 0.0
        stacked = stack(modules, (x.double(),))
        if not any("aten.rand" in line for line in code(stacked, training=training)):  # stochastic depth has no p
            assert difference(stacked, modules, (torch.stack([x.double(), x.double() + 0.1]),)) < 1e-9


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_op_of_all_parts_is_the_op_of_each(name: str) -> None:
    torch.manual_seed(0)
    modules = [Of(FUNCTIONS[name]) for _ in range(3)]
    x = torch.randn(3, 4, 6, 4, 5, dtype=torch.float64)
    found = stack(modules, (x[0],))
    assert difference(found, modules, (x,)) < 1e-12
    assert difference(stack([modules[0]], (x[0],)), modules[:1], (x[:1],)) < 1e-12  # of one part as well


def test_a_wrong_stacking_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts' axis behind the channels: every shape fits, and the channels are shuffled among the parts."""

    def swapped(self: Stacker, name: str, layout: int, known: str) -> str:
        width = (self.facts[name].shape or ())[layout]
        apart = self._op("unflatten.int", f"{name}.apart", (known,), dim=layout, sizes=(width, self.parts))
        return self._op("movedim.int", f"{name}.parts", (apart,), source=layout + 1, destination=0)

    monkeypatch.setattr(Stacker, "_unfolded", swapped)
    parts = parts_made("lenet")
    stacked = stack(parts)
    batches = data("lenet", 2, 1)
    train_stacked(stacked, OPTIMIZERS["sgd"](stacked.parameters()), batches)
    train_apart(parts, [OPTIMIZERS["sgd"](part.parameters()) for part in parts], batches)
    assert distance(parts, unstack(stacked)) > 1e-6


# -- random numbers ---------------------------------------------------------------------------------------------------


def test_dropout_draws_apart_for_each_part() -> None:
    torch.manual_seed(0)
    part = split_module(lenet(0.5).train(), (torch.randn(3, 1, 28, 28),), k=2).submodels[0]
    stacked = stack([part, part])
    x = torch.randn(1, 50, 1, 28, 28).expand(2, -1, -1, -1, -1)
    first, second = stacked(x)
    assert not torch.allclose(first, second)
    first, second = stacked.eval()(x)
    assert torch.equal(first, second)


@pytest.mark.parametrize("drop", [nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.RReLU()])
def test_other_masks_are_those_of_each_part(drop: nn.Module) -> None:
    """Whole channels where the op drops these, and others in each part."""
    modules = [nn.Sequential(nn.Conv2d(2, 8, 1), copy.deepcopy(drop)).train() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    x = torch.randn(2, 30, 2, 6, 6)
    x[1] = x[0]
    torch.manual_seed(0)
    found = stack(modules, (x[0],))(x)
    assert not torch.equal(found[0], found[1])
    if isinstance(drop, nn.Dropout2d):
        dropped = (found == 0).all((3, 4))
        assert ((found == 0).any((3, 4)) == dropped).all()
        assert 0.3 < float(dropped.double().mean()) < 0.7
        assert not torch.equal(dropped[0], dropped[1])


def test_numbers_drawn_from_nothing_are_drawn_for_each_part() -> None:
    torch.manual_seed(0)
    modules = [Forked().train() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    x = torch.randn(40, 3, 8, 8)
    found = stack(modules, (x,))(torch.stack([x, x]))["out"]
    same = (found[0] - found[1]).abs().amax(-1) < 1e-6
    assert 0.4 < float(same.double().mean()) < 0.95  # samples that both have kept, or both dropped


# -- the choice, and what the tables say -------------------------------------------------------------------------------


def test_the_choice_measures_and_changes_nothing() -> None:
    parts = parts_made("residual")
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    x, y = data("residual", 2, 1)[0]
    state = torch.get_rng_state()
    found = choose(parts, (x[0], y[0]), loss_of, repeats=2)
    assert torch.equal(state, torch.get_rng_state())
    assert set(found.seconds) == {"in turn", "contiguous", "channels_last"}
    assert found.way in found.seconds
    assert not found.refused
    assert distance(parts, before) == 0
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())


def test_parts_that_do_not_stack_are_trained_in_turn() -> None:
    parts = split_module(LeNet(5, 8, 20), (torch.randn(2, 1, 28, 28),), k=2).submodels
    found = choose(parts, (torch.randn(4, 1, 28, 28), torch.randint(10, (4,))), loss_of, repeats=1)
    assert found.way == "in turn"
    assert "equal shapes" in found.refused


def test_the_tables_name_ops_and_arguments_that_torch_has() -> None:
    for name, move in MOVED.items():
        packet = getattr(torch.ops.aten, name)
        arguments = [{a.name for a in signature("aten", f"{name}.{o}")} for o in packet.overloads()]
        wanted = {*move.axes, *filter(None, (move.sizes, move.order, move.times))}
        assert any(wanted <= found for found in arguments), name
        if move.op:
            assert overload("aten", move.op) is not None
            assert not move.renamed or move.renamed in {a.name for a in signature("aten", move.op)}
    for name in (*SAMPLES, *CONTRACTS, *DRAWS_EACH, *RISING, *SELECTING):
        assert getattr(torch.ops.aten, name).overloads(), name
