"""Verification of torch splits: it passes what is right, and each check fails on what is wrong in its way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import graphsplit.merging  # noqa: E402
from graphsplit.errors import FormatError, GraphsplitError, MergeError, RunError  # noqa: E402
from graphsplit.formats.torch_graph import read  # noqa: E402
from graphsplit.formats.torch_runtime import Session, evaluates  # noqa: E402
from graphsplit.formats.weights import read_trained, write_safetensors  # noqa: E402
from graphsplit.graph import ArrayTensor, Graph, Node, Value  # noqa: E402
from graphsplit.merging import LeafModel, Opened, merged_graph  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from graphsplit.verification import Verification, laws, verify, verify_opened  # noqa: E402
from graphsplit.verification.difference import difference  # noqa: E402
from graphsplit.verification.laws import compared_values  # noqa: E402
from graphsplit.verification.lookups import rows_of  # noqa: E402
from graphsplit.verification.running import Bench, original  # noqa: E402
from graphsplit.verification.runtime import OnnxRuntime, TorchRuntime, runtime_of  # noqa: E402
from tests import torch_networks  # noqa: E402
from tests.torch_nets import Forked, InPlace, LeNet, Residual, Transformer  # noqa: E402

LAWS = ("valid parts", "coverage", "narrowness", "identity", "order", "exact merge")
FILE_CHECKS = ("merged file", "merged structure", "merged tensors", "merged values")
AUTO = torch.export.Dim.AUTO


class Lookups(nn.Module):
    """Tables of different lengths, looked up in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.table = nn.Embedding(9, 8), nn.Parameter(torch.randn(5, 8))
        self.up, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, i: Any, j: Any, c: Any) -> Any:
        y = self.words(i.reshape(-1)) + self.table[j] + F.one_hot(c, 8).to(self.table.dtype)
        return self.head(F.gelu(self.up(y)))


