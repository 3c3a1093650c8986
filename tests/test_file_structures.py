"""Structures that files from elsewhere have, each in the smallest network: split, perturbed and merged it is exact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphsplit
from graphsplit import merging
from graphsplit.errors import GraphsplitError, PlanError
from graphsplit.graph import ArrayTensor, Graph
from graphsplit.splitting import split
from graphsplit.verification import laws, verify
from tests.laws.check import Case, Runner, change, exact_merge, narrowness, off, trained, write
from tests.networks.builder import Net
from tests.networks.inputs import random_inputs


def exact(model: onnx.ModelProto, folder: Path, k: int = 2, **options: Any) -> Case:
    """The case, checked: taps are means and no part is wider than its share; what the laws say, `verify` says too."""
    case = trained(model, k, folder, **options)
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


def watermark(kernel: int = 1) -> onnx.ModelProto:
    """As many channels as there are bits take one each: the slice's end is read off an input's shape."""
    net = Net("watermark", opset=13)
    x = net.relu(net.conv(net.input("image", ("batch", 3, 6, 6)), "conv1", 8))
    x = net.op("Softmax", net.conv(x, "conv2", 16), axis=1)
    bits = net.input("bits", ("batch", "bits"))
    count = net.op("Slice", net.op("Shape", bits), net.constant([1]), net.constant([2]))
    taken = net.op("Slice", x, net.constant([0]), count, net.constant([1]))
    there = net.op("Unsqueeze", bits, net.constant([2, 3]))
    mask = net.op("ReduceSum", net.op("Mul", taken, there), net.constant([1]), keepdims=1)
    x = net.declare(net.op("Concat", net.declare(mask, ("batch", 1, 6, 6)), "image", axis=1), ("batch", 4, 6, 6))
    net.output(net.conv(net.relu(net.conv(x, "conv3", 10)), "head", 3, kernel), "output")
    return net.build()


def test_channels_that_a_size_picks(tmp_path: Path) -> None:
    """The layer in front of the slice is whole in each part, whatever the number of bits; the other layers are divided."""
    case = exact(watermark(), tmp_path)
    assert [note.node for note in case.split.manifest.private] == ["Conv '/conv2/Conv'"]
    merged, parts = Runner(case.merged), [Runner(part.file) for part in case.parts]
    for bits in (3, 9, 16):
        inputs = random_inputs(case.model, 5, bits=bits)
        mean = np.mean([run(inputs)["output"] for run in parts], axis=0)
        assert off(merged(inputs)["output"], mean) < 1e-5


def grouped_dense() -> onnx.ModelProto:
    """Linear layers in groups of features, of which each takes frequencies apart that a sum holds together."""
    net = Net("grouped_dense")
    x = net.relu(net.conv(net.input("input", ("batch", 2, 1, 4)), "conv", 12, [1, 3]))
    x = net.reshape(net.transpose(x, [0, 2, 3, 1]), [-1, 1, 48])
    for i, width in enumerate((24, 48)):
        y = net.transpose(net.reshape(x, [-1, 4, net.size(x, 2) // 4]), [1, 0, 2])
        weight = net.param(f"fc{i}.weight", (4, net.size(y, 2), width // 4), fan_in=net.size(y, 2))
        y = net.transpose(net.op("MatMul", y, weight, name=f"fc{i}"), [1, 0, 2])
        x = net.op("Tanh", net.reshape(y, [-1, 1, width]))
    x = net.reshape(x, [-1, 4, 12])
    skip = net.relu(net.conv("input", "skip", 12, [1, 3]))
    x = net.add(net.reshape(net.transpose(x, [0, 2, 1]), [-1, 12, 1, 4]), skip)
    net.output(net.dense(net.flatten(x), "head", 3), "output")
    return net.build()


def test_groups_that_take_the_same_rows(tmp_path: Path) -> None:
    exact(grouped_dense(), tmp_path)


def cropped(opset: int) -> onnx.ModelProto:
    """Borders cut off by a padding of negative width, of images and of channels, where others are added."""
    net = Net("cropped", opset=opset)
    x = net.relu(net.conv(net.input("input", ("batch", 2, 8, 8)), "conv1", 12, 3))
    for pads in ([0, 0, -1, 1, 0, 0, -1, -2], [0, -4, 0, 0, 0, 0, 1, 0]):
        sizes = {} if opset > 10 else {"pads": pads, "mode": "constant"}
        x = net.op("Pad", x, *([net.constant(np.array(pads))] if opset > 10 else []), **sizes)
    x = net.relu(net.conv(net.declare(x, ("batch", 8, 7, 7)), "conv2", 6, 3))
    net.output(net.dense(net.mean(x, [2, 3], keepdims=0), "head", 3), "output")
    return net.build()


@pytest.mark.parametrize("opset", [9, 17])
def test_padding_of_negative_width(tmp_path: Path, opset: int) -> None:
    exact(cropped(opset), tmp_path)


def groups_in_a_row(channels: int, groups: Sequence[int], residual: Sequence[int]) -> onnx.ModelProto:
    """Grouped linear layers behind a convolution, each with another number of groups, and a residual sum around some."""
    net = Net("groups_in_a_row")
    width = 4 * channels
    x = net.relu(net.conv(net.input("input", ("batch", 2, 1, 4)), "conv", channels, [1, 3]))
    x = net.reshape(net.transpose(x, [0, 2, 3, 1]), [-1, 1, width])
    for i, count in enumerate(groups):
        rows = width // count
        y = net.transpose(net.reshape(x, [-1, count, rows]), [1, 0, 2])
        y = net.op("MatMul", y, net.param(f"fc{i}.weight", (count, rows, rows), fan_in=rows), name=f"fc{i}")
        y = net.op("Tanh", net.reshape(net.transpose(y, [1, 0, 2]), [-1, 1, width]))
        x = net.add(y, x) if i in residual else y
    net.output(net.dense(net.flatten(x), "head", 3), "output")
    return net.build()


@pytest.mark.parametrize(
    ("channels", "groups", "residual"),
    [
        pytest.param(16, (16, 8, 4, 2), (1, 2, 3), id="kept alike"),
        pytest.param(8, (8, 2, 8), (0,), id="the same vertices in two and in eight rows"),
    ],
)
def test_groups_of_several_sizes(tmp_path: Path, channels: int, groups: Sequence[int], residual: Sequence[int]) -> None:
    exact(groups_in_a_row(channels, groups, residual), tmp_path)


def picked_rows() -> onnx.ModelProto:
    """A hidden layer's units are put in chosen rows of another's: no part has just those, so both are whole."""
    net = Net("picked_rows")
    x = net.op("Tanh", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    y = net.transpose(net.dense(x, "fc2", 10), [1, 0])
    z = net.transpose(net.dense(x, "fc3", 4), [1, 0])
    rows = net.constant([[7], [1], [4], [2]])
    y = net.transpose(net.declare(net.op("ScatterND", y, rows, z), (10, "batch")), [1, 0])
    net.output(net.dense(net.declare(net.op("Tanh", y), ("batch", 10)), "head", 3), "output")
    return net.build()


def test_what_no_part_can_pick_is_whole(tmp_path: Path) -> None:
    case = exact(picked_rows(), tmp_path)
    assert case.split.plan.part_nodes


def pooled_places() -> onnx.ModelProto:
    """The places that a pool takes its elements from are numbers that count over all channels, and are computed with."""
    net = Net("pooled_places")
    x = net.relu(net.conv(net.input("input", (2, 3, 6, 6)), "conv1", 8))
    x = net.relu(net.conv(x, "conv2", 10))
    geometry = {"kernel_shape": [2, 2], "strides": [2, 2]}
    x, places = net.ops("MaxPool", x, outputs=2, **geometry)
    places = net.mul(net.op("Cast", places, to=onnx.TensorProto.FLOAT), net.constant(0.002))
    x = net.relu(net.conv(net.concat(x, places), "conv3", 12))
    net.output(net.dense(net.global_pool(x), "head", 3), "output")
    return net.build()


def test_numbers_that_count_over_channels(tmp_path: Path) -> None:
    case = exact(pooled_places(), tmp_path)
    assert [note.node for note in case.split.manifest.private] == ["Conv '/conv2/Conv'"]


def detections() -> onnx.ModelProto:
    """What passes a threshold is padded to a fixed number of rows and written into a stored tensor of zeros."""
    net = Net("detections")
    x = net.op("Tanh", net.dense(net.input("input", (6, 5)), "fc", 12))
    boxes = net.dense(x, "head", 3)
    kept = net.op("Greater", net.squeeze(net.slice(boxes, [0], [1], [1]), [1]), net.constant(0.0))
    rows = net.transpose(net.op("NonZero", kept), [1, 0])
    found = net.declare(net.op("GatherND", boxes, rows), (None, 3))
    missing = net.op(
        "Sub", net.constant([6]), net.op("Slice", net.op("Shape", found), net.constant([0]), net.constant([1]))
    )
    pads = net.op("Concat", net.constant([0, 0]), missing, net.constant([0]), axis=0)
    padded = net.op("Expand", net.op("Pad", found, pads), net.constant([6, 3]))
    canvas = net.constant(np.zeros((1, 6, 3)), name="canvas")
    written = net.op("ScatterND", canvas, net.constant([[0]]), net.reshape(padded, [1, 6, 3]))
    net.output(written, "output")
    return net.build()


def test_detections_are_picked_once(tmp_path: Path) -> None:
    """The head is the output layer: what is picked of its mean is computed once, not by each part."""
    case = exact(detections(), tmp_path)
    assert case.split.manifest.taps == ("/head/Gemm_output_0",)
    assert not case.split.manifest.repeated


def features_and_their_mean() -> onnx.ModelProto:
    """An output that holds a layer's features and their mean, which each part has for itself."""
    net = Net("features_and_their_mean")
    x = net.relu(net.conv(net.input("input", ("batch", 3, 6, 6)), "conv1", 8))
    net.output(net.concat(x, net.mean(x, [1])), "features")
    x = net.relu(net.conv(x, "conv2", 10))
    net.output(net.dense(net.global_pool(x), "head", 3), "output")
    return net.build()


