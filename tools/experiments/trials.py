"""One trial of an experiment: a network, a seed, a way to train it, and the curves and costs that came of it.

Everything runs in this process through graphsplit's own trainer. Trials are kept in a file as they end; what is there isn't run
again. `seconds` are wall-clock seconds of training, with splitting and merging; measuring on the test data is left out, as
it is the same for all ways.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    kind: "once" is the paper's; "wider" trains one sub-model alone, and widens it as Net2WiderNet does; "tree" merges K = 4 to
    two halves midway; "rounds" merges and splits otherwise, `rounds` times.
    """

    k: int
    merge_at: int
    epochs: int
    init: Init = "keep"
    kind: Literal["once", "wider", "tree", "rounds"] = "once"
    rounds: int = 1
    name: str = ""

    @property
    def title(self) -> str:
        """What tells it from others."""
        if self.name or self.k == 1:
            return self.name or "baseline"
        kinds = {
            "once": f"K={self.k}, merged at {self.merge_at}",
            "wider": f"Net2WiderNet at {self.merge_at}",
            "tree": f"K={self.k} in a tree, merged at {self.merge_at}",
            "rounds": f"K={self.k} in {self.rounds} rounds, merged at {self.merge_at}",
        }
        return kinds[self.kind] + f", {self.init}" * (self.init != "keep")


@dataclass
class Trial:
    """What came of it: a point for each epoch, of the parts' means before the merge and of the whole network behind it."""

    way: str
    seed: int
    about: str = ""
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
    about: what else tells trials apart, such as the number of images; those of other settings are run again.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    task: Callable[[int], Task]
    device: str = "cpu"
    watch: Callable[[Sequence[nn.Module]], dict[str, Any]] | None = None
    about: str = ""


class _Probe:
    """A task whose epochs are measured on the test data, off the clock."""

    def __init__(self, task: Task) -> None:
        assert task.test_data is not None
        self.data, batches = list(task.test_data()), task.train_data()
        self.task = replace(task, train_data=lambda: batches, validation_data=None, test_data=None)

    def scores(self, trainee: Trainee) -> list[dict[str, float]]:
        return evaluate(self.task, trainee, self.data)


class Runner:
    """One trial under way."""

    def __init__(self, setting: Setting, way: Way, seed: int) -> None:
        self.setting, self.way, self.seed = setting, way, seed
        self.trial, self.probe = Trial(way.title, seed), _Probe(setting.task(way.epochs))
        self.task = self.probe.task
        torch.manual_seed(seed)
        self.model = setting.build().train()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """What is done inside counts as the method's time."""
        begin = time.perf_counter()
        yield
        self.trial.seconds += time.perf_counter() - begin

    def split(self, module: nn.Module, k: int, **options: Any) -> Any:
        """A split of the network, or of a sub-model of it."""
        return graphsplit.split(module, self.setting.inputs, k=k, **options)

    def trainee(self, module: nn.Module, number: int = 0) -> Trainee:
        """A network with an optimizer and a schedule of its own."""
        return make(self.task, module, [number], self.setting.device, self.way.epochs)

    def epochs(self, trainees: Sequence[Trainee], first: int, until: int) -> None:
        """Train to an epoch, one network after another, as if one device did all of it; a point of the curve for each."""
        for epoch in range(first, until):
            with self.clock():
                for one in trainees:
                    (found,) = train(self.task, one, Course(epoch + 1, self.way.epochs, self.seed, first=epoch))
                    self.trial.multiply_adds += found.multiply_adds
                    self.trial.samples += found.samples
            each = [self.probe.scores(one)[0] for one in trainees]
            mean = {name: sum(score[name] for score in each) / len(each) for name in each[0]}
            self.trial.curve.append(self.point(epoch + 1, mean))

    def point(self, epoch: int, scores: Mapping[str, float]) -> dict[str, float]:
        """Scores at an epoch, with what it took to get there."""
        return {"epoch": epoch, "seconds": self.trial.seconds, "multiply_adds": self.trial.multiply_adds, **scores}

    def watched(self, trainees: Sequence[Trainee]) -> None:
        """Look at the sub-models just before they are merged."""
        self.trial.parts = [self.probe.scores(one)[0] for one in trainees]
        if self.setting.watch is not None:
            self.trial.extra = self.setting.watch([one.module for one in trainees])

    def finish(self, whole: Trainee) -> Trial:
        """Train the whole network from the merge to the end."""
        way, trial = self.way, self.trial
        trial.merged = self.point(way.merge_at, self.probe.scores(whole)[0])
        self.epochs([whole], way.merge_at, way.epochs)
        trial.final = trial.curve[-1] if way.epochs > way.merge_at else trial.merged
        return trial

    def go_on(self, whole: Trainee, part: Trainee) -> Trainee:
        """Put a network's schedule where its part's is, and keep the settings that its optimizer has."""
        groups = whole.optimizer.param_groups
        settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        for group in groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        whole.schedule = schedule_of(self.task, whole.optimizer, self.way.epochs)
        if whole.schedule is not None:
            whole.schedule.load_state_dict(part.schedule.state_dict())
        for group, known in zip(groups, settings, strict=True):
            group.update(known)
        return whole