class Features(nn.Module):
    """A backbone: no output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)

    def forward(self, x: Any) -> Any:
        return F.relu(self.norm(self.conv(x)))


Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]
CASES: dict[str, Case] = {
    "lenet": (lambda: LeNet(hidden=60), lambda: (torch.randn(3, 1, 28, 28),)),
    "residual": (Residual, lambda: (torch.randn(3, 3, 8, 8),)),
    "transformer": (lambda: Transformer(depth=1, drop=0.1), lambda: (torch.randint(0, 40, (2, 7)),)),
    "tied": (lambda: Transformer(depth=1, tied=True, fused=False), lambda: (torch.randint(0, 40, (2, 7)),)),
    "forked": (Forked, lambda: (torch.randn(2, 3, 8, 8),)),
    "in place": (InPlace, lambda: (torch.randn(5, 6),)),
    "features": (Features, lambda: (torch.randn(2, 3, 8, 8),)),
    "lookups": (Lookups, lambda: (torch.randint(0, 9, (4,)), torch.randint(0, 5, (4,)), torch.randint(0, 8, (4,)))),
    "group norm": (lambda: torch_networks.group_norm()[0], lambda: torch_networks.group_norm()[1]),
    "double": (lambda: Residual().double(), lambda: (torch.randn(3, 3, 8, 8, dtype=torch.float64),)),
    "half": (lambda: LeNet(hidden=60).half(), lambda: (torch.randn(3, 1, 28, 28).half(),)),
    "computed": (torch_networks.Computed, lambda: (torch.randn(3, 6),)),
}


def made(name: str, k: int = 2, **options: Any) -> ModuleSplit:
    torch.manual_seed(0)
    module, inputs = CASES[name]
    return split_module(module(), inputs(), k=k, **options)


def verified(split: ModuleSplit, leaves: list[LeafModel] | None = None, **options: Any) -> Verification:
    return verify_opened(split.opened, split.leaves() if leaves is None else leaves, **options)


def failed(found: Verification) -> set[str]:
    assert [check.name for check in found.checks] == list(LAWS)
    return {check.name for check in found.checks if not check.passed}


def train(split: ModuleSplit, steps: int = 2) -> None:
    """Train each sub-model by itself: weights, running statistics and counters change."""
    for number, module in enumerate(split.submodels):
        torch.manual_seed(number)
        name = type(split.model).__name__.lower()
        inputs = CASES[name][1]()
        optimizer = torch.optim.SGD(module.parameters(), 0.05)
        for _ in range(steps + number):
            optimizer.zero_grad()
            module.train()(*inputs).square().mean().backward()
            optimizer.step()


def with_tensors(leaf: LeafModel, **arrays: Any) -> LeafModel:
    """A leaf with other tensors."""
    return replace(leaf, tensors={**leaf.tensors, **{n.replace("__", "."): ArrayTensor(a) for n, a in arrays.items()}})


@pytest.fixture(scope="module")
def lenet() -> ModuleSplit:
    return made("lenet")


@pytest.fixture(scope="module")
def trained() -> ModuleSplit:
    split = made("residual")
    train(split)
    return split


# -- what is right ----------------------------------------


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_passes(name: str, k: int) -> None:
    split = made(name, k)
    found = verified(split)
    assert failed(found) == set()
    assert found.runtime == f"torch {torch.__version__}"
    check = found["exact merge"]
    assert check.worst is not None
    assert check.tolerance is not None
    assert check.worst < check.tolerance < {"half": 0.1, "double": 1e-12}.get(name, 1e-4)
    names = compared_values(split.opened)
    assert f"{len(names)} of {len(names)} values on 3 inputs" in check.detail  # all of them tell something


@pytest.mark.parametrize("name", ["lenet", "residual", "transformer", "forked", "in place"])
def test_one_part_passes(name: str) -> None:
    found = verified(made(name, 1))
    assert failed(found) == set()
    assert found["exact merge"].worst == 0


def test_trained_sub_models_pass(trained: ModuleSplit) -> None:
    counters = [leaf.tensors["bn0.num_batches_tracked"].numpy().item() for leaf in trained.leaves()]
    assert counters == [2, 3]  # running a module changes these: they are no constants
    assert failed(verified(trained)) == set()


def test_a_nested_split_passes() -> None:
    split = made("transformer")
    inner = split_module(split.submodels[0], k=2)
    found = verified(split, split.leaves([inner, split.submodels[1]]))
    assert failed(found) == set()
    assert found["valid parts"].detail.startswith("3 sub-models run on 3 inputs")


def test_dynamic_axes_are_run_at_two_sizes(tmp_path: Path) -> None:
    time = torch.export.Dim("time", min=2, max=32)
    split = made("transformer", dynamic_shapes=({0: AUTO, 1: time},))
    bench = Bench.on(split.opened, tmp_path, None)
    assert all(draw.arrays.keys() == {"tokens"} for draw in bench.draws)
    assert len({draw.arrays["tokens"].shape[0] for draw in bench.draws}) == 2
    assert len({draw.arrays["tokens"].shape[1] for draw in bench.draws}) == 2
    assert not any("training:" in draw.title for draw in bench.draws)
    assert failed(verified(split)) == set()
    assert failed(verified(made("residual", 3, dynamic_shapes=({0: AUTO},)))) == set()


def test_progress_is_told(lenet: ModuleSplit) -> None:
    told: list[tuple[str, int, int]] = []
    verified(lenet, progress=lambda *step: told.append(step))
    assert told[0] == ("sub-models", 0, len(LAWS))
    assert told[-1] == ("done", len(LAWS), len(LAWS))


def test_the_sub_models_are_left_as_they_are(trained: ModuleSplit) -> None:
    modules = [trained.model, *trained.submodels]
    before = [{n: t.clone() for n, t in module.state_dict().items()} for module in modules]
    state = torch.random.get_rng_state()
    verified(trained)
    assert torch.equal(torch.random.get_rng_state(), state)
    for module, tensors in zip(modules, before, strict=True):
        assert all(torch.equal(tensors[n], t) for n, t in module.state_dict().items())


# -- evaluation mode ----------------------------------------


def test_what_only_training_has_is_neither_run_nor_compared() -> None:
    split = made("forked")
    taps = split.manifest.taps
    assert any(name.startswith("training:") for name in taps)
    names = compared_values(split.opened)
    assert names
    assert set(names) == {name for name in taps if evaluates(name)}
    session = Session(split.submodels[0].split_source.graph.replace(tensors=split.leaves()[0].tensors), names)  # type: ignore[union-attr]
    assert session._steps
    assert all(evaluates(step.node.name) for step in session._steps)
    value = next(v for v in split.opened.network.graph.inputs if evaluates(v.name))
    array = np.ones((2, 3, 8, 8), np.float32)
    found = verified(split, inputs={value.name: array})
    assert failed(found) == set()
    assert "on 1 inputs" in found["exact merge"].detail
    with pytest.raises(GraphsplitError, match="is no input of the network"):
        verified(split, inputs={value.name: array, f"training:{value.name}": array})


def test_the_kind_of_network_says_what_it_runs_in(lenet: ModuleSplit) -> None:
    assert isinstance(runtime_of(lenet.opened.network), TorchRuntime)
    from graphsplit.network import prepare
    from tests.networks import NETWORKS

    assert isinstance(runtime_of(prepare(_loaded(NETWORKS["mlp"]))), OnnxRuntime)


def _loaded(build: Callable[[], Any]) -> Graph:
    import tempfile

    import onnx

    from graphsplit.formats.onnx_file import load

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(build(), Path(folder) / "m.onnx")
        return load(Path(folder) / "m.onnx")


def test_a_merged_graph_is_checked_as_a_file_would_be(
    lenet: ModuleSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever will read the file: its graph goes through the same checks."""
    from graphsplit.formats import torch_runtime

    right, _ = merged_graph(lenet.opened, lenet.leaves())
    weight = right.tensors["fc1.weight"].numpy()
    wrong = right.replace(tensors={**right.tensors, "fc1.weight": ArrayTensor(weight[::-1].copy())})
    for graph, wanted in ((right, set()), (wrong, {"merged tensors", "merged values"})):
        monkeypatch.setattr(torch_runtime, "load", lambda path, graph=graph: graph)
        found = verified(lenet, merged=tmp_path / "merged.pt2")
        assert {check.name for check in found.checks if not check.passed} == wanted
        assert found["merged file"].detail == "merged.pt2 runs on 3 inputs"


