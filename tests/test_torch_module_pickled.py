"""Written modules that are pickled: the same modules, here and in another process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.formats.torch_module import code  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from tests.torch_nets import Transformer  # noqa: E402
from tests.written_modules import IMAGE, WORDS, residual, written  # noqa: E402

__all__ = ["residual", "written"]  # fixtures


@pytest.mark.parametrize("training", [False, True])
def test_a_pickled_module_is_the_same_module(written: nn.Module, training: bool) -> None:
    again = pickle.loads(pickle.dumps(written.train(training)))
    assert type(again) is type(written)
    assert again.training == training
    assert list(again.state_dict()) == list(written.state_dict())
    results = []
    for module in (written, again):
        torch.manual_seed(1)
        result = module(*IMAGE)
        result.sum().backward()
        results.append(result)
    assert torch.equal(*results)
    for (name, a), (_, b) in zip(written.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(written.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(a, b), name  # the counters have counted
    assert code(again, training=training) == code(written, training=training)  # type: ignore[arg-type]


def test_a_saved_module_holds_its_tensors_once(written: nn.Module, tmp_path: Path) -> None:
    wanted = written.double().eval()(IMAGE[0].double())
    torch.save(copy.deepcopy(written), tmp_path / "whole.pt")
    torch.save(written.state_dict(), tmp_path / "state.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(again(IMAGE[0].double()), wanted)
    again = pickle.loads(pickle.dumps(copy.deepcopy(again)))  # a copy of a copy of it
    assert torch.equal(again(IMAGE[0].double()), wanted)
    assert (tmp_path / "whole.pt").stat().st_size < (tmp_path / "state.pt").stat().st_size + 200_000


def test_ties_and_frozen_parameters_survive_pickling() -> None:
    model = Transformer(tied=True, depth=1)
    model.blocks[0].up.requires_grad_(False)
    split = split_module(model, WORDS, k=2)
    for module in (*split.submodels, split.merge()):
        again = pickle.loads(pickle.dumps(module))
        assert again.get_parameter("head.weight") is again.get_parameter("embed.weight")
        assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in module.parameters()]


def test_a_pickled_sub_model_comes_home_and_is_split_again(residual: ModuleSplit) -> None:
    again = [pickle.loads(pickle.dumps(module)) for module in residual.submodels]
    with torch.no_grad():
        for module in again:
            module.get_parameter("bn1.weight").mul_(1.25)
        inner = split_module(again[0], k=2)
        mean = (again[0].eval()(*IMAGE) + again[1].eval()(*IMAGE)) / 2
        assert torch.allclose(residual.merge(again).eval()(*IMAGE), mean, atol=1e-5)
        leaves = (sum(m.eval()(*IMAGE) for m in inner.submodels) / 2 + again[1](*IMAGE)) / 2
        assert torch.allclose(residual.merge([inner, again[1]]).eval()(*IMAGE), leaves, atol=1e-5)


class Annotated(nn.Module):
    """A signature that holds what can't be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)


def test_annotations_are_not_pickled() -> None:
    class Local: ...

    def forward(self: Any, x: Any, flag: Any = False) -> Any:
        return self.second(self.first(x).relu())

    forward.__annotations__ = {"x": Local, "flag": bool, "return": Local}
    kind = type("Kind", (Annotated,), {"forward": forward})
    module = split_module(kind(), (torch.randn(3, 4),), k=2).submodels[0]
    again = pickle.loads(pickle.dumps(module))
    x = torch.randn(3, 4)
    assert torch.equal(again(x=x), module(x))
    assert torch.equal(again(x, False), module(x))


def _trained_elsewhere(module: nn.Module, path: str) -> None:
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()(*(torch.ones_like(x) for x in IMAGE)).square().mean().backward()
    optimizer.step()
    torch.save(module, path)


def test_another_process_trains_it(residual: ModuleSplit, tmp_path: Path) -> None:
    module, here = (copy.deepcopy(residual.submodels[1]) for _ in range(2))  # what is sent shares its memory
    process = multiprocessing.get_context("spawn").Process(
        target=_trained_elsewhere, args=(module, str(tmp_path / "trained.pt"))
    )
    process.start()
    process.join(300)
    assert process.exitcode == 0
    found = torch.load(tmp_path / "trained.pt", weights_only=False)
    _trained_elsewhere(here, str(tmp_path / "here.pt"))
    for (name, a), (_, b) in zip(found.named_parameters(), here.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
