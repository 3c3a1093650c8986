"""Torch modules as files: written, read without their code and without pickles, damaged, doctored."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from graphsplit.errors import FormatError, GraphsplitError, UnsupportedError  # noqa: E402
from graphsplit.files import OutputError  # noqa: E402
from graphsplit.formats import torch_archive  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from graphsplit.modules.source import source_of  # noqa: E402
from tests.torch_nets import Forked, Grouped, LeNet, Residual, Transformer  # noqa: E402


class Told(nn.Module):
    """Inputs and outputs of several forms, a frozen weight, buffers in and out of the state dict, a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)
        self.up.bias.requires_grad_(False)
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("mask", torch.tensor([True, False, True, True, True, True]), persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(
        self,
        given: dict[str, Any],
        pair: tuple[Any, Any],
        scale: float = 1.0,
        flip: bool = False,
        most: float = math.inf,
    ) -> Any:
        x = given["x"].clamp(max=most) * self.mask + self.shift + pair[0] - pair[1]
        y = self.down(self.drop(self.up(x * scale).relu()))
        return {"logits": -y if flip else y, "more": [y.argmax(-1), None]}


Example = tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any]]
X = torch.randn(3, 6)
CASES: dict[str, Example] = {
    "lenet": (LeNet, (torch.randn(2, 1, 28, 28),), {}),
    "residual": (Residual, (torch.randn(2, 3, 16, 16),), {}),
    "transformer": (lambda: Transformer(depth=1), (torch.randint(0, 40, (2, 7)),), {}),
    "tied": (lambda: Transformer(tied=True, depth=1), (torch.randint(0, 40, (2, 7)),), {}),
    "grouped": (Grouped, (torch.randn(2, 3, 16, 16),), {}),
    "two modes": (Forked, (torch.randn(2, 3, 16, 16),), {}),
    "told": (Told, ({"x": X}, (X, X)), {"scale": 0.5, "flip": True}),
}