@pytest.mark.parametrize("outputs", ["auto", "mean"])
def test_an_output_partly_divided_and_partly_each_parts_own(tmp_path: Path, outputs: str) -> None:
    exact(features_and_their_mean(), tmp_path, outputs=outputs)


def test_an_output_partly_each_parts_own_is_not_put_side_by_side(tmp_path: Path) -> None:
    with pytest.raises(GraphsplitError, match="each part has 'features' whole: Concat"):
        exact(features_and_their_mean(), tmp_path, outputs="concat")


def chaotic(dtype: str) -> onnx.ModelProto:
    """Each layer makes small differences larger: in half precision nothing is left but rounding."""
    net = Net("chaotic", dtype=dtype)
    x = net.input("input", ("batch", 6), dtype)
    for i in range(9):
        x = net.op("Sin", net.mul(net.dense(x, f"fc{i}", 12), net.constant(3.0)))
    net.output(net.dense(x, "head", 3), "output")
    return net.build()


def test_what_half_precision_hides_is_seen_in_single_precision(tmp_path: Path) -> None:
    done = split(write(chaotic("float16"), tmp_path), 2, out=tmp_path / "split")
    assert done.folder is not None
    merged = graphsplit.merge(done.folder, out=tmp_path / "merged.onnx").path
    said = verify(done.folder, merged)
    assert said.passed, said
    assert all("in single precision" in said[name].detail for name in ("exact merge", "merged values"))


