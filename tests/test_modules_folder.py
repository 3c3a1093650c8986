"""Splits of torch modules on disk: written, trained in place or elsewhere, opened again, merged, split again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file, save_model  # noqa: E402
from torch import nn  # noqa: E402

import graphsplit  # noqa: E402
from graphsplit import GraphsplitError, ManifestError, MergeError  # noqa: E402
from graphsplit.files import OutputError  # noqa: E402
from graphsplit.formats.structure import structure_digest  # noqa: E402
from tests.torch_nets import LeNet, Residual, Transformer  # noqa: E402

IMAGE = torch.randn(2, 3, 16, 16)
WORDS = torch.randint(0, 40, (2, 7))


def changed(modules: list[nn.Module], seed: int = 0) -> list[nn.Module]:
    """Sub-models as training could leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            for name, buffer in module.named_buffers():
                if "running" in name:
                    buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator))
    return modules


def mean(modules: list[nn.Module], x: Any, weights: list[float] | None = None) -> Any:
    weights = weights or [1 / len(modules)] * len(modules)
    with torch.no_grad():
        return sum(w * module.eval()(x) for w, module in zip(weights, modules, strict=True))


def near(one: Any, other: Any) -> bool:
    with torch.no_grad():
        return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max())))


@pytest.mark.parametrize("make", [Residual, Transformer])
def test_a_folder_is_the_split(make: type[nn.Module], tmp_path: Path) -> None:
    x = IMAGE if make is Residual else WORDS
    split = graphsplit.split(make(), (x,), k=2, out=tmp_path / "parts")
    again = graphsplit.reopen(tmp_path / "parts")
    assert isinstance(again, graphsplit.Split)
    assert again.folder == split.folder == tmp_path / "parts"
    assert again.manifest == split.manifest
    assert again.parts == 2
    for one, other in zip(split.submodels, again.submodels, strict=True):
        assert torch.equal(one.eval()(x), other.eval()(x))
    changed(again.submodels)
    assert near(again.merge().eval()(x), mean(again.submodels, x))


def test_one_type_for_files_and_modules(tmp_path: Path) -> None:
    file = graphsplit.split(Path(__file__).parents[1] / "models" / "lenet.onnx", 2, out=tmp_path / "file")
    module = graphsplit.split(LeNet(), (torch.randn(2, 1, 28, 28),), k=2)
    for split in (file, module):
        assert isinstance(split, graphsplit.Split)
        assert split.parts == len(split.submodels) == split.manifest.parts == split.plan.parts == 2
    assert module.folder is None
    assert [path.name for path in file.submodels] == ["submodel_0.onnx", "submodel_1.onnx"]


@pytest.mark.parametrize("kind", ["safetensors", "model", "state dict", "checkpoint", "archive"])
def test_trained_weights_come_back_in_any_form(kind: str, tmp_path: Path) -> None:
    split = graphsplit.split(Transformer(tied=True), (WORDS,), k=2, out=tmp_path / "parts")
    changed(split.submodels)
    files = []
    for part, module in enumerate(split.submodels):
        path = tmp_path / f"trained_{part}.pt"
        if kind == "safetensors":
            path = path.with_suffix(".safetensors")
            save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, path)
        elif kind == "model":
            path = path.with_suffix(".safetensors")
            save_model(module, path)
        elif kind == "state dict":
            torch.save(torch.nn.DataParallel(module).state_dict(), path)
        elif kind == "checkpoint":
            torch.save({"model": module.state_dict(), "epoch": 3}, path)
        else:
            path = path.with_suffix(".pt2")
            torch.export.save(torch.export.export(module.eval(), (WORDS,)), path)
        files.append(path)
    graphsplit.merge(tmp_path / "parts", files, out=tmp_path / "merged.pt2")
    found = graphsplit.load_module(tmp_path / "merged.pt2")
    wanted = split.merge().eval()
    assert torch.equal(found(WORDS), wanted(WORDS))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_training_in_place(tmp_path: Path) -> None:
    graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    trained = []
    for part in range(2):
        path = tmp_path / "parts" / f"submodel_{part}.pt2"
        module = graphsplit.load_module(path).train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module(torch.randn(8, 3, 16, 16)).square().mean().backward()
        optimizer.step()
        save_model(module, path.with_suffix(".safetensors"))
        trained.append(module)
    assert "bn0.num_batches_tracked" in trained[0].state_dict()
    graphsplit.merge(tmp_path / "parts", out=tmp_path / "merged.pt2")
    merged = graphsplit.load_module(tmp_path / "merged.pt2")
    assert near(merged(IMAGE), mean(trained, IMAGE))
    assert int(merged.state_dict()["bn0.num_batches_tracked"]) == 1
    assert near(graphsplit.reopen(tmp_path / "parts").merge().eval()(IMAGE), merged(IMAGE))


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    graphsplit.split(Residual(), (IMAGE,), k=2, shares=(2, 1), out=tmp_path / "parts")
    files = [tmp_path / "parts" / f"submodel_{part}.safetensors" for part in range(2)]
    for number, given in enumerate((files, files[::-1], [files[1].with_suffix(".pt2"), files[0]])):
        graphsplit.merge(tmp_path / "parts", given, out=tmp_path / str(number) / "merged.pt2") if (
            (tmp_path / str(number)).mkdir() is None
        ) else None
    contents = [(tmp_path / str(number) / "merged.pt2").read_bytes() for number in range(3)]
    assert contents[0] == contents[1] == contents[2]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    parts, other = tmp_path / "parts", tmp_path / "other"
    graphsplit.split(Residual(), (IMAGE,), k=2, out=parts)
    graphsplit.split(Residual(10), (IMAGE,), k=2, out=other)
    mine, theirs = (folder / "submodel_0.safetensors" for folder in (parts, other))
    refused: list[tuple[list[Path], str]] = [
        ([mine], "1 sub-models were given, and the split has 2 parts"),
        ([mine, mine], "both part 0"),
        ([mine, theirs], "another split"),
        ([mine, tmp_path / "nothing.pt"], "no file"),
        ([mine, tmp_path], "without manifest.json"),
    ]
    for files, message in refused:
        with pytest.raises(GraphsplitError, match=message):
            graphsplit.merge(parts, files, out=tmp_path / "merged.pt2")
    assert not (tmp_path / "merged.pt2").exists()
    weights = load_file(mine)
    bad = tmp_path / "bad.safetensors"
    save_file({**weights, "fc.bias": torch.full_like(weights["fc.bias"], torch.nan)}, bad)
    with pytest.raises(MergeError, match=r"not finite"):
        graphsplit.merge(parts, [bad, parts / "submodel_1.safetensors"])


