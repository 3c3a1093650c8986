"""graphsplit.trainable: ONNX networks as torch modules, what they are called, how they train, and what is refused."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import graphsplit
from graphsplit.errors import GraphsplitError, UnsupportedError
from graphsplit.executor import OnnxModule
from graphsplit.executor.ops import Frame
from graphsplit.formats.onnx_file import load
from graphsplit.formats.torch_tensors import to_numpy, to_torch
from graphsplit.splitting import split
from tests.executor_nets import LENET, affine, off, outputs, step
from tests.laws.check import tolerance, write
from tests.networks import EXACT_OR_REFUSED, NETWORKS
from tests.networks.inputs import Arrays, evaluate, random_inputs

ODD = [
    "weight",
    "a.b",
    "a",
    "a.b.c",
    "/layer/0/MatMul::w.T",
    "x..y",
    ".first",
    "last.",
    "training",
    "forward",
    "constant_0",
]


# -- every network of the suite ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({**NETWORKS, **EXACT_OR_REFUSED}))
def test_a_network_gives_what_onnxruntime_gives_and_trains(name: str, tmp_path: Path) -> None:
    model = {**NETWORKS, **EXACT_OR_REFUSED}[name]()
    module = graphsplit.trainable(write(model, tmp_path))
    graph = load(tmp_path / "model.onnx")
    assert set(module.state_dict()) <= set(graph.tensors)
    for sizes in ({}, {"batch": 3}, {"batch": 3}):  # the second time with the sizes that the first has left
        inputs = random_inputs(model, len(sizes), **sizes)
        assert off(outputs(module, inputs), evaluate(model, inputs)) < tolerance(model)
    module.train()
    step(module, inputs, 1e-3)
    read = {n for i in graph.alive for n in graph.nodes[i].inputs}
    bare = [
        n for n, p in module.named_parameters() if n in read and (p.grad is None or not torch.isfinite(p.grad).all())
    ]
    assert bare == []


def counting(what: str) -> onnx.ModelProto:
    """The size of the input, `x`, or of where it isn't zero, `places`, times a weight."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Shape", [what], ["shape"]),
        helper.make_node("Cast", ["shape"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info("x", 1, ["batch"]), helper.make_tensor_value_info("y", 1, [2])]
    w = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    graph = helper.make_graph(nodes[what == "x" :], "counting", ends[:1], ends[1:], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def on_meta(module: OnnxModule, inputs: Arrays) -> list[torch.Tensor]:
    """The outputs on torch's device without memory, which mixes with no other, the second time, with sizes kept."""
    moved = module.to("meta")
    given = {name: to_torch(np.asarray(array)).to("meta") for name, array in inputs.items()}
    with torch.no_grad():
        moved(**given)
        found = moved(**given)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("name", sorted({**NETWORKS, **EXACT_OR_REFUSED}.keys() - {"detection_nms"}))
def test_constants_and_sizes_go_where_the_weights_are(name: str, tmp_path: Path) -> None:
    model = {**NETWORKS, **EXACT_OR_REFUSED}[name]()
    inputs = random_inputs(model)
    found = on_meta(graphsplit.trainable(write(model, tmp_path)), inputs)
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert [tuple(tensor.shape) for tensor in found] == [array.shape for array in evaluate(model, inputs).values()]


def test_a_size_that_stays_behind_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = counting("x")
    module = graphsplit.trainable(write(model, tmp_path))
    assert on_meta(module, random_inputs(model))[0].shape == (2,)
    module = graphsplit.trainable(write(model, tmp_path))
    monkeypatch.setattr(Frame, "near", lambda frame, tensor: tensor)
    with pytest.raises(RuntimeError, match="meta"):
        on_meta(module, random_inputs(model))


# -- names ---------------------------------------------------------------------------------------------------------------


def test_the_state_dict_has_the_names_of_the_initializers() -> None:
    module = graphsplit.trainable(LENET)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(LENET).graph.initializer}
    assert set(module.state_dict()) == set(tensors) == {n for n, _ in module.named_parameters()}
    assert all(np.array_equal(to_numpy(held), tensors[name]) for name, held in module.state_dict().items())
    assert module.input_names == ("image",)
    assert module.output_names == ("logits",)


def test_any_text_is_a_name(tmp_path: Path) -> None:
    module = graphsplit.trainable(affine(ODD, tmp_path))
    assert sorted(module.state_dict()) == sorted(ODD)
    named = {n for n, _ in module.named_parameters()}
    assert named == set(ODD) - {".first"} | {"first"}  # torch drops a dot that comes first, there alone
    other = {name: torch.full((4,), float(i + 1)) for i, name in enumerate(ODD)}
    module.load_state_dict(other)
    assert torch.equal(module(torch.ones(1, 4)), torch.full((1, 4), float(np.prod(np.arange(1, len(ODD) + 1)))))
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({name: tensor for name, tensor in other.items() if name != ".first"})


def test_what_trains_is_what_is_split(tmp_path: Path) -> None:
    path = affine(["w", "v"], tmp_path)
    assert set(graphsplit.trainable(path, constant=["v"]).state_dict()) == {"w"}
    with pytest.raises(GraphsplitError, match="'none' is not a tensor"):
        graphsplit.trainable(path, trainable=["none"])
    done = split(LENET, 2, out=tmp_path / "parts", constant=["conv1.bias"])
    assert "conv1.bias" not in graphsplit.trainable(done.submodels[0]).state_dict()


# -- what modules do -----------------------------------------------------------------------------------------------------


def test_copies_are_independent_and_give_the_same() -> None:
    module, x = graphsplit.trainable(LENET), torch.randn(2, 1, 28, 28)
    before = module(x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), before)
        with torch.no_grad():
            next(other.parameters()).add_(1.0)
        assert not torch.equal(other(x), before)
        assert torch.equal(module(x), before)


