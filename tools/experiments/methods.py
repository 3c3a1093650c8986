"""The ways to train a network, and running all that an experiment asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphsplit.training.method import levelled
from graphsplit.training.trainee import Trainee, evaluate
from tools.experiments.rounds import resumed
from tools.experiments.runner import PeakMemory, Runner
from tools.experiments.trials import Setting, Trial, Way, read, write
from tools.experiments.wider import widened

VERSION = 3
"""Of what a trial measures. 2: attention and the gradients of grouped convolutions are counted as they are. 3: rounds go on with
momentum and whole outputs; plateaus as `graphsplit run` sees them; how images lie in memory is chosen."""


def run(setting: Setting, way: Way, seed: int, shared: dict[Any, Any] | None = None) -> Trial:
    """One trial. Those of a seed that train the same sub-models before different merges do so once if they have `shared`."""
    runner, memory = Runner(setting, way, seed, shared), PeakMemory(setting.device)
    if way.k == 1:
        runner.trial.parameters, runner.trial.baseline = [_size(runner.model)], True
        whole = runner.trainee(runner.model)
        runner.epochs([whole], 0, way.epochs)
        trial = runner.ended(whole)
    else:
        trial = WAYS[way.kind](runner)
    trial.peak_memory = max(trial.peak_memory, memory.bytes())
    return trial


def run_all(
    setting: Setting, ways: Sequence[Way], seeds: Sequence[int], file: Path, say: Callable[[str], None] = print
) -> list[Trial]:
    """All trials that the file lacks, seed by seed, so that whatever is there is paired."""
    known = read(file)
    for seed in seeds:
        shared: dict[Any, Any] = {}
        for way in ways:
            threads = torch.get_num_threads()
            about = (
                f"{setting.about} {way} {setting.curve} {setting.layout} stack {setting.stack} {setting.device} "
                f"{threads} v{VERSION}"
            )
            if (way.title, seed) in known and known[way.title, seed].about == about:
                continue
            trial = run(setting, way, seed, shared)
            trial.about = about
            known[way.title, seed] = trial
            write(file, known)
            say(f"seed {seed}, {way.title}: {_words(trial.final)}, {trial.seconds:.1f} s")
    found = read(file)  # as the file has it, whether run now or before
    return [found[way.title, seed] for seed in seeds for way in ways]


def _words(scores: Mapping[str, float]) -> str:
    costs = ("epoch", "seconds", "evaluation", "multiply_adds")
    return ", ".join(f"{name} {scores[name]:.4f}" for name in scores if name not in costs)


# -- merged once ----------------------------------------------------------------------------------------------------


class Pretraining:
    """Sub-models up to a merge: trained on for a later one, once for all trials of a seed that differ in when they merge."""

    def __init__(self, runner: Runner) -> None:
        way = runner.way
        with runner.clock():
            self.split = runner.split(runner.model, way.k, init="rescale" if way.init == "rescale" else "keep")
        if way.init == "fresh":
            draw_afresh(self.split.submodels, runner.seed)
        modules = self.split.submodels[:1] if way.kind == "wider" else self.split.submodels
        self.trainees = [runner.trainee(part, number) for number, part in enumerate(modules)]
        self.sizes = [_size(part) for part in (runner.model, *self.split.submodels)]
        self.trial, self.epoch = runner.trial, 0

    @classmethod
    def of(cls, runner: Runner) -> Pretraining:
        """The sub-models at the epoch of a way's merge; the runner's trial has what it took, and the curve so far."""
        way, memory = runner.way, PeakMemory(runner.setting.device)
        key = (way.kind, way.k, way.init, way.epochs)
        known = runner.shared.get(key)
        if known is None or known.epoch > way.merge_at:
            known = runner.shared[key] = cls(runner)
        runner.trial = known.trial
        runner.trial.way, runner.trial.parameters = way.title, list(known.sizes)
        if known.epoch < way.merge_at:
            with runner.together(known.trainees) as trainees:
                runner.epochs(trainees, known.epoch, way.merge_at)
        runner.trial.peak_memory = max(runner.trial.peak_memory, memory.bytes())
        known.epoch, known.trial = way.merge_at, deepcopy(runner.trial)  # this one goes on behind its merge
        return known


def _merged_once(runner: Runner) -> Trial:
    """The paper's method; with `wider`, Net2WiderNet in its place."""
    found, wider = Pretraining.of(runner), runner.way.kind == "wider"
    runner.watched(found.trainees)
    with runner.clock():
        whole = (_wide if wider else merged)(runner, found.split, found.trainees)
    return runner.finish(whole, runner.way.merge_at)


def merged(runner: Runner, split: Any, trainees: Sequence[Trainee]) -> Trainee:
    """The merged network with the parts' momentum, on their schedule."""
    whole = runner.trainee(split.merge().train())
    split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
    return runner.go_on(whole, trainees[0])