def sub_model(name: str, tmp_path: Path, part: int = 0) -> tuple[nn.Module, nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A sub-model, the same from its file, and what both are called with."""
    make, args, kwargs = CASES[name]
    split = split_module(make(), args, kwargs, k=2, out=tmp_path / "parts")
    return split.submodels[part], torch_archive.load(tmp_path / "parts" / f"submodel_{part}.pt2"), args, kwargs


def same(one: Any, other: Any) -> bool:
    found, wanted = (torch.utils._pytree.tree_flatten(x) for x in (one, other))
    return found[1] == wanted[1] and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(found[0], wanted[0], strict=True)
    )


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


# -- what is no such file ---------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """An archive with its records changed, or left out."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, change(info.filename, archive.read(info))) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records:
            if data is not None:
                archive.writestr(name, data)


def description(change: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def changed(name: str, data: bytes) -> bytes:
        if not name.endswith("graphsplit.json"):
            return data
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return changed


def test_doctored_archives_are_refused(tmp_path: Path) -> None:
    sub_model("lenet", tmp_path)
    path = tmp_path / "parts" / "submodel_0.pt2"
    whole = path.read_bytes()
    path.with_suffix(".safetensors").unlink()

    def pickled(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else data

    def enumerated(content: dict[str, Any]) -> None:
        content["modes"][0]["in"] = [
            1,
            {"type": None, "context": '{"__enum__": true, "fqn": "os:x"}', "children_spec": []},
        ]

    changes: list[tuple[Callable[[str, bytes], bytes | None], str]] = [
        (pickled, "pickled weights, which are never loaded"),
        (lambda name, data: None if name.endswith("graphsplit.json") else data, "graphsplit didn't write"),
        (lambda name, data: None if name.endswith("weights_config.json") else data, "didn't write"),
        (lambda name, data: None if name.endswith("archive_format") else data, "no archive of torch.export"),
        (lambda name, data: b"{" if name.endswith("weights_config.json") else data, "list of weights"),
        (lambda name, data: b"\xff" if name.endswith("graphsplit.json") else data, "damaged"),
        (lambda name, data: data[:100] if name.endswith("weight_0") else data, "damaged: a tensor of shape"),
        (description(enumerated), "container that has no form"),
        (description(lambda content: content.update(version=2)), "version 2, and this graphsplit reads 1"),
        (description(lambda content: content.update(format="x")), "doesn't describe a module"),
        (description(lambda content: content["graph"]["nodes"][0].pop()), "damaged"),
        (description(lambda content: content["graph"]["tensors"].pop(0)), "damaged"),
        (description(lambda content: content.pop("modes")), "damaged"),
        (description(lambda content: content["names"].append(["a.b", "nowhere"])), "no tensor 'nowhere'"),
    ]
    for change, message in changes:
        path.write_bytes(whole)
        rewritten(path, change)
        with pytest.raises(GraphsplitError, match=message):
            torch_archive.load(path)
    path.write_bytes(whole)
    rewritten(path, lambda name, data: data)
    torch_archive.load(path)  # rewriting alone does no harm


def test_what_is_read_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description that tries to become code, to import a module, to call something else than an op, to read a file."""
    sub_model("lenet", tmp_path)
    path = tmp_path / "parts" / "submodel_0.pt2"
    path.with_suffix(".safetensors").unlink()
    whole, mark = path.read_bytes(), tmp_path / "mark"
    (tmp_path / "evil_of_test_torch_archive.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass E:\n    x = 1\nf = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    leaf = {"type": None, "context": None, "children_spec": []}
    touch = f"__import__('os').system('touch {mark}')"
    enumeration = '[{"\\u005f_enum__": true, "fqn": "evil_of_test_torch_archive:E", "name": "x"}]'
    factory = {
        "default_factory_module": "evil_of_test_torch_archive",
        "default_factory_name": "f",
        "dict_context": ["a"],
    }

    def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            signature = content["signature"]
            content.update(
                json.loads(json.dumps(content).replace(json.dumps(old), json.dumps(new))), signature=signature
            )

        return change

    def tree(kind: str, context: Any) -> Callable[[dict[str, Any]], None]:
        return lambda content: content["modes"][0].update(
            out=[1, {"type": kind, "context": context, "children_spec": [leaf]}]
        )

    def op(domain: str, name: str, **attributes: Any) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            node = content["graph"]["nodes"][0]
            node[1], node[2], node[5] = name, domain, {**node[5], **attributes}

        return change

    changes = [
        renamed("x", f"x={touch}"),
        renamed("conv1.weight", f'training"), {touch}, getattr(self, "training'),
        tree("collections.defaultdict", json.dumps(factory)),
        tree("collections.defaultdict", factory),
        tree("builtins.dict", enumeration),
        op("load_library", "__call__.default"),
        op("aten", "from_file.default", filename=str(mark)),
        op("aten", "conv2d.default", padding="torch.load"),
    ]
    for change in changes:
        path.write_bytes(whole)
        rewritten(path, description(change))
        with pytest.raises(GraphsplitError):
            torch_archive.load(path)(torch.randn(1, 1, 28, 28))
        assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="no archive"):
        torch_archive.load(path)
    with pytest.raises(FormatError):
        torch_archive.load(tmp_path / "missing.pt2")


def test_a_program_of_torch_export_gives_its_weights(tmp_path: Path) -> None:
    model = LeNet().eval()
    model.conv1.to(memory_format=torch.channels_last)
    path = tmp_path / "mine.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(2, 1, 28, 28),)), path)
    found = torch_archive.read_weights(path)
    assert all((found[name].numpy() == tensor.numpy()).all() for name, tensor in model.state_dict().items())
    assert torch_archive.read_metadata(path) == {}
    with pytest.raises(FormatError, match="graphsplit didn't write"):
        torch_archive.load(path)


def test_what_has_no_form_in_a_file_is_refused(tmp_path: Path) -> None:
    class Odd:
        def __init__(self, x: Any) -> None:
            self.x = x

    torch.utils._pytree.register_pytree_node(Odd, lambda odd: ([odd.x], None), lambda xs, _: Odd(*xs))

    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            return Odd(self.b(self.a(x).relu()))

    with pytest.raises(UnsupportedError, match="a Odd, which has no form in a file"):
        split_module(Gives(), (torch.randn(2, 4),), k=2, out=tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    assert split_module(Gives(), (torch.randn(2, 4),), k=2).submodels[0](torch.randn(3, 4)).x.shape == (3, 2)


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    make, args, kwargs = CASES["lenet"]
    source = source_of(make(), args, kwargs, None)
    torch_archive.save(source, tmp_path / "a.pt2", beside=True)
    before = (tmp_path / "a.pt2").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        torch_archive.save(source, tmp_path / "a.pt2")
    assert (tmp_path / "a.pt2").read_bytes() == before
    torch_archive.save(source, tmp_path / "a.pt2", beside=True, force=True)


def test_weights_that_lie_where_they_would_be_read_are_refused(tmp_path: Path) -> None:
    """An archive reads the weights beside it: another module's must neither be taken for its own nor be lost."""
    make, args, kwargs = CASES["lenet"]
    source = source_of(make(), args, kwargs, None)
    stray = tmp_path / "a.safetensors"
    stray.write_bytes(b"another module's")
    with pytest.raises(OutputError, match="would be taken for the weights"):
        torch_archive.save(source, tmp_path / "a.pt2")
    assert stray.read_bytes() == b"another module's"
    assert not (tmp_path / "a.pt2").exists()
    (tmp_path / "b.pt2").mkdir()
    (tmp_path / "b.safetensors").write_bytes(b"another module's")
    with pytest.raises(OutputError):
        torch_archive.save(source, tmp_path / "b.pt2", force=True)
    assert (tmp_path / "b.safetensors").exists(), "nothing is removed for an archive that can't be written"
    torch_archive.save(source, tmp_path / "a.pt2", force=True)
    assert not stray.exists()
    torch_archive.load(tmp_path / "a.pt2")
