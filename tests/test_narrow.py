"""graphsplit.narrow: names and constants survive, widths that nodes hold are computed anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from graphsplit.narrow import SubModel, narrow
from graphsplit.network import make, prepare
from graphsplit.splitting import split
from graphsplit.verification import verify
from tests.laws.check import write
from tests.networks import NETWORKS
from tests.networks.builder import Net


def parts(name: str, k: int, folder: Path, **options: object) -> list[SubModel]:
    network = prepare(write(NETWORKS[name](), folder))
    plan = make(network, k, **options)  # type: ignore[arg-type]
    return [narrow(plan, network.dialect, part) for part in range(k)]


@pytest.mark.parametrize("name", ["lenet", "resnet_basic", "transformer", "mobilenet_v2", "computed_shapes"])
def test_names_survive(tmp_path: Path, name: str) -> None:
    source = prepare(write(NETWORKS[name](), tmp_path)).graph
    for part in parts(name, 2, tmp_path):
        assert set(source.tensors) <= set(part.graph.tensors)
        mine = {(node.name, node.op, node.outputs) for node in part.graph.nodes}
        assert {(node.name, node.op, node.outputs) for i, node in enumerate(source.nodes) if i in source.alive} <= mine
        assert part.graph.inputs == source.inputs
        assert [v.name for v in part.graph.outputs] == [v.name for v in source.outputs]


@pytest.mark.parametrize(
    ("name", "op", "widths"),
    [("mobilenet_v1", "Conv", lambda node, graph: graph.tensors[node.inputs[1]].shape[0])],
)
def test_group_of_a_depthwise_convolution(tmp_path: Path, name: str, op: str, widths: Callable[..., int]) -> None:
    for part in parts(name, 2, tmp_path):
        grouped = [n for n in part.graph.nodes if n.op == op and n.attributes.get("group", 1) != 1]
        assert grouped
        assert all(n.attributes["group"] == widths(n, part.graph) for n in grouped)


def test_every_node_has_an_origin(tmp_path: Path) -> None:
    for part in parts("channel_attention" if "channel_attention" in NETWORKS else "lrn", 2, tmp_path):
        assert len(part.origin) == len(part.graph.nodes)


def test_parts_share_each_layer(tmp_path: Path) -> None:
    found = parts("lenet", 3, tmp_path)
    name = next(n for n in found[0].graph.tensors if n.startswith("conv1") and n.endswith("bias"))
    assert [part.graph.tensors[name].shape for part in found] == [(7,), (7,), (6,)]


def test_the_source_is_left_alone(tmp_path: Path) -> None:
    network = prepare(write(NETWORKS["shufflenet_v2"](), tmp_path))
    before = network.graph.nodes, {name: t.numpy().tobytes() for name, t in network.graph.tensors.items()}
    plan = make(network, 2)
    for part in range(2):
        narrow(plan, network.dialect, part)
    assert network.graph.nodes == before[0]
    assert {name: t.numpy().tobytes() for name, t in network.graph.tensors.items()} == before[1]


def test_a_size_that_changes_with_a_dynamic_axis_goes_on_changing(tmp_path: Path) -> None:
    """A target shape that holds sequence times width: a part's is computed, not the one of the planned length."""
    net = Net("dynamic_width")
    x = net.input("x", ("batch", "seq", 6))
    y = net.op("Relu", net.op("MatMul", x, net.param("w1", (6, 8), "weight")))
    shape = net.op("Shape", y)
    batch, seq = (net.op("Gather", shape, net.constant([i])) for i in range(2))
    flat = net.op("Reshape", y, net.concat(batch, net.op("Mul", seq, net.constant([8])), axis=0))
    back = net.op("Reshape", flat, net.concat(batch, seq, net.constant([8]), axis=0))
    net.output(net.op("MatMul", net.declare(back, ("batch", "seq", 8)), net.param("w2", (8, 3), "weight")), "y")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    found = verify(tmp_path / "parts")
    assert found.passed, [check for check in found.checks if not check.passed]