# -- a folder ----------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "parts"
    made("transformer", out=folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "parts")
    return tmp_path / "parts"


def change(folder: Path, part: int, changes: Mapping[str, Callable[[Any], Any]]) -> None:
    """Change weights of a sub-model in a folder."""
    path = folder / f"submodel_{part}.safetensors"
    tensors, metadata = read_trained(path)
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    arrays.update((name, function(arrays[name]).astype(arrays[name].dtype)) for name, function in changes.items())
    write_safetensors({n: ArrayTensor(a) for n, a in arrays.items()}, path, metadata=metadata, force=True)


def broken(found: Verification) -> set[str]:
    return {check.name for check in found.checks if not check.passed}


def test_a_folder_passes_with_its_merged_file(folder: Path) -> None:
    change(folder, 1, {"norm.weight": lambda a: a * 2, "head.weight": lambda a: a + 0.1})
    merged = graphsplit.merge(folder, out=folder.parent / "merged.pt2").path
    found = verify(folder, merged)
    assert broken(found) == set()
    assert [check.name for check in found.checks] == [*LAWS, *FILE_CHECKS]
    change(folder, 1, {"norm.weight": lambda a: a * 2})
    assert broken(verify(folder, merged)) == {"merged tensors", "merged values"}


def test_trained_counters_in_a_folder_pass(tmp_path: Path) -> None:
    made("residual", out=tmp_path / "parts")
    change(tmp_path / "parts", 1, {"bn0.num_batches_tracked": lambda a: a + 3, "bn0.running_mean": lambda a: a + 1})
    merged = graphsplit.merge(tmp_path / "parts", out=tmp_path / "merged.pt2").path
    assert broken(verify(tmp_path / "parts", merged)) == set()
    change(tmp_path / "parts", 1, {"bn0.num_batches_tracked": lambda a: a + 1})
    assert broken(verify(tmp_path / "parts", merged)) == {"merged tensors"}


