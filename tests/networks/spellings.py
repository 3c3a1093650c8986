"""One meaning, many spellings: where weights stand, how old opsets write it, dtypes, computed shapes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.networks.blocks import classifier, conv_bn, conv_relu, image
from tests.networks.builder import Net
from tests.networks.registry import network, variants


def trunk(net: Net) -> Net:
    """The network whose spelling the variants below change: convolutions, a shortcut, dense layers."""
    x = conv_bn(net, image(net, size=8), "conv1", 8)
    x = net.add(x, conv_bn(net, x, "conv2", 8))
    x = net.relu(net.dense(net.flatten(net.max_pool(x)), "fc1", 16))
    net.output(net.dense(x, "fc2", 5), "output")
    return net


def respell(model: onnx.ModelProto, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> None:
    """Replaces nodes and initializers of a model, in place."""
    # Cleared through del: a message that is assigned to itself would be emptied first.
    nodes, initializers = [*nodes], [*initializers]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)


@network
def constant_nodes() -> onnx.ModelProto:
    """All weights in Constant nodes, none in initializers."""
    model = trunk(Net("constant_nodes")).build()
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    respell(model, [*constants, *model.graph.node], [])
    return model


@network
def identity_weights() -> onnx.ModelProto:
    """Weights behind Identity, some behind two; one initializer stands behind two names (really tied)."""
    net = Net("identity_weights")
    weight = net.param("fc2.weight", (12, 12))
    weights = [weight, net.op("Identity", net.op("Identity", weight))]
    x = net.relu(net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    for i, w in enumerate(weights):
        bias = net.op("Identity", net.param(f"fc2.bias{i}", (12,), "bias"))
        x = net.op("Tanh", net.op("Gemm", x, w, bias, name="fc2"))
    net.output(net.dense(x, "fc3", 4), "output")
    return net.build()


@network
def initializers_as_inputs() -> onnx.ModelProto:
    """As files before IR version 4 had to."""
    return trunk(Net("initializers_as_inputs", opset=8)).build(inputs_too=True)


@network
def float16() -> onnx.ModelProto:
    return trunk(Net("float16", dtype="float16")).build()


@network
def float64() -> onnx.ModelProto:
    net = Net("float64", dtype="float64")
    x = net.op("Tanh", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    net.output(net.dense(net.op("Sigmoid", net.dense(x, "fc2", 8)), "fc3", 4), "output")
    return net.build()


@network
def mixed_precision() -> onnx.ModelProto:
    """Casts between float32 and float16, and float16 weights cast up in the graph."""
    net = Net("mixed_precision")
    x = net.op("Cast", conv_relu(net, image(net, size=8), "conv1", 8), to=onnx.TensorProto.FLOAT16)
    weight = net.tensor("conv2.weight", net.draw("conv2.weight", (12, 8, 3, 3)).astype(np.float16))
    x = net.op("Conv", net.op("Cast", x, to=1), net.op("Cast", weight, to=1), name="conv2", pads=[1] * 4)
    classifier(net, net.relu(x))
    return net.build()


@network
def nodes_out_of_order() -> onnx.ModelProto:
    """Reversed nodes: the checker wants them sorted, runtimes don't, and real files come like this."""
    model = trunk(Net("nodes_out_of_order")).build()
    respell(model, list(reversed(model.graph.node)), list(model.graph.initializer))
    return model


@network
def tensor_encodings() -> onnx.ModelProto:
    """Numbers for shapes in raw data, in typed fields and of rank 0, as different exporters write them."""
    net = Net("tensor_encodings")
    x = conv_relu(net, image(net, size=8), "conv1", 12)
    x = net.reshape(x, [0, 3, 4, -1])
    x = net.op("Reshape", net.transpose(x, [0, 2, 1, 3]), net.constant([0, 12, 8, 8], name="typed"))
    x = net.add(conv_relu(net, x, "conv2", 8), net.constant(0.25))
    classifier(net, x)
    model = net.build()
    for tensor in model.graph.initializer:
        if tensor.name in ("/typed", "conv2.weight"):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel().tolist()))
    return model


