"""Verification: it passes what is right, and each check fails on something that is wrong in its way alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphsplit.merging
import graphsplit.verification
from graphsplit import verification
from graphsplit.errors import FormatError, GraphsplitError, ManifestError, MergeError
from graphsplit.formats import onnx_runtime
from graphsplit.formats.onnx_file import load
from graphsplit.formats.onnx_runtime import RunError, Session
from graphsplit.formats.weights import write_safetensors
from graphsplit.graph import ArrayTensor
from graphsplit.merging import merge
from graphsplit.splitting import split
from graphsplit.verification import Verification, verify
from graphsplit.verification import running as bench_module
from graphsplit.verification.compare import Places, Reference, compare
from graphsplit.verification.inputs import given
from graphsplit.verification.perturb import jittered, perturbed
from tests.networks import NETWORKS
from tests.networks.builder import Net

FILE_CHECKS = ("merged file", "merged structure", "merged tensors", "merged values")
LAWS = ("valid parts", "coverage", "narrowness", "identity", "order", "exact merge")


def network(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETWORKS[name](), path)
    return path


def split_of(name: str, folder: Path, k: int = 2, **options: Any) -> Path:
    split(network(name, folder), k, out=folder / "parts", **options)
    return folder / "parts"


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return split_of("mlp", tmp_path)


def edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t).copy() for t in onnx.load(path).graph.initializer}


def set_tensors(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))

    edit(path, change)


def failed(found: Verification) -> set[str]:
    assert found.passed == (not any(not c.passed for c in found.checks))
    return {check.name for check in found.checks if not check.passed}


def train(folder: Path) -> None:
    """Change every parameter of every sub-model, in each in its own way."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for number, path in enumerate(sorted(folder.glob("submodel_*.onnx"))):
        rng = np.random.default_rng(number)
        arrays = {n: a for n, a in tensors(path).items() if manifest["parameters"].get(n, {}).get("role") != "constant"}
        changed = {n: (a * rng.uniform(0.5, 1.5, a.shape)).astype(a.dtype) for n, a in arrays.items() if a.size > 1}
        set_tensors(path, {n: a for n, a in changed.items() if a.dtype.kind == "f"})


# -- what is right ----------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "lenet",
        "alexnet",
        "resnet_basic",
        "densenet",
        "shufflenet_v2",
        "float16",
        "float64",
        "transformer_post_norm",
    ],
)
@pytest.mark.parametrize("k", [2, 3])
def test_passes(name: str, k: int, tmp_path: Path) -> None:
    parts = split_of(name, tmp_path, k)
    train(parts)
    done = merge(parts, out=tmp_path / "merged.onnx")
    found = verify(parts, done.path)
    assert failed(found) == set()
    assert [check.name for check in found.checks] == [*LAWS, *FILE_CHECKS]
    assert found.runtime.startswith("onnxruntime ")
    for check in (found["exact merge"], found["merged values"]):
        assert check.worst is not None
        assert check.tolerance is not None
        assert 0 < check.worst < check.tolerance < (0.1 if name == "float16" else 1e-3)


def test_one_part_passes(tmp_path: Path) -> None:
    parts = split_of("lenet", tmp_path, 1)
    done = merge(parts, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path)) == set()


@pytest.mark.parametrize("name", ["backbone", "features_too"])
def test_concatenated_outputs_are_compared(name: str, tmp_path: Path) -> None:
    parts = split_of(name, tmp_path, 3)
    manifest = json.loads((parts / "manifest.json").read_text())
    assert "concat" in [output["merge"] for output in manifest["outputs"]]
    done = merge(parts, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path)) == set()
    output = next(output for output in manifest["outputs"] if output["merge"] == "concat")
    graph = load(tmp_path / "merged.onnx")
    node = graph.nodes[graph.producers[output["name"]]]

    def change(model: onnx.ModelProto) -> None:
        """The output's first two channels change places."""
        size = next(group["size"] for i, group in enumerate(manifest["groups"]) if i == output["group"])
        order = numpy_helper.from_array(np.array([1, 0, *range(2, size)]), "swapped")
        model.graph.initializer.append(order)
        next(n for n in model.graph.node if n.output and n.output[0] == node.outputs[0]).output[0] = "before"
        swap = onnx.helper.make_node("Gather", ["before", "swapped"], [node.outputs[0]], axis=output["axis"])
        model.graph.node.append(swap)

    edit(tmp_path / "merged.onnx", change)
    assert "merged values" in failed(verify(parts, tmp_path / "merged.onnx"))


