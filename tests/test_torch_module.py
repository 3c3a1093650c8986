"""Written modules are modules like any other: copied, cast, compiled, exported, replicated."""

from __future__ import annotations

import copy
import io
import shutil
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import UnsupportedError  # noqa: E402
from graphsplit.formats.torch_module import code  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from tests.torch_nets import LeNet, Residual, Transformer  # noqa: E402
from tests.written_modules import IMAGE, WORDS, residual, written  # noqa: E402

__all__ = ["residual", "written"]  # fixtures


def test_a_copy_is_apart(written: nn.Module) -> None:
    other = copy.deepcopy(written)
    before = written.eval()(*IMAGE)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(written(*IMAGE), before)
    assert not torch.equal(other.eval()(*IMAGE), before)


def test_it_loads_a_state_dict(written: nn.Module) -> None:
    other = copy.deepcopy(written)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    written.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(written.eval()(*IMAGE), other.eval()(*IMAGE))


def test_it_takes_another_type(written: nn.Module) -> None:
    wanted = written.eval()(*IMAGE)
    found = written.to(torch.float64)(IMAGE[0].double())
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), wanted, atol=1e-5)


def test_types_and_devices_that_were_the_modules_own_follow_it() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            noise = torch.zeros(1, 8, dtype=x.dtype, device=x.device)
            return self.second(torch.cat([noise, self.first(x)]).relu()).to(torch.float32)

    split = split_module(Own(), (torch.randn(3, 4),), k=2)
    for module in (*split.submodels, split.merge()):
        assert module.double()(torch.randn(3, 4).double()).dtype == torch.float64
        assert module.to("meta")(torch.randn(3, 4, device="meta").double()).device.type == "meta"


def test_code_reads_like_code(residual: ModuleSplit) -> None:
    lines = code(residual.submodels[0], training=True)  # type: ignore[arg-type]
    assert any(
        "torch.ops.aten.conv2d.default(x_1" in line or "torch.ops.aten.conv2d.default(x" in line for line in lines
    )
    assert any("add_" in line and "num_batches_tracked" in line for line in lines)
    assert not any("add_" in line and "tracked" in line for line in code(residual.submodels[0], training=False))  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no compiler")
@pytest.mark.parametrize("training", [False, True])
def test_it_compiles(written: nn.Module, training: bool) -> None:
    other = copy.deepcopy(written).train(training)
    compiled = torch.compile(written.train(training))
    results = [module(*IMAGE) for module in (compiled, other)]
    assert torch.allclose(*results, atol=1e-4)
    for result in results:
        result.sum().backward()
    for (name, a), (_, b) in zip(written.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-3), name


def test_it_exports(written: nn.Module) -> None:
    exported = torch.export.export(written.eval(), IMAGE)
    assert torch.allclose(exported.module()(*IMAGE), written(*IMAGE), atol=1e-6)
    assert set(exported.state_dict) >= set(written.state_dict())


def test_it_exports_to_onnx(written: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(written.eval(), IMAGE, dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGE[0].numpy()})
    assert torch.allclose(torch.from_numpy(found), written(*IMAGE), atol=1e-4)


def test_a_replica_has_its_own_tensors(written: nn.Module) -> None:
    """What DataParallel does on each device: a shallow replica, its parameters set as attributes."""
    from torch.func import functional_call

    state = {
        name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in written.state_dict().items()
    }
    other = copy.deepcopy(written)
    other.load_state_dict(state)
    assert torch.equal(functional_call(written.eval(), state, IMAGE), other.eval()(*IMAGE))
    replica = written._replicate_for_data_parallel()
    replica._modules = {name: child._replicate_for_data_parallel() for name, child in written._modules.items()}
    for name, child in written.named_children():
        replica._modules[name]._former_parameters = {}
        for key, parameter in child.named_parameters(recurse=False):
            setattr(replica._modules[name], key, parameter * 2)
        for key, buffer in child.named_buffers(recurse=False):
            replica._modules[name]._buffers[key] = buffer * 2 if buffer.is_floating_point() else buffer
    assert torch.equal(replica(*IMAGE), other(*IMAGE))


def test_batch_and_length_stay_dynamic() -> None:
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", max=32)
    split = split_module(Transformer(depth=1), WORDS, k=2, dynamic_shapes=({0: batch, 1: time},))
    tokens = torch.randint(0, 40, (5, 11))
    with torch.no_grad():
        mean = sum(module.eval()(tokens) for module in split.submodels) / 2
        found = split.merge().eval()(tokens)
    assert found.shape == (5, 11, 40)
    assert torch.allclose(found, mean, atol=1e-5)