def run(setting: Setting, way: Way, seed: int) -> Trial:
    """One trial."""
    runner = Runner(setting, way, seed)
    if way.k == 1:
        runner.trial.parameters = [_size(runner.model)]
        runner.epochs([runner.trainee(runner.model)], 0, way.epochs)
        runner.trial.final = runner.trial.curve[-1]
        return runner.trial
    return WAYS[way.kind](runner)


def _merged_once(runner: Runner) -> Trial:
    """The paper's method; with `wider`, Net2WiderNet in its place."""
    way, wider = runner.way, runner.way.kind == "wider"
    with runner.clock():
        split = runner.split(runner.model, way.k, init="rescale" if way.init == "rescale" else "keep")
    if way.init == "fresh":
        draw_afresh(split.submodels, runner.seed)
    runner.trial.parameters = [_size(part) for part in (runner.model, *split.submodels)]
    modules = split.submodels[:1] if wider else split.submodels
    trainees = [runner.trainee(part, number) for number, part in enumerate(modules)]
    runner.epochs(trainees, 0, way.merge_at)
    runner.watched(trainees)
    with runner.clock():
        whole = _wide(runner, split, trainees[0]) if wider else merged(runner, split, trainees)
    return runner.finish(whole)


def merged(runner: Runner, split: Any, trainees: Sequence[Trainee]) -> Trainee:
    """The merged network with the parts' momentum, on their schedule."""
    whole = runner.trainee(split.merge().train())
    split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
    return runner.go_on(whole, trainees[0])


def _wide(runner: Runner, split: Any, narrow: Trainee) -> Trainee:
    """The widened network, its momenta at zero, on the narrow one's schedule."""
    whole = runner.trainee(widened(split, narrow.module, seed=runner.seed).train())
    for group, settings in zip(whole.optimizer.param_groups, narrow.optimizer.param_groups, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    return runner.go_on(whole, narrow)


def _in_a_tree(runner: Runner) -> Trial:
    """K = 4 merged pairwise to 2, trained on, and merged to the whole network: the paper's future work."""
    way = runner.way
    with runner.clock():
        outer = runner.split(runner.model, 2)
        inner = [runner.split(part, way.k // 2) for part in outer.submodels]
    leaves: list[nn.Module] = [leaf for one in inner for leaf in one.submodels]
    runner.trial.parameters = [_size(part) for part in (runner.model, *outer.submodels, *leaves)]
    trainees = [runner.trainee(leaf, number) for number, leaf in enumerate(leaves)]
    runner.epochs(trainees, 0, way.merge_at // 2)
    with runner.clock():
        halves = [_into(runner, one, trainees[2 * at : 2 * at + 2], at) for at, one in enumerate(inner)]
    runner.epochs(halves, way.merge_at // 2, way.merge_at)
    runner.watched(halves)
    with runner.clock():
        whole = merged(runner, outer, halves)
    return runner.finish(whole)


def _into(runner: Runner, split: Any, trainees: Sequence[Trainee], number: int = 0) -> Trainee:
    """The network that was split, with its parts' weights, momentum and schedule."""
    whole = runner.trainee(split.model, number)
    split.model.load_state_dict(split.merge_state_dict())
    split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
    return runner.go_on(whole, trainees[0])


def _in_rounds(runner: Runner) -> Trial:
    """Merge, draw a new random partition, split again: cut weights keep their values, and have their turn in another round."""
    way = runner.way
    ends = [round(way.merge_at * (number + 1) / way.rounds) for number in range(way.rounds)]
    part: Trainee | None = None
    first = 0
    for number, end in enumerate(ends):
        base = {name: value.clone() for name, value in runner.model.state_dict().items()}
        with runner.clock():
            split = runner.split(runner.model, way.k, strategy="random", seed=1000 * runner.seed + number)
            trainees = [runner.trainee(one, at) for at, one in enumerate(split.submodels)]
            if part is not None:
                for one in trainees:
                    for group, known in zip(one.optimizer.param_groups, part.optimizer.param_groups, strict=True):
                        group["lr"] = known["lr"]
                    runner.go_on(one, part)
        runner.trial.parameters = [_size(one) for one in (runner.model, *split.submodels)]
        runner.epochs(trainees, first, end)
        runner.watched(trainees)
        with runner.clock():
            whole = runner.trainee(runner.model)
            runner.model.load_state_dict(split.merge_state_dict(base=base))
            split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
            part, first = runner.go_on(whole, trainees[0]), end
    return runner.finish(whole)


WAYS: dict[str, Callable[[Runner], Trial]] = {
    "once": _merged_once,
    "wider": _merged_once,
    "tree": _in_a_tree,
    "rounds": _in_rounds,
}


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
            about = f"{setting.about} {way}"
            if (way.title, seed) in known and known[way.title, seed].about == about:
                continue
            trial = run(setting, way, seed)
            trial.about = about
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
