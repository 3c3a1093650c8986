"""Networks put together at random from what today's networks are made of are exact."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from graphsplit.errors import GraphsplitError  # noqa: E402
from tests.torch_attention import Attention, D  # noqa: E402
from tests.torch_structures import IMAGES, TOKENS, Experts, Gated, ResponseNorm, Scaled, SpatialGate, Squeeze  # noqa: E402
from tools.shared.ways import Way  # noqa: E402
from tools.zoos.example import Example, ready  # noqa: E402
from tools.zoos.law import examine  # noqa: E402

WIDTH = 12


class Added(nn.Module):
    """Something beside which its input goes on, with a norm in front or behind."""

    def __init__(self, inner: nn.Module, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.inner(self.before(x)))


class Joined(nn.Module):
    """Two branches side by side, and a layer that brings them together."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other, self.together = one, other, nn.Conv2d(2 * WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.together(torch.cat([self.one(x), self.other(x)], 1))


def over_tokens(draw: random.Random, depth: int) -> nn.Module:
    """A network of tokens: its blocks, pre-norm and post-norm, and its output layer."""

    def inner() -> nn.Module:
        return draw.choice(
            [
                lambda: Attention(
                    draw.choice(["separate", "3hd", "h3d", "chunk"]), how=draw.choice(["fused", "alibi"])
                ),
                lambda: Attention(few=2, how=draw.choice(["repeated", "inside"])),
                lambda: Attention(how=draw.choice(["rotary halves", "rotary neighbours", "normed", "decomposed"])),
                lambda: Gated(draw.choice(["chunk", "split", "glu"])),
                Scaled,
                lambda: Experts(draw.choice([None, 2])),
                lambda: nn.Sequential(nn.Linear(D, 20), nn.GELU(), nn.Dropout(0.3), nn.Linear(20, D)),
            ]
        )()

    def norm() -> nn.Module:
        return draw.choice([lambda: nn.LayerNorm(D), lambda: nn.RMSNorm(D), nn.Identity])()

    blocks = [Added(inner(), norm(), norm()) for _ in range(depth)]
    return nn.Sequential(nn.Linear(5, D), *blocks, nn.Linear(D, 3))


def over_images(draw: random.Random, depth: int) -> nn.Module:
    """A network of images: convolutions of all kinds, norms, gates, branches."""

    def norm() -> nn.Module:
        return draw.choice(
            [
                lambda: nn.BatchNorm2d(WIDTH),
                lambda: nn.GroupNorm(draw.choice([1, 2, 4, 6]), WIDTH),
                lambda: nn.InstanceNorm2d(WIDTH, affine=True),
                ResponseNorm,
                lambda: nn.LocalResponseNorm(3),
            ]
        )()

    def layer() -> nn.Module:
        groups = draw.choice([1, 1, 4, WIDTH])
        act = draw.choice([nn.ReLU(), nn.SiLU(), nn.PReLU(), nn.Hardswish()])
        return nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=groups, bias=draw.random() < 0.5), norm(), act
        )

    def block() -> nn.Module:
        return draw.choice(
            [
                layer,
                lambda: Added(layer(), nn.Identity(), nn.ReLU()),
                lambda: Joined(layer(), layer()),
                lambda: nn.Sequential(layer(), Squeeze(draw.choice([1, 4]))),
                SpatialGate,
                lambda: nn.Sequential(nn.Conv2d(WIDTH, 4 * WIDTH, 1), nn.PixelShuffle(2), nn.MaxPool2d(2)),
                lambda: nn.Dropout2d(0.2),
            ]
        )()

    blocks = [block() for _ in range(depth)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 4)]
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), *blocks, *end)


@pytest.mark.parametrize("seed", range(24))
def test_a_generated_network_is_exact(seed: int) -> None:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    make, x = draw.choice([(over_tokens, TOKENS), (over_images, IMAGES)])
    model = make(draw, draw.randint(1, 4))
    strategy = draw.choice(["contiguous", "random", "interleaved"])
    try:
        found = examine(ready(Example(model, (x,))), Way(draw.choice([2, 2, 3]), strategy))
    except GraphsplitError as error:
        pytest.fail(f"{error}: say here which seeds are refused, and why")
    assert found["status"] == "exact", found["reason"]
    assert found["worst"] < 1e-10