@pytest.mark.parametrize("name", ["lenet", "transformer", "lstm", "resnet_basic", "attention_op"])
def test_in_double_precision(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    module = graphsplit.trainable(write(model, tmp_path)).double()
    inputs = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in random_inputs(model).items()}
    found = outputs(module, inputs)
    assert all(array.dtype == np.float64 for array in found.values() if array.dtype.kind == "f")
    expected = evaluate(model, random_inputs(model))
    assert off({n: a.astype(expected[n].dtype) for n, a in found.items()}, expected) < 1e-4


def test_functional_call_takes_other_weights() -> None:
    module, x = graphsplit.trainable(LENET), torch.randn(2, 1, 28, 28)
    zero = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    assert torch.equal(torch.func.functional_call(module, zero, (x,)), torch.zeros(2, 10))


def test_inputs_by_name_and_what_is_refused_of_them() -> None:
    module, x = graphsplit.trainable(LENET), torch.randn(2, 1, 28, 28)
    assert torch.equal(module(image=x), module(x))
    for args, kwargs in (((), {}), ((x, x), {}), ((x,), {"image": x}), ((), {"other": x})):
        with pytest.raises(GraphsplitError, match="the inputs are 'image'"):
            module(*args, **kwargs)
    with pytest.raises(
        GraphsplitError, match=r"'image' has shape \[2, 1, 28, 27\], and the file says \[batch, 1, 28, 28\]"
    ):
        module(x[..., :27])


def reshaping(folder: Path) -> Path:
    """Flattens with a shape that it computes from its input's, in halves: any even number of columns."""
    one, two = (helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("zero", 0), ("two", 2)))
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["y"]),
        helper.make_node("Shape", ["y"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Mul", ["rows", "two"], ["double"]),
        helper.make_node("Concat", ["double", "two"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["y", "wanted"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info("x", 1, ["n", 4]), helper.make_tensor_value_info("z", 1, ["m", 2])]
    w = numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32), "w")
    graph = helper.make_graph(nodes, "reshaping", ends[:1], ends[1:], [one, two, w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "r.onnx")
    return folder / "r.onnx"


def test_sizes_are_computed_once_for_each_shape(tmp_path: Path) -> None:
    module = graphsplit.trainable(reshaping(tmp_path))
    assert module._program.steady is not None
    for rows in (3, 5, 3, 5):
        assert torch.equal(module(torch.ones(rows, 4)), torch.tensor([[1.0, 2], [3, 4]]).repeat(rows, 1))
    assert len(module._remembered) == 2
    assert set(module.state_dict()) == {"w"}
    with torch.inference_mode():  # what is computed there must not be kept for training
        module(torch.ones(7, 4))
    module(torch.ones(7, 4)).sum().backward()


def test_sizes_that_depend_on_data_are_never_kept(tmp_path: Path) -> None:
    module = graphsplit.trainable(write(counting("places"), tmp_path))
    assert module._program.steady is None
    for count in (1, 3):
        x = torch.zeros(4)
        x[:count] = 1
        assert module(x).tolist() == [1.0, 2.0 * count]


def test_it_compiles_as_one_graph() -> None:
    module, x = graphsplit.trainable(LENET), torch.randn(2, 1, 28, 28)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))


# -- training ------------------------------------------------------------------------------------------------------------


def test_a_loss_falls_on_the_shipped_model() -> None:
    module = graphsplit.trainable(LENET).train()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 1, 28, 28, generator=generator), torch.randint(10, (32,), generator=generator)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.5)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2, losses


