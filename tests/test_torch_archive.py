"""Torch modules as files: written, read without their code and without pickles, their weights inside or beside."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from graphsplit.errors import FormatError  # noqa: E402
from graphsplit.formats import torch_archive  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from tests.torch_archives import CASES, same, sub_model  # noqa: E402
from tests.torch_nets import LeNet  # noqa: E402


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_the_module(name: str, tmp_path: Path) -> None:
    wanted, found, args, kwargs = sub_model(name, tmp_path)
    for training in (False, True):
        results = []
        for module in (wanted, found):
            torch.manual_seed(0)
            results.append(module.train(training)(*args, **kwargs))
        assert same(*results)
    assert not found.eval().training
    states = wanted.state_dict(), found.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    grads = [{n: p.requires_grad for n, p in module.named_parameters()} for module in (wanted, found)]
    assert grads[0] == grads[1]
    ties = [[id(p) for _, p in m.named_parameters(remove_duplicate=False)] for m in (wanted, found)]
    assert [ids.index(i) for ids in ties for i in ids][: len(ties[0])] == [ties[1].index(i) for i in ties[1]]


@pytest.mark.parametrize("name", ["residual", "transformer", "told"])
def test_it_trains_as_the_module_does(name: str, tmp_path: Path) -> None:
    wanted, found, args, kwargs = sub_model(name, tmp_path)
    losses = []
    for module in (wanted, found):
        optimizer = torch.optim.SGD(module.train().parameters(), lr=0.1)
        torch.manual_seed(0)
        for _ in range(3):
            outputs = [
                y for y in torch.utils._pytree.tree_leaves(module(*args, **kwargs)) if isinstance(y, torch.Tensor)
            ]
            loss = sum(y.square().mean() for y in outputs if y.is_floating_point())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", CASES)
def test_torch_export_runs_it(name: str, tmp_path: Path) -> None:
    wanted, _, args, kwargs = sub_model(name, tmp_path)
    program = torch.export.load(tmp_path / "parts" / "submodel_0.pt2")
    assert same(program.module()(*args, **kwargs), wanted.eval()(*args, **kwargs))


@pytest.mark.parametrize("name", ["lenet", "transformer"])
def test_any_batch(name: str, tmp_path: Path) -> None:
    wanted, found, (x,), _ = sub_model(name, tmp_path)
    more = torch.cat([x, x, x])
    assert torch.equal(found(more), wanted.eval()(more))
    assert torch.equal(torch.export.load(tmp_path / "parts" / "submodel_0.pt2").module()(more), found(more))


def test_the_same_bytes(tmp_path: Path) -> None:
    make, args, kwargs = CASES["residual"]
    model = make()
    for place in ("one", "other"):
        split_module(model, args, kwargs, k=2, out=tmp_path / place)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [
        "manifest.json",
        "source.json",
        "submodel_0.pt2",
        "submodel_0.safetensors",
        "submodel_1.pt2",
        "submodel_1.safetensors",
    ]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "other" / f).read_bytes() for f in files)


def test_reading_needs_no_code_and_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.d = nn.Linear(4, 6), nn.Linear(6, 2), nn.Dropout(0.5)\n"
        "    def forward(self, x): return self.b(self.d(self.a(x).relu()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])}
    write = "import torch, mine, graphsplit; graphsplit.split(mine.Mine(), (torch.randn(2, 4),), k=2, out='parts')"
    subprocess.run([sys.executable, "-c", write], cwd=tmp_path, env=environment, check=True)
    (tmp_path / "mine.py").unlink()
    read = (
        "import pickle, torch, graphsplit\n"
        "def never(*args, **kwargs): raise AssertionError('unpickled')\n"
        "class Never(pickle.Unpickler): __init__ = load = never\n"
        "pickle.load = pickle.loads = torch.load = torch.export.load = never\n"
        "pickle.Unpickler = Never\n"
        "model = graphsplit.load_module('parts/submodel_1.pt2').train()\n"
        "x = torch.randn(64, 4)\n"
        "assert not torch.equal(model(x), model(x)), 'no dropout'\n"
        "assert torch.equal(model.eval()(x), model(x))\n"
        "merged = graphsplit.merge('parts', out='merged.pt2')\n"
        "graphsplit.load_module('merged.pt2')(x)\n"
    )
    subprocess.run([sys.executable, "-c", read], cwd=tmp_path, env=environment, check=True)


def test_it_holds_no_pickle(tmp_path: Path) -> None:
    sub_model("residual", tmp_path)
    with zipfile.ZipFile(tmp_path / "parts" / "submodel_0.pt2") as archive:
        for name in archive.namelist():
            data = archive.read(name)
            with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError)):
                pickle.loads(data)
            assert not zipfile.is_zipfile(tmp_path / name)


# -- weights ----------------------------------------------------------------------------------------------------


def test_weights_beside_it_count(tmp_path: Path) -> None:
    _, found, args, _ = sub_model("residual", tmp_path)
    beside = tmp_path / "parts" / "submodel_0.safetensors"
    own = load_file(beside)
    changed = {name: tensor + 1 for name, tensor in own.items()}
    save_file(changed, beside)
    other = torch_archive.load(tmp_path / "parts" / "submodel_0.pt2")
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in changed.items())
    assert not torch.equal(other(*args), found(*args))
    beside.unlink()
    again = torch_archive.load(tmp_path / "parts" / "submodel_0.pt2")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in own.items())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    module, _, _, _ = sub_model("tied", tmp_path)
    names = load_file(tmp_path / "parts" / "submodel_0.safetensors").keys()
    assert len(names) == len(module.state_dict()) - 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    split = split_module(LeNet().to(dtype), (torch.randn(2, 1, 28, 28, dtype=dtype),), k=2, out=tmp_path / "parts")
    (tmp_path / "parts" / "submodel_0.safetensors").unlink()
    found = torch_archive.load(tmp_path / "parts" / "submodel_0.pt2")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), split.submodels[0].parameters(), strict=True))
    assert {p.dtype for p in found.parameters()} == {dtype}


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    sub_model("lenet", tmp_path)
    path, beside = (tmp_path / "parts" / f"submodel_0{end}" for end in (".pt2", ".safetensors"))
    own = load_file(beside)
    save_file({name: tensor for name, tensor in own.items() if name != "fc1.bias"}, beside)
    with pytest.raises(FormatError, match=r"lack 'fc1\.bias'"):
        torch_archive.load(path)
    save_file({**own, "fc1.bias": torch.zeros(7)}, beside)
    with pytest.raises(FormatError, match=r"'fc1\.bias' as float32\[7\].*float32\[250\]"):
        torch_archive.load(path)