def test_single_precision_sees_a_wrong_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: a merge that takes one part's output layer twice, and a file in which the output layer is changed."""
    done = split(write(chaotic("float16"), tmp_path), 2, out=tmp_path / "split")
    assert done.folder is not None
    merged = graphsplit.merge(done.folder, out=tmp_path / "merged.onnx").path
    assert merged is not None
    change(merged, {"head.weight": lambda array: array * np.linspace(0.7, 1.3, array.shape[1]).astype(array.dtype)})
    assert not verify(done.folder, merged)["merged values"].passed
    right = merging.merged_graph

    def wrong(opened: merging.Opened, leaves: Sequence[merging.LeafModel]) -> tuple[Graph, int]:
        graph, repeated = right(opened, leaves)
        weights = graph.tensors["head.weight"].numpy()
        doubled = ArrayTensor(weights * weights.dtype.type(1.25))
        return graph.replace(tensors={**graph.tensors, "head.weight": doubled}), repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    found = verify(done.folder)["exact merge"]
    assert not found.passed
    assert "in single precision" in found.detail


@pytest.mark.parametrize("k", [1, 2])
def test_an_output_that_is_listed_twice(tmp_path: Path, k: int) -> None:
    """Runtimes give it twice; so do the sub-models and the merged network."""
    net = Net("twice")
    x = net.relu(net.dense(net.input("input", ("batch", 5)), "fc", 8))
    net.output(net.dense(x, "head", 3), "output")
    net.output("output")
    case = exact(net.build(), tmp_path, k)
    for file in (case.merged, *(part.file for part in case.parts)):
        assert [value.name for value in onnx.load(file).graph.output] == ["output", "output"]


def test_a_size_that_an_input_says(tmp_path: Path) -> None:
    """Nothing is known behind it: the refusal names the node, and the size has to be a constant."""
    net = Net("scaled")
    x, factor = net.input("input", ("batch", 3, 8, 8)), net.input("factor", (2,))
    scales = net.op("Concat", net.constant([1.0, 1.0]), factor, axis=0)
    x = net.declare(net.op("Resize", x, "", scales, mode="nearest"), ("batch", 3, None, None))
    net.output(net.conv(net.relu(net.conv(x, "conv1", 8)), "head", 2), "output")
    with pytest.raises(PlanError, match="the size of what Resize '/Resize' gives is only known when it runs"):
        split(write(net.build(), tmp_path), 2, out=tmp_path / "split")


def half_the_height() -> onnx.ModelProto:
    """The upper half of some channels, in one slice: only the bound of the height moves."""
    net = Net("half_the_height")
    x = net.relu(net.conv(net.input("input", ("batch", 3, "height", 8)), "conv1", 12))
    height = net.op("Slice", net.op("Shape", x), net.constant([2]), net.constant([3]))
    ends = net.op("Concat", net.constant([10]), net.op("Div", height, net.constant([2])), axis=0)
    x = net.op("Slice", x, net.constant([0, 0]), ends, net.constant([1, 2]))
    x = net.relu(net.conv(net.declare(x, ("batch", 10, None, 8)), "conv2", 8))
    net.output(net.dense(net.declare(net.global_pool(x), ("batch", 8)), "head", 3), "output")
    return net.build()


def test_a_bound_that_moves_along_another_axis(tmp_path: Path) -> None:
    case = exact(half_the_height(), tmp_path)
    assert not case.split.manifest.private
