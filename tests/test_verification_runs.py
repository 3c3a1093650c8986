"""What verification runs networks on, how it runs them, and how it compares their values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphsplit.errors import FormatError, GraphsplitError
from graphsplit.formats import onnx_runtime
from graphsplit.formats.onnx_file import load
from graphsplit.formats.onnx_runtime import RunError, Session
from graphsplit.graph import ArrayTensor
from graphsplit.splitting import split
from graphsplit.verification import verify
from graphsplit.verification.compare import Places, Reference, compare
from graphsplit.verification.inputs import given
from graphsplit.verification.perturb import jittered, perturbed
from tests.networks import NETWORKS
from tests.networks.builder import Net
from tests.split_folders import failed, mlp, network

__all__ = ["mlp"]  # fixtures

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
