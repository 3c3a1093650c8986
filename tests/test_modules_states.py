"""State dicts of split and merged modules: their names, scales that fold, ties, buffers and counters."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import MergeError  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from tests.module_cases import CASES, TiedNorm, difference, images, made, perturb, words  # noqa: E402
from tests.torch_nets import LeNet, Residual, Transformer  # noqa: E402
from tests.turns import every_other  # noqa: E402


@pytest.mark.parametrize("name", every_other((name,) for name in CASES))
def test_names_are_the_sources(name: str) -> None:
    split, _ = made(name, 2)
    wanted = split.model.state_dict()
    for module in split.submodels:
        found = module.state_dict()
        assert list(found) == list(wanted)
        assert all(found[n].dtype == wanted[n].dtype and found[n].ndim == wanted[n].ndim for n in wanted)
        assert any(found[n].numel() < wanted[n].numel() for n in wanted)


@pytest.mark.parametrize("name", ["lenet", "residual", "resnet18", "densenet"])
def test_merged_weights_go_into_the_users_module(name: str) -> None:
    split, args = made(name, 2)
    perturb(split)
    assert split.repeats == 0
    split.model.load_state_dict(split.merge_state_dict())
    assert difference(split, split.model, args) < 1e-10
    assert split.difference(*args) < 1e-10


def test_original_layers_say_how_far_they_are() -> None:
    split, args = made("transformer", 2)
    perturb(split)
    assert split.repeats > 0
    split.model.load_state_dict(split.merge_state_dict())
    with torch.no_grad():
        found = float((split.model.eval()(*args) - split.merge().eval()(*args)).abs().max())
    assert found > 1e-6
    assert split.difference(*args) == pytest.approx(found)


def test_a_scale_folds_into_the_norm_in_front() -> None:
    args = (torch.randint(0, 20, (6,)),)
    split = split_module(TiedNorm().double(), args, k=2)
    perturb(split)
    assert split.plan.activation
    assert split.repeats == 0
    split.model.load_state_dict(split.merge_state_dict())
    assert split.model.head.weight is split.model.embed.weight
    assert difference(split, split.model, args) < 1e-10
    assert difference(split, split.merge(), args) < 1e-10


def test_a_scale_folds_by_the_weight_of_each_leaf() -> None:
    args = (torch.randint(0, 20, (6,)),)
    split = split_module(TiedNorm().double(), args, k=2)
    perturb(split)
    inner = split_module(split.submodels[0], k=2)
    perturb(inner, 3)
    tree = [inner, split.submodels[1]]
    with torch.no_grad():
        mean = sum(w * m.eval()(*args) for w, m in zip((0.25, 0.25, 0.5), [*inner.submodels, tree[1]], strict=True))
        split.model.load_state_dict(split.merge_state_dict(tree))
        for merged in (split.merge(tree), split.model):
            assert float((merged.eval()(*args) - mean).abs().max() / mean.abs().max()) < 1e-10


def test_a_tied_language_model_folds_too() -> None:
    split, args = made("tied", 2)
    assert split.plan.activation
    wanted = (
        split.model.norm.weight.detach() / 2
    )  # what a norm's weights were before training, and nothing else was scaled
    assert torch.equal(split.merge_state_dict()["norm.weight"], wanted)
    assert split.difference(*args) > 0


def test_a_scale_that_the_original_layers_cannot_hold_is_refused() -> None:
    split = split_module(TiedNorm(skip=True), (torch.randint(0, 20, (6,)),), k=2)
    with pytest.raises(MergeError, match="scaled by 1/2"):
        split.merge_state_dict()


def test_a_tied_parameter_is_one() -> None:
    split, _ = made("tied", 2)
    for module in (*split.submodels, split.merge()):
        assert module.get_parameter("head.weight") is module.get_parameter("embed.weight")
    equal = Transformer()
    with torch.no_grad():
        equal.head.weight.copy_(equal.embed.weight)  # equal values are no tie
    found = split_module(equal, words(), k=2).submodels[0]
    assert found.get_parameter("head.weight") is not found.get_parameter("embed.weight")


def test_frozen_parameters_stay_frozen() -> None:
    model = LeNet()
    model.conv1.requires_grad_(False)
    split = split_module(model, images(1, 28), k=2)
    for module in (*split.submodels, split.merge()):
        assert [n for n, p in module.named_parameters() if not p.requires_grad] == ["conv1.weight", "conv1.bias"]


def test_buffers_that_a_state_dict_leaves_out_stay_out() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.register_buffer("note", torch.ones(3), persistent=False)
    model.register_buffer("kept", torch.ones(3))
    split = split_module(model, (torch.randn(2, 4),), k=2)
    assert list(split.submodels[0].state_dict()) == list(model.state_dict())
    assert list(split.merge_state_dict()) == list(model.state_dict())


def test_counters_merge_by_their_maximum() -> None:
    split = split_module(Residual(), images(), k=2)
    for steps, module in enumerate(split.submodels, start=1):
        for _ in range(steps):
            module.train()(*images())
    assert [int(m.state_dict()["bn1.num_batches_tracked"]) for m in split.submodels] == [1, 2]
    assert int(split.merge_state_dict()["bn1.num_batches_tracked"]) == 2
    merged = split.merge().train()
    merged(*images())
    assert int(merged.state_dict()["bn1.num_batches_tracked"]) == 3