def test_another_op_in_a_sub_models_file_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.formats import torch_runtime

    right = torch_runtime.load

    def changed(path: Path) -> Graph:
        graph = right(path)
        return graph.replace(nodes=tuple(replace(n, op=n.op.replace("gelu.", "silu.")) for n in graph.nodes))

    monkeypatch.setattr(torch_runtime, "load", changed)
    found = verify(folder)
    assert "valid parts" in broken(found)
    assert found["valid parts"].detail.startswith("submodel_0.pt2: its structure is not the one that the split wrote")


def test_original_layers_in_a_file_give_up_law_1(folder: Path) -> None:
    change(folder, 1, {"blocks.0.norm1.weight": lambda a: a * 2})
    merged = graphsplit.merge(folder, out=folder.parent / "merged.pt2", layers="original").path
    found = verify(folder, merged)
    assert found.passed
    assert "law 1 is given up" in found["merged values"].detail


def test_a_folder_that_cannot_be_read_fails(folder: Path) -> None:
    (folder / "submodel_0.safetensors").write_bytes(b"damaged")
    assert broken(verify(folder)) == {"coverage"}


def test_a_missing_merged_file_is_an_error(folder: Path) -> None:
    with pytest.raises(FormatError):
        verify(folder, folder / "no.pt2")


def test_trained_state_dicts_take_the_place_of_the_folder(folder: Path) -> None:
    files = [folder.parent / f"part_{part}.pt" for part in range(2)]
    for part, file in enumerate(files):
        tensors, _ = read_trained(folder / f"submodel_{part}.safetensors")
        torch.save({n: torch.from_numpy(t.numpy() * np.float32(1 + part)) for n, t in tensors.items()}, file)
    merged = graphsplit.merge(folder, files, out=folder.parent / "merged.pt2").path
    assert broken(verify(folder, merged, trained=files)) == set()
    assert broken(verify(folder, merged)) == {"merged tensors", "merged values"}


# -- a merge that is wrong ----------------------------------------


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str, Any], Any]], None]]:
    """Lets every merged tensor pass through a function of its name and elements."""
    right = graphsplit.merging.LazyMerged.numpy

    def set_to(change: Callable[[str, Any], Any]) -> None:
        monkeypatch.setattr(
            graphsplit.merging.LazyMerged, "numpy", lambda self: change(self.entry.name, right(self).copy())
        )

    return set_to  # type: ignore[return-value]


