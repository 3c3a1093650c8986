r"""CIFAR-10 as the paper trains on it, after cuda-convnet's `layers-cifar10-11pct`: 520 epochs on random crops of 24x24.

DATA_ROOT holds `cifar-10-batches-py/`, as torchvision keeps it. The epochs' schedule (350 on files 1 to 4, 150 on 1 to 5, 10 at
a tenth of the rate, 10 at a hundredth) is stretched over the epochs that there are, and each fall has an epoch at least.
The weights' update is torch's: it scales the momentum by the new rate where cuda-convnet keeps the old one, for the few steps
behind a drop.

graphsplit run models.cuda_convnet:CudaConvnet --input 1x3x24x24 --task models/cifar10_task.py --set DATA_ROOT=data \
    -k 2 --pretrain 300 -o cifar
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

EPOCHS = 520
DATA_ROOT = "data"
BATCH, CROP = 128, 24
IMAGES = 10_000  # of each file that is trained on
TESTED = 10_000  # test images
LEARNING_RATE, MOMENTUM = 0.001, 0.9
DECAYS = {"local3": 0.004, "local4": 0.004, "fc": 0.01}
FIRST, FALL = 350 / 520, 10 / 520


class _Plain(pickle.Unpickler):
    """Reads what CIFAR-10's files hold, and nothing else: dictionaries of bytes, lists and arrays of numbers."""

    KNOWN = ("_reconstruct", "ndarray", "dtype", "_codecs.encode")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] == "numpy" and name in self.KNOWN:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a file of CIFAR-10 holds no {module}.{name}")


def images(names: list[str], count: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) of bytes, the first `count` of each file, and their classes."""
    pixels, classes = [], []
    for name in names:
        path = Path(DATA_ROOT, "cifar-10-batches-py", name)
        if not path.exists():
            raise FileNotFoundError(f"{path} isn't there: say where CIFAR-10 lies with --set DATA_ROOT=FOLDER")
        held = _Plain(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels.append(np.asarray(held[b"data"])[:count])
        classes += held[b"labels"][:count]
    return torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32), torch.tensor(classes)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crops of images less their mean, between -255 and 255: random and mirrored half of the time, or central."""

    def __init__(self, found: tuple[Tensor, Tensor], mean: Tensor, *, random: bool) -> None:
        (self.pixels, self.classes), self.mean, self.random = found, mean, random

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        at = torch.tensor(index)
        whole, room = self.pixels[at].float() - self.mean, 32 - CROP
        if not self.random:
            return whole[..., room // 2 : room // 2 + CROP, room // 2 : room // 2 + CROP], self.classes[at]
        down, right = torch.randint(room + 1, (2, len(at), 1))
        mirrored = torch.rand(len(at), 1) < 0.5
        span = torch.arange(CROP)
        columns = torch.where(mirrored, right + span.flip(0), right + span)
        n, rows = torch.arange(len(at))[:, None, None], (down + span)[:, :, None]
        return whole.permute(0, 2, 3, 1)[n, rows, columns[:, None]].permute(0, 3, 1, 2).contiguous(), self.classes[at]


class Growing(Sampler[list[int]]):
    """Shuffled batches of the first four files, and of all five once the schedule says so."""

    def __init__(self, few: int, whole: int) -> None:
        self.few, self.whole, self.epoch = few, whole, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def count(self) -> int:
        """Images in this epoch."""
        return self.few if self.epoch < round(FIRST * EPOCHS) else self.whole

    def __len__(self) -> int:
        return math.ceil(self.count / BATCH)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(
            [
                piece.tolist()
                for piece in torch.tensor_split(torch.randperm(self.count), tuple(range(BATCH, self.count, BATCH)))
            ]
        )


FILES = [f"data_batch_{number}" for number in range(1, 6)]


def train_data() -> DataLoader[tuple[Tensor, Tensor]]:
    """Random crops, mirrored half of the time."""
    found = images(FILES, IMAGES)
    mean = found[0].float().mean(0)
    crops = Crops(found, mean, random=True)
    return DataLoader(crops, sampler=Growing(len(crops) * 4 // 5, len(crops)), batch_size=None)


def _central(names: list[str], count: int) -> list[tuple[Tensor, Tensor]]:
    mean = images(FILES, IMAGES)[0].float().mean(0)
    crops = Crops(images(names, count), mean, random=False)
    return [crops[list(range(at, min(at + 500, len(crops))))] for at in range(0, len(crops), 500)]


def validation_data() -> list[tuple[Tensor, Tensor]]:
    """Central crops of the fifth file, on which the network trains in the last epochs only."""
    return _central(FILES[4:], IMAGES)


def test_data() -> list[tuple[Tensor, Tensor]]:
    """Central crops of the test images."""
    return _central(["test_batch"], TESTED)


def loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy."""
    return cross_entropy(logits, classes)


def metrics(logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """The share of images that are taken for another class."""
    return {"error": (logits.argmax(1) != classes).float().mean()}


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability that each image's own class is given."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def optimizer(model: nn.Module) -> Optimizer:
    """SGD: biases at twice the rate and without decay, weights with their layer's."""
    groups = []
    for name, parameter in model.named_parameters():
        layer, _, kind = name.partition(".")
        if kind.startswith("bias"):
            groups.append({"params": [parameter], "lr": 2 * LEARNING_RATE, "weight_decay": 0.0})
        else:
            groups.append({"params": [parameter], "lr": LEARNING_RATE, "weight_decay": DECAYS.get(layer, 0.0)})
    return SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM)


def schedule(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """A tenth of the rate near the end, then a hundredth; less than four epochs have no room for that."""
    short = max(1, round(FALL * epochs)) if epochs >= 4 else 0
    return LambdaLR(
        optimizer, lambda epoch: 1.0 if epoch < epochs - 2 * short else 0.1 if epoch < epochs - short else 0.01
    )
