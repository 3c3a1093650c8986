"""Stacks as modules: their names, copies and pickles, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from graphsplit.errors import MergeError, UnsupportedError  # noqa: E402
from graphsplit.formats.torch_module import code  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from graphsplit.stacking import parts_of, stack, unstack  # noqa: E402
from tests.torch_nets import LeNet, vision  # noqa: E402
from tests.torch_stacks import parts_made  # noqa: E402


def test_names_are_those_of_the_parts_with_an_axis_in_front() -> None:
    parts = parts_made("decomposed attention")
    stacked = stack(parts)
    state = {name: (2, *tensor.shape) for name, tensor in parts[0].state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in stacked.state_dict().items()} == state
    assert stacked.head.weight is stacked.embed.weight
    assert parts_of(stacked) == 2
    assert sum(p.numel() for p in stacked.parameters()) == sum(p.numel() for part in parts for p in part.parameters())


def test_it_is_copied_and_pickled_and_stays_in_its_mode() -> None:
    parts = [part.eval() for part in parts_made("residual")]
    stacked = stack(parts)
    assert not stacked.training
    x = torch.randn(2, 5, 3, 16, 16, dtype=torch.float64)
    wanted = stacked(x)
    for other in (copy.deepcopy(stacked), pickle.loads(pickle.dumps(stacked))):
        assert torch.equal(other(x), wanted)
    single = [copy.deepcopy(part).float() for part in parts]
    assert stack(single)(x.float()).dtype == torch.float32
    with pytest.raises(ValueError, match="input 'x' has shape"):
        stacked(x[:1])


def test_hot_ops_run_once_for_all_parts() -> None:
    for name in ("lenet", "residual", "grouped"):
        assert "unbind" not in "\n".join(code(stack(parts_made(name)), training=True))
    lines = "\n".join(code(stack(parts_made("transformer")), training=True))
    assert lines.count("unbind.int") == 3  # words and their table, and q, k, v
    resnet = vision().models.resnet18(num_classes=10)  # type: ignore[attr-defined]
    assert "unbind" not in "\n".join(code(stack([resnet, resnet], (torch.randn(2, 3, 64, 64),)), training=True))


@pytest.mark.parametrize("flat", [True, False])
def test_statistics_of_a_single_value_are_refused(flat: bool) -> None:
    """As torch refuses them in the unsplit network: their variance, and the running one from then on, is no number."""
    first: list[nn.Module] = [nn.Linear(2, 8), nn.BatchNorm1d(8)] if flat else [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)]
    source = nn.Sequential(*first, nn.Flatten(), nn.Linear(8, 4)).train()
    rows = torch.randn(4, 2) if flat else torch.randn(4, 2, 3, 3)
    parts = split_module(source, (rows,), k=2).submodels
    stacked = stack([part.train() for part in parts])
    assert parts[0](rows).isfinite().all()
    for module, x in ((source, rows[:1]), (parts[0], rows[:1]), (stacked, torch.stack([rows[:1]] * 2))):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            module(x)
    assert parts[0].eval()(rows[:1]).isfinite().all()
    assert all(buffer.isfinite().all() for module in (*parts, stacked) for buffer in module.buffers())


def test_unequal_shapes_are_refused() -> None:
    torch.manual_seed(0)
    parts = split_module(LeNet(5, 8, 20), (torch.randn(2, 1, 28, 28),), k=2).submodels
    with pytest.raises(
        UnsupportedError, match=r"'conv1.weight' has shape \[3, 1, 5, 5\].*\[2, 1, 5, 5\].*equal shapes"
    ):
        stack(parts)


def test_unequal_computations_types_and_modes_are_refused() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(UnsupportedError, match="aren't computed alike: aten::relu"):
        stack([nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())], (x,))
    with pytest.raises(UnsupportedError, match=r"aren't computed alike: .*negative_slope"):
        stack([nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(a)) for a in (0.1, 0.2)], (x,))
    parts = parts_made("lenet")
    parts[1].eval()
    with pytest.raises(UnsupportedError, match="training mode"):
        stack(parts)
    parts[1].train().float()
    with pytest.raises(UnsupportedError, match="several types"):
        stack(parts)
    parts[1].double().conv1.weight.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="requires_grad"):
        stack(parts)
    with pytest.raises(UnsupportedError, match="nothing to stack"):
        stack([])
    with pytest.raises(UnsupportedError, match="no layout"):
        stack(parts, layout="strided")  # type: ignore[arg-type]


def test_numbers_read_off_data_are_refused() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.fc(x) * x.sum().item()
            return found

    with pytest.raises(UnsupportedError, match=r"gives a number that is data"):
        stack([Counted(), Counted()], (torch.randn(2, 4),))


def test_unstack_refuses_other_modules() -> None:
    parts = parts_made("lenet")
    stacked = stack(parts)
    with pytest.raises(MergeError, match="1 modules were given, and 2 are stacked"):
        unstack(stacked, parts[:1])
    before = copy.deepcopy(parts[0].state_dict())
    with pytest.raises(MergeError, match=r"conv1.weight.*in module 1"):
        unstack(stacked, [parts[0], LeNet().double()])
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts[0].state_dict().items())