def _wide(runner: Runner, split: Any, trainees: Sequence[Trainee]) -> Trainee:
    """The widened network, its momenta at zero, on the narrow one's schedule."""
    (narrow,) = trainees
    whole = runner.trainee(widened(split, narrow.module, seed=runner.seed).train())
    for group, settings in zip(whole.optimizer.param_groups, narrow.optimizer.param_groups, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    return runner.go_on(whole, narrow)


def _on_a_plateau(runner: Runner) -> Trial:
    """Merge once the mean validation loss hasn't fallen for `patience` epochs, as `graphsplit run --merge-when plateau`."""
    way, probe, losses = runner.way, runner.probe, list[float]()
    with runner.clock():
        split = runner.split(runner.model, way.k)
    runner.trial.parameters = [_size(part) for part in (runner.model, *split.submodels)]
    trainees = [runner.trainee(part, number) for number, part in enumerate(split.submodels)]
    with runner.together(trainees) as each:
        while len(losses) < way.merge_at and not levelled(losses, way.patience):
            for epoch in range(len(losses), min(len(losses) + way.patience, way.merge_at)):
                runner.epochs(each, epoch, epoch + 1)
                begin = runner.now()
                scores = [score for one in each for score in evaluate(probe.task, one, probe.held_out)]
                runner.trial.evaluation += runner.now() - begin
                losses.append(sum(score["loss"] for score in scores) / len(scores))
    runner.watched(trainees)
    with runner.clock():
        whole = merged(runner, split, trainees)
    return runner.finish(whole, len(losses))


# -- merged in steps ------------------------------------------------------------------------------------------------


def _in_a_tree(runner: Runner) -> Trial:
    """K = 4 merged pairwise to 2, trained on, and merged to the whole network: the paper's future work."""
    way = runner.way
    with runner.clock():
        outer = runner.split(runner.model, 2)
        inner = [runner.split(part, way.k // 2) for part in outer.submodels]
    leaves: list[nn.Module] = [leaf for one in inner for leaf in one.submodels]
    runner.trial.parameters = [_size(part) for part in (runner.model, *outer.submodels, *leaves)]
    trainees = [runner.trainee(leaf, number) for number, leaf in enumerate(leaves)]
    with runner.together(trainees) as each:
        runner.epochs(each, 0, way.merge_at // 2)
    with runner.clock():
        halves = [_into(runner, one, trainees[2 * at : 2 * at + 2], at) for at, one in enumerate(inner)]
    with runner.together(halves) as each:
        runner.epochs(each, way.merge_at // 2, way.merge_at)
    runner.watched(halves)
    with runner.clock():
        whole = merged(runner, outer, halves)
    return runner.finish(whole, way.merge_at)


def _into(runner: Runner, split: Any, trainees: Sequence[Trainee], number: int = 0) -> Trainee:
    """The network that was split, with its parts' weights, momentum and schedule."""
    whole = runner.trainee(split.model, number)
    split.model.load_state_dict(split.merge_state_dict())
    split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
    return runner.go_on(whole, trainees[0])


def _in_rounds(runner: Runner) -> Trial:
    """Merge, draw a new random partition, split again: cut weights keep their values, and have their turn in another round.

    A new round's sub-models go on with the merged network's momentum, and with outputs as large as its own.
    """
    way = runner.way
    ends = [round(way.merge_at * (number + 1) / way.rounds) for number in range(way.rounds)]
    part = whole = None
    first = 0
    for number, end in enumerate(ends):
        base = {name: value.clone() for name, value in runner.model.state_dict().items()}
        with runner.clock():
            cut = partial(runner.split, k=way.k, strategy="random", seed=1000 * runner.seed + number)
            split = cut(runner.model)
            trainees = [runner.trainee(one, at) for at, one in enumerate(split.submodels)]
            if part is not None and whole is not None:
                resumed(split, [one.optimizer for one in trainees], whole.optimizer, cut)
                for one in trainees:
                    for group, known in zip(one.optimizer.param_groups, part.optimizer.param_groups, strict=True):
                        group["lr"] = known["lr"]
                    runner.go_on(one, part)
        runner.trial.parameters = [_size(one) for one in (runner.model, *split.submodels)]
        with runner.together(trainees) as each:
            runner.epochs(each, first, end)
        runner.watched(trainees)
        with runner.clock():
            whole = runner.trainee(runner.model)
            runner.model.load_state_dict(split.merge_state_dict(base=base))
            split.merge_optimizers([one.optimizer for one in trainees], into=whole.optimizer)
            part = runner.go_on(whole, trainees[0])
        first = end
    assert whole is not None
    return runner.finish(whole, way.merge_at)


def _duplicated(runner: Runner) -> Trial:
    """The whole network with the layers of a merged one: what the paper calls Duplicated, and measures speedups against."""
    with runner.clock():
        module = runner.split(runner.model, runner.way.k).merge().train()
        module.load_state_dict(runner.model.state_dict())  # all weights, those that a merge cuts too
    runner.trial.parameters = [_size(module)]
    whole = runner.trainee(module)
    runner.epochs([whole], 0, runner.way.epochs)
    return runner.ended(whole)


WAYS: dict[str, Callable[[Runner], Trial]] = {
    "once": _merged_once,
    "wider": _merged_once,
    "tree": _in_a_tree,
    "rounds": _in_rounds,
    "plateau": _on_a_plateau,
    "duplicated": _duplicated,
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
