"""Ops that work element by element, and those that make a tensor from no data."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as nnf

from graphsplit.executor.ops import Attributes, Frame, Op, Run, Table, Tensor, number, plain, torch_type
from graphsplit.formats.torch_tensors import to_torch


def _divide(x: Tensor, y: Tensor) -> Tensor:
    if x.dtype.is_floating_point:
        return torch.div(x, y)
    return torch.div(x, y, rounding_mode="trunc")  # whole numbers are rounded towards zero


def _power(x: Tensor, y: Any) -> Tensor:
    result = torch.pow(x, y)
    return result if result.dtype == x.dtype else result.to(x.dtype)


def _fold(run: Callable[[Tensor, Tensor], Tensor]) -> Op:
    """An op of any number of operands, two at a time."""
    return plain(lambda *operands: functools.reduce(run, operands))


def _mean(*operands: Tensor) -> Tensor:
    return functools.reduce(torch.add, operands) / len(operands)


def _clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    if low is None and high is None:
        return x
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return torch.clamp(x, low, high)
    if low is not None:
        x = torch.maximum(x, low) if isinstance(low, Tensor) else torch.clamp(x, low)
    if high is not None:
        x = torch.minimum(x, high) if isinstance(high, Tensor) else torch.clamp(x, max=high)
    return x


def _clip_of(a: Attributes) -> Run:
    if a.version >= 11:
        return _clip
    low, high = a["min"], a["max"]
    return lambda x: torch.clamp(x, low, high)


def _gelu(a: Attributes) -> Run:
    approximate = a.get("approximate", "none")
    return lambda x: nnf.gelu(x, approximate=approximate)


def _hard_sigmoid(a: Attributes) -> Run:
    alpha, beta = a["alpha"], a["beta"]
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


def _is_inf(a: Attributes) -> Run:
    negative, positive = a["detect_negative"], a["detect_positive"]
    if negative and positive:
        return torch.isinf
    if not negative and not positive:
        return lambda x: torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf if positive else torch.isneginf


def _selu(a: Attributes) -> Run:
    alpha, gamma = a["alpha"], a["gamma"]
    return lambda x: nnf.elu(x, alpha) * gamma


def _shrink(a: Attributes) -> Run:
    bias, lambd = a["bias"], a["lambd"]

    def run(x: Tensor) -> Tensor:
        inner = torch.where(x > lambd, x - bias, torch.zeros_like(x))
        return torch.where(x < -lambd, x + bias, inner)

    return run


def _softplus(x: Tensor) -> Tensor:
    return nnf.softplus(x, threshold=50)  # beyond, log(1 + e^x) is x in any precision


def _swish(a: Attributes) -> Run:
    alpha = a["alpha"]
    return nnf.silu if alpha == 1 else lambda x: x * torch.sigmoid(x * alpha)


def _thresholded_relu(a: Attributes) -> Run:
    alpha = a["alpha"]
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _with(name: str, run: Callable[..., Tensor]) -> Op:
    """An op with one attribute, as the function's second argument."""

    def make(a: Attributes) -> Run:
        value = a[name]
        return lambda x: run(x, value)

    return Op(make)


def _mod(a: Attributes) -> Run:
    return torch.fmod if a["fmod"] else torch.remainder


def _shift(a: Attributes) -> Run:
    return torch.bitwise_left_shift if a["direction"] == "LEFT" else torch.bitwise_right_shift


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _swiglu(a: Attributes) -> Run:
    swish = _swish(a)
    return lambda gate, value: swish(gate) * value


def _cast(a: Attributes) -> Run:
    to = torch_type(a["to"], a)
    _refuse_short(a, to)
    return lambda frame, x: x.to(frame.kind(to))


def _refuse_short(a: Attributes, dtype: torch.dtype) -> None:
    if dtype.is_floating_point and dtype.itemsize == 1:
        raise a.refused(f"it rounds to {dtype}, where torch saturates otherwise than ONNX", "train the float model")


def _cast_like(a: Attributes) -> Run:
    def run(x: Tensor, like: Tensor) -> Tensor:
        _refuse_short(a, like.dtype)
        return x.to(like.dtype)

    return run


def _bit_cast(a: Attributes) -> Run:
    to = torch_type(a["to"], a)
    return lambda x: x.view(to)


def _constant_of_shape(a: Attributes) -> Run:
    value = a.get("value")
    fill, dtype = (0.0, torch.float32) if value is None else (value.item(), to_torch(value).dtype)
    return lambda frame, shape: torch.full(shape, fill, dtype=frame.kind(dtype), device=frame.device)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (number(t.tolist()) for t in (start, limit, delta))
    count = max(math.ceil((last - first) / step), 0)
    found: Tensor = torch.arange(count, dtype=start.dtype, device=start.device) * step + first
    return found


