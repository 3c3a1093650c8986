"""Optimizers of the leaves of a tree of splits, merged into one."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from graphsplit.errors import MergeError  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from tests.torch_nets import LeNet  # noqa: E402
from tests.torch_optimizers import NETS, OPTIONS, pending, trained  # noqa: E402


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("name", NETS)
def test_leaves_of_a_tree_weigh_what_their_paths_say(name: str, optimizer: str) -> None:
    """The same through a nested split, of leaves that weigh 1/4, 1/4 and 1/2."""
    torch.manual_seed(0)
    module, inputs = NETS[name]
    args = inputs()
    outer = split_module(module().double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    tree, leaves = [inner, outer.submodels[1]], [*inner.submodels, outer.submodels[1]]
    optimizers = [trained(leaf, args, optimizer, count) for count, leaf in enumerate(leaves, start=3)]
    kind, options = OPTIONS[optimizer]
    merged = outer.merge(tree)
    into = getattr(torch.optim, kind)(merged.parameters(), **options)
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    flat = {n: {k: v.clone() for k, v in into.state[p].items()} for n, p in merged.named_parameters()}
    outer.merge_optimizers([optimizers[:2], optimizers[2]], into=into, trained=tree)  # lists may mirror the tree
    for n, p in merged.named_parameters():
        assert all(torch.equal(v, flat[n][k]) for k, v in into.state[p].items())
    if pending(into, next(iter(merged.parameters()))) is None:
        return
    with torch.no_grad():
        for leaf, steps in zip(leaves, optimizers, strict=True):
            for parameter in leaf.parameters():
                parameter.copy_(pending(steps, parameter))
    wanted = outer.merge(tree)
    for (key, parameter), (_, update) in zip(merged.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.allclose(pending(into, parameter), update, rtol=1e-9, atol=1e-12), key


def test_the_merged_step_of_a_tree_is_the_merge_of_the_steps() -> None:
    """With the weights too: where no gradient comes, merging after a step is a step after merging."""
    args = NETS["lenet"][1]()
    outer = split_module(LeNet(6, 8, 12).double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    tree, leaves = [inner, outer.submodels[1]], [*inner.submodels, outer.submodels[1]]
    optimizers = [trained(leaf, args, "SGD", 3) for leaf in leaves]
    merged = outer.merge(tree)
    into = torch.optim.SGD(merged.parameters(), **OPTIONS["SGD"][1])
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    for module, steps in zip([merged, *leaves], [into, *optimizers], strict=True):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        steps.step()
    wanted = outer.merge(tree)
    for (key, parameter), (_, other) in zip(merged.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.allclose(parameter, other, rtol=1e-10, atol=1e-13), key


def test_level_by_level_is_the_same() -> None:
    """Law 5, of optimizer state: the inner split first, then the outer one."""
    args = NETS["lenet"][1]()
    outer = split_module(LeNet(6, 8, 12).double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    tree, leaves = [inner, outer.submodels[1]], [*inner.submodels, outer.submodels[1]]
    optimizers = [trained(leaf, args, "Adam", count) for count, leaf in enumerate(leaves, start=3)]
    into, again, between = (torch.optim.Adam(m.parameters()) for m in (outer.model, outer.model, inner.model))
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    inner.model.load_state_dict(inner.merge_state_dict())
    inner.merge_optimizers(optimizers[:2], into=between)
    outer.merge_optimizers([between, optimizers[2]], into=again)
    for name, parameter in outer.model.named_parameters():
        one, other = into.state[parameter], again.state[parameter]
        assert torch.allclose(one["exp_avg"] != 0, other["exp_avg"] != 0)
        reached = one["exp_avg"] != 0  # what was cut has the tensor's mean, which each level takes of its own
        for key in one:
            if key != "step":
                assert torch.allclose(one[key][reached], other[key][reached], rtol=1e-10), (name, key)
        assert one["step"] == other["step"] == 5


def test_sub_models_that_say_which_part_they_are_may_be_in_any_order(tmp_path: Path) -> None:
    from graphsplit.modules.folder import open_folder

    args = NETS["lenet"][1]()
    split_module(LeNet(6, 8, 12).double(), args, k=2, out=tmp_path / "parts")
    outer = open_folder(tmp_path / "parts")
    tree = [split_module(module, k=2) for module in outer.submodels][::-1]
    leaves = [leaf for inner in tree for leaf in inner.submodels]
    optimizers = [trained(leaf, args, "SGD", count) for count, leaf in enumerate(leaves, start=1)]
    merged = outer.merge(tree)
    into = torch.optim.SGD(merged.parameters(), **OPTIONS["SGD"][1])
    outer.merge_optimizers(optimizers, into=into, trained=tree)
    with torch.no_grad():
        for leaf, steps in zip(leaves, optimizers, strict=True):
            for parameter in leaf.parameters():
                parameter.copy_(pending(steps, parameter))
    wanted = outer.merge(tree)
    for (key, parameter), (_, update) in zip(merged.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.allclose(pending(into, parameter), update, rtol=1e-12, atol=1e-15), key


def test_what_a_tree_asks_for_is_said() -> None:
    args = NETS["lenet"][1]()
    outer = split_module(LeNet(6, 8, 12).double(), args, k=2)
    inner = split_module(outer.submodels[0], k=2)
    optimizers = [torch.optim.SGD(m.parameters(), momentum=0.9) for m in (*inner.submodels, outer.submodels[1])]
    into = torch.optim.SGD(outer.model.parameters(), momentum=0.9)
    with pytest.raises(MergeError, match=r"3 optimizers were given, and there are 2 sub-models\n.*trained=\["):
        outer.merge_optimizers(optimizers, into=into)
    with pytest.raises(MergeError, match=r"optimizer 0 holds a parameter .* that sub-model 0\.0 hasn't"):
        outer.merge_optimizers(optimizers[::-1], into=into, trained=[inner, outer.submodels[1]])
    with pytest.raises(MergeError, match=r"sub-model 1 is given as a state dict.*\n.*give the module"):
        outer.merge_optimizers(optimizers, into=into, trained=[inner, outer.submodels[1].state_dict()])
