"""One trial of an experiment: a network, a seed, a way to train it, and the curves and costs that came of it.

Everything runs in this process through graphsplit's own trainer. Trials are kept in a file as they end; what is there isn't run
again. `seconds` are wall-clock seconds of training, with splitting and merging; measuring on the test data is left out, as
it is the same for all ways.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import graphsplit
from graphsplit.training import Task
from graphsplit.training.loop import Course, train
from graphsplit.training.trainee import Trainee, evaluate, make, schedule_of
from tools.experiments.wider import widened

Init = Literal["keep", "rescale", "fresh"]
Points = list[dict[str, float]]


@dataclass(frozen=True)
class Way:
    """How a network is trained: K parts up to an epoch, then the merged network; K = 1 is the baseline.

    init: what sub-models start from: slices of the network's weights as they are, rescaled, or weights drawn for their width.
    wider: one sub-model alone is trained, and widened by Net2WiderNet.
    """

    k: int
    merge_at: int
    epochs: int
    init: Init = "keep"
    wider: bool = False
    name: str = ""

    @property
    def title(self) -> str:
        """What tells it from others."""
        if self.name or self.k == 1:
            return self.name or "baseline"
        if self.wider:
            return f"Net2WiderNet at {self.merge_at}"
        return f"K={self.k}, merged at {self.merge_at}" + f", {self.init}" * (self.init != "keep")


@dataclass
class Trial:
    """What came of it: a point for each epoch, of the parts' means before the merge and of the whole network behind it."""

    way: str
    seed: int
    curve: Points = field(default_factory=list)
    merged: dict[str, float] = field(default_factory=dict)
    parts: Points = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    multiply_adds: int = 0
    samples: int = 0
    parameters: list[int] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What all ways of an experiment share.

    task: of so many epochs, for its data may depend on them as well. watch: sees the sub-models just before they are merged.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    task: Callable[[int], Task]
    device: str = "cpu"
    watch: Callable[[Sequence[nn.Module]], dict[str, Any]] | None = None


class _Probe:
    """A task whose epochs are measured on the test data, off the clock."""

    def __init__(self, task: Task) -> None:
        assert task.test_data is not None
        self.data, batches = list(task.test_data()), task.train_data()
        self.task = replace(task, train_data=lambda: batches, validation_data=None, test_data=None)

    def scores(self, trainee: Trainee) -> list[dict[str, float]]:
        return evaluate(self.task, trainee, self.data)


def run(setting: Setting, way: Way, seed: int) -> Trial:
    """One trial."""
    trial, probe = Trial(way.title, seed), _Probe(setting.task(way.epochs))
    torch.manual_seed(seed)
    model = setting.build()
    begin = time.perf_counter()
    if way.k == 1:
        whole = make(probe.task, model, [0], setting.device, way.epochs)
        trial.parameters = [_size(model)]
        _epochs(setting, probe, [whole], way, seed, trial, 0, way.epochs)
        trial.final = trial.curve[-1]
        return trial
    split = graphsplit.split(
        model.train(), setting.inputs, k=way.k, init="rescale" if way.init == "rescale" else "keep"
    )
    if way.init == "fresh":
        draw_afresh(split.submodels, seed)
    trial.parameters = [_size(part) for part in (model, *split.submodels)]
    trial.seconds += time.perf_counter() - begin
    trainees = [
        make(probe.task, part, [number], setting.device, way.epochs) for number, part in enumerate(split.submodels)
    ]
    trainees = trainees[:1] if way.wider else trainees
    _epochs(setting, probe, trainees, way, seed, trial, 0, way.merge_at)
    trial.parts = [probe.scores(one)[0] for one in trainees]
    if setting.watch is not None:
        trial.extra = setting.watch([one.module for one in trainees])
    begin = time.perf_counter()
    whole = (
        _wider(setting, probe.task, split, trainees[0], way, seed)
        if way.wider
        else _merged(setting, probe.task, split, trainees, way)
    )
    trial.seconds += time.perf_counter() - begin
    trial.merged = _point(trial, way.merge_at, probe.scores(whole)[0])
    _epochs(setting, probe, [whole], way, seed, trial, way.merge_at, way.epochs)
    trial.final = trial.curve[-1] if way.epochs > way.merge_at else trial.merged
    return trial


