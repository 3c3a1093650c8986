"""MNIST as the paper trains on it: SGD, learning rate 0.1, momentum 0.9, batches of 500; 100 epochs as sub-models, 100 merged.

DATA_ROOT holds `MNIST/raw/` with the four gzipped idx files, as torchvision keeps them.

graphsplit run models.lenet:LeNet --input 1x1x28x28 --task models/mnist_task.py --set DATA_ROOT=data -k 2 --pretrain 100 -o mnist
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

EPOCHS = 200
DATA_ROOT = "data"
BATCH = 500
LEARNING_RATE, MOMENTUM = 0.1, 0.9
IMAGES = 60_000


def idx(name: str) -> Tensor:
    """The array in an idx file: four bytes of type and rank, the sizes, then bytes."""
    path = Path(DATA_ROOT, "MNIST", "raw", name + ".gz")
    if not path.exists():
        raise FileNotFoundError(f"{path} isn't there: say where MNIST lies with --set DATA_ROOT=FOLDER")
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    sizes = np.frombuffer(content, ">i4", rank, 4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy())


def digits(part: str, count: int | None = None) -> TensorDataset:
    """Images (count, 1, 28, 28) between 0 and 1, and their labels."""
    images, labels = idx(f"{part}-images-idx3-ubyte"), idx(f"{part}-labels-idx1-ubyte")
    return TensorDataset(images[:count, None].float() / 255, labels[:count].long())


def _loader(data: TensorDataset, *, shuffled: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches at once: an index of the data is a list."""
    sampler = RandomSampler(data) if shuffled else SequentialSampler(data)
    return DataLoader(data, sampler=BatchSampler(sampler, BATCH, drop_last=False), batch_size=None)


def train_data() -> DataLoader[tuple[Tensor, ...]]:
    """The 60,000 training images, or the first IMAGES of them."""
    return _loader(digits("train", IMAGES), shuffled=True)


def test_data() -> DataLoader[tuple[Tensor, ...]]:
    """The 10,000 test images."""
    return _loader(digits("t10k"), shuffled=False)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return cross_entropy(logits, labels)


def metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The share of digits that are misread."""
    return {"error": (logits.argmax(1) != labels).float().mean()}


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability that each digit's own class is given."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def optimizer(model: nn.Module) -> Optimizer:
    """The paper's."""
    return SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