def test_a_formula_without_the_mean_fails(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: a * 2 if name == "fc2.weight" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_a_bias_without_the_mean_fails(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: a * 2 if name == "fc2.bias" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_an_owned_element_that_changes_fails(lenet: ModuleSplit, lazily: Any) -> None:
    def changed(name: str, a: Any) -> Any:
        if name == "conv1.weight":
            a.reshape(-1)[np.abs(a).argmax()] *= 2
        return a

    lazily(changed)
    found = verified(lenet)
    assert failed(found) == {"identity", "exact merge"}
    assert "owned elements" in found["identity"].detail


def test_owned_weights_that_are_rounded_fail(lenet: ModuleSplit, lazily: Any) -> None:
    """One unit in the last place is nothing to the values, and breaks the identity."""
    lazily(lambda name, a: np.nextafter(a, np.float32(1)) if name == "fc1.bias" else a)
    assert failed(verified(lenet)) == {"identity"}


def test_two_parts_slices_swapped_fail(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: np.roll(a, len(a) // 2, 0) if name == "fc1.weight" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_running_statistics_of_the_wrong_part_fail(trained: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: np.roll(a, len(a) // 2, 0) if name == "bn1.running_var" else a)
    assert failed(verified(trained)) == {"identity", "exact merge"}


def test_cut_weights_that_are_left_fail(lenet: ModuleSplit, lazily: Any) -> None:
    lazily(lambda name, a: np.where(a == 0, np.float32(0.1), a) if name == "conv2.weight" else a)
    assert failed(verified(lenet)) == {"identity", "exact merge"}


def test_a_merge_without_its_repeated_nodes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = graphsplit.merging.assemble
    split = made("transformer")

    def wrong(source: Any, dialect: Any, layout: Any, leaves: Any) -> Any:
        return right(source, dialect, replace(layout, repeated=frozenset()), leaves)

    monkeypatch.setattr(graphsplit.merging, "assemble", wrong)
    assert failed(verified(split)) == {"exact merge"}


def test_a_merge_that_depends_on_the_order_fails(lenet: ModuleSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    right = laws.merged_graph

    def wrong(opened: Any, leaves: Any, **options: Any) -> Any:
        graph, repeated = right(opened, leaves, **options)
        if leaves[0].path != (0,):
            tensors = {**graph.tensors, "fc1.bias": ArrayTensor(np.negative(graph.tensors["fc1.bias"].numpy()))}
            graph = graph.replace(tensors=tensors)
        return graph, repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    assert failed(verified(lenet)) == {"order"}
    monkeypatch.setattr(laws, "ORDER_BYTES", 1)  # large networks: a few tensors, the smallest
    monkeypatch.setattr(laws, "merged_graph", right)
    assert "tensors, for the network is large" in verified(lenet)["order"].detail


def test_one_part_that_is_not_the_source_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    split, right = made("residual", 1), laws.merged_graph

    def wrong(*args: Any, **options: Any) -> Any:
        graph, repeated = right(*args, **options)
        swapped = tuple(replace(n, op="sigmoid_.default") if n.op == "relu_.default" else n for n in graph.nodes)
        assert swapped != graph.nodes
        return graph.replace(nodes=swapped), repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    assert failed(verified(split)) == {"identity", "exact merge"}


# -- sub-models that are wrong ----------------------------------------


def test_a_changed_constant_fails() -> None:
    split = made("computed")
    first, *others = split.leaves()
    assert "scale" in first.tensors
    assert "scale" not in split.opened.network.trained
    found = verified(split, [with_tensors(first, scale=first.tensors["scale"].numpy() * 2), *others])
    assert "coverage" in failed(found)
    assert "'scale'" in found["coverage"].detail


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: np.concatenate([a, a]), "has shape"),
        (lambda a: a.astype(np.float64), "has type float64"),
    ],
)
def test_a_weight_that_is_not_the_manifests_fails(
    change: Callable[[Any], Any], why: str, lenet: ModuleSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphsplit.verification.statics import coverage

    leaf = lenet.leaves()[0]
    wrong = with_tensors(leaf, fc1__bias=change(leaf.tensors["fc1.bias"].numpy()))
    assert coverage(lenet.opened, [("it", 0, leaf.tensors)]).passed
    found = coverage(lenet.opened, [("it", 0, wrong.tensors)])
    assert not found.passed
    assert why in found.detail


def test_a_sub_model_that_does_not_run_fails(lenet: ModuleSplit) -> None:
    first, *others = lenet.leaves()
    broken = with_tensors(first, conv2__bias=np.zeros(7, np.float32))
    bench = Bench.on(lenet.opened, Path(), None)
    from graphsplit.verification.running import subjects
    from graphsplit.verification.statics import valid_parts

    parts = subjects(lenet.opened, [broken, *others])
    found = valid_parts(bench, parts, lenet.leaves())
    assert not found.passed
    assert found.detail.startswith("sub-model 0: aten::conv2d.default 'conv2' cannot be run: ")


def test_a_part_without_a_vertex_of_a_layer_fails(lenet: ModuleSplit) -> None:
    partition = lenet.plan.partition
    owner = np.where(partition.owner == 1, 0, partition.owner)
    opened = replace(lenet.opened, plan=replace(lenet.plan, partition=replace(partition, owner=owner)))
    assert failed(verify_opened(opened, lenet.leaves())) == {"valid parts", "narrowness"}


def test_a_layer_that_is_too_wide_fails() -> None:
    """The module was split 3:1, and the shares say 1:1."""
    split = made("residual", shares=(3, 1))
    assert failed(verified(split)) == set()
    partition = replace(split.plan.partition, shares=(0.5, 0.5))
    opened = replace(split.opened, plan=replace(split.plan, partition=partition))
    assert failed(verify_opened(opened, split.leaves())) == {"narrowness"}


def test_a_sub_model_that_explodes_proves_nothing() -> None:
    split = made("lenet")
    with torch.no_grad():
        for module in split.submodels:
            module.get_parameter("fc1.weight").fill_(1e38)
            module.get_parameter("fc2.weight").fill_(1e38)
    found = verified(split)
    assert failed(found) == {"exact merge"}
    assert "no element of it is finite" in found["exact merge"].detail


def test_a_sub_model_with_nan_proves_nothing() -> None:
    split = made("lenet")
    with torch.no_grad():
        split.submodels[1].get_parameter("fc1.bias")[0] = float("nan")
    with pytest.raises(MergeError):
        split.leaves()
    found = verified(split, split.leaves(allow_nonfinite=True))
    assert failed(found) == {"exact merge"}


def test_a_network_that_runs_on_no_input_fails(lenet: ModuleSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.formats import torch_runtime

    def failing(*_: object) -> None:
        raise RuntimeError("no kernel\nin this build")

    monkeypatch.setattr(torch_runtime, "call", failing)
    found = verified(lenet)
    assert failed(found) == {"exact merge"}
    assert "'conv1' cannot be run: no kernel)" in found["exact merge"].detail


# -- the original layers ----------------------------------------


@pytest.mark.parametrize(("name", "same"), [("lenet", True), ("transformer", False)])
def test_the_difference_of_the_original_layers_is_measured(name: str, same: bool) -> None:
    split = made(name)
    with torch.no_grad():
        for parameter in split.submodels[0].parameters():
            parameter.mul_(1.3)
    far = difference(split.opened, split.leaves(), original(split.opened, split.leaves()))
    near = difference(split.opened, split.leaves(), merged_graph(split.opened, split.leaves())[0])
    assert far is not None
    assert near is not None
    assert near < 1e-5
    assert (far < 1e-5) == same


# -- inputs ----------------------------------------


def test_whole_numbers_stay_within_their_tables(tmp_path: Path) -> None:
    split = made("lookups", dynamic_shapes=({0: AUTO}, {0: AUTO}, {0: AUTO}))
    bench = Bench.on(split.opened, tmp_path, None)
    assert bench.settle(split.leaves()) is None
    assert bench.remarks == []
    largest = {name: max(int(draw.arrays[name].max()) for draw in bench.draws) for name in ("i", "j", "c")}
    assert all(1 < largest[name] < rows for name, rows in (("i", 9), ("j", 5), ("c", 8)))
    assert failed(verified(split)) == set()


class Table(nn.Module):
    def __init__(self, look: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.look, self.table = look, nn.Parameter(torch.randn(6, 4))

    def forward(self, i: Any) -> Any:
        return self.look(self.table, i)


@pytest.mark.parametrize(
    ("look", "rows"),
    [
        (lambda t, i: F.embedding(i, t), 6),
        (lambda t, i: t[i], 6),
        (lambda t, i: t[:, i], 4),
        (lambda t, i: t[i, i + 0], 4),
        (lambda t, i: t.index_select(1, i), 4),
        (lambda t, i: t.gather(-1, i[:, None]), 4),
        (lambda t, i: F.one_hot(i.clamp(min=0), 5) + t[0, 0], 5),
        (lambda t, i: F.embedding(i.view(3, 1).expand(3, 2).transpose(0, 1).flatten().long(), t), 6),
        (lambda t, i: t * i[:, None].sum(), None),
    ],
)
def test_tables_are_found(look: Callable[[Any, Any], Any], rows: int | None) -> None:
    from graphsplit.torch_network import prepare_torch

    network = prepare_torch(read(Table(look).eval(), (torch.tensor([0, 1, 2]),)))
    assert rows_of(network.graph, network.facts, "i") == rows


# -- running graphs ----------------------------------------


def test_writes_do_not_reach_the_graphs_tensors() -> None:
    """In training mode a batch norm writes into its running statistics, and a counter counts."""
    model = Residual().train()
    graph = read(model, (torch.randn(3, 3, 8, 8),)).graph
    counts = [node.outputs[0] for node in graph.nodes if node.op == "add_.Tensor" and "tracked" in node.inputs[0]]
    assert counts
    before = {name: tensor.numpy().copy() for name, tensor in graph.tensors.items()}
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    session = Session(graph, counts)
    found = session.run({"x": x})
    again = session.run({"x": x})
    assert [found[name] for name in counts] == [1] * len(counts)
    assert all(np.array_equal(found[name], again[name]) for name in session.outputs)  # type: ignore[arg-type]
    assert all(np.array_equal(before[name], tensor.numpy()) for name, tensor in graph.tensors.items())


@pytest.mark.parametrize("name", ["lenet", "residual", "in place", "computed", "transformer"])
def test_a_session_gives_what_the_module_gives(name: str) -> None:
    torch.manual_seed(0)
    module, inputs = CASES[name][0]().eval(), CASES[name][1]()
    graph = read(module, inputs).graph
    given = {value.name: x.numpy() for value, x in zip(graph.inputs, inputs, strict=True)}
    inside = [node.outputs[0] for node in graph.nodes[:3] if node.outputs[0] not in {v.name for v in graph.outputs}]
    found = Session(graph, inside).run(given)
    with torch.no_grad():
        wanted = module(*inputs)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    assert np.array_equal(found[graph.outputs[0].name], wanted.numpy())  # type: ignore[arg-type]
    assert set(found) == {*inside, *(value.name for value in graph.outputs)}


def graph_of(*nodes: Node, outputs: tuple[str, ...], tensors: Mapping[str, Any] = {}) -> Graph:
    values = [Value(name, np.dtype(np.float32), (2,)) for name in ("x", *outputs)]
    return Graph("g", (values[0],), tuple(values[1:]), nodes, {n: ArrayTensor(a) for n, a in tensors.items()})


def test_a_written_value_stays_what_it_was_for_others() -> None:
    nodes = (
        Node("a", "alias.default", "aten", 1, ("x",), ("y",)),
        Node("b", "add_.Tensor", "aten", 1, ("y", "one"), ("z",)),
        Node("c", "mul.Tensor", "aten", 1, ("y", "z"), ("out",)),
    )
    graph = graph_of(*nodes, outputs=("out",), tensors={"one": np.float32([1, 1])})
    found = Session(graph, ["y", "z"]).run({"x": np.float32([2, 3])})
    shown = {name: np.asarray(value).tolist() for name, value in found.items()}
    assert shown == {"out": [6, 12], "y": [2, 3], "z": [3, 4]}


def test_another_device_is_left_out() -> None:
    node = Node("z", "zeros_like.default", "aten", 1, ("x",), ("out",), {"device": "device:cuda:0"})
    found = Session(graph_of(node, outputs=("out",))).run({"x": np.float32([2, 3])})
    assert np.asarray(found["out"]).tolist() == [0, 0]


def test_what_does_not_run_is_said() -> None:
    wrong = Node("mm", "mm.default", "aten", 1, ("x", "x"), ("out",))
    with pytest.raises(RunError, match=r"aten::mm\.default 'mm' cannot be run"):
        Session(graph_of(wrong, outputs=("out",))).run({"x": np.zeros(2, np.float32)})
    with pytest.raises(RunError, match="input 'x' is not given"):
        Session(graph_of(wrong, outputs=("out",))).run({})
    with pytest.raises(RunError, match="nothing computes 'nowhere'"):
        Session(graph_of(wrong, outputs=("nowhere",))).run({})
    missing = Node("no", "no_such_op.default", "aten", 1, ("x",), ("out",))
    with pytest.raises(RunError, match="torch has no op aten::no_such_op"):
        Session(graph_of(missing, outputs=("out",)))
    lost = Node("relu", "relu.default", "aten", 1, ("gone",), ("out",))
    with pytest.raises(RunError, match="nothing computes 'gone'"):
        Session(graph_of(lost, outputs=("out",))).run({"x": np.zeros(2, np.float32)})


def test_opened_is_what_it_was(lenet: ModuleSplit) -> None:
    assert isinstance(lenet.opened, Opened)
    graph = lenet.opened.network.graph
    verified(lenet)
    assert lenet.opened.network.graph is graph
