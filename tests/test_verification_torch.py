"""Verification of torch splits: it passes what is right, and runs it as torch does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from graphsplit.errors import GraphsplitError, RunError  # noqa: E402
from graphsplit.formats.torch_graph import read  # noqa: E402
from graphsplit.formats.torch_runtime import Session, evaluates  # noqa: E402
from graphsplit.graph import ArrayTensor, Graph, Node, Value  # noqa: E402
from graphsplit.merging import Opened, merged_graph  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from graphsplit.verification.difference import difference  # noqa: E402
from graphsplit.verification.laws import compared_values  # noqa: E402
from graphsplit.verification.lookups import rows_of  # noqa: E402
from graphsplit.verification.running import Bench, original  # noqa: E402
from graphsplit.verification.runtime import OnnxRuntime, TorchRuntime, runtime_of  # noqa: E402
from tests.torch_nets import Residual  # noqa: E402
from tests.torch_splits import AUTO, CASES, LAWS, failed, lenet, made, trained, verified  # noqa: E402

__all__ = ["lenet", "trained"]  # fixtures

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


def test_opened_is_what_it_was(lenet: ModuleSplit) -> None:
    assert isinstance(lenet.opened, Opened)
    graph = lenet.opened.network.graph
    verified(lenet)
    assert lenet.opened.network.graph is graph


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
