"""Torch modules, split, trained and merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import GraphsplitError, MergeError  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from tests.module_cases import CASES, difference, images, made, perturb, words  # noqa: E402
from tests.torch_nets import Forked, LeNet, Residual, Transformer  # noqa: E402
from tests.turns import one_each  # noqa: E402

# -- the laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "k"), one_each(CASES, (2, 3)))
def test_the_merged_network_is_the_mean_of_perturbed_sub_models(name: str, k: int) -> None:
    split, args = made(name, k)
    perturb(split)
    merged = split.merge()
    assert difference(split, merged, args) < 1e-10
    full = sum(p.numel() for p in split.model.parameters())
    for module in split.submodels:  # narrow, or the law says nothing
        assert sum(p.numel() for p in module.parameters()) < full / k + 0.1 * full
    with torch.no_grad():  # a negative control: another network isn't the mean
        next(p for n, p in merged.named_parameters() if n.endswith("weight")).mul_(1.5)
    assert difference(split, merged, args) > 1e-6


@pytest.mark.parametrize("name", ["lenet", "residual", "transformer", "tied", "grouped"])
def test_one_part_is_the_network_itself(name: str) -> None:
    split, args = made(name, 1)
    for found in (split.submodels[0], split.merge()):
        assert list(found.state_dict()) == list(split.model.state_dict())
        assert all(
            torch.equal(a, b)
            for a, b in zip(found.state_dict().values(), split.model.state_dict().values(), strict=True)
        )
        with torch.no_grad():
            assert torch.equal(found.eval()(*args), split.model.eval()(*args))


@pytest.mark.parametrize("strategy", ["interleaved", "random"])
def test_other_strategies_merge_exactly(strategy: str) -> None:
    split, args = made("residual", 2, strategy=strategy)
    perturb(split)
    assert difference(split, split.merge(), args) < 1e-10


@pytest.mark.parametrize("name", ["residual", "transformer", "tied"])
def test_a_sub_model_is_split_again(name: str) -> None:
    outer, args = made(name, 2)
    perturb(outer, 5)
    inner = split_module(outer.submodels[0], k=2)
    perturb(inner, 6)
    with torch.no_grad():
        first = sum(module.eval()(*args) for module in inner.submodels) / 2
        mean = (first + outer.submodels[1].eval()(*args)) / 2
        merged = outer.merge([inner, outer.submodels[1]]).eval()
        assert float((merged(*args) - mean).abs().max() / mean.abs().max()) < 1e-10


def test_the_source_is_left_as_it_was() -> None:
    model = Residual().train()
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    split = split_module(model, images(), k=2)
    perturb(split)
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert split.submodels[0].training


# -- as if written by hand --------------------------------------------------------------------------------------


def hand_written(name: str, split: ModuleSplit, part: int) -> nn.Module:
    state = split.submodels[part].state_dict()
    if name == "lenet":
        found: nn.Module = LeNet(len(state["conv1.bias"]), len(state["conv2.bias"]), len(state["fc1.bias"]))
    else:
        found = Residual(len(state["bn0.bias"]), len(state["bn1.bias"]))
    found = found.to(next(iter(state.values())).dtype)
    found.load_state_dict(state)
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["lenet", "residual"])
def test_a_sub_model_is_the_narrower_network(name: str, training: bool) -> None:
    split, args = made(name, 3)
    perturb(split)
    for part, module in enumerate(split.submodels):
        other = hand_written(name, split, part).train(training)
        module.train(training)
        results = []
        for one in (module, other):
            torch.manual_seed(7)  # dropout
            result = one(*args)
            result.square().sum().backward()
            results.append(result)
        assert torch.equal(*results)
        for (n, a), (_, b) in zip(module.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(a.grad, b.grad), n
        for n, b in other.named_buffers():
            assert torch.equal(module.get_buffer(n), b), n


def test_a_forward_that_branches_on_its_mode() -> None:
    torch.manual_seed(0)
    model, args = Forked().double(), (images()[0].double(),)
    split = split_module(model, args, k=2)
    perturb(split)
    merged = split.merge()
    with torch.no_grad():
        means = {}
        for training in (False, True):
            results = []
            for module in split.submodels:
                torch.manual_seed(3)
                results.append(module.train(training)(*args))
            assert set(results[0]) == ({"out", "aux"} if training else {"out"})
            means[training] = {key: sum(r[key] for r in results) / 2 for key in results[0]}
            torch.manual_seed(3)
            found = merged.train(training)(*args)
            for key, mean in means[training].items():
                assert float((found[key] - mean).abs().max()) < 1e-12, key


def test_arguments_come_in_the_sources_form() -> None:
    split = split_module(Forked(), images(), k=2)
    module = split.submodels[0].eval()
    (x,) = images()
    with torch.no_grad():
        assert torch.equal(module(x=x)["out"], module(x)["out"])
        assert torch.equal(module(x, 1.0)["out"], module(x)["out"])
    with pytest.raises(TypeError):
        module(x, x, x)


# -- training in between ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name", ["residual", "transformer", "grouped", "in place"])
def test_trained_sub_models_merge_exactly(name: str, optimizer: str) -> None:
    split, args = made(name, 2)
    for module in split.submodels:
        steps = getattr(torch.optim, optimizer)(module.parameters(), lr=0.01)
        for _ in range(3):
            steps.zero_grad()
            module.train()(*args).square().mean().backward()
            steps.step()
    merged = split.merge()
    assert difference(split, merged, args) < 1e-10
    steps = getattr(torch.optim, optimizer)(merged.parameters(), lr=0.01)
    merged.train()(*args).square().mean().backward()
    assert all(p.grad is not None for p in merged.parameters())
    steps.step()


def test_rounds_of_cuts_train_every_weight() -> None:
    """Independent subnet training: merge over the old weights, split otherwise, and each hidden weight has its turn."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(16, 6).double()
    for seed in range(16):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        split = split_module(model, (x,), k=2, strategy="random", seed=seed)
        for part in split.submodels:
            steps = torch.optim.SGD(part.parameters(), lr=0.1)
            part.train()(x).square().mean().backward()
            steps.step()
        found = split.merge_state_dict(base=before)
        mine = [split.manifest.selection("2.weight", part).axes for part in (0, 1)]
        cut = torch.ones(8, 8, dtype=torch.bool)
        for rows, columns in mine:
            cut[np.ix_(rows, columns)] = False
        assert int(cut.sum()) == 32
        assert torch.equal(found["2.weight"][cut], before["2.weight"][cut])
        assert not split.merge_state_dict()["2.weight"][cut].any()
        assert not torch.equal(found["2.weight"][~cut], before["2.weight"][~cut])
        model.load_state_dict(found)
    assert bool((model[2].weight != first["2.weight"]).all())


