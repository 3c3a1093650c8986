"""Random networks: valid, finite, and made of everything that a split has to understand.

Every choice comes from one `random.Random`: from a seed in `random_network`, from hypothesis in `networks`
(whose generator records the choices and shrinks them).
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

import onnx
from hypothesis import note
from hypothesis import strategies as st

from tests.networks.blocks import (
    activation,
    channel_shuffle,
    channels_last_norm,
    group_norm,
    layer_norm_spelled,
    spatial_gate,
)
from tests.networks.blocks import squeeze_excite as gate_channels
from tests.networks.builder import Net
from tests.networks.inputs import describe

# Even and odd ones, with few and with many divisors.
WIDTHS = (4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 18, 20, 24)
# ReLU kills units, and many in a row would leave constant networks: half of them pass something everywhere.
ACTIVATIONS = ("Relu", "LeakyRelu", "Tanh", "Sigmoid", "Swish", "Elu", "HardSwish", "Softplus", "Relu6", "PRelu")
NORMS = ("none", "batch", "lrn", "layer", "layer_spelled", "group", "whole", "instance")
LONGEST = 3


class Grower:
    """Grows one network: each method of blocks takes an image-like value (N, C, H, W) and returns another."""

    def __init__(self, rng: random.Random, max_depth: int) -> None:
        self.rng, self.max_depth = rng, max_depth
        self.net = Net("random", seed=rng.randrange(2**32))
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def width(self, most: int = 24) -> int:
        return self.rng.choice([w for w in WIDTHS if w <= most])

    def divisor(self, *numbers: int, least: int = 1) -> int:
        """A number that divides all of them; 1 if nothing from `least` on does."""
        common = math.gcd(*numbers)
        return self.rng.choice([d for d in range(least, common + 1) if common % d == 0] or [1])

    # pieces of blocks ---------------------------------------------------------------------------------------

    def act(self, x: str) -> str:
        kind = self.rng.choice(ACTIVATIONS)
        if kind != "PRelu":
            return activation(self.net, x, kind)
        slopes = self.rng.choice([self.net.size(x), 1])
        tail = [1] * (len(self.net.shape(x)) - 2)
        return self.net.op("PRelu", x, self.net.param(f"{self.name('prelu')}.weight", (slopes, *tail), "slope"))

    def norm_act(self, x: str, kind: str = "") -> str:
        """A norm and an activation: the mean over space of a bare instance norm would be a constant."""
        net, name = self.net, self.name("norm")
        kinds: dict[str, Callable[[], str]] = {
            "none": lambda: x,
            "batch": lambda: net.batch_norm(x, name),
            "lrn": lambda: net.op("LRN", x, size=self.rng.choice([3, 5]), alpha=0.2, beta=0.75, bias=1.0),
            "layer": lambda: channels_last_norm(net, x, name),
            "layer_spelled": lambda: layer_norm_spelled(net, x, name, axis=1),
            "group": lambda: group_norm(net, x, name, self.divisor(net.size(x), least=2)),
            "whole": lambda: group_norm(net, x, name, 1),
            "instance": lambda: net.instance_norm(x, name),
        }
        assert tuple(kinds) == NORMS
        return self.act(kinds[kind or self.rng.choice(NORMS)]())

    def conv(
        self, x: str, out: int, *, kernel: int | None = None, groups: int = 1, stride: int = 1, bias: bool = True
    ) -> str:
        kernel = kernel or self.rng.choice([1, 3])
        bias = bias and self.maybe(0.6)
        return self.net.conv(x, self.name("conv"), out, kernel, groups=groups, stride=stride, bias=bias)

    def layer(self, x: str, out: int, *, kernel: int | None = None, groups: int = 1, stride: int = 1) -> str:
        """Convolution, norm, activation; no bias where the norm would take it away again."""
        kind = self.rng.choice(NORMS)
        bias = kind not in ("group", "instance")
        return self.norm_act(self.conv(x, out, kernel=kernel, groups=groups, stride=stride, bias=bias), kind)

    def to_width(self, x: str, out: int) -> str:
        return x if self.net.size(x) == out else self.conv(x, out, kernel=1)

    # blocks: they keep height and width -----------------------------------------------------------------------

    def plain(self, x: str, depth: int) -> str:
        return self.layer(x, self.width())

    def grouped(self, x: str, depth: int) -> str:
        groups = self.divisor(self.net.size(x), least=2)
        out = groups * self.rng.randint(1, max(1, 24 // groups))
        return self.layer(x, out, groups=groups)

    def depthwise(self, x: str, depth: int) -> str:
        channels = self.net.size(x)
        multiplier = 2 if channels <= 12 and self.maybe(0.25) else 1
        return self.layer(x, channels * multiplier, kernel=3, groups=channels)

    def residual(self, x: str, depth: int) -> str:
        channels = self.net.size(x)
        y = self.net.add(x, self.to_width(self.trunk(x, depth + 1), channels))
        return self.act(y) if self.maybe(0.5) else y

    def dense_concat(self, x: str, depth: int) -> str:
        if self.net.size(x) > 24:
            x = self.conv(x, self.width())
        y = self.trunk(x, depth + 1)
        return self.net.concat(*self.rng.sample([x, y], 2))

    def towers(self, x: str, depth: int) -> str:
        ys = [self.trunk(x, depth + 1) for _ in range(self.rng.choice([2, 3]))]
        if self.maybe(0.5):
            return self.net.concat(*ys)
        out = self.net.size(ys[0])
        ys = [self.to_width(y, out) for y in ys]
        if self.maybe(0.3):
            return functools.reduce(lambda a, b: self.net.mul(a, self.net.op("Sigmoid", b)), ys)
        return self.net.op(self.rng.choice(["Sum", "Max", "Mean"]), *ys)

    def split(self, x: str, depth: int) -> str:
        """Some channels go their own way, and both come together: side by side, or multiplied where they match."""
        channels = self.net.size(x)
        first = channels // 2 if self.maybe(0.7) else self.rng.randint(1, channels - 1)
        a, b = self.net.split(x, [first, channels - first])
        if channels == 2 * first and self.maybe(0.4):
            return self.net.mul(a, self.net.op("Sigmoid", b))
        b = self.trunk(b, depth + 1)
        a = self.conv(a, self.width(12)) if self.maybe(0.3) else a
        return self.net.concat(a, b)

    def shuffle(self, x: str, depth: int) -> str:
        groups = self.divisor(self.net.size(x), least=2)
        return channel_shuffle(self.net, x, groups)

    def reorder(self, x: str, depth: int) -> str:
        order = list(range(self.net.size(x)))
        self.rng.shuffle(order)
        return self.net.op("Gather", x, self.net.constant(order, name="order"), axis=1)

    def squeeze_excite(self, x: str, depth: int) -> str:
        spelling, gate = self.rng.choice(["conv", "dense"]), self.rng.choice(["Sigmoid", "HardSigmoid"])
        hidden = self.rng.randint(2, 8)
        return gate_channels(self.net, x, self.name("se"), hidden, act="Swish", gate=gate, spelling=spelling)

    def gate_space(self, x: str, depth: int) -> str:
        if self.maybe(0.5):
            return spatial_gate(self.net, x, self.name("gate"), self.rng.choice([1, 3]))
        gate = self.conv(x, 1) if self.maybe(0.5) else self.net.mean(x, [1])
        return self.net.mul(x, self.net.op("Sigmoid", gate))

    def norm(self, x: str, depth: int) -> str:
        return self.norm_act(x)

    LEAVES = (plain, plain, plain, grouped, depthwise, shuffle, reorder, squeeze_excite, gate_space, norm)
    BRANCHED = (residual, residual, dense_concat, towers, split)

    def trunk(self, x: str, depth: int) -> str:
        """A few blocks in a row, at least one of them with weights of its own."""
        for i in range(self.rng.randint(1, LONGEST if depth == 0 else 2)):
            if i == 0 and (depth > 0 or self.net.size(x) < 4):
                x = self.plain(x, depth)
                continue
            x = self.rng.choice(self.LEAVES + (self.BRANCHED if depth < self.max_depth else ()))(self, x, depth)
        return x

    def down(self, x: str) -> str:
        """Half the height and width, unless that would leave single pixels (a norm over them is constant)."""
        if min(self.net.size(x, 2), self.net.size(x, 3)) < 4:
            return x
        match self.rng.choice(["none", "max", "average", "stride"]):
            case "max":
                return self.net.max_pool(x, 3, pad=1) if self.maybe(0.5) else self.net.max_pool(x)
            case "average":
                return self.net.avg_pool(x)
            case "stride":
                return self.layer(x, self.width(), kernel=3, stride=2)
        return x

    # the ends of the network ----------------------------------------------------------------------------------

    def stem(self) -> str:
        size, channels = self.rng.randint(4, 8), self.rng.randint(1, 4)
        shape = ("batch", channels, size, self.rng.choice([size, 4]))
        x = self.net.input("input", shape)
        second = self.rng.choice(["none", "none", "image", "raw", "vector"])
        if second == "raw":
            x = self.net.concat(x, self.net.input("input2", shape))
        x = x if self.maybe(0.85) else self.net.concat(x, self.plain(x, self.max_depth))
        x = self.plain(x, 0)
        if second == "image":
            x = self.net.add(x, self.conv(self.net.input("input2", shape), self.net.size(x)))
        elif second == "vector":
            vector = self.net.input("input2", ("batch", self.rng.randint(2, 6)))
            y = self.net.dense(vector, self.name("embed"), self.net.size(x))
            x = self.net.add(x, self.net.unsqueeze(y, [2, 3]))
        return x

    def head(self, x: str, output: str) -> None:
        """Dense layers behind a flatten or a mean, or a convolution for each pixel."""
        net, classes = self.net, self.rng.randint(1, 5)
        match self.rng.choice(["dense", "dense", "conv", "conv_mean"]):
            case "dense":
                y = net.flatten(x) if self.maybe(0.5) else net.global_pool(x)
                for _ in range(self.rng.randint(0, 2)):
                    y = net.dense(y, self.name("fc"), self.width())
                    norm = self.rng.choice(["none", "batch", "layer"])
                    y = net.batch_norm(y, self.name("bn")) if norm == "batch" else y
                    y = self.act(net.layer_norm(y, self.name("ln")) if norm == "layer" else y)
                y = net.dense(y, self.name("fc"), classes, bias=self.maybe(0.8))
            case "conv":
                y = self.conv(x, classes)
            case _:
                y = net.global_pool(self.conv(x, classes))
        net.output(net.op("Sigmoid", y) if self.maybe(0.3) else y, output)

    def grow(self) -> onnx.ModelProto:
        x = self.stem()
        early = x
        for stage in range(self.rng.randint(1, 2)):
            x = self.trunk(self.down(x) if stage else x, 0)
            early = x if stage == 0 else early
        self.head(x, "output")
        if self.maybe(0.25):
            # From the first stage, so that a value has readers of both kinds; from the stem's if there is one stage.
            self.head(early, "output2")
        return self.net.build()


def random_network(seed: int, max_depth: int = 2) -> onnx.ModelProto:
    """A valid network; the same bytes for the same seed."""
    return Grower(random.Random(seed), max_depth).grow()


def networks(max_depth: int = 2) -> st.SearchStrategy[onnx.ModelProto]:
    """Valid networks whose branches nest up to max_depth; they shrink to fewer blocks."""

    def grown(rng: random.Random) -> onnx.ModelProto:
        model = Grower(rng, max_depth).grow()
        note(describe(model))
        return model

    return st.randoms(use_true_random=False).map(grown)
