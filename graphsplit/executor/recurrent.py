"""Recurrent layers: torch's own where they do what the node says, else a loop over time.

A node's weights are (directions, gates · hidden, …), gates in ONNX's order; sequences are (time, batch, …) inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import _VF
from torch.nn import functional as nnf

from graphsplit.executor.indexing import reversed_rows
from graphsplit.executor.ops import Attributes, Op, Run, Table, Tensor

Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""One step: the input and the states give the next states; the first of these is the output."""

_ACTIVATIONS: dict[str, Callable[[float | None, float | None], Callable[[Tensor], Tensor]]] = {
    "sigmoid": lambda *_: torch.sigmoid,
    "tanh": lambda *_: torch.tanh,
    "relu": lambda *_: torch.relu,
    "softsign": lambda *_: nnf.softsign,
    "softplus": lambda *_: nnf.softplus,
    "affine": lambda a, b: lambda x: x * (1.0 if a is None else a) + (0.0 if b is None else b),
    "leakyrelu": lambda a, _: lambda x: nnf.leaky_relu(x, 0.01 if a is None else a),
    "thresholdedrelu": lambda a, _: lambda x: torch.where(x > (1.0 if a is None else a), x, torch.zeros_like(x)),
    "scaledtanh": lambda a, b: lambda x: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
    "hardsigmoid": lambda a, b: lambda x: torch.clamp(x * (0.2 if a is None else a) + (0.5 if b is None else b), 0, 1),
    "elu": lambda a, _: lambda x: nnf.elu(x, 1.0 if a is None else a),
}
_TAKES = {"affine": 2, "scaledtanh": 2, "hardsigmoid": 2, "leakyrelu": 1, "thresholdedrelu": 1, "elu": 1}
_DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Torch's order of gates, as places in ONNX's."""


@dataclass(frozen=True)
class _Layer:
    """What a node's attributes say."""

    kind: str
    activations: tuple[tuple[str, float | None, float | None], ...]
    clip: float | None
    first: bool
    """Whether the batch comes first (`layout`)."""
    directions: tuple[bool, ...]
    """For each direction whether it runs backwards."""
    coupled: bool
    """LSTM: the forget gate is what the input gate leaves."""
    late: bool
    """GRU: the reset gate acts behind the product (`linear_before_reset`)."""

    @property
    def library(self) -> bool:
        """Whether torch has this layer."""
        plain = tuple(name for name, _, _ in self.activations) == _DEFAULTS[self.kind] * len(self.directions)
        relu = self.kind == "RNN" and all(name == "relu" for name, _, _ in self.activations)
        return (plain or relu) and self.clip is None and not self.coupled and (self.kind != "GRU" or self.late)


def _layer(a: Attributes, kind: str) -> _Layer:
    way = a.get("direction", "forward")
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[way]
    said = [n.decode() if isinstance(n, bytes) else n for n in a.get("activations") or _DEFAULTS[kind] * 2]
    names = [n.lower() for n in said[: len(_DEFAULTS[kind]) * len(directions)]]
    alphas, betas = iter(a.get("activation_alpha") or ()), iter(a.get("activation_beta") or ())
    found = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise a.refused(f"there is no activation {name!r} for it", "export it with another activation")
        takes = _TAKES.get(name, 0)
        found.append((name, next(alphas, None) if takes else None, next(betas, None) if takes == 2 else None))
    return _Layer(
        kind, tuple(found), a.get("clip"), bool(a.get("layout", 0)), directions,
        bool(a.get("input_forget", 0)), bool(a.get("linear_before_reset", 0)),
    )  # fmt: skip


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


def _cell(layer: _Layer, direction: int, r: Tensor, rb: Tensor | None, p: Tensor | None) -> Cell:
    """One step of a direction, on inputs that are multiplied by their weights already."""
    count = len(_DEFAULTS[layer.kind])
    chosen = layer.activations[direction * count : (direction + 1) * count]
    functions = [_ACTIVATIONS[name](alpha, beta) for name, alpha, beta in chosen]
    make = {"LSTM": _lstm_cell, "GRU": _gru_cell, "RNN": _rnn_cell}[layer.kind]
    return make(layer, functions, r, rb, p)


def _lstm_cell(layer: _Layer, f: list[Any], r: Tensor, rb: Tensor | None, p: Tensor | None) -> Cell:
    peep = p.chunk(3) if p is not None else None  # input, output, forget

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, o, forget, cell = (x + nnf.linear(h, r, rb)).chunk(4, -1)
        if peep is not None:
            i, forget = i + peep[0] * c, forget + peep[2] * c
        i = f[0](_clipped(i, layer.clip))
        forget = 1 - i if layer.coupled else f[0](_clipped(forget, layer.clip))
        c = forget * c + i * f[1](_clipped(cell, layer.clip))
        o = o + peep[1] * c if peep is not None else o
        return f[0](_clipped(o, layer.clip)) * f[2](c), c

    return step