def _drawn(draw: Callable[..., Tensor], names: tuple[str, str]) -> Op:
    """Random numbers: of a shape in an attribute, or like another tensor."""

    def make(a: Attributes) -> Run:
        one, two = (a[name] for name in names)
        code = a.get("dtype")
        dtype = torch_type(code, a) if code else None

        def run(frame: Frame, x: Tensor | None = None) -> Tensor:
            shape = a["shape"] if x is None else x.shape
            kind = (torch.float32 if x is None else x.dtype) if dtype is None else frame.kind(dtype)
            place = frame.device if x is None else x.device
            return draw(torch.empty(tuple(shape), dtype=kind, device=place), one, two)

        return run

    return Op(make, framed=True, fixed=False)


def _window(formula: Callable[[Tensor], Tensor]) -> Op:
    def make(a: Attributes) -> Run:
        periodic, dtype = a["periodic"], torch_type(a["output_datatype"], a)

        def run(frame: Frame, size: int) -> Tensor:
            count = int(number(size))
            turns = torch.arange(count, dtype=torch.float64) * (2 * math.pi / (count if periodic else count - 1))
            return formula(turns).to(frame.kind(dtype)).to(frame.device)

        return run

    return Op(make, host={0: ""}, framed=True)


TABLE: Table = {
    # one operand
    "Abs": plain(torch.abs),
    "Acos": plain(torch.acos),
    "Acosh": plain(torch.acosh),
    "Asin": plain(torch.asin),
    "Asinh": plain(torch.asinh),
    "Atan": plain(torch.atan),
    "Atanh": plain(torch.atanh),
    "BitwiseNot": plain(torch.bitwise_not),
    "Ceil": plain(torch.ceil),
    "Celu": _with("alpha", nnf.celu),
    "Cos": plain(torch.cos),
    "Cosh": plain(torch.cosh),
    "Elu": _with("alpha", nnf.elu),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": Op(_gelu),
    "HardSigmoid": Op(_hard_sigmoid),
    "HardSwish": plain(nnf.hardswish),
    "IsInf": Op(_is_inf),
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": _with("alpha", nnf.leaky_relu),
    "Log": plain(torch.log),
    "Mish": plain(nnf.mish),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Round": plain(torch.round),
    "Selu": Op(_selu),
    "Shrink": Op(_shrink),
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Sinh": plain(torch.sinh),
    "Softplus": plain(_softplus),
    "Softsign": plain(nnf.softsign),
    "Sqrt": plain(torch.sqrt),
    "Swish": Op(_swish),
    "Tan": plain(torch.tan),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": Op(_thresholded_relu),
    "Cast": Op(_cast, framed=True),
    "CastLike": Op(_cast_like),
    "BitCast": Op(_bit_cast),
    "Identity": plain(lambda x: x),
    # two or more
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "BitShift": Op(_shift),
    "BitwiseAnd": plain(torch.bitwise_and),
    "BitwiseOr": plain(torch.bitwise_or),
    "BitwiseXor": plain(torch.bitwise_xor),
    "Clip": Op(_clip_of, numbers={1: "", 2: ""}),
    "Div": plain(_divide),
    "Equal": plain(torch.eq),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Max": _fold(torch.maximum),
    "Mean": plain(_mean),
    "Min": _fold(torch.minimum),
    "Mod": Op(_mod),
    "Mul": plain(torch.mul),
    "Or": plain(torch.logical_or),
    "PRelu": plain(_prelu),
    "Pow": Op(lambda _: _power, numbers={1: ""}),
    "Sub": plain(torch.sub),
    "Sum": _fold(torch.add),
    "SwiGLU": Op(_swiglu),
    "Where": plain(torch.where),
    "Xor": plain(torch.logical_xor),
    # no data
    "BlackmanWindow": _window(lambda t: 0.42 - 0.5 * torch.cos(t) + 0.08 * torch.cos(2 * t)),
    "ConstantOfShape": Op(_constant_of_shape, host={0: ""}, framed=True),
    "HammingWindow": _window(lambda t: 25 / 46 - 21 / 46 * torch.cos(t)),
    "HannWindow": _window(lambda t: 0.5 - 0.5 * torch.cos(t)),
    "RandomNormal": _drawn(lambda x, mean, scale: x.normal_(mean, scale), ("mean", "scale")),
    "RandomNormalLike": _drawn(lambda x, mean, scale: x.normal_(mean, scale), ("mean", "scale")),
    "RandomUniform": _drawn(lambda x, low, high: x.uniform_(low, high), ("low", "high")),
    "RandomUniformLike": _drawn(lambda x, low, high: x.uniform_(low, high), ("low", "high")),
    "Range": Op(lambda _: _range, ragged=True),
}