@variants(batch_norm_as_mul_add={"nested": False}, batch_norm_as_unsqueezed={"nested": True})
def batch_norm_as_mul_add(nested: bool) -> onnx.ModelProto:
    """Batch norm folded to Mul and Add, with constants that the graph unsqueezes."""
    net = Net("batch_norm_as_mul_add")
    x = image(net, size=8)

    def operand(name: str, kind: str, size: int) -> str:
        if not nested:
            return net.unsqueeze(net.param(name, (size,), kind), [1, 2])
        return net.unsqueeze(net.unsqueeze(net.unsqueeze(net.param(name, (size,), kind), [0]), [2]), [3])

    for i, width in enumerate((8, 12)):
        y = net.conv(x, f"conv{i + 1}", width, bias=False)
        y = net.mul(operand(f"bn{i + 1}.scale", "scale", width), y)
        x = net.relu(net.add(y, operand(f"bn{i + 1}.shift", "bias", width)))
    classifier(net, x)
    return net.build()


@network
def batch_norm_spelled() -> onnx.ModelProto:
    """Batch norm from its four statistics: Sub, Div by the root, Mul, Add; the variance's root is computed."""
    net = Net("batch_norm_spelled")
    x = net.conv(image(net, size=8), "conv1", 12, bias=False)
    mean, var, gain, bias = (
        net.param(f"bn.{n}", (1, 12, 1, 1), kind)
        for n, kind in (("mean", "mean"), ("var", "variance"), ("weight", "scale"), ("bias", "bias"))
    )
    x = net.op("Div", net.op("Sub", x, mean), net.op("Sqrt", net.add(var, net.constant(1e-5))))
    x = net.relu(net.add(net.mul(x, gain), bias))
    classifier(net, conv_relu(net, x, "conv2", 8))
    return net.build()


def part_of_shape(net: Net, x: str, axis: int) -> str:
    """x.shape[axis] as torch exports it: a scalar, made a vector of one again."""
    scalar = net.op("Gather", net.op("Shape", x), net.constant(np.asarray(axis, np.int64), name="index"), axis=0)
    return net.unsqueeze(scalar, [0])


@network
def computed_shapes() -> onnx.ModelProto:
    """Batch, height and width are dynamic; every Reshape gets its shape from arithmetic in the graph."""
    net = Net("computed_shapes")
    x = net.input("input", ("batch", 3, "height", "width"))
    x = conv_relu(net, x, "conv1", 12)
    batch, channels, height, width = (part_of_shape(net, x, i) for i in range(4))
    # A shuffle whose group size is the number of channels divided by a constant.
    inner = net.op("Div", channels, net.constant([3]))
    y = net.op("Reshape", x, net.concat(batch, net.constant([3]), inner, height, width, axis=0))
    y = net.transpose(net.declare(y, ("batch", 3, 4, "height", "width")), [0, 2, 1, 3, 4])
    y = net.op("Reshape", y, net.concat(batch, channels, height, width, axis=0))
    y = conv_relu(net, net.declare(y, ("batch", 12, "height", "width")), "conv2", 8)
    # Flattened space: (N, C, H*W), a gate from it, and back.
    flat = net.op("Reshape", y, net.concat(batch, net.constant([8]), net.mul(height, width), axis=0))
    net.declare(flat, ("batch", 8, None))
    flat = net.op("Sigmoid", net.op("Sub", flat, net.mean(flat, [-1])))
    gate = net.op("Reshape", flat, net.op("Shape", y))
    y = net.mul(y, net.declare(gate, ("batch", 8, "height", "width")))
    y = net.mean(y, [2, 3])
    y = net.op("Reshape", y, net.concat(part_of_shape(net, y, 0), net.constant([-1]), axis=0))
    net.output(net.dense(net.declare(y, ("batch", 8)), "fc", 5), "output")
    return net.build()


@network
def computed_flatten() -> onnx.ModelProto:
    """view(x.size(0), -1) and a Slice of the Shape, on a static image."""
    net = Net("computed_flatten")
    x = net.max_pool(conv_relu(net, image(net, size=8), "conv1", 10))
    bounds = (net.constant(v, name="bound") for v in ([0], [1], [0]))
    batch = net.op("Slice", net.op("Shape", x), *bounds)
    x = net.op("Reshape", x, net.concat(batch, net.constant([-1]), axis=0))
    x = net.relu(net.dense(net.declare(x, ("batch", 160)), "fc1", 16))
    net.output(net.dense(x, "fc2", 5), "output")
    return net.build()


@variants(opset7={"opset": 7}, opset9={"opset": 9}, opset10={"opset": 10}, opset11={"opset": 11},
          opset13={"opset": 13}, opset18={"opset": 18}, opset21={"opset": 21})  # fmt: skip
