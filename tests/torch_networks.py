"""Small torch modules of the usual structures, each with its inputs: what the torch front end is tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

Example = tuple[nn.Module, tuple[Any, ...]]


def sequential(*layers: nn.Module, shape: tuple[int, ...] = (3, 3, 16, 16)) -> Example:
    return nn.Sequential(*layers), (torch.randn(*shape),)


def lenet() -> Example:
    convolutions = (nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten())
    dense = (nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(500, 10))
    return sequential(*convolutions, *dense, shape=(3, 1, 28, 28))


class Residual(nn.Module):
    def __init__(self, width: int, groups: int = 1, slim: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down, self.up = nn.Conv2d(width, slim, 1), nn.Conv2d(slim, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = y * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        y += x
        return F.relu_(y)


def residual(groups: int = 1) -> Example:
    body = (nn.Conv2d(3, 16, 3, stride=2, padding=1), Residual(16, groups), Residual(16, groups))
    return sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


def group_norm() -> Example:
    body = (nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 8, 3), nn.GroupNorm(1, 8), nn.GELU())
    return sequential(*body, nn.Flatten(), nn.Linear(8 * 144, 5))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grow = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, padding=1)) for i in range(3)
        )
        self.head = nn.Linear(20 + 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for layer in self.grow:
            y = torch.cat([y, layer(y)], 1)
        return self.head(torch.cat([y, x], 1).mean((2, 3)))


class Shuffle(nn.Module):
    """Channels split in two halves, one of them computed on, and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=1)
        y = torch.cat([a, self.deep(b).relu()], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.avg_pool2d(y, h)[:, :, 0, 0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, s, d = x.shape
        q, k, v = self.qkv(x).reshape(n, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-2, -1)) * (d // self.heads) ** -0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    def __init__(self, *, fused: bool, tied: bool = False, length: int = 6) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, length, 16))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
        self.attention = Attention(16, 4, fused=fused)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x) + self.position
        y = y + self.attention(self.norms[0](y))
        y = y + self.down(F.gelu(self.up(self.norms[1](y))))
        return self.head(self.norms[2](y))


def transformer(*, fused: bool = False, tied: bool = False) -> Example:
    return Transformer(fused=fused, tied=tied), (torch.randint(0, 20, (3, 6)),)


def encoder_layer() -> Example:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Linear(5, 16), layer, nn.Linear(16, 4)), (torch.randn(3, 6, 5),)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.shuffle = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 32, 1)
        self.head = nn.Conv2d(24 + 8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.elu(self.a(x))
        b = F.leaky_relu_(self.b(a))
        fine = F.pixel_shuffle(self.shuffle(b), 2)
        soft = F.interpolate(b, scale_factor=2, mode="bilinear")[:, :8]
        return {"mask": self.head(torch.cat([a, self.up(b), fine, soft], 1))}


class Windows(nn.Module):
    """Shifted windows, a mask written region by region, and a relative bias that is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.head = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 48), nn.Linear(16, 5)
        self.bias = nn.Parameter(torch.randn(7, 4))
        self.register_buffer("where", torch.randint(0, 7, (16,)))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.roll(self.stem(x).permute(0, 2, 3, 1), (-1, -1), (1, 2))
        n, h, w, c = y.shape
        y = y.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        mask = y.new_zeros((4, 4))
        mask[2:, :2] = -100.0
        mask[:, 3] += 1
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores + self.bias[self.where].view(4, 4, -1).permute(2, 0, 1) + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, -1, c)
        return self.head(y.mean(1))


class Computed(nn.Module):
    """In-place writes under other names, a region without gradient, buffers that stay and that change, frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.second.weight.requires_grad_(False)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, int, None]:
        if self.training:
            self.steps += 1
        y = self.first(x)
        z = torch.zeros_like(y)
        z[:, :4] = y[:, 4:]
        view = z.view(-1, 2, 4)
        z[:, 4:] = y[:, :4] * 2
        with torch.no_grad():
            gate = torch.sigmoid(y * 3)
        y = self.second(view.flatten(1) * self.scale.type_as(y)) * gate
        return self.head(y.clamp(min=0)), 3, None


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 16, 5, padding=2), nn.Conv1d(8, 12, 3, stride=2)
        self.norm, self.alone = nn.InstanceNorm1d(8, affine=True), nn.PReLU(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(F.glu(self.a(x), dim=1))
        y = self.alone(self.b(y))
        first, second = y.split([4, 8], 1)
        return self.head(torch.cat([first.tanh(), second.softmax(-1)], 1).amax(-1))


NETWORKS: dict[str, Callable[[], Example]] = {
    "lenet": lenet,
    "residual": residual,
    "grouped": lambda: residual(4),
    "group_norm": group_norm,
    "dense": lambda: (Dense(), (torch.randn(3, 3, 8, 8),)),
    "shuffle": lambda: (Shuffle(), (torch.randn(3, 3, 8, 8),)),
    "transformer": transformer,
    "transformer_fused": lambda: transformer(fused=True),
    "transformer_tied": lambda: transformer(tied=True),
    "encoder_layer": encoder_layer,
    "unet": lambda: (UNet(), (torch.randn(3, 3, 8, 8),)),
    "windows": lambda: (Windows(), (torch.randn(3, 3, 16, 16),)),
    "computed": lambda: (Computed(), (torch.randn(3, 6),)),
    "sound": lambda: (Sound(), (torch.randn(3, 4, 20),)),
}


def example(name: str, *, training: bool, double: bool = True) -> Example:
    """A network with its inputs, the same every time, in double precision where that is asked for."""
    torch.manual_seed(sum(map(ord, name)))
    module, inputs = NETWORKS[name]()
    if double:
        module = module.double()
        inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return module.train(training), inputs
