"""A part's batches: in an order of its own, which depends on the seed, the part and the epoch, and on nothing else.

Loaders and augmentations draw from the global generators of torch, numpy and Python, from those of accelerators, and from
generators that were given to a loader or sampler. Each stream has its own states of these, put in place while it makes a batch:
what the network draws (dropout) doesn't change its data, nor do other streams.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphsplit.training.task import Task, TrainingError, batches, blaming

State = tuple[torch.Tensor, Any, Any, Sequence[torch.Tensor]]
"""Of torch's, numpy's and Python's global generators, and of others of torch's."""


DEEPEST = 50
"""So many samplers of samplers at most are looked at."""


class Stream:
    """The batches of one part. `data` is what the `train_data` of a task (at `path`) gave: it is gone through once an epoch."""

    def __init__(self, data: Iterable[Any], seed: int, part: int, path: Path | None = None) -> None:
        _refuse_once(data, "train_data")
        self.data, self.seed, self.part, self.path = data, seed, part, path
        self.batches: Iterator[Any] = iter(())
        self.others = [*_generators(data), *accelerators()]
        self.state: State = _now(self.others)

    def __len__(self) -> int:
        """Batches an epoch. Raises TrainingError where the data doesn't say."""
        with blaming(self.path, "the length of train_data()"):
            try:
                found = len(self.data)  # type: ignore[arg-type]
            except TypeError:
                raise TrainingError(
                    "train_data() gives batches without a length",
                    hint="give it a __len__: the number of batches an epoch",
                ) from None
        if found < 1:
            raise TrainingError("train_data() gives no batch", hint="is the batch size larger than the data?")
        return found

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Start an epoch, `skip` batches into it: what an interrupted run has seen is drawn again and dropped."""
        words = np.random.SeedSequence([self.seed, self.part, epoch]).generate_state(2)
        self.state = _seeded([int(word) for word in words], self.others)
        with self._own(), blaming(self.path, "set_epoch() of train_data()"):
            for one in _holders(self.data):
                if callable(count := getattr(one, "set_epoch", None)):
                    count(epoch)
            self.batches = batches(self.data, "train_data", self.path)
        for _ in range(skip):
            self.next()

    def next(self) -> Any:
        """The next batch. Raises TrainingError where the epoch has fewer than its length."""
        with self._own():
            found = next(self.batches, self)
        if found is self:
            raise TrainingError(f"train_data() ended before its {len(self)} batches")
        return found

    @contextmanager
    def _own(self) -> Iterator[None]:
        before = _now(self.others)
        _set(self.state, self.others)
        try:
            yield
        finally:
            self.state = _now(self.others)
            _set(before, self.others)


def _holders(data: Any) -> list[Any]:
    """A loader and its samplers, and the samplers that these draw from: each once, for they may hold each other.

    An object that makes its samplers as they are asked for may have no last one.
    """
    found, waiting = list[Any](), [data]
    while waiting and len(found) < DEEPEST:
        one = waiting.pop()
        if one is not None and not any(one is known for known in found):
            found.append(one)
            waiting += [getattr(one, name, None) for name in ("sampler", "batch_sampler")]
    return found


def _generators(data: Any) -> list[torch.Generator]:
    """The generators that loaders and samplers hold, each once: streams may share them."""
    held = [getattr(one, "generator", None) for one in _holders(data)]
    return list({id(one): one for one in held if isinstance(one, torch.Generator)}.values())


def accelerators() -> list[torch.Generator]:
    """The generators of the accelerators in use."""
    begun: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(torch.cuda.default_generators) if begun else []


def seed_model(seed: int, parts: Iterable[int], epoch: int) -> None:
    """Seed what networks and losses draw as they train, on all devices."""
    words = [int(word) for word in np.random.SeedSequence([seed, 1 << 20, *parts, epoch]).generate_state(2)]
    torch.manual_seed(words[0])
    _, numpy_state, python_state, _ = _seeded(words)
    _set((torch.get_rng_state(), numpy_state, python_state, ()))


def drawn(make: Callable[[], Any], seed: int) -> Any:
    """Data that a task makes: what it draws depends on the seed alone, and isn't taken from anybody else."""
    with apart(seed):
        return make()


def held_out(task: Task, name: str, seed: int) -> Any:
    """What the task's function `name` gives, to evaluate on again and again; None where the task has no such function.

    Raises TrainingError for what can't be gone through again.
    """
    function = getattr(task, name)
    if function is None:
        return None
    data = drawn(function, seed)
    _refuse_once(data, name)
    return data


def _refuse_once(data: Any, name: str) -> None:
    if hasattr(data, "__iter__") and not hasattr(data, "__next__"):  # iter() itself would draw numbers
        return
    once = ", which can be gone through once only" if hasattr(data, "__next__") else ", and no batches"
    raise TrainingError(f"{name}() gives a {type(data).__name__}{once}", hint="give a DataLoader, or a list of batches")


@contextmanager
def apart(seed: int) -> Iterator[None]:
    """Random numbers of its own, from the seed; everybody else's are as before behind it."""
    others = accelerators()
    before = _now(others)
    _set(_seeded([int(word) for word in np.random.SeedSequence([seed, 1 << 21]).generate_state(2)], others), others)
    try:
        yield
    finally:
        _set(before, others)


def _now(others: Sequence[torch.Generator] = ()) -> State:
    numpy_state = np.random.get_state()  # noqa: NPY002 - users' code draws from it
    return torch.get_rng_state(), numpy_state, random.getstate(), [one.get_state() for one in others]


def _set(state: State, others: Sequence[torch.Generator] = ()) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002 - users' code draws from it
    random.setstate(state[2])
    for one, own in zip(others, state[3], strict=True):
        one.set_state(own)


def _seeded(words: list[int], others: Sequence[torch.Generator] = ()) -> State:
    torch_state = torch.Generator().manual_seed(words[0]).get_state()
    own = [torch.Generator(one.device).manual_seed(words[0]).get_state() for one in others]
    return torch_state, np.random.RandomState(words).get_state(), random.Random(words[0]).getstate(), own  # noqa: S311
