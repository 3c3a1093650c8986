"""Torch modules as files: damaged, doctored, and what is no such file or has no form in one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphsplit.errors import FormatError, GraphsplitError, UnsupportedError  # noqa: E402
from graphsplit.files import OutputError  # noqa: E402
from graphsplit.formats import torch_archive  # noqa: E402
from graphsplit.modules import split_module  # noqa: E402
from graphsplit.modules.source import source_of  # noqa: E402
from tests.torch_archives import CASES, sub_model  # noqa: E402
from tests.torch_nets import LeNet  # noqa: E402


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