def _epochs(
    setting: Setting,
    probe: _Probe,
    trainees: Sequence[Trainee],
    way: Way,
    seed: int,
    trial: Trial,
    first: int,
    until: int,
) -> None:
    """Train to an epoch, one at a time: networks side by side share the clock as if one device did all of it."""
    for epoch in range(first, until):
        begin = time.perf_counter()
        for one in trainees:
            (found,) = train(probe.task, one, Course(epoch + 1, way.epochs, seed, first=epoch))
            trial.multiply_adds += found.multiply_adds
            trial.samples += found.samples
        trial.seconds += time.perf_counter() - begin
        each = [probe.scores(one)[0] for one in trainees]
        mean = {name: sum(score[name] for score in each) / len(each) for name in each[0]}
        trial.curve.append(_point(trial, epoch + 1, mean))


def _point(trial: Trial, epoch: int, scores: Mapping[str, float]) -> dict[str, float]:
    return {"epoch": epoch, "seconds": trial.seconds, "multiply_adds": trial.multiply_adds, **scores}


def _merged(setting: Setting, task: Task, split: Any, trainees: Sequence[Trainee], way: Way) -> Trainee:
    """The merged network with the parts' momentum, on their schedule."""
    module = split.merge().train()
    whole = make(task, module, [0], setting.device, way.epochs)
    split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
    _go_on(task, whole, trainees[0], way)
    return whole


def _wider(setting: Setting, task: Task, split: Any, narrow: Trainee, way: Way, seed: int) -> Trainee:
    """The widened network, its momenta at zero, on the narrow one's schedule."""
    whole = make(task, widened(split, narrow.module, seed=seed).train(), [0], setting.device, way.epochs)
    for group, settings in zip(whole.optimizer.param_groups, narrow.optimizer.param_groups, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    _go_on(task, whole, narrow, way)
    return whole


def _go_on(task: Task, whole: Trainee, part: Trainee, way: Way) -> None:
    """Put the whole network's schedule where its part's was."""
    rates = [group["lr"] for group in whole.optimizer.param_groups]
    for group in whole.optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    whole.schedule = schedule_of(task, whole.optimizer, way.epochs)
    if whole.schedule is not None:
        whole.schedule.load_state_dict(part.schedule.state_dict())
    for group, rate in zip(whole.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def draw_afresh(submodels: Sequence[nn.Module], seed: int) -> None:
    """Draw weights for the narrow width, as torch's linear layers and convolutions do: uniform up to 1 / sqrt(fan-in)."""
    for number, part in enumerate(submodels):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        known = dict(part.named_parameters())
        with torch.no_grad():
            for name, parameter in known.items():
                weight = known.get(name.removesuffix("bias") + "weight", parameter)
                if weight.dim() > 1:
                    bound = weight[0].numel() ** -0.5
                    parameter.uniform_(-bound, bound, generator=generator)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- trials in a file ---------------------------------------------------------------------------------------------


def run_all(
    setting: Setting, ways: Sequence[Way], seeds: Sequence[int], file: Path, say: Callable[[str], None] = print
) -> list[Trial]:
    """All trials that the file lacks, seed by seed, so that whatever is there is paired."""
    known = read(file)
    for seed in seeds:
        for way in ways:
            if (way.title, seed) in known:
                continue
            trial = run(setting, way, seed)
            known[way.title, seed] = trial
            write(file, known)
            say(f"seed {seed}, {way.title}: {_words(trial.final)}, {trial.seconds:.1f} s")
    return [known[way.title, seed] for seed in seeds for way in ways]


def _words(scores: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {scores[name]:.4f}" for name in scores if name not in ("epoch", "seconds", "multiply_adds")
    )


def read(file: Path) -> dict[tuple[str, int], Trial]:
    """The trials in a file."""
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return {(item["way"], item["seed"]): Trial(**item) for item in content}


def write(file: Path, trials: Mapping[tuple[str, int], Trial]) -> None:
    """Write trials; an interrupted run leaves what there was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_text(json.dumps([asdict(trial) for trial in trials.values()]), encoding="utf-8")
    scratch.replace(file)