def operators_of(opset: int) -> onnx.ModelProto:
    """Operators whose arguments moved from attributes to inputs: axes, sizes, bounds, pads, ratio, scales."""
    net = Net("opset", opset=opset)
    x = conv_bn(net, image(net, size=8), "conv1", 12, act="")
    a, b = net.split(net.clip(x, -2.0, 2.0), [8, 4])
    a = net.add(net.slice(a, [0], [4], [1]), b)
    x = net.pad(net.max_pool(net.concat(a, b)), [0, 0, 1, 1, 0, 0, 1, 1])
    x = net.upsample(net.relu(net.conv(x, "conv2", 10)))
    x = net.unsqueeze(net.squeeze(net.mean(x, [2, 3]), [3]), [3])
    x = net.axes_op("ReduceSum", x, [2, 3], 13, keepdims=0)
    x = net.relu(net.dense(net.dropout(x), "fc1", 12))
    net.output(net.dense(x, "fc2", 5), "output")
    return net.build()


@variants(softmax_of_space_opset11={"axis": 2}, softmax_of_everything_opset11={"axis": 1})
def softmax_before_13(axis: int) -> onnx.ModelProto:
    """Before opset 13 Softmax flattens all axes from `axis` on: from 2 it is over space, from 1 over channels too."""
    net = Net("softmax_before_13", opset=11)
    x = conv_relu(net, image(net, size=4), "conv1", 12)
    # Scaled up, for the values of a softmax over many elements are small.
    x = net.mul(net.op("Softmax", x, axis=axis), net.constant(20.0))
    x = net.op("PRelu", net.dense(net.flatten(x), "fc1", 12), net.param("act.weight", (12,), "slope"))
    net.output(net.op("Softmax", net.dense(x, "fc2", 5), axis=1), "output")
    return net.build()


@network
def unused_parts() -> onnx.ModelProto:
    """An initializer and a node that nothing reads, an input that is passed on, one that is not read at all."""
    net = Net("unused_parts")
    mask = net.input("mask", ("batch", 4))
    net.input("ignored", ("batch", 3))
    net.param("old.weight", (7, 3))
    x = net.op("Tanh", net.dense(net.input("input", ("batch", 6)), "fc1", 12))
    net.dense(x, "dead_head", 3)
    net.output(net.mul(net.dense(x, "fc2", 4), mask), "output")
    net.output(net.op("Identity", mask), "mask_out")
    return net.build()


@network
def tensorflow_export() -> onnx.ModelProto:
    """Channels-last input and output, automatic padding, convolutions without kernel_shape, biases as Add."""
    net = Net("tensorflow_export")
    x = net.transpose(net.input("input", ("batch", 8, 8, 3)), [0, 3, 1, 2])
    for i, width in enumerate((8, 12)):
        weight = net.param(f"conv{i + 1}/kernel", (width, net.size(x), 3, 3))
        y = net.op("Conv", x, weight, name=f"conv{i + 1}", auto_pad="SAME_UPPER", strides=[1 + i] * 2)
        x = net.relu(net.add(y, net.param(f"conv{i + 1}/bias", (1, width, 1, 1), "bias")))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    # Flattened as height, width, channels.
    x = net.reshape(net.transpose(x, [0, 2, 3, 1]), [-1, 48])
    x = net.op("MatMul", x, net.param("dense/kernel", (48, 10), fan_in=48), name="dense")
    x = net.op("Elu", net.add(x, net.param("dense/bias", (10,), "bias")))
    net.output(net.op("Softmax", net.dense(x, "head", 5), axis=-1), "output")
    return net.build()


@network
def einsum_and_tile() -> onnx.ModelProto:
    """A dense layer as Einsum, features repeated by Tile and by Expand, and joined with others."""
    net = Net("einsum_and_tile")
    x = net.input("input", ("batch", 5, 6))
    x = net.relu(net.op("Einsum", x, net.param("fc1.weight", (6, 12), fan_in=6), equation="bsi,io->bso"))
    code = net.dense(net.mean(x, [1]), "code", 8)
    x = net.concat(x, net.op("Tile", code, net.constant([1, 5, 1], name="repeats")), axis=2)
    x = net.op("Tanh", net.dense(x, "fc2", 10))
    x = net.add(x, net.op("Expand", net.dense(code, "code2", 10), net.constant([1, 5, 10], name="shape")))
    net.output(net.dense(x, "head", 3), "output")
    return net.build()