def test_one_module_under_two_names_stays_one() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.again = self.body

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            return self.last(x + self.again(self.body(x).relu()))

    model, args = Shared(), (torch.randn(2, 4),)
    split = split_module(model, args, k=2)
    for module in (*split.submodels, split.merge()):
        assert list(module.state_dict()) == list(model.state_dict())
        assert module.get_parameter("again.weight") is module.get_parameter("body.weight")
    model.load_state_dict(split.merge_state_dict())
    with torch.no_grad():
        mean = sum(module.eval()(*args) for module in split.submodels) / 2
        assert torch.allclose(model.eval()(*args), mean, atol=1e-6)


def test_a_buffer_made_of_activations_is_refused() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            return self.second(x.relu())

    with pytest.raises(UnsupportedError, match=r"updates (a|the) buffer"):
        split_module(Mean(), (torch.randn(3, 4),), k=2)


def test_an_unused_parameter_stays() -> None:
    model = LeNet()
    model.spare = nn.Linear(3, 4)
    split = split_module(model, (torch.randn(2, 1, 28, 28),), k=2)
    for found in (split.submodels[0], split.merge()):
        assert torch.equal(found.get_parameter("spare.weight"), model.spare.weight)
        assert found.get_parameter("spare.weight") is not model.spare.weight
    assert list(split.merge_state_dict()) == list(model.state_dict())


# -- modes ------------------------------------------------------------------------------------------------------


def test_the_mode_is_the_roots(written: nn.Module) -> None:
    for module in (written, nn.Sequential(written), torch.nn.DataParallel(written)):
        for training in (True, False, True):
            module.train(training)
            assert all(inner.training == training for inner in module.modules())
    written.bn1.train()  # what it is anyway
    for inner in written.modules():  # the root first
        inner.eval()
    assert not written.training


def test_a_place_has_no_mode_of_its_own(written: nn.Module) -> None:
    written.train()
    with pytest.raises(UnsupportedError, match=r"holds weight, bias, running_mean.*has no mode of its own") as error:
        written.bn1.eval()
    assert "override train()" in str(error.value)
    assert written.bn1.training
    with pytest.raises(UnsupportedError, match="has no mode of its own"):
        written.eval().bn1.train()


def test_what_is_added_to_a_sub_model_has_its_own_train(written: nn.Module) -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    written.bn1.extra = Frozen(3)
    written.extra = Frozen(3)
    written.train()
    assert not written.extra.training
    assert not written.bn1.extra.training
    assert written.bn1.training


def test_a_place_runs_nothing(written: nn.Module) -> None:
    with pytest.raises(UnsupportedError, match="runs nothing"):
        written.bn1(*IMAGE)


def test_norms_that_the_source_keeps_in_evaluation_mode_stay_so() -> None:
    class Finetuned(Residual):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.bn1.eval()
            return self

    split = split_module(Finetuned(), IMAGE, k=2)
    for module in (*split.submodels, split.merge()):
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        module.train()(*IMAGE)
        changed = {name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])}
        assert any(name.startswith("bn0") for name in changed)
        assert not any(name.startswith("bn1") for name in changed)


def test_places_are_frozen_as_layers_are(written: nn.Module) -> None:
    written.bn1.requires_grad_(False)
    written.train()(*IMAGE).sum().backward()
    assert [name for name, p in written.named_parameters() if p.grad is None] == ["bn1.weight", "bn1.bias"]


def test_submodules_may_have_any_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.names = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: Any) -> Any:
            return self.names(self.source(x).relu())

    split = split_module(Net().eval(), (torch.randn(3, 4),), k=2)
    x = torch.randn(5, 4)
    assert torch.allclose(split.merge()(x), (split.submodels[0](x) + split.submodels[1](x)) / 2, atol=1e-6)
    assert set(split.submodels[0].state_dict()) == {"source.weight", "source.bias", "names.weight", "names.bias"}


# -- what sub-models can't do as the source does ----------------------------------------------------------------


def test_a_backward_of_its_own_is_warned_of() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return -grad

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            return self.b(Reversed.apply(self.a(x)))

    with pytest.warns(UserWarning, match="Reversed has a backward of its own"):
        split_module(Net(), (torch.randn(3, 4),), k=2)
    apply = torch.autograd.Function.__dict__["apply"]
    assert "noted" not in apply.__func__.__qualname__


def test_an_input_that_is_written_into_is_refused() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.o = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Any, cache: Any) -> Any:
            h = torch.relu(self.i(x))
            cache[:, 0] = h.sum(1)
            return self.o(h)

    with pytest.raises(UnsupportedError, match=r"test_torch_module.py.*writes into the input 'cache'"):
        split_module(Cached().eval(), (torch.randn(3, 4), torch.zeros(3, 2)), k=2)


def test_names_that_are_words_of_python_are_refused() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d, self.o = nn.ModuleDict({"class": nn.Linear(4, 8)}), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.o(self.d["class"](x))

    with pytest.raises(UnsupportedError, match=r"'d\.class\.(weight|bias)' holds a word of Python's own"):
        split_module(Keyed().eval(), (torch.randn(3, 4),), k=2)
