"""One trial under way: networks with their optimizers, the clock, and the points of the curve.

Everything runs in this process through graphsplit's own trainer.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphsplit
from graphsplit.stacking import choose
from graphsplit.training import Task
from graphsplit.training.loop import Course, train
from graphsplit.training.streams import drawn
from graphsplit.training.together import IN_TURN, stacked_of, unstacked_into
from graphsplit.training.trainee import Trainee, batch_of, evaluate, make, take_up
from tools.experiments.trials import Setting, Trial, Way
from tools.shared.tables import versions


class Probe:
    """A task whose epochs are measured on the test data."""

    def __init__(self, task: Task, curve: int | None) -> None:
        assert task.test_data is not None
        self.data, batches = list(task.test_data()), task.train_data()
        self.few = list(islice(self.data, curve))
        self.held_out = list(task.validation_data()) if task.validation_data is not None else []
        self.task = replace(task, train_data=lambda: batches, validation_data=None, test_data=None)

    def scores(self, trainees: Sequence[Trainee], data: Sequence[Any]) -> list[dict[str, float]]:
        """Loss and metrics of each network; a stack is several."""
        return [score for one in trainees for score in evaluate(self.task, one, data)]


def clock_of(device: str) -> Callable[[], float]:
    """The process's own seconds where one thread computes, else those on the wall."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


@cache
def keeps_memory() -> bool:
    """Have the C library keep what tensors leave, where it is glibc; whether it does.

    By itself it gives large pieces back to the system and asks for them anew, at each step or never, as the heap happens to lie:
    that makes the same step of LeNet a fifth to a third longer in some trials and not in others.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    return mallopt is not None and bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_max, 0))


def surroundings(device: str, layout: str) -> dict[str, str]:
    """What a trial's seconds depend on besides what it does, by name; see to it that memory is kept from here on."""
    cuda, threads = device.startswith("cuda"), torch.get_num_threads()
    own = clock_of(device) is time.process_time
    return {
        "device": torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)}",
        "layout": layout,
        "memory": "kept" if keeps_memory() else "given back",
        "clock": "the process's own" if own else "on the wall",
        **versions(["graphsplit", "torch"]),
    }


