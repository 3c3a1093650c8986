"""Verification of splits: each check fails on something that is wrong in its way alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphsplit.merging
from graphsplit import verification
from graphsplit.splitting import split
from graphsplit.verification import running as bench_module
from graphsplit.verification import verify
from tests.networks.builder import Net
from tests.split_folders import edit, failed, mlp, set_tensors, split_of, tensors

__all__ = ["mlp"]  # fixtures


def test_another_op_in_a_sub_model_fails(mlp: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type not in ("Gemm", "MatMul", "Add"))
        node.op_type = "Sigmoid" if node.op_type != "Sigmoid" else "Tanh"
        del node.attribute[:]

    edit(mlp / "submodel_1.onnx", change)
    found = verify(mlp)
    assert failed(found) == {"valid parts", "exact merge"}
    assert found["valid parts"].detail.startswith("submodel_1.onnx: its structure is not the one")


def test_a_loose_end_in_a_sub_model_fails(mlp: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(onnx.helper.make_node("Relu", [model.graph.input[0].name], ["loose"], name="loose"))

    edit(mlp / "submodel_0.onnx", change)
    found = verify(mlp)
    assert failed(found) == {"valid parts"}
    assert "nothing reads the result of Relu 'loose'" in ends(mlp)


def ends(folder: Path) -> list[str]:
    from graphsplit.verification import statics

    opened = graphsplit.merging.open_split(folder)
    subject = bench_module.subjects(opened, graphsplit.merging.read_leaves(opened))[0]
    return statics._ends(opened.network.graph, subject)


def test_another_output_type_fails(mlp: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    edit(mlp / "submodel_0.onnx", change)
    assert "valid parts" in failed(verify(mlp))


def test_a_part_without_a_vertex_of_a_layer_fails(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: Path) -> Any:
        found = graphsplit.merging.open_split(folder)
        partition = found.plan.partition
        owner = np.where(partition.owner == 1, 0, partition.owner)
        return replace(found, plan=replace(found.plan, partition=replace(partition, owner=owner)))

    monkeypatch.setattr(verification, "open_split", opened)
    assert failed(verify(mlp)) == {"valid parts", "narrowness"}


@pytest.mark.parametrize("damage", ["shape", "missing", "type", "nan"])
def test_a_weight_that_is_not_the_manifests_fails(damage: str, mlp: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        array = numpy_helper.to_array(tensor).copy()
        if damage == "missing":
            tensor.name = "other"
        elif damage == "nan":
            array.flat[0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        else:
            wrong = array.astype(np.float64) if damage == "type" else np.concatenate([array, array])
            tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))

    edit(mlp / "submodel_0.onnx", change)
    assert failed(verify(mlp)) == {"coverage"}


def test_a_changed_constant_fails(tmp_path: Path) -> None:
    net = Net("scaled")
    x = net.op("Relu", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    x = net.op("Mul", x, net.constant(np.float32(0.5), name="gain"))
    net.output(net.dense(x, "fc2", 3), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    path = tmp_path / "parts" / "submodel_0.onnx"
    name = next(n for n, a in tensors(path).items() if a.shape == ())
    set_tensors(path, {name: np.asarray(0.7, np.float32)})
    found = verify(tmp_path / "parts")
    assert failed(found) == {"coverage"}
    assert name in found["coverage"].detail


def test_counts_that_do_not_add_up_fail(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: Path) -> Any:
        found = graphsplit.merging.open_split(folder)
        name, entry = next((n, e) for n, e in found.manifest.parameters.items() if e.counts.cut == 0)
        wrong = replace(entry, counts=replace(entry.counts, owned=entry.counts.owned + 1))
        parameters = {**found.manifest.parameters, name: wrong}
        return replace(found, manifest=replace(found.manifest, parameters=parameters))

    monkeypatch.setattr(verification, "open_split", opened)
    assert failed(verify(mlp)) == {"coverage"}


def test_a_trained_tensor_that_the_manifest_lacks_fails(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: Path) -> Any:
        found = graphsplit.merging.open_split(folder)
        more = found.network.trained | {"another"}
        return replace(found, network=replace(found.network, trained=more))

    monkeypatch.setattr(verification, "open_split", opened)
    assert "coverage" in failed(verify(mlp))


def test_a_layer_that_is_too_wide_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was split 3:1, and the shares say 1:1."""
    parts = split_of("mlp", tmp_path, 2, shares=(3, 1))

    def opened(folder: Path) -> Any:
        found = graphsplit.merging.open_split(folder)
        partition = replace(found.plan.partition, shares=(0.5, 0.5))
        return replace(found, plan=replace(found.plan, partition=partition))

    assert failed(verify(parts)) == set()
    monkeypatch.setattr(verification, "open_split", opened)
    assert failed(verify(parts)) == {"narrowness"}


def test_a_copy_without_a_reason_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_of("eca", tmp_path)

    def opened(folder: Path) -> Any:
        found = graphsplit.merging.open_split(folder)
        assert any(entry.counts.duplicated for entry in found.manifest.parameters.values())
        return replace(found, manifest=replace(found.manifest, repeated=(), private=()))

    monkeypatch.setattr(verification, "open_split", opened)
    assert failed(verify(parts)) == {"narrowness"}