def _gru_cell(layer: _Layer, f: list[Any], r: Tensor, rb: Tensor | None, _: Tensor | None) -> Cell:
    size = r.shape[-1]
    gates, last = r[: 2 * size], r[2 * size :]
    gate_bias, last_bias = (rb[: 2 * size], rb[2 * size :]) if rb is not None else (None, None)

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        z, reset = (x[..., : 2 * size] + nnf.linear(h, gates, gate_bias)).chunk(2, -1)
        z, reset = f[0](_clipped(z, layer.clip)), f[0](_clipped(reset, layer.clip))
        inner = reset * nnf.linear(h, last, last_bias) if layer.late else nnf.linear(reset * h, last, last_bias)
        new = f[1](_clipped(x[..., 2 * size :] + inner, layer.clip))
        return ((1 - z) * new + z * h,)

    return step


def _rnn_cell(layer: _Layer, f: list[Any], r: Tensor, rb: Tensor | None, _: Tensor | None) -> Cell:
    return lambda x, state: (f[0](_clipped(x + nnf.linear(state[0], r, rb), layer.clip)),)


def _looped(layer: _Layer, x: Tensor, weights: Sequence[Any], states: list[Tensor], lengths: Any) -> tuple[Any, ...]:
    """The loop over time, a direction after the other."""
    w, r, b, p = weights
    ends = torch.as_tensor(lengths, device=x.device) if lengths is not None else None
    outputs, finals = [], []
    for d, backwards in enumerate(layer.directions):
        wb, rb = b[d].chunk(2) if b is not None else (None, None)
        cell = _cell(layer, d, r[d], rb, p[d] if p is not None else None)
        seen = _turned(x, ends) if backwards else x
        products = nnf.linear(seen, w[d], wb)
        state = tuple(s[d] for s in states)
        steps = []
        for t in range(x.shape[0]):
            new = cell(products[t], state)
            if ends is not None:
                runs = (t < ends)[:, None]
                steps.append(torch.where(runs, new[0], torch.zeros_like(new[0])))
                new = tuple(torch.where(runs, n, s) for n, s in zip(new, state, strict=True))
            else:
                steps.append(new[0])
            state = new
        found = torch.stack(steps)
        outputs.append(_turned(found, ends) if backwards else found)
        finals.append(state)
    return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*finals, strict=True))


def _turned(x: Tensor, ends: Tensor | None) -> Tensor:
    """Time backwards; of a shorter sequence only what it has."""
    if ends is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)
    last = ends[:, None]
    index = torch.where(steps < last, last - 1 - steps, steps)
    return reversed_rows(x.transpose(0, 1), index).transpose(0, 1)


def _library(layer: _Layer, x: Tensor, weights: Sequence[Any], states: list[Tensor], training: bool) -> tuple[Any, ...]:
    """The layer as torch computes it."""
    w, r, b, _ = weights
    order = _GATES[layer.kind]
    flat: list[Tensor] = []
    for d in range(len(layer.directions)):
        held = [w[d], r[d], *(b[d].chunk(2) if b is not None else ())]
        for tensor in held:
            parts = tensor.chunk(len(order))
            flat.append(torch.cat([parts[i] for i in order]) if len(order) > 1 else tensor)
    alone = layer.directions == (True,)
    x = x.flip(0) if alone else x
    both = len(layer.directions) == 2
    hidden: Any = tuple(states) if layer.kind == "LSTM" else states[0]
    relu = layer.kind == "RNN" and layer.activations[0][0] == "relu"
    function: Any = {"LSTM": _VF.lstm, "GRU": _VF.gru, "RNN": _VF.rnn_relu if relu else _VF.rnn_tanh}[layer.kind]
    y, *finals = function(x, hidden, flat, b is not None, 1, 0.0, training, both, False)
    y = y.flip(0) if alone else y
    y = y.reshape(*y.shape[:2], len(layer.directions), -1).transpose(1, 2)
    return y, *finals


def _recurrent(kind: str, count: int) -> Op:
    """A recurrent layer with `count` states."""

    def make(a: Attributes) -> Run:
        layer = _layer(a, kind)

        def run(
            frame: Any,
            x: Tensor,
            w: Tensor,
            r: Tensor,
            b: Any = None,
            lengths: Any = None,
            h: Any = None,
            c: Any = None,
            p: Any = None,
        ) -> tuple[Any, ...]:
            x = x.transpose(0, 1) if layer.first else x
            given = (h, c)[:count]
            shape = (len(layer.directions), x.shape[1], r.shape[-1])
            states = [x.new_zeros(shape) if s is None else s.transpose(0, 1) if layer.first else s for s in given]
            if lengths is not None and all(length == x.shape[0] for length in lengths):
                lengths = None
            weights = (w, r, b, p)
            if layer.library and lengths is None and p is None:
                y, *finals = _library(layer, x, weights, [s.contiguous() for s in states], frame.training)
            else:
                y, *finals = _looped(layer, x, weights, states, lengths)
            if not layer.first:
                return y, *finals
            return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in finals)

        return run

    return Op(make, host={4: ""}, many=True, framed=True)


TABLE: Table = {
    "GRU": _recurrent("GRU", 1),
    "LSTM": _recurrent("LSTM", 2),
    "RNN": _recurrent("RNN", 1),
}