def test_uneven_shares_and_other_strategies_pass(tmp_path: Path) -> None:
    parts = split_of("resnet_basic", tmp_path, 2, shares=(2, 1), strategy="random", seed=3)
    assert failed(verify(parts)) == set()


def test_sizes_that_the_source_does_not_take_are_left_out_and_said(tmp_path: Path) -> None:
    """A batch of two is written into a Reshape: no other one runs."""
    net = Net("baked")
    x = net.op("Relu", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    x = net.op("Reshape", x, net.constant([2, 12], name="shape"))
    net.output(net.dense(x, "fc2", 3), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    found = verify(tmp_path / "parts")
    assert failed(found) == set()
    assert "batch=3" in found["exact merge"].detail


def test_token_ids_stay_within_their_table(tmp_path: Path) -> None:
    net = Net("ids")
    ids = net.input("ids", ("batch", "length"), "int64")
    x = net.op("Gather", net.param("table", (3, 8), "embedding"), ids)
    net.output(net.dense(net.op("Tanh", net.dense(x, "fc1", 12)), "fc2", 4), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    found = verify(tmp_path / "parts")
    assert failed(found) == set()
    assert "on 3 inputs" in found["exact merge"].detail


def test_trained_files_take_the_place_of_the_folder(tmp_path: Path) -> None:
    parts = split_of("mlp", tmp_path)
    files = []
    for number in (1, 0):
        arrays = {
            n: ArrayTensor(a * np.float32(1 + number)) for n, a in tensors(parts / f"submodel_{number}.onnx").items()
        }
        files.append(tmp_path / f"part_{number}.safetensors")
        metadata = dict(load(parts / f"submodel_{number}.onnx").metadata)
        write_safetensors(arrays, files[-1], metadata=metadata)
    done = merge(parts, files, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path, trained=files)) == set()
    assert failed(verify(parts, done.path)) == {"merged tensors", "merged values"}
    with pytest.raises(MergeError, match="has 2 parts"):
        verify(parts, trained=files[:1])


def test_trained_files_that_go_by_position_pass(tmp_path: Path) -> None:
    """Nothing says which part they are: in reversed order they would be other parts, which is no fault of the merge."""
    parts = split_of("mlp", tmp_path)
    files = []
    for number in (0, 1):
        arrays = tensors(parts / f"submodel_{number}.onnx")
        files.append(tmp_path / f"part_{number}.safetensors")
        write_safetensors({n: ArrayTensor(a * np.float32(1 + number)) for n, a in arrays.items()}, files[-1])
    assert failed(verify(parts, trained=files)) == set()


def test_a_nested_split_passes(tmp_path: Path) -> None:
    parts = split_of("lenet", tmp_path)
    split(parts / "submodel_0.onnx", 2, out=tmp_path / "inner")
    train(tmp_path / "inner")
    trained = [tmp_path / "inner", parts / "submodel_1.onnx"]
    done = merge(parts, trained, out=tmp_path / "merged.onnx")
    assert failed(verify(parts, done.path, trained=trained)) == set()


def test_without_onnxruntime_the_reference_evaluator_runs(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "find_spec", lambda _: None)
    found = verify(mlp)
    assert failed(found) == set()
    assert found.runtime == f"the reference evaluator of onnx {onnx.__version__}"


def test_progress_is_told(mlp: Path) -> None:
    told: list[tuple[str, int, int]] = []
    verify(mlp, progress=lambda *step: told.append(step))
    assert told[0] == ("planning", 0, 1)
    assert told[-1] == ("done", len(LAWS), len(LAWS))


def test_nothing_is_left_behind(mlp: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    before = {path: path.read_bytes() for path in mlp.iterdir()}
    verify(mlp)
    assert list(work.iterdir()) == []
    assert {path: path.read_bytes() for path in mlp.iterdir()} == before


def test_the_package_alone_imports_no_runtime() -> None:
    code = "import sys, graphsplit.verification; assert not {'onnxruntime', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- a merged file that is wrong ----------------------------------------


def permuted_part(arrays: dict[str, Any]) -> None:
    """The hidden vertices of part 0 come in another order in the second layer."""
    half = arrays["fc2.weight"].shape[1] // 2
    arrays["fc2.weight"][:, :half] = arrays["fc2.weight"][:, :half][:, ::-1].copy()


def missing_mean(arrays: dict[str, Any]) -> None:
    arrays["fc2.weight"] *= 2


def missing_mean_of_the_bias(arrays: dict[str, Any]) -> None:
    arrays["fc2.bias"] *= 2


def doubled_weight(arrays: dict[str, Any]) -> None:
    weight = arrays["fc1.weight"]
    weight[np.unravel_index(np.abs(weight).argmax(), weight.shape)] *= 2


def zeroed_bias(arrays: dict[str, Any]) -> None:
    arrays["fc1.bias"][:] = 0


def swapped_channels(arrays: dict[str, Any]) -> None:
    arrays["fc1.weight"][[0, 1]] = arrays["fc1.weight"][[1, 0]]


def cut_weight_not_zero(arrays: dict[str, Any]) -> None:
    arrays["hidden.weight"][0, -1] = 0.3


def constant(arrays: dict[str, Any]) -> None:
    for array in arrays.values():
        array[...] = 0.5


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A dense network with a cut layer, split in two and trained, and its merge beside it."""
    net = Net("deep")
    x = net.op("Relu", net.dense(net.input("input", ("batch", 6)), "fc1", 16))
    x = net.op("Relu", net.dense(x, "hidden", 16))
    net.output(net.op("Softmax", net.dense(x, "fc2", 5), axis=-1), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    train(tmp_path / "parts")
    merge(tmp_path / "parts", out=tmp_path / "merged.onnx")
    return tmp_path / "parts"


@pytest.mark.parametrize(
    "damage",
    [
        permuted_part,
        missing_mean,
        missing_mean_of_the_bias,
        doubled_weight,
        zeroed_bias,
        swapped_channels,
        cut_weight_not_zero,
        constant,
    ],
)
def test_a_wrong_merge_fails(damage: Callable[[dict[str, Any]], None], deep: Path) -> None:
    merged = deep.parent / "merged.onnx"
    assert failed(verify(deep, merged)) == set()
    arrays = tensors(merged)
    damage(arrays)
    set_tensors(merged, arrays)
    found = verify(deep, merged)
    assert failed(found) == {"merged tensors", "merged values"}
    values = found["merged values"]
    assert values.worst is not None
    assert values.tolerance is not None
    assert values.worst > 10 * values.tolerance


def test_a_merge_of_other_sub_models_fails(deep: Path) -> None:
    for path in deep.glob("submodel_*.onnx"):
        set_tensors(path, {n: a * np.float32(1.1) for n, a in tensors(path).items() if a.dtype.kind == "f"})
    assert failed(verify(deep, deep.parent / "merged.onnx")) == {"merged tensors", "merged values"}


def test_another_graph_fails(deep: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"

    edit(deep.parent / "merged.onnx", change)
    assert failed(verify(deep, deep.parent / "merged.onnx")) == {"merged structure", "merged values"}


def test_another_attribute_fails(deep: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Softmax").attribute[0].i = 0

    edit(deep.parent / "merged.onnx", change)
    assert "merged structure" in failed(verify(deep, deep.parent / "merged.onnx"))


def test_a_merged_file_that_does_not_run_fails(deep: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "NoSuchOp"

    edit(deep.parent / "merged.onnx", change)
    assert {"merged file", "merged values"} <= failed(verify(deep, deep.parent / "merged.onnx"))


def test_a_missing_merged_file_is_an_error(mlp: Path) -> None:
    with pytest.raises(FormatError):
        verify(mlp, mlp / "no.onnx")


def test_original_layers_give_up_law_1_only_where_something_is_repeated(tmp_path: Path) -> None:
    parts = split_of("alexnet", tmp_path)
    train(parts)
    done = merge(parts, out=tmp_path / "merged.onnx", layers="original")
    found = verify(parts, done.path)
    assert failed(found) == set()
    assert "law 1 is given up" in found["merged values"].detail
    assert "law 1 is given up" in found["merged structure"].detail
    (tmp_path / "plain").mkdir()
    plain = split_of("lenet", tmp_path / "plain")
    done = merge(plain, out=tmp_path / "plain" / "merged.onnx", layers="original")
    found = verify(plain, done.path)
    assert failed(found) == set()
    assert "given up" not in found["merged values"].detail


def test_results_scaled_behind_the_output_layer_pass(deep: Path) -> None:
    out = deep.parent / "behind.onnx"
    merge(deep, out=out, output_scale="activation")
    found = verify(deep, out)
    assert failed(found) == set()
    assert "scaled behind" in found["merged structure"].detail


# -- a split that is wrong ----------------------------------------


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


# -- a merge that is wrong ----------------------------------------


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str, Any], Any]], None]]:
    """Lets every merged tensor pass through a function of its name and elements."""
    right = graphsplit.merging.LazyMerged.numpy

    def set_to(change: Callable[[str, Any], Any]) -> None:
        monkeypatch.setattr(
            graphsplit.merging.LazyMerged, "numpy", lambda self: change(self.entry.name, right(self).copy())
        )

    return set_to


def test_a_formula_without_the_mean_fails(deep: Path, lazily: Any) -> None:
    lazily(lambda name, a: a * 2 if name == "fc2.weight" else a)
    assert failed(verify(deep)) == {"identity", "exact merge"}


def test_a_formula_that_leaves_cut_weights_fails(deep: Path, lazily: Any) -> None:
    lazily(lambda name, a: np.where(a == 0, np.float32(0.1), a) if name == "hidden.weight" else a)
    assert failed(verify(deep)) == {"identity", "exact merge"}


def test_a_formula_that_rounds_owned_weights_fails(deep: Path, lazily: Any) -> None:
    """One unit in the last place is nothing to the values, and breaks the identity."""
    lazily(lambda name, a: np.nextafter(a, np.float32(1)) if name == "fc1.bias" else a)
    assert failed(verify(deep)) == {"identity"}


def test_a_merge_without_its_repeated_nodes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_of("alexnet", tmp_path)
    right = graphsplit.merging.assemble

    def wrong(source: Any, dialect: Any, layout: Any, leaves: Any) -> Any:
        return right(source, dialect, replace(layout, repeated=frozenset()), leaves)

    monkeypatch.setattr(graphsplit.merging, "assemble", wrong)
    assert failed(verify(parts)) == {"exact merge"}


def test_copies_of_the_wrong_part_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_of("eca", tmp_path)
    train(parts)
    right = graphsplit.merging.assemble

    def wrong(*args: Any) -> Any:
        found = right(*args)
        assert found.copies
        return replace(found, copies={name: (1 - leaf, there) for name, (leaf, there) in found.copies.items()})

    monkeypatch.setattr(graphsplit.merging, "assemble", wrong)
    assert failed(verify(parts)) == {"identity", "exact merge"}


def test_a_merge_that_depends_on_the_order_fails(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.verification import laws

    right = laws.merged_graph

    def wrong(opened: Any, leaves: Any, **options: Any) -> Any:
        graph, repeated = right(opened, leaves, **options)
        if leaves[0].path != (0,):
            tensors = dict(graph.tensors)
            tensors["fc1.bias"] = ArrayTensor(np.negative(tensors["fc1.bias"].numpy()))
            graph = graph.replace(tensors=tensors)
        return graph, repeated

    monkeypatch.setattr(laws, "merged_graph", wrong)
    monkeypatch.setattr(verification, "_again", lambda opened, leaves, trained: leaves[::-1])
    assert failed(verify(deep)) == {"order"}
    monkeypatch.setattr(laws, "ORDER_BYTES", 1)  # large networks: a few tensors
    monkeypatch.setattr(laws, "merged_graph", right)
    found = verify(deep)
    assert failed(found) == set()
    assert "tensors, for the network is large" in found["order"].detail


# -- a comparison of nothing ----------------------------------------


def test_no_values_to_compare_fail(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsplit.verification import laws

    monkeypatch.setattr(laws, "compared_values", lambda opened: [])
    assert failed(verify(mlp)) == {"exact merge"}


def test_values_that_tell_nothing_fail(tmp_path: Path) -> None:
    """The output layer's result is added to a huge input: no part differs from the mean by more than rounding."""
    net = Net("drowned")
    x = net.input("input", ("batch", 6))
    y = net.dense(net.op("Relu", net.dense(x, "fc1", 12)), "fc2", 6)
    net.output(net.op("Add", y, net.op("Mul", x, net.constant(np.float32(1e12), name="huge"))), "output")
    onnx.save(net.build(), tmp_path / "m.onnx")
    split(tmp_path / "m.onnx", 2, out=tmp_path / "parts")
    names = json.loads((tmp_path / "parts" / "manifest.json").read_text())["taps"]
    found = verify(tmp_path / "parts")
    if names == ["output"]:
        assert failed(found) == {"exact merge"}
        assert "nothing was proved" in found["exact merge"].detail
    else:
        assert failed(found) == set()


def test_a_reference_says_why_it_is_none() -> None:
    for value, why in (
        ([np.ones(2)], "no tensor but a list"),
        (None, "no tensor but a NoneType"),
        (np.ones((0, 3), np.float32), "empty"),
        (np.array(["a"], object), "holds object elements"),
        (np.full(3, np.nan, np.float32), "no element of it is finite"),
    ):
        reference = Reference()
        reference.add(value, 1.0)
        found = compare("x", reference, value, depth=3, unit=1e-7)
        assert not found.compared
        assert why in str(found.problem)


def test_a_value_of_another_shape_fails() -> None:
    reference = Reference()
    reference.add(np.ones((2, 3), np.float32), 0.5)
    reference.add(np.zeros((2, 3), np.float32), 0.5)
    assert not compare("x", reference, np.full((3, 2), 0.5, np.float32), depth=3, unit=1e-7).holds
    assert compare("x", reference, np.full((2, 3), 0.5, np.float32), depth=3, unit=1e-7).holds
    assert not compare("x", reference, np.full((2, 3), np.nan, np.float32), depth=3, unit=1e-7).holds


def test_slices_are_put_where_they_belong() -> None:
    reference = Reference()
    reference.add(np.array([[1.0, 3.0]]), 0.5, Places(1, 3, np.array([0, 2])))
    reference.add(np.array([[2.0, 5.0]]), 0.5, Places(1, 3, np.array([1, 2])))
    assert reference.mean.tolist() == [[1.0, 2.0, 4.0]]
    assert compare("x", reference, np.array([[1.0, 2.0, 4.0]]), depth=1, unit=1e-16).telling
    assert not compare("x", reference, np.array([[2.0, 1.0, 4.0]]), depth=1, unit=1e-16).holds


def test_infinities_stand_at_the_same_places() -> None:
    reference = Reference()
    for _ in range(2):
        reference.add(np.array([1.0, -np.inf]), 0.5)
    assert compare("x", reference, np.array([1.0, -np.inf]), depth=1, unit=1e-16).holds
    assert not compare("x", reference, np.array([1.0, 0.0]), depth=1, unit=1e-16).holds


# -- inputs ----------------------------------------


def test_given_inputs_are_run_on(mlp: Path, tmp_path: Path) -> None:
    value = load(mlp / "source.onnx", weights=False).inputs[0]
    shape = [5 if not isinstance(dim, int) else dim for dim in value.shape or ()]
    array = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    np.savez(tmp_path / "x.npz", **{value.name: array})
    for inputs in (tmp_path / "x.npz", {value.name: array}):
        found = verify(mlp, inputs=inputs)
        assert failed(found) == set()
        assert "on 1 inputs" in found["exact merge"].detail


def test_inputs_that_do_not_fit_are_errors(mlp: Path, tmp_path: Path) -> None:
    graph = load(mlp / "source.onnx", weights=False)
    name, width = graph.inputs[0].name, (graph.inputs[0].shape or ())[1]
    assert isinstance(width, int)
    good = np.zeros((2, width), np.float32)
    for arrays, why in (
        ({}, "is not given"),
        ({name: good, "more": good}, "'more' is no input of the network"),
        ({name: good.astype(np.float64)}, "has type float64, and float32 is wanted"),
        ({name: good[0]}, "has shape"),
        ({name: np.zeros((2, width + 1), np.float32)}, "has shape"),
    ):
        with pytest.raises(GraphsplitError, match=why):
            given(graph, arrays)
    (tmp_path / "x.npz").write_bytes(b"not a zip file")
    np.save(tmp_path / "one.npy", good)
    np.savez(tmp_path / "objects.npz", **{name: np.array([{"a": 1}], object)})
    for file in ("x.npz", "one.npy", "objects.npz", "missing.npz"):
        with pytest.raises(FormatError, match=file):
            verify(mlp, inputs=tmp_path / file)


def test_a_folder_without_a_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        verify(tmp_path)


# -- perturbation, and running ----------------------------------------


def test_perturbed_tensors_stay_what_they_are() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "variance": rng.uniform(0.1, 2, 50).astype(np.float32),
        "sparse": np.maximum(rng.standard_normal(50), 0).astype(np.float32),
        "zeros": np.zeros(50, np.float32),
        "half": np.full(50, 60000, np.float16),
        "weight": rng.standard_normal((5, 10)).astype(np.float32),
        "mask": np.array([0, -np.inf, 1], np.float32),
        "fixed": np.ones(3, np.float32),
    }
    tensors = {name: ArrayTensor(a) for name, a in arrays.items()}
    names = arrays.keys() - {"fixed"}
    one, other = (perturbed(tensors, names, (part,)) for part in (0, 1))
    for name, array in arrays.items():
        a, b = one[name].numpy(), other[name].numpy()
        assert a.dtype == array.dtype
        assert a.shape == array.shape
        assert np.array_equal(a, one[name].numpy())
        assert np.array_equal(np.isfinite(a), np.isfinite(array))
        if name not in ("fixed", "half"):
            assert not np.array_equal(a, array)
            assert not np.array_equal(a, b)
    assert (one["variance"].numpy() > 0).all()
    assert (one["sparse"].numpy() >= 0).all()
    moved = jittered(tensors, names)["weight"].numpy()
    apart = np.abs(moved / arrays["weight"] - 1)
    assert 0 < apart.max() < 4e-7


@pytest.mark.parametrize("kind", ["onnxruntime", "reference"])
def test_sessions_give_values_inside(kind: onnx_runtime.Engine, tmp_path: Path) -> None:
    path = network("lenet", tmp_path)
    graph = load(path)
    tap = graph.nodes[0].outputs[0]
    x = np.zeros((2, 1, 28, 28), np.float32)
    found = Session(path, [tap], kind=kind).run({graph.inputs[0].name: x})
    assert set(found) == {graph.outputs[0].name, tap}
    with pytest.raises(RunError, match="cannot be run"):
        Session(path, kind=kind).run({graph.inputs[0].name: x[:, :, :3]})
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01")
    with pytest.raises(RunError, match="cannot be loaded"):
        Session(tmp_path / "bad.onnx", kind=kind)


@pytest.mark.parametrize("kind", ["onnxruntime", "reference"])
def test_sessions_read_data_beside_the_file(kind: onnx_runtime.Engine, tmp_path: Path) -> None:
    model = NETWORKS["lenet"]()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=16)
    assert onnx_runtime.check_file(path) is None
    x = np.ones((2, 1, 28, 28), np.float32)
    inputs = {model.graph.input[0].name: x}
    found = Session(path, kind=kind).run(inputs)
    onnx.save(NETWORKS["lenet"](), tmp_path / "one.onnx")
    wanted = Session(tmp_path / "one.onnx", kind=kind).run(inputs)
    assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in wanted.items()}  # type: ignore[attr-defined]
