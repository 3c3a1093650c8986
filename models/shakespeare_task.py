"""A character language model's task: the next character of `text/tinyshakespeare.txt` in DATA_ROOT, or of any plain text.

graphsplit run models.char_lm:CharLM --input 1x128:int64 --task models/shakespeare_task.py --set DATA_ROOT=data -k 2 --pretrain 5
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

EPOCHS = 10
DATA_ROOT, TEXT = "data", "text/tinyshakespeare.txt"
LENGTH, BATCH = 128, 64
STEPS = 200
LEARNING_RATE, DECAY = 1e-3, 0.1
SCHEDULE_EACH = "step"
SYMBOLS = 65


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a text, each with the one that follows a character later. An index is a list of their starts' numbers."""

    def __init__(self, text: Tensor, stride: int) -> None:
        self.text, self.stride = text, stride

    def __len__(self) -> int:
        return (len(self.text) - LENGTH - 1) // self.stride + 1

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        at = torch.tensor(index)[:, None] * self.stride + torch.arange(LENGTH)
        return self.text[at], self.text[at + 1]


def text() -> Tensor:
    """The text as numbers of its symbols, in their order."""
    path = Path(DATA_ROOT, TEXT)
    if not path.exists():
        raise FileNotFoundError(f"{path} isn't there: say where the text lies with --set DATA_ROOT=FOLDER")
    content = path.read_text(encoding="utf-8")
    number = {symbol: at for at, symbol in enumerate(sorted(set(content)))}
    if len(number) > SYMBOLS:
        raise ValueError(f"{path} has {len(number)} symbols, and the network {SYMBOLS}")
    return torch.tensor([number[symbol] for symbol in content])


def train_data() -> DataLoader[tuple[Tensor, Tensor]]:
    """STEPS batches of windows that start anywhere in the first nine tenths; that is called an epoch."""
    whole = text()
    windows = Windows(whole[: len(whole) * 9 // 10], 1)
    sampler = RandomSampler(windows, num_samples=STEPS * BATCH)
    return DataLoader(windows, sampler=BatchSampler(sampler, BATCH, drop_last=True), batch_size=None)


def validation_data() -> DataLoader[tuple[Tensor, Tensor]]:
    """The last tenth, window behind window."""
    whole = text()
    windows = Windows(whole[len(whole) * 9 // 10 :], LENGTH)
    return DataLoader(
        windows, sampler=BatchSampler(SequentialSampler(windows), BATCH, drop_last=False), batch_size=None
    )


def loss(logits: Tensor, following: Tensor) -> Tensor:
    """Cross-entropy of a character, in nats."""
    return cross_entropy(logits.flatten(0, -2), following.flatten())


def optimizer(model: nn.Module) -> Optimizer:
    """AdamW; only matrices decay. What is a matrix is asked of its name: stacked sub-models have one axis more."""
    known = dict(model.named_parameters())
    decayed = [p for name, p in known.items() if name.endswith("weight") and "norm" not in name]
    others = [p for name, p in known.items() if not name.endswith("weight") or "norm" in name]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))


def schedule(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """A rate that falls to nothing, a step at a time."""
    return CosineAnnealingLR(optimizer, epochs * STEPS)
