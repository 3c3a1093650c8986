"""The model that ships: its bytes come from its builder, its figures are the paper's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphsplit
from models.build_lenet import FILE, build, parameters

ROOT = Path(__file__).parent.parent


def test_the_builder_gives_the_shipped_bytes(tmp_path: Path) -> None:
    script, made = ROOT / "models" / "build_lenet.py", tmp_path / "lenet.onnx"
    done = subprocess.run([sys.executable, script, made], capture_output=True, text=True, check=True)
    assert done.stdout == "lenet.onnx: 431,080 parameters\n"
    assert made.read_bytes() == FILE.read_bytes()


def test_another_seed_gives_other_weights() -> None:
    one, other = (numpy_helper.to_array(build(seed).graph.initializer[0]) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_it_is_the_lenet_of_the_paper() -> None:
    model = onnx.load(FILE)
    onnx.checker.check_model(model, full_check=True)
    assert parameters(model) == 431_080
    ops = " ".join(node.op_type for node in model.graph.node)
    assert ops == "Conv Relu MaxPool Conv Relu MaxPool Flatten Gemm Relu Gemm"
    for value, shape in ((model.graph.input[0], ("batch", 1, 28, 28)), (model.graph.output[0], ("batch", 10))):
        dims = value.type.tensor_type.shape.dim
        assert tuple(dim.dim_param or dim.dim_value for dim in dims) == shape


def test_signals_keep_their_size() -> None:
    """He: the squares of weights sum to about 2 over the fan-in."""
    for tensor in build().graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            fan_in = array[0].size
            assert float((array.astype(np.float64) ** 2).mean() * fan_in) == pytest.approx(2, rel=0.15)
        else:
            assert not array.any()


@pytest.mark.parametrize(("k", "size"), [(1, 431_080), (2, 109_295), (5, 18_224), (10, 4_867)])
def test_its_parts_have_the_sizes_of_the_paper(k: int, size: int, tmp_path: Path) -> None:
    split = graphsplit.split(FILE, k, out=tmp_path / "parts")
    assert {entry.elements for entry in split.manifest.submodels} == {size}
    assert {parameters(onnx.load(file)) for file in split.submodels} == {size}


# -- the torch modules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "size"), [(1, 431_080), (2, 109_295), (5, 18_224), (10, 4_867)])
def test_the_torch_lenet_has_the_sizes_of_the_paper(k: int, size: int) -> None:
    torch = pytest.importorskip("torch")
    from models.lenet import LeNet

    split = graphsplit.split(LeNet(), (torch.zeros(1, 1, 28, 28),), k=k)
    assert {sum(p.numel() for p in part.parameters()) for part in split.submodels} == {size}


@pytest.mark.parametrize(("k", "size"), [(1, 2_112_970), (2, 533_226)])
def test_the_cifar_network_has_the_sizes_of_the_paper(k: int, size: int) -> None:
    torch = pytest.importorskip("torch")
    from models.cuda_convnet import CudaConvnet

    split = graphsplit.split(CudaConvnet(), (torch.zeros(2, 3, 24, 24),), k=k)
    assert {sum(p.numel() for p in part.parameters()) for part in split.submodels} == {size}
    if k == 2:  # what looks at all channels, and nothing else, is repeated
        assert {note.node.partition(" ")[0] for note in split.manifest.repeated} == {"aten::avg_pool3d.default"}
        assert not split.manifest.private


def test_the_cifar_network_as_onnx_is_divided_alike(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from models.cuda_convnet import CudaConvnet

    path = tmp_path / "convnet.onnx"
    torch.onnx.export(
        CudaConvnet().eval(), (torch.zeros(2, 3, 24, 24),), path, dynamo=True, optimize=False, verbose=False
    )
    split = graphsplit.split(path, 2, out=tmp_path / "parts")
    assert {entry.elements for entry in split.manifest.submodels} == {533_226}
    assert {note.node.partition(" ")[0] for note in split.manifest.repeated} == {"AveragePool"}


def test_a_part_of_the_cifar_network_is_the_narrower_one() -> None:
    torch = pytest.importorskip("torch")
    from models.cuda_convnet import CudaConvnet

    torch.manual_seed(0)
    model = CudaConvnet()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    split = graphsplit.split(model, (torch.zeros(2, 3, 24, 24),), k=2)
    x = torch.randn(3, 3, 24, 24)
    results = []
    for part in split.submodels:
        narrow = CudaConvnet((32, 32, 32, 16))
        narrow.load_state_dict(part.state_dict())
        assert torch.equal(part(x), narrow(x))
        results.append(narrow(x))
    mean = (results[0] + results[1]) / 2
    assert torch.allclose(split.merge()(x), mean, rtol=1e-4, atol=1e-5 * float(mean.detach().abs().max()))


def test_a_locally_connected_layer_has_filters_of_its_own_at_each_position() -> None:
    torch = pytest.importorskip("torch")
    from models.cuda_convnet import LocallyConnected2d

    layer = LocallyConnected2d(2, 3, 4)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(5, 2, 4, 4)
    padded, found = torch.nn.functional.pad(x, (1, 1, 1, 1)), layer(x)
    for row in range(4):
        for column in range(4):
            patch = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            position = 4 * row + column
            wanted = patch @ layer.weight[position].T + layer.bias[:, position]
            assert torch.allclose(found[:, :, row, column], wanted, atol=1e-5)
