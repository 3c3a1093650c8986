"""A task that needs no data set: ten digits drawn in dots, moved about and drowned in noise, for networks that read MNIST.

graphsplit run models.lenet:LeNet --input 1x1x28x28 --task models/glyphs_task.py -k 2 --pretrain 3 --epochs 6 -o glyphs
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

EPOCHS = 6
IMAGES, TEST_IMAGES = 2000, 1000
BATCH = 50
NOISE = 0.6
LEARNING_RATE, MOMENTUM = 0.02, 0.9

DIGITS = """
111 010 111 111 101 111 111 111 111 111
101 110 001 001 101 100 100 001 101 101
101 010 111 111 111 111 111 010 111 111
101 010 100 001 001 001 101 010 101 001
111 111 111 111 001 111 111 010 111 111
"""


def glyphs(count: int, seed: int) -> TensorDataset:
    """Images (count, 1, 28, 28) and their digits: each moved by up to four pixels, its dots of its own size, with noise."""
    generator = torch.Generator().manual_seed(seed)
    rows = [[[float(dot) for dot in word] for word in line.split()] for line in DIGITS.strip().splitlines()]
    dots = torch.tensor(rows).transpose(0, 1)  # 10, 5, 3
    digits = torch.randint(10, (count,), generator=generator)
    drawn = interpolate(dots[digits, None], scale_factor=4.0)  # count, 1, 20, 12
    images = pad(drawn, (8, 8, 4, 4))
    moves = torch.randint(-4, 5, (count, 2), generator=generator).tolist()
    images = torch.stack([image.roll(move, (1, 2)) for image, move in zip(images, moves, strict=True)])
    return TensorDataset(images + NOISE * torch.randn(images.shape, generator=generator), digits)


def _loader(data: TensorDataset, *, shuffled: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches at once: an index of the data is a list."""
    sampler = RandomSampler(data) if shuffled else SequentialSampler(data)
    return DataLoader(data, sampler=BatchSampler(sampler, BATCH, drop_last=False), batch_size=None)


def train_data() -> DataLoader[tuple[Tensor, ...]]:
    """Batches in an order that is new each epoch."""
    return _loader(glyphs(IMAGES, seed=1), shuffled=True)


def validation_data() -> DataLoader[tuple[Tensor, ...]]:
    """Other images of the same kind."""
    return _loader(glyphs(TEST_IMAGES, seed=2), shuffled=False)


def test_data() -> DataLoader[tuple[Tensor, ...]]:
    """Images that no choice was made on."""
    return _loader(glyphs(TEST_IMAGES, seed=3), shuffled=False)


def loss(logits: Tensor, digits: Tensor) -> Tensor:
    """Cross-entropy."""
    return cross_entropy(logits, digits)


def metrics(logits: Tensor, digits: Tensor) -> dict[str, Tensor]:
    """The share of digits that are misread."""
    return {"error": (logits.argmax(1) != digits).float().mean()}


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability that each image's own class is given."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def optimizer(model: nn.Module) -> Optimizer:
    """SGD with momentum."""
    return SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def schedule(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """A rate that falls to nothing, over all the epochs: sub-models and the merged network are on one schedule."""
    return CosineAnnealingLR(optimizer, epochs)
