"""A small builder of ONNX networks whose weights are random, so that no two channels are alike.

A law that is tested on equal channels proves nothing: a permuted part would give the same output. Each
parameter is therefore drawn from a generator seeded by the network's seed and the parameter's own name;
names, not the order of calls, decide the values, under any PYTHONHASHSEED.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "float64": onnx.TensorProto.DOUBLE,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}
Dim = int | str | None
Array = npt.NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

KINDS: dict[str, Draw] = {
    "bias": lambda rng, shape: rng.uniform(0.05, 0.3, shape) * rng.choice([-1.0, 1.0], shape),
    "scale": lambda rng, shape: rng.uniform(0.6, 1.4, shape),
    "mean": lambda rng, shape: rng.normal(0.0, 0.2, shape),
    "variance": lambda rng, shape: rng.uniform(0.5, 1.5, shape),
    "slope": lambda rng, shape: rng.uniform(0.05, 0.4, shape),
    "embedding": lambda rng, shape: rng.normal(0.0, 0.5, shape),
}


def per_axis(value: int | Sequence[int], rank: int) -> list[int]:
    """One number for each spatial axis."""
    return [value] * rank if isinstance(value, int) else list(value)


class Net:
    """A graph under construction: each method adds nodes and returns the name of the value they compute."""

    def __init__(self, name: str = "net", *, opset: int = 17, dtype: str = "float32", seed: int = 0) -> None:
        self.name, self.opset, self.dtype, self.seed = name, opset, dtype, seed
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.types: dict[str, onnx.TypeProto] = {}
        self.domains: dict[str, int] = {}
        self._used: dict[str, int] = {}

    # values -------------------------------------------------------------------------------------------------

    def shape(self, value: str) -> tuple[Dim, ...]:
        """Shape of a value as inferred so far; a symbol for a dynamic axis, None for an unknown one."""
        dims = self.types[value].tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims)

    def size(self, value: str, axis: int = 1) -> int:
        """Length of one static axis: the number of channels unless told otherwise."""
        length = self.shape(value)[axis]
        assert isinstance(length, int), f"axis {axis} of {value} is {length}"
        return length

    def declare(self, value: str, shape: Sequence[Dim], dtype: str | None = None) -> str:
        """States a shape that inference cannot know (behind a computed Reshape)."""
        self.types[value] = helper.make_tensor_type_proto(TYPES[dtype or self.dtype], list(shape))
        return value

    def input(self, name: str, shape: Sequence[Dim], dtype: str | None = None) -> str:
        self.declare(name, shape, dtype)
        self.inputs.append(helper.make_value_info(name, self.types[name]))
        return name

    def output(self, value: str, name: str | None = None) -> None:
        """Makes a value an output of the graph, under a new name where one is given."""
        if name is not None and name != value:
            for node in self.nodes:
                for names in (node.input, node.output):
                    names[:] = [name if n == value else n for n in names]
            self.types[name] = self.types.pop(value)
            value = name
        self.outputs.append(value)

    def tensor(self, name: str, array: Array | np.generic) -> str:
        """An initializer with exactly this content."""
        assert name not in self.initializers, f"initializer {name} twice"
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self.types[name] = helper.make_tensor_type_proto(self.initializers[name].data_type, array.shape)
        return name

    def draw(self, name: str, shape: Sequence[int], kind: str = "weight", fan_in: int | None = None) -> Array:
        """Random content of a parameter; weights (out, in, ...) are scaled after He unless fan_in says otherwise."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        shape = tuple(shape)
        if kind == "weight":
            array = rng.normal(0.0, math.sqrt(2.0 / (fan_in or math.prod(shape[1:]) or 1)), shape)
        else:
            array = KINDS[kind](rng, shape)
        return np.asarray(array).astype(self.dtype)

    def param(self, name: str, shape: Sequence[int], kind: str = "weight", fan_in: int | None = None) -> str:
        return self.tensor(name, self.draw(name, shape, kind, fan_in))

    def constant(self, value: Any, dtype: str | None = None, name: str = "Constant") -> str:
        """Untrained data as an initializer: float numbers take the network's dtype, whole numbers int64.

        Its name begins with a slash, as exporters name what the code writes out; a parameter's never does.
        """
        array = np.asarray(value)
        array = array.astype(dtype or ("int64" if array.dtype.kind in "iu" else self.dtype))
        return self.tensor(self._unique(f"/{name}"), array)

    # nodes --------------------------------------------------------------------------------------------------

    def _unique(self, name: str) -> str:
        count = self._used.get(name, 0)
        self._used[name] = count + 1
        return f"{name}_{count}" if count else name

    def ops(
        self, op_type: str, *inputs: str, outputs: int = 1, name: str = "", domain: str = "", **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs; its name follows the layer, as torch's exporter does it."""
        path = name.replace(".", "/")
        title = self._unique(f"/{path}/{op_type}" if path else f"/{op_type}")
        results = [f"{title}_output_{i}" for i in range(outputs)]
        node = helper.make_node(op_type, inputs, results, name=title, domain=domain, **attributes)
        self.nodes.append(node)
        if domain:
            self.domains[domain] = 1
        else:
            self._infer(node)
        return results

    def op(self, op_type: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        return self.ops(op_type, *inputs, name=name, domain=domain, **attributes)[0]

    def _infer(self, node: onnx.NodeProto) -> None:
        # Node by node, so that layers can ask for the channels of what they are put on.
        types = {n: self.types[n] for n in node.input if n in self.types}
        data = {n: self.initializers[n] for n in node.input if n in self.initializers}
        imports = [helper.make_opsetid("", self.opset)]
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
        self.types.update(found)

    def axes_op(self, op_type: str, x: str, axes: Sequence[int], since: int, **attributes: Any) -> str:
        """Axes are an attribute before opset `since`, an input from there on."""
        if self.opset < since:
            return self.op(op_type, x, axes=list(axes), **attributes)
        return self.op(op_type, x, self.constant(list(axes), name="axes"), **attributes)

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        return self.axes_op("Unsqueeze", x, axes, 13)

    def squeeze(self, x: str, axes: Sequence[int]) -> str:
        return self.axes_op("Squeeze", x, axes, 13)

    def mean(self, x: str, axes: Sequence[int], keepdims: int = 1, op_type: str = "ReduceMean") -> str:
        return self.axes_op(op_type, x, axes, 13 if op_type == "ReduceSum" else 18, keepdims=keepdims)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        if self.opset < 13:
            return self.ops("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))
        return self.ops("Split", x, self.constant(list(sizes), name="split"), outputs=len(sizes), axis=axis)

    def slice(self, x: str, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> str:
        if self.opset < 10:
            return self.op("Slice", x, starts=list(starts), ends=list(ends), axes=list(axes))
        bounds = [self.constant(list(v), name=n) for v, n in ((starts, "starts"), (ends, "ends"), (axes, "axes"))]
        return self.op("Slice", x, *bounds)

    def stride_slice(self, x: str, step: int) -> str:
        """x[:, :, ::step, ::step]"""
        bounds = ([0, 0], [np.iinfo(np.int64).max] * 2, [2, 3], [step, step])
        return self.op("Slice", x, *(self.constant(b, name="bound") for b in bounds))

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        return self.op("Clip", x, self.constant(low, name="min"), self.constant(high, name="max"))

    def pad(self, x: str, pads: Sequence[int], mode: str = "constant") -> str:
        if self.opset < 11:
            return self.op("Pad", x, pads=list(pads), mode=mode)
        return self.op("Pad", x, self.constant(list(pads), name="pads"), mode=mode)

    def dropout(self, x: str, ratio: float = 0.5) -> str:
        if self.opset < 12:
            return self.op("Dropout", x, ratio=ratio)
        return self.op("Dropout", x, self.constant(ratio, "float32", name="ratio"))

    def upsample(self, x: str, factor: int = 2, mode: str = "nearest") -> str:
        scales = [1.0, 1.0, float(factor), float(factor)]
        if self.opset < 9:
            return self.op("Upsample", x, mode=mode, scales=scales)
        operand = self.constant(scales, "float32", name="scales")
        if self.opset == 9:
            return self.op("Upsample", x, operand, mode=mode)
        return self.op("Resize", x, operand, mode=mode) if self.opset == 10 else self.resize(x, operand, mode)

    def resize(self, x: str, scales: str, mode: str) -> str:
        rounding: dict[str, Any] = {}
        if mode == "nearest":
            rounding = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        # The region of interest became optional in opset 13.
        region = "" if self.opset >= 13 else self.constant(np.zeros(0), "float32", name="roi")
        return self.op("Resize", x, region, scales, mode=mode, **rounding)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.op("Reshape", x, self.constant(list(shape), name="shape"))

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        return self.op("Transpose", x, perm=list(perm))

    def flatten(self, x: str) -> str:
        return self.op("Flatten", x, axis=1)

    def concat(self, *xs: str, axis: int = 1) -> str:
        return self.op("Concat", *xs, axis=axis)

    def add(self, *xs: str) -> str:
        return self.op("Add", *xs)

    def mul(self, *xs: str) -> str:
        return self.op("Mul", *xs)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    # layers -------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        name: str,
        out: int,
        kernel: int | Sequence[int] = 3,
        *,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> str:
        """Convolution over all spatial axes of x (1-D, 2-D, 3-D), padded to keep the size unless told otherwise."""
        rank = len(self.shape(x)) - 2
        sizes = per_axis(kernel, rank)
        pads = [dilation * (s // 2) for s in sizes] if pad is None else [pad] * rank
        weight = self.param(f"{name}.weight", (out, self.size(x) // groups, *sizes))
        operands = [x, weight] + ([self.param(f"{name}.bias", (out,), "bias")] if bias else [])
        return self.op(
            "Conv", *operands, name=name, kernel_shape=sizes, strides=[stride] * rank, pads=pads * 2, group=groups,
            dilations=[dilation] * rank,
        )  # fmt: skip

    def conv_transpose(
        self, x: str, name: str, out: int, kernel: int = 2, *, stride: int = 2, pad: int = 0, groups: int = 1
    ) -> str:
        rank = len(self.shape(x)) - 2
        channels = self.size(x)
        fan_in = channels // groups * max(1, kernel // stride) ** rank
        weight = self.param(f"{name}.weight", (channels, out // groups, *[kernel] * rank), fan_in=fan_in)
        return self.op(
            "ConvTranspose", x, weight, self.param(f"{name}.bias", (out,), "bias"), name=name,
            kernel_shape=[kernel] * rank, strides=[stride] * rank, pads=[pad] * rank * 2, group=groups,
        )  # fmt: skip

    def dense(self, x: str, name: str, out: int, *, bias: bool = True) -> str:
        """Gemm on matrices, MatMul and Add on sequences, as torch exports nn.Linear."""
        rank, fan_in = len(self.shape(x)), self.size(x, -1)
        if rank == 2:
            operands = [x, self.param(f"{name}.weight", (out, fan_in))]
            operands += [self.param(f"{name}.bias", (out,), "bias")] if bias else []
            return self.op("Gemm", *operands, name=name, transB=1)
        y = self.op("MatMul", x, self.param(f"{name}.weight", (fan_in, out), fan_in=fan_in), name=name)
        return self.op("Add", self.param(f"{name}.bias", (out,), "bias"), y, name=name) if bias else y

    def batch_norm(self, x: str, name: str) -> str:
        suffixes = ("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "variance")
        operands = [self.param(f"{name}.{s}", (self.size(x),), kind) for s, kind in suffixes]
        extra: dict[str, Any] = {"spatial": 1} if self.opset < 9 else {}
        return self.op("BatchNormalization", x, *operands, name=name, epsilon=1e-5, momentum=0.9, **extra)

    def instance_norm(self, x: str, name: str) -> str:
        operands = [self.param(f"{name}.{s}", (self.size(x),), s2) for s, s2 in (("weight", "scale"), ("bias", "bias"))]
        return self.op("InstanceNormalization", x, *operands, name=name, epsilon=1e-3)

    def layer_norm(self, x: str, name: str) -> str:
        """Over the last axis; the operator exists from opset 17 on."""
        operands = [
            self.param(f"{name}.{s}", (self.size(x, -1),), s2) for s, s2 in (("weight", "scale"), ("bias", "bias"))
        ]
        return self.op("LayerNormalization", x, *operands, name=name, axis=-1, epsilon=1e-3)

    def max_pool(self, x: str, kernel: int = 2, *, stride: int = 2, pad: int = 0, **attributes: Any) -> str:
        return self._pool("MaxPool", x, kernel, stride, pad, **attributes)

    def avg_pool(self, x: str, kernel: int = 2, *, stride: int = 2, pad: int = 0, **attributes: Any) -> str:
        return self._pool("AveragePool", x, kernel, stride, pad, **attributes)

    def _pool(self, op_type: str, x: str, kernel: int, stride: int, pad: int, **attributes: Any) -> str:
        rank = len(self.shape(x)) - 2
        geometry: dict[str, Any] = {
            "kernel_shape": [kernel] * rank,
            "strides": [stride] * rank,
            "pads": [pad] * rank * 2,
        }
        return self.op(op_type, x, **geometry, **attributes)

    def global_pool(self, x: str) -> str:
        """Mean over space, flattened: (N, C, ...) -> (N, C)."""
        return self.flatten(self.op("GlobalAveragePool", x))

    # the model ----------------------------------------------------------------------------------------------

    def build(self, opset: int | None = None, *, inputs_too: bool = False, check: bool = True) -> onnx.ModelProto:
        """The checked model. inputs_too lists initializers among the inputs, as files before IR version 4 had to."""
        opset = opset or self.opset
        assert self.outputs, "a network needs an output"
        inputs = list(self.inputs)
        if inputs_too:
            inputs += [helper.make_value_info(n, self.types[n]) for n in self.initializers]
        outputs = [helper.make_value_info(n, self.types[n]) for n in self.outputs]
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, list(self.initializers.values()))
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        # IR 4 is the first that lets an initializer stay out of the inputs.
        ir_version = max(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]), 3 if inputs_too else 4)
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="graphsplit-tests")
        if check:
            onnx.checker.check_model(model, full_check=True)
        return model
