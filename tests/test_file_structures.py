"""Structures that files from elsewhere have, each in the smallest network: split, perturbed and merged it is exact."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphsplit.verification import verify
from tests.laws.check import Case, exact_merge, narrowness, trained
from tests.networks.builder import Net


def exact(model: onnx.ModelProto, folder: Path, k: int = 2) -> Case:
    """The case, checked: taps are means and no part is wider than its share; what the laws say, `verify` says too."""
    case = trained(model, k, folder)
    for found in (exact_merge(case), narrowness(case)):
        assert not found.complaints, found.complaints[:5]
    said = verify(case.split.folder, case.merged)
    assert said.passed, said
    return case


def neighbours() -> onnx.ModelProto:
    """Six neighbours of each person come in as one batch, which a reshape takes apart: two dynamic axes that hang together."""
    net = Net("neighbours")
    people, others = net.input("people", ("people", 5)), net.input("others", ("neighbours", 5))
    x = net.op("Tanh", net.dense(others, "encoder", 8))
    count = net.op("Gather", net.op("Shape", people), net.constant([0]), axis=0)
    shape = net.op("Concat", count, net.constant([6]), net.constant([8]), axis=0)
    x = net.declare(net.op("Reshape", x, shape), (None, 6, 8))
    x = net.mean(x, [1], keepdims=0)
    x = net.relu(net.add(net.declare(x, ("people", 8)), net.dense(people, "own", 8)))
    net.output(net.dense(x, "head", 3), "output")
    return net.build()


def test_dynamic_axes_that_hang_together(tmp_path: Path) -> None:
    case = exact(neighbours(), tmp_path)
    sizes = case.split.manifest.options.sizes
    assert sizes["neighbours"] == 6 * sizes["people"]


def table_on_an_input() -> onnx.ModelProto:
    """Rows of a table are added to an input whose last axis is declared dynamic: only the table's width fits."""
    net = Net("table_on_an_input", opset=11)
    features = net.input("features", ("rows", "columns", "width"))
    places = net.input("places", ("rows", "columns"), "int64")
    x = net.op("Add", features, net.op("Gather", net.param("table", (10, 32), "embedding"), places, axis=0))
    x = net.relu(net.op("MatMul", x, net.param("fc.weight", (32, 12), fan_in=32), name="fc"))
    x = net.op("MatMul", x, net.param("head.weight", (12, 3), fan_in=12), name="head")
    net.output(x, "output")
    return net.build()


def test_a_dynamic_axis_that_only_one_size_fits(tmp_path: Path) -> None:
    exact(table_on_an_input(), tmp_path)


def fused_layers(*, bent: bool) -> onnx.ModelProto:
    """As onnxruntime's optimiser writes them: activations in convolutions, one of which adds a residual first, and in a Gemm.

    `bent`: the output layer has one too, so no mean may be taken inside it.
    """
    net = Net("fused_layers")
    x = net.input("input", ("batch", 3, 6, 6))

    def conv(x: str, name: str, into: int, out: int, activation: str, *added: str) -> str:
        weight, bias = net.param(f"{name}.weight", (out, into, 3, 3)), net.param(f"{name}.bias", (out,), "bias")
        y = net.op(
            "FusedConv", x, weight, bias, *added, name=name, domain="com.microsoft", activation=activation, pads=[1] * 4
        )
        return net.declare(y, ("batch", out, 6, 6))

    x = conv(x, "conv1", 3, 8, "Relu")
    x = conv(conv(x, "conv2", 8, 12, "Tanh"), "conv3", 12, 8, "Relu", x)
    x, weight = net.global_pool(x), net.param("fc.weight", (10, 8))
    x = net.op(
        "FusedGemm", x, weight, net.param("fc.bias", (10,), "bias"), domain="com.microsoft", activation="Tanh", transB=1
    )
    x = net.declare(x, ("batch", 10))
    if bent:
        weight, bias = net.param("head.weight", (10, 3), fan_in=10), net.param("head.bias", (3,), "bias")
        x = net.op("FusedGemm", x, weight, bias, name="head", domain="com.microsoft", activation="Sigmoid")
        net.output(net.declare(x, ("batch", 3)), "output")
    else:
        net.output(net.dense(x, "head", 3), "output")
    return net.build()


def test_fused_activations(tmp_path: Path) -> None:
    case = exact(fused_layers(bent=False), tmp_path)
    assert not case.split.manifest.repeated


def test_a_mean_is_taken_behind_a_fused_activation(tmp_path: Path) -> None:
    case = exact(fused_layers(bent=True), tmp_path)
    assert [note.node for note in case.split.manifest.repeated] == ["com.microsoft::FusedGemm '/head/FusedGemm'"]


def initial_states(*, layers: int, read: int) -> onnx.ModelProto:
    """Recurrent layers whose initial states are rows of one tensor; `read` of its `layers` pairs of rows are read."""
    net = Net("initial_states")
    x = net.input("input", (5, "batch", 6))
    states = net.param("states", (2 * layers, 1, 9), "bias")
    count = net.op("Slice", net.op("Shape", x), net.constant([1]), net.constant([2]))
    repeats = net.op("Concat", net.constant([1]), count, net.constant([1]), axis=0)
    for i in range(read):
        width = net.size(x, 2)
        weights = [net.param(f"lstm{i}.{n}", (2, 36, w), fan_in=w) for n, w in (("w", width), ("r", 9))]
        bias = net.param(f"lstm{i}.bias", (2, 72), "bias")
        first = net.op("Tile", net.slice(states, [2 * i], [2 * i + 2], [0]), repeats)
        first = net.declare(first, (2, "batch", 9))
        y = net.op("LSTM", x, *weights, bias, "", first, name=f"lstm{i}", hidden_size=9, direction="bidirectional")
        x = net.declare(net.reshape(net.transpose(y, [0, 2, 1, 3]), [0, 0, -1]), (5, "batch", 18))
    net.output(net.dense(x, "head", 3), "output")
    return net.build()


@pytest.mark.parametrize(("layers", "read"), [(2, 2), (2, 1), (3, 2)])
def test_initial_states_of_several_layers_in_one_tensor(tmp_path: Path, layers: int, read: int) -> None:
    """Nine units: each part takes as many out of the rows of each layer, or they'd be no slice."""
    exact(initial_states(layers=layers, read=read), tmp_path)
