"""graphsplit.merging: what a merge refuses, and its options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphsplit import splitting
from graphsplit.errors import GraphsplitError, MergeError
from graphsplit.merging import merge
from tests.laws.check import Case, change, exact_merge, trained
from tests.networks import NETWORKS


@pytest.fixture
def lenet(tmp_path: Path) -> Case:
    return trained(NETWORKS["lenet"](), 2, tmp_path)


def files(case: Case) -> list[Path]:
    return [part.file for part in case.parts]


def test_in_place_and_given_are_the_same(lenet: Case, tmp_path: Path) -> None:
    merge(lenet.split.folder, files(lenet), out=tmp_path / "given.onnx")
    assert (tmp_path / "given.onnx").read_bytes() == lenet.merged.read_bytes()


@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_files(lenet: Case, number: int) -> None:
    with pytest.raises(MergeError, match=f"{number} trained sub-models were given, and the split has 2 parts"):
        merge(lenet.split.folder, (files(lenet) * 2)[:number])


def test_the_same_part_twice(lenet: Case) -> None:
    with pytest.raises(MergeError):
        merge(lenet.split.folder, [files(lenet)[0]] * 2)


def test_a_part_of_another_split(lenet: Case, tmp_path: Path) -> None:
    other = trained(NETWORKS["lenet"](), 2, tmp_path / "other", strategy="interleaved")
    with pytest.raises(MergeError):
        merge(lenet.split.folder, [files(lenet)[0], files(other)[1]])


def test_a_folder_that_is_no_split(lenet: Case, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GraphsplitError, match=r"manifest\.json"):
        merge(tmp_path / "empty")
    with pytest.raises(GraphsplitError, match=r"manifest\.json"):
        merge(lenet.split.folder, [files(lenet)[0], tmp_path / "empty"])


def test_a_number_that_is_not_finite(lenet: Case, tmp_path: Path) -> None:
    name = next(iter(lenet.split.manifest.parameters))
    change(files(lenet)[1], {name: lambda a: np.full_like(a, np.nan)})
    with pytest.raises(MergeError, match=name):
        merge(lenet.split.folder, out=tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()
    merge(lenet.split.folder, out=tmp_path / "again.onnx", allow_nonfinite=True)


def test_another_shape_is_refused_with_both(lenet: Case) -> None:
    name = next(n for n in lenet.split.manifest.parameters if n.startswith("conv1") and n.endswith("bias"))
    change(files(lenet)[1], {name: lambda a: np.concatenate([a, a])})
    with pytest.raises(MergeError) as caught:
        merge(lenet.split.folder)
    assert name in str(caught.value)
    assert "10" in str(caught.value)
    assert "20" in str(caught.value)


def test_a_changed_source_is_refused(lenet: Case) -> None:
    source = lenet.split.folder / "source.onnx"
    source.write_bytes(files(lenet)[0].read_bytes())
    with pytest.raises(GraphsplitError):
        merge(lenet.split.folder)


def test_existing_output_needs_force(lenet: Case) -> None:
    before = lenet.merged.read_bytes()
    with pytest.raises(GraphsplitError):
        merge(lenet.split.folder, out=lenet.merged)
    assert lenet.merged.read_bytes() == before
    merge(lenet.split.folder, out=lenet.merged, force=True)


def test_sub_models_are_left_alone(lenet: Case, tmp_path: Path) -> None:
    before = [file.read_bytes() for file in files(lenet)]
    merge(lenet.split.folder, out=tmp_path / "again.onnx")
    assert [file.read_bytes() for file in files(lenet)] == before


def test_original_layers_are_exact_where_nothing_repeats(lenet: Case) -> None:
    merge(lenet.split.folder, out=lenet.merged, layers="original", force=True)
    assert not exact_merge(lenet).complaints


def test_original_layers_differ_where_something_repeats(tmp_path: Path) -> None:
    case = trained(NETWORKS["layer_norm_mlp"](), 2, tmp_path)
    merge(case.split.folder, out=case.merged, layers="original", force=True)
    assert exact_merge(case, inside=False).complaints


def test_scaled_behind_leaves_weights_alone(lenet: Case) -> None:
    found = merge(lenet.split.folder, output_scale="activation").graph
    name = next(n for n, e in lenet.split.manifest.parameters.items() if e.counts.output and len(e.shape) > 1)
    plain = merge(lenet.split.folder).graph.tensors[name].numpy()
    assert np.allclose(found.tensors[name].numpy(), 2 * plain, 1e-6)
    assert [n.op for n in found.nodes][-1] == "Mul"


def test_unknown_layers(lenet: Case) -> None:
    with pytest.raises(MergeError, match="no 'some' layers"):
        merge(lenet.split.folder, layers="some")  # type: ignore[arg-type]


# -- cut weights that keep their values -----------------------------------------------------------------------


def test_cut_weights_keep_the_values_of_a_base(lenet: Case, tmp_path: Path) -> None:
    """And everything that a part has is as without one."""
    onnx.save(NETWORKS["lenet"](), tmp_path / "base.onnx")
    base = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "base.onnx").graph.initializer}
    plain, kept = (merge(lenet.split.folder, base=b).graph.tensors for b in (None, tmp_path / "base.onnx"))
    cut = 0
    for name, entry in lenet.split.manifest.parameters.items():
        mask = np.ones(entry.shape, bool)
        for region in entry.regions(lenet.split.manifest.groups):
            mask[np.ix_(*(axis.indices() for axis in region.axes))] = False
        assert np.array_equal(kept[name].numpy()[mask], base[name][mask])
        assert not plain[name].numpy()[mask].any()
        assert np.array_equal(kept[name].numpy()[~mask], plain[name].numpy()[~mask])
        cut += int(mask.sum())
    assert cut == 212_500


def test_untrained_hidden_layers_come_back_whole_over_their_base(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(NETWORKS["lenet"](), model)
    split = splitting.split(model, 2, out=tmp_path / "parts", strategy="random", seed=3)
    found = merge(tmp_path / "parts", base=model).graph.tensors
    for tensor in onnx.load(model).graph.initializer:
        if tensor.name in split.manifest.parameters and split.manifest.parameters[tensor.name].role != "output":
            assert np.array_equal(found[tensor.name].numpy(), numpy_helper.to_array(tensor)), tensor.name


@pytest.mark.parametrize(("wide", "message"), [(True, "the base has"), (False, "nothing computes")])
def test_a_base_that_is_another_network_is_refused(lenet: Case, tmp_path: Path, wide: bool, message: str) -> None:
    model = NETWORKS["lenet"]()
    for tensor in model.graph.initializer if wide else ():
        if len(tensor.dims) == 4:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([array, array]), tensor.name))
    if not wide:
        del model.graph.initializer[:]
    (tmp_path / "base.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphsplitError, match=message):
        merge(lenet.split.folder, base=tmp_path / "base.onnx", out=tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()
