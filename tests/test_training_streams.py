"""Data of a training: each part's own order, by seed, part and epoch alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from graphsplit.training import load_task
from graphsplit.training.loop import Course, train
from graphsplit.training.streams import Stream
from graphsplit.training.trainee import make
from tests.training_tasks import PLAIN, net, task_file

__all__ = ["task_file"]  # fixtures


def batches(stream: Stream, epoch: int, skip: int = 0) -> list[list[float]]:
    stream.begin(epoch, skip)
    return [stream.next()[0].flatten().tolist() for _ in range(len(stream) - skip)]


def test_a_stream_depends_on_seed_part_and_epoch_alone(task_file: Path) -> None:
    data = load_task(task_file).train_data()
    found = batches(Stream(data, 0, 0), 0)
    torch.rand(7)
    random.random()
    assert batches(Stream(data, 0, 0), 0) == found
    assert batches(Stream(data, 0, 0), 0, skip=3) == found[3:]
    for other in (Stream(data, 1, 0), Stream(data, 0, 1)):
        assert batches(other, 0) != found
    assert batches(Stream(data, 0, 0), 1) != found


def test_a_stream_leaves_the_network_s_numbers_alone(task_file: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    batches(Stream(load_task(task_file).train_data(), 0, 0), 0)
    assert torch.equal(torch.rand(3), wanted)


GROWING = """

class Growing(torch.utils.data.Sampler):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 10 if self.epoch < 2 else 20

    def __iter__(self):
        return iter(range(len(self)))


def train_data():
    return DataLoader(Noisy(), batch_size=5, sampler=Growing())
"""


def test_an_epoch_is_as_long_as_its_sampler_says(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(PLAIN + GROWING)
    task = load_task(tmp_path / "task.py")
    (found,) = train(task, make(task, net(), [0], "cpu", 4), Course(4, 4))
    assert [line["samples"] for line in found.history] == [10, 20, 40, 60]
    (later,) = train(task, make(task, net(), [0], "cpu", 4), Course(4, 4, first=2))
    assert [line["samples"] for line in later.history] == [20, 40]


def test_what_validation_draws_changes_no_training(tmp_path: Path) -> None:
    shuffled = PLAIN.replace("    return [(", "    return DataLoader([(").replace(
        "torch.arange(8) % 4)]", "torch.arange(8) % 4)], None)"
    )
    drawing = shuffled.replace("def validation_data():", "def validation_data():\n    torch.rand(3)")
    losses = []
    for text in (PLAIN, drawing, PLAIN.replace("def validation_data", "def nothing")):
        (tmp_path / "task.py").write_text(text)
        task = load_task(tmp_path / "task.py")
        (found,) = train(task, make(task, net(), [0], "cpu", 3), Course(3, 3))
        losses.append([line["loss"] for line in found.history])
    assert losses[0] == losses[1] == losses[2]


def test_what_is_drawn_as_data_is_made_depends_on_the_seed(tmp_path: Path) -> None:
    split = "return DataLoader(torch.utils.data.random_split(Noisy(), [13, 10])[0], batch_size=5)"
    (tmp_path / "task.py").write_text(PLAIN.replace("return DataLoader(Noisy(), batch_size=5, shuffle=True)", split))
    task, losses = load_task(tmp_path / "task.py"), []
    for drawn, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(drawn)
        (found,) = train(task, make(task, net(), [0], "cpu", 1), Course(1, 1, seed))
        losses.append(found.history[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_loader_s_own_generator_is_seeded(task_file: Path) -> None:
    from torch.utils.data import DataLoader

    data = [(torch.full((2,), float(at)), torch.tensor(0)) for at in range(12)]
    loader = DataLoader(data, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1))
    found = batches(Stream(loader, 0, 0), 0)
    assert batches(Stream(loader, 0, 0), 0) == found
    assert batches(Stream(loader, 0, 1), 0) != found


def test_samplers_that_never_end_are_looked_at_so_deep(task_file: Path) -> None:
    class Endless:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Any:
            return iter([(torch.ones(2, 6), torch.zeros(2))])

        @property
        def sampler(self) -> Any:
            return Endless()

    ring = Endless()
    assert len(batches(Stream(ring, 0, 0), 0)) == 1


def test_spawned_workers_read_a_task_s_data_with_its_settings(tmp_path: Path) -> None:
    """They import its module anew."""
    spawned = PLAIN.replace("batch_size=5", 'batch_size=5, num_workers=1, multiprocessing_context="spawn"')
    found = []
    for name, text in (("plain", PLAIN), ("spawned", spawned)):
        (tmp_path / f"{name}.py").write_text(text.replace("x + 0.1 * torch.randn(6)", "x * RATE"))
        task = load_task(tmp_path / f"{name}.py", {"RATE": "0.25"})
        found.append(batches(Stream(task.train_data(), 0, 0), 0))
    assert found[0] == found[1]


def test_streams_that_share_a_generator_have_orders_of_their_own() -> None:
    """Given to a sampler inside a sampler: drawn in turns, and taken up in the middle, each is what it is alone."""
    generator = torch.Generator()
    data = torch.utils.data.TensorDataset(torch.arange(24))

    def loader() -> Any:
        order = torch.utils.data.RandomSampler(data, generator=generator)
        return torch.utils.data.DataLoader(
            data, sampler=torch.utils.data.BatchSampler(order, 4, drop_last=False), batch_size=None
        )

    def batches(streams: list[Stream], count: int) -> list[list[list[int]]]:
        return [[stream.next()[0].tolist() for stream in streams] for _ in range(count)]

    alone = []
    for part in (0, 1):
        stream = Stream(loader(), 3, part)
        stream.begin(1)
        alone.append([each[0] for each in batches([stream], 6)])
    both = [Stream(loader(), 3, part) for part in (0, 1)]
    for stream in both:
        stream.begin(1)
    assert batches(both, 6) == [list(pair) for pair in zip(*alone, strict=True)]
    later = [Stream(loader(), 3, part) for part in (0, 1)]
    for stream in later:
        stream.begin(1, skip=2)
    assert batches(later, 4) == [list(pair) for pair in zip(*alone, strict=True)][2:]
    assert alone[0] != alone[1]