def test_a_base_of_another_shape_is_refused() -> None:
    split, _ = made("residual", 2)
    wrong = {name: value[:1] if value.dim() else value for name, value in split.model.state_dict().items()}
    with pytest.raises(MergeError, match="the base has"):
        split.merge_state_dict(base=wrong)
    with pytest.raises(MergeError, match="the base lacks"):
        split.merge_state_dict(base={"other": torch.zeros(1)})


class WritesIntoWhatIsRepeated(nn.Module):
    """A mean over channels, which each part has for itself, copied into a value and added to in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        h = self.up(x)
        mean = h.mean(1, keepdim=True)
        y = torch.zeros_like(mean)
        y.copy_(mean)
        y.add_(mean.double())
        return self.down(h * y)


def test_what_repeated_nodes_write_keeps_its_type_and_its_gradient() -> None:
    split = split_module(WritesIntoWhatIsRepeated(), (torch.randn(3, 6),), k=2)
    merged, x = split.merge(), torch.randn(5, 6)
    assert split.repeats
    found = merged(x)
    assert found.dtype == torch.float32
    assert torch.allclose(found, sum(part(x) for part in split.submodels) / 2, atol=1e-6)
    found.square().sum().backward()
    assert all(p.grad is not None for p in merged.parameters())


def test_what_must_not_change_is_looked_at() -> None:
    split = split_module(LeNet(), images(1, 28), k=2)
    with torch.no_grad():
        split.submodels[1].get_parameter("fc1.weight").fill_(float("nan"))
    with pytest.raises(MergeError, match="not finite"):
        split.merge()
    split.merge(allow_nonfinite=True)
    with pytest.raises(MergeError, match="2 parts"):
        split.merge(split.submodels[:1])
    with pytest.raises(MergeError, match="lacks the tensor"):
        split.merge([{}, {}])


def test_state_dicts_merge_as_well() -> None:
    split, args = made("residual", 2)
    perturb(split)
    states = [module.state_dict() for module in split.submodels]
    wrapped = [{f"module._orig_mod.{name}": tensor for name, tensor in state.items()} for state in states]
    for given in (states, wrapped, [nn.DataParallel(module) for module in split.submodels]):
        assert difference(split, split.merge(given), args) < 1e-10


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(GraphsplitError, match="no torch module"):
        split_module(3, (), k=2)  # type: ignore[arg-type]


def test_one_function_splits_files_and_modules() -> None:
    import graphsplit

    found = graphsplit.split(LeNet(), images(1, 28), k=2)
    assert isinstance(found, graphsplit.ModuleSplit)
    assert len(found.submodels) == 2
    with pytest.raises(TypeError):
        graphsplit.split(LeNet(), images(1, 28))  # type: ignore[call-overload]
    with pytest.raises(GraphsplitError):
        graphsplit.split("missing.onnx", 2, out="nowhere")


def test_rescaled_weights_keep_the_size_of_signals() -> None:
    torch.manual_seed(0)
    model = LeNet()
    kept, scaled = (split_module(model, images(1, 28), k=2, init=init).submodels[0] for init in ("keep", "rescale"))
    for name, factor in (("conv2.weight", 2**0.5), ("conv1.weight", 1.0), ("fc2.weight", 1.0)):
        assert torch.allclose(scaled.get_parameter(name), kept.get_parameter(name) * factor)


@pytest.mark.parametrize("name", ["lenet", "residual", "transformer", "grouped"])
def test_a_module_and_its_onnx_export_are_divided_alike(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    import graphsplit

    torch.manual_seed(0)
    module, inputs = CASES[name]
    model, args, path = module().eval(), inputs(), tmp_path / "model.onnx"
    torch.onnx.export(model, args, path, dynamo=True, optimize=False, verbose=False)
    plans = [graphsplit.plan(path, 2), split_module(model, args, k=2).plan]
    assert plans[0].parameters.keys() == plans[1].parameters.keys()
    for key in plans[0].parameters:
        one, other = (p.parameters[key].selection(p.partition.owner, 0) for p in plans)
        assert repr(one) == repr(other), key


def test_an_op_without_a_rule_is_refused_with_the_users_line() -> None:
    @torch.library.custom_op("graphsplit_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            return self.second(torch.ops.graphsplit_tests.twice(x))

    args = (torch.randn(3, 4),)
    with pytest.raises(GraphsplitError, match=r"graphsplit_tests::twice.*test_modules\.py:\d+: return self\.second"):
        split_module(Custom(), args, k=2)
    split = split_module(Custom(), args, k=2, rules=["graphsplit_tests::twice  ... -> ..."])
    perturb(split)
    assert difference(split, split.merge(), args) < 1e-5


def test_kept_layers_shares_and_aliases() -> None:
    split = split_module(Transformer(tied=True), words(), k=2, keep=["blocks.0.up.weight"], shares=[3, 1])
    whole = split.model.state_dict()["blocks.0.up.bias"].shape
    assert all(module.state_dict()["blocks.0.up.bias"].shape == whole for module in split.submodels)
    sizes = [len(module.state_dict()["blocks.1.up.bias"]) for module in split.submodels]
    assert sizes == [48, 16]
