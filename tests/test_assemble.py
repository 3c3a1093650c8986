"""graphsplit.assemble: the merged network's graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphsplit.graph import Graph
from graphsplit.merging import merge
from graphsplit.splitting import split
from tests.laws.check import write
from tests.networks import NETWORKS


def merged(name: str, k: int, folder: Path) -> tuple[Graph, Graph]:
    """The source's graph and the merged one."""
    done = split(write(NETWORKS[name](), folder), k, out=folder / "split")
    return done.plan.graph, merge(done.folder).graph


@pytest.mark.parametrize("name", ["lenet", "vgg", "unet", "resnet_basic", "mobilenet_v1"])
def test_without_statistics_the_topology_stays(tmp_path: Path, name: str) -> None:
    source, found = merged(name, 3, tmp_path)
    assert [n.name for n in found.nodes] == [n.name for n in source.nodes]
    assert [n.inputs for n in found.nodes] == [n.inputs for n in source.nodes]
    assert {n: t.shape for n, t in found.tensors.items()} == {n: t.shape for n, t in source.tensors.items()}


def test_a_repeated_stretch_is_cut_run_and_joined(tmp_path: Path) -> None:
    source, found = merged("lrn", 3, tmp_path)
    norms = [n for n in found.nodes if n.op == "LRN"]
    assert len(norms) == 3 * sum(n.op == "LRN" for n in source.nodes)
    assert [n.outputs[0].rsplit(".", 1)[1] for n in norms[:3]] == ["part_0", "part_1", "part_2"]
    assert {n.op for n in found.nodes} - {n.op for n in source.nodes} == {"Gather", "Concat"}


def test_values_have_one_producer_and_are_computed_before_they_are_read(tmp_path: Path) -> None:
    for name in ("lrn", "transformer_spelled", "detection"):
        _, found = merged(name, 2, tmp_path / name)
        known = {v.name for v in found.inputs} | set(found.tensors)
        for node in found.nodes:
            assert {n for n in node.inputs if n} <= known, node.title
            assert not set(node.outputs) & known
            known.update(node.outputs)


def test_copies_are_named_by_their_part(tmp_path: Path) -> None:
    source, found = merged("batch_norm_on_input", 2, tmp_path)
    copies = found.tensors.keys() - source.tensors.keys()
    assert any(name.endswith(".part_0") and name.removesuffix(".part_0") in source.tensors for name in copies)


def test_original_layers_keep_the_topology(tmp_path: Path) -> None:
    done = split(write(NETWORKS["lrn"](), tmp_path), 2, out=tmp_path / "split")
    found = merge(done.folder, layers="original").graph
    assert [n.name for n in found.nodes] == [n.name for n in done.plan.graph.nodes]