def test_a_folder_that_was_changed_is_refused(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    graphsplit.split(Residual(), (IMAGE,), k=2, out=parts)
    source = json.loads((parts / "source.json").read_text())
    source["graph"]["nodes"][0][5]["padding"] = [2, 2]
    (parts / "source.json").write_text(json.dumps(source))
    with pytest.raises(MergeError, match=r"'source.json'.*structure is not the one"):
        graphsplit.merge(parts)
    with pytest.raises(ManifestError):
        graphsplit.reopen(tmp_path)


def test_a_sub_model_of_another_split_in_the_folder_is_seen(tmp_path: Path) -> None:
    parts, other = tmp_path / "parts", tmp_path / "other"
    graphsplit.split(Residual(), (IMAGE,), k=2, out=parts)
    graphsplit.split(Residual(10), (IMAGE,), k=2, out=other)
    for suffix in (".pt2", ".safetensors"):
        (parts / f"submodel_1{suffix}").write_bytes((other / f"submodel_1{suffix}").read_bytes())
    with pytest.raises(MergeError, match=r"submodel_1\.pt2.*structure"):
        graphsplit.reopen(parts)
    with pytest.raises(MergeError, match="another split"):
        graphsplit.merge(parts)


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_a_sub_model_on_disk_is_split_again(name: str, tmp_path: Path) -> None:
    model, x = (Residual(), IMAGE) if name == "residual" else (Transformer(), WORDS)
    outer = graphsplit.split(model, (x,), k=2, out=tmp_path / "parts")
    changed(outer.submodels)
    one = graphsplit.load_module(tmp_path / "parts" / "submodel_0.pt2")
    inner = graphsplit.split(one, k=2, out=tmp_path / "inner")
    assert inner.manifest.source.digest == outer.manifest.submodels[0].digest
    again = graphsplit.reopen(tmp_path / "inner")
    changed(again.submodels, 1)
    for part, module in enumerate(again.submodels):
        save_model(module, tmp_path / "inner" / f"submodel_{part}.safetensors")
    save_model(outer.submodels[1], tmp_path / "second.safetensors")
    graphsplit.merge(
        tmp_path / "parts", [tmp_path / "inner", tmp_path / "second.safetensors"], out=tmp_path / "merged.pt2"
    )
    merged = graphsplit.load_module(tmp_path / "merged.pt2")
    assert near(merged(x), mean([*again.submodels, outer.submodels[1]], x, [0.25, 0.25, 0.5]))


def test_splits_of_other_sub_models_are_refused(tmp_path: Path) -> None:
    class Other(Residual):
        def forward(self, x: Any) -> Any:
            return super().forward(x.relu())

    outer = graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    inner = graphsplit.split(graphsplit.split(Other(), (IMAGE,), k=2).submodels[0], k=2)
    with pytest.raises(MergeError, match="another split"):
        outer.merge([inner, outer.submodels[1]])


def test_one_part_is_the_network(tmp_path: Path) -> None:
    model = Residual().eval()
    split = graphsplit.split(model, (IMAGE,), k=1, out=tmp_path / "parts")
    graphsplit.merge(tmp_path / "parts", out=tmp_path / "merged.pt2")
    merged = graphsplit.load_module(tmp_path / "merged.pt2")
    assert torch.equal(merged(IMAGE), model(IMAGE))
    assert all(torch.equal(merged.state_dict()[n], t) for n, t in model.state_dict().items())
    assert split.manifest.submodels[0].digest == split.manifest.source.digest


def test_original_layers_and_their_difference(tmp_path: Path) -> None:
    split = graphsplit.split(Transformer(), (WORDS,), k=2, out=tmp_path / "parts")
    changed(split.submodels)
    for part, module in enumerate(split.submodels):
        save_model(module, tmp_path / "parts" / f"submodel_{part}.safetensors")
    done = graphsplit.merge(tmp_path / "parts", out=tmp_path / "merged.pt2", layers="original")
    merged = graphsplit.load_module(tmp_path / "merged.pt2")
    assert list(merged.state_dict()) == list(Transformer().state_dict())
    assert done.difference is not None
    assert done.difference > 0.01
    off = (merged(WORDS).detach() - mean(split.submodels, WORDS)).abs().max()
    assert 0.1 < float(off / mean(split.submodels, WORDS).abs().max()) / done.difference < 10


def test_optimizers_merge_after_the_folder_was_opened_again(tmp_path: Path) -> None:
    model = Residual()
    graphsplit.split(model, (IMAGE,), k=2, out=tmp_path / "parts")
    again = graphsplit.reopen(tmp_path / "parts", model)
    optimizers = []
    for module in again.submodels:
        optimizer = torch.optim.SGD(module.train().parameters(), lr=0.1, momentum=0.9)
        module(IMAGE).square().mean().backward()
        optimizer.step()
        optimizers.append(optimizer)
    into = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    again.merge_optimizers(optimizers, into)
    assert into.param_groups[0]["lr"] == 0.1
    buffers = [o.state[m.fc.weight]["momentum_buffer"] for o, m in zip(optimizers, again.submodels, strict=True)]
    assert torch.allclose(into.state[model.fc.weight]["momentum_buffer"], torch.cat(buffers, 1) / 2)


def test_nothing_is_left_of_a_split_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.formats import torch_archive

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(torch_archive, "save_source", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    with pytest.raises(OutputError, match="exists already"):
        graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    graphsplit.split(Residual(), (IMAGE,), k=3, out=tmp_path / "parts", force=True)
    assert graphsplit.reopen(tmp_path / "parts").parts == 3


def test_the_source_is_known_without_its_weights(tmp_path: Path) -> None:
    split = graphsplit.split(LeNet(), (torch.randn(2, 1, 28, 28),), k=2, out=tmp_path / "parts")
    assert (tmp_path / "parts" / "source.json").stat().st_size < 100_000
    found = graphsplit.reopen(tmp_path / "parts").opened.network
    assert structure_digest(found.graph, found.changing) == split.manifest.source.digest


# -- mixed up ---------------------------------------------------------------------------------------------------


class Weighted(nn.Module):
    """A network whose constants tell its parts apart."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        return self.o(self.i(x) * torch.arange(12.0))


def test_modules_say_which_part_they_are() -> None:
    x = torch.randn(5, 4)
    model = Weighted().eval()
    split = graphsplit.split(model, (x,), k=2)
    one, other = split.submodels
    assert near(split.merge([other, one])(x), mean([one, other], x))
    assert near(split.merge([torch.nn.DataParallel(other), one])(x), mean([one, other], x))
    with pytest.raises(MergeError, match="both part 0"):
        split.merge([one, one])
    another = graphsplit.split(model, (x,), k=2, strategy="random")
    with pytest.raises(MergeError, match="another split"):
        split.merge(another.submodels)


def test_weights_of_another_part_beside_an_archive_are_seen(tmp_path: Path) -> None:
    graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    one, other = (tmp_path / "parts" / f"submodel_{part}.safetensors" for part in range(2))
    one.write_bytes(other.read_bytes())
    for use in (lambda: graphsplit.merge(tmp_path / "parts"), lambda: graphsplit.load_module(one.with_suffix(".pt2"))):
        with pytest.raises(GraphsplitError, match="another sub-model"):
            use()


def test_old_weights_do_not_shadow_a_new_merge(tmp_path: Path) -> None:
    split = graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    graphsplit.merge(tmp_path / "parts", out=tmp_path / "m.pt2")
    save_model(split.merge(), tmp_path / "m.safetensors")
    (tmp_path / "m.pt2").unlink()
    with pytest.raises(OutputError, match="taken for the weights"):
        graphsplit.merge(tmp_path / "parts", out=tmp_path / "m.pt2")
    graphsplit.merge(tmp_path / "parts", out=tmp_path / "m.pt2", force=True)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_merge_does_not_take_the_place_of_its_parts(tmp_path: Path) -> None:
    graphsplit.split(Residual(), (IMAGE,), k=2, out=tmp_path / "parts")
    with pytest.raises(MergeError, match="a file of the split"):
        graphsplit.merge(tmp_path / "parts", out=tmp_path / "parts" / "submodel_0.pt2", force=True)