class Runner:
    """One trial under way. `shared` is what trials of the same seed have in common: see `methods.Pretraining`."""

    def __init__(self, setting: Setting, way: Way, seed: int, shared: dict[Any, Any] | None = None) -> None:
        self.setting, self.way, self.seed = setting, way, seed
        self.shared = {} if shared is None else shared
        self.probe, self.now = Probe(setting.task(way.epochs), setting.curve), clock_of(setting.device)
        self.task = self.probe.task
        self.trial = Trial(
            way.title, seed, steady=self.task.schedule is None, on=surroundings(setting.device, setting.layout)
        )
        torch.manual_seed(seed)
        self.model = setting.build().train()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """What is done inside counts as the method's time."""
        begin = self.now()
        yield
        passed = self.now() - begin
        self.trial.seconds += passed
        self.trial.parallel += passed

    def split(self, module: nn.Module, k: int, **options: Any) -> Any:
        """A split of the network, or of a sub-model of it."""
        return graphsplit.split(module, self.setting.inputs, k=k, **options)

    def trainee(self, module: nn.Module, number: int = 0) -> Trainee:
        """A network with an optimizer and a schedule of its own."""
        return make(self.task, module, [number], self.setting.device, self.way.epochs, self.setting.layout)

    # -- training --------------------------------------------------------------------------------------------------

    def epochs(self, trainees: Sequence[Trainee], first: int, until: int) -> None:
        """Train to an epoch, as if one device did all of it; a point of the curve for each epoch."""
        for epoch in range(first, until):
            self._epoch(trainees, epoch)
            each = self.measured(trainees)
            mean = {name: sum(score[name] for score in each) / len(each) for name in each[0]}
            self.trial.curve.append(self.point(epoch + 1, mean))

    def _epoch(self, trainees: Sequence[Trainee], epoch: int) -> None:
        """An epoch of each, one after another."""
        passed = []
        for one in trainees:
            begin = self.now()
            found = train(self.task, one, Course(epoch + 1, self.way.epochs, self.seed, first=epoch))
            passed.append(self.now() - begin)
            self.trial.multiply_adds += found[0].multiply_adds  # of all that trained together
            self.trial.samples += sum(each.samples for each in found)
        self.trial.seconds += sum(passed)
        self.trial.parallel += max(passed)

    def measured(self, trainees: Sequence[Trainee]) -> list[dict[str, float]]:
        """Each network's scores for the curve, on the clock of evaluation."""
        begin = self.now()
        found = self.probe.scores(trainees, self.probe.few)
        self.trial.evaluation += self.now() - begin
        return found

    def point(self, epoch: int, scores: Mapping[str, float]) -> dict[str, float]:
        """Scores at an epoch, with what it took to get there."""
        trial = self.trial
        costs = {"seconds": trial.seconds, "evaluation": trial.evaluation, "multiply_adds": trial.multiply_adds}
        return {"epoch": epoch, **costs, **scores}

    @contextmanager
    def together(self, trainees: Sequence[Trainee]) -> Iterator[Sequence[Trainee]]:
        """Sub-models as they train fastest: stacked, or as they are. What a stack has learnt is theirs behind it."""
        with self.clock():
            way = self._fastest(trainees)
            stack = None if way == IN_TURN else stacked_of(self.task, trainees, way, self.way.epochs)
        self.trial.stages.append(way)
        yield trainees if stack is None else [stack]
        if stack is not None:
            with self.clock():
                unstacked_into(stack, trainees)

    def _fastest(self, trainees: Sequence[Trainee]) -> str:
        if self.setting.stack == "off" or len(trainees) < 2:
            return IN_TURN
        first = next(iter(drawn(self.task.train_data, self.seed)))
        inputs, targets = batch_of(first, trainees[0].device)
        modules = [one.module for one in trainees]
        return choose(modules, (inputs, targets), self.task.loss, repeats=3).way

    # -- merging ---------------------------------------------------------------------------------------------------

    def watched(self, trainees: Sequence[Trainee]) -> None:
        """Look at the sub-models just before they are merged."""
        self.trial.parts = self.probe.scores(trainees, self.probe.data)
        if self.setting.watch is not None:
            self.trial.extra = self.setting.watch([one.module for one in trainees])

    def go_on(self, whole: Trainee, part: Trainee) -> Trainee:
        """Put a network's schedule where its part's is, and keep the settings that its optimizer has."""
        take_up(self.task, whole, self.way.epochs, None if part.schedule is None else part.schedule.state_dict())
        return whole

    def finish(self, whole: Trainee, merged_at: int) -> Trial:
        """Train the whole network from the merge to the end."""
        way, trial = self.way, self.trial
        trial.merged = self.point(merged_at, self.probe.scores([whole], self.probe.data)[0])
        self.epochs([whole], merged_at, way.epochs)
        return self.ended(whole)

    def ended(self, whole: Trainee) -> Trial:
        """The trial with the scores of the whole network on all test data, and on what was held out."""
        self.trial.final = self.point(self.way.epochs, self.probe.scores([whole], self.probe.data)[0])
        if self.probe.held_out:
            self.trial.held_out = self.probe.scores([whole], self.probe.held_out)[0]
        return self.trial


class PeakMemory:
    """The most bytes that a trial takes on top of what there was: of the accelerator, else of the process, if on Linux."""

    STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(device)
        elif self.RESET.exists():
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what the trials before have freed is no memory of this one's
            self.RESET.write_text("5", encoding="ascii")
        self.device = device
        self.before = torch.cuda.memory_allocated(device) if self.cuda else self._read("VmRSS")

    def bytes(self) -> int:
        """So far."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.cuda else self._read("VmHWM")
        return max(0, peak - self.before)

    def _read(self, name: str) -> int:
        lines = self.STATUS.read_text(encoding="ascii").splitlines() if self.STATUS.exists() else []
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)