def norm(folder: Path, *, shared: bool = False, ratio: float = 0.0) -> Path:
    """A batch norm, and dropout behind it."""
    rng = np.random.default_rng(3)
    values = {n: rng.uniform(0.5, 1.5, 4).astype(np.float32) for n in ("scale", "bias", "mean", "var")}
    held = ["scale", "bias", "mean", "scale" if shared else "var"]
    nodes = [helper.make_node("BatchNormalization", ["x", *held], ["y"], name="norm", epsilon=1e-3, momentum=0.8)]
    nodes.append(helper.make_node("Dropout", ["y", "ratio"], ["z"], name="drop"))
    ends = [helper.make_tensor_value_info(n, 1, ["n", 4, 5]) for n in ("x", "z")]
    tensors = [numpy_helper.from_array(a, n) for n, a in values.items() if n in held]
    tensors.append(numpy_helper.from_array(np.float32(ratio), "ratio"))
    graph = helper.make_graph(nodes, "norm", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "n.onnx")
    return folder / "n.onnx"


def test_a_batch_norm_trains_as_torchs_does(tmp_path: Path) -> None:
    module = graphsplit.trainable(norm(tmp_path)).train()
    assert {n for n, _ in module.named_buffers() if not n.startswith("constant")} == {"mean", "var"}
    theirs = nn.BatchNorm1d(4, eps=1e-3, momentum=0.2)
    state = module.state_dict()
    theirs.load_state_dict(
        {"weight": state["scale"], "bias": state["bias"], "running_mean": state["mean"], "running_var": state["var"]},
        strict=False,
    )
    x = torch.randn(6, 4, 5)
    assert torch.allclose(module(x), theirs(x), atol=1e-6)
    assert torch.allclose(module.state_dict()["mean"], theirs.running_mean)
    assert torch.allclose(module.state_dict()["var"], theirs.running_var)
    module.eval()
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert torch.allclose(module(x), theirs.eval()(x), atol=1e-6)
    assert all(torch.equal(kept[name], tensor) for name, tensor in module.state_dict().items())


def test_dropout_is_active_in_training_mode_alone(tmp_path: Path) -> None:
    module, x = graphsplit.trainable(norm(tmp_path, ratio=0.5)), torch.randn(64, 4, 5)
    assert torch.equal(module(x), module(x))
    assert not bool((module(x) == 0).any())
    dropped = module.train()(x) == 0
    assert 0.4 < float(dropped.float().mean()) < 0.6


# -- refusals ------------------------------------------------------------------------------------------------------------


def test_an_op_without_implementation_is_refused_by_name(tmp_path: Path) -> None:
    path = affine(["w"], tmp_path)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Strange"
    onnx.save(model, path)
    with pytest.raises(UnsupportedError, match=r"Strange 'node0' .* no implementation of this op") as caught:
        graphsplit.trainable(path)
    assert "train the sub-model with a tool that runs this op" in caught.value.hint


def test_a_sub_graph_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", 1, None)],
    )
    node = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    ends = [helper.make_tensor_value_info("flag", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [2])]
    graph = helper.make_graph([node], "g", ends, [helper.make_tensor_value_info("y", 1, [2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedError, match=r"If 'choice' .* it holds a sub-graph"):
        graphsplit.trainable(write(model, tmp_path))


def test_a_statistic_that_is_a_weight_as_well_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"'scale' is a running statistic of BatchNormalization 'norm' and an operand"
    ):
        graphsplit.trainable(norm(tmp_path, shared=True))


def test_a_statistic_without_a_place_of_its_own_is_refused(tmp_path: Path) -> None:
    path = norm(tmp_path)
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Identity", ["bias"], ["same"]))
    model.graph.node[1].input[3] = "same"
    onnx.save(model, path)
    with pytest.raises(UnsupportedError, match="'norm' can't be trained: its running statistic 'same' is computed"):
        graphsplit.trainable(path)
