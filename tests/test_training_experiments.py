"""The experiments' programs, on a network and data that are small enough for a test."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsplit
from graphsplit.training import load_task
from graphsplit.training.trainee import Trainee
from tests.training_tasks import PLAIN, calm_net, in_double, net
from tools.experiments import methods
from tools.experiments.methods import draw_afresh, run, run_all
from tools.experiments.pages import Page
from tools.experiments.rounds import resumed
from tools.experiments.runner import PeakMemory, Runner, keeps_memory
from tools.experiments.trials import Setting, Way, read
from tools.experiments.wider import widened

pytestmark = pytest.mark.usefixtures("frozen_heap")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    (tmp_path / "task.py").write_text(PLAIN.replace("lr=RATE)", "lr=RATE, momentum=0.9)"))
    task = load_task(tmp_path / "task.py")
    tested = replace(task, test_data=task.validation_data)
    return Setting(net, (torch.randn(3, 6),), lambda _: tested, watch=lambda parts: {"n": len(parts)})


def test_a_trial_has_a_point_for_each_epoch(setting: Setting) -> None:
    trial = run(setting, Way(2, 2, 5), seed=1)
    assert [point["epoch"] for point in trial.curve] == [1, 2, 3, 4, 5]
    assert trial.merged["epoch"] == 2
    assert trial.merged["loss"] != trial.curve[1]["loss"]  # the mean of the outputs isn't the mean of the losses
    assert trial.final == trial.curve[-1]
    assert trial.extra == {"n": 2}
    assert trial.samples == 23 * (2 * 2 + 3)
    work = [point["multiply_adds"] for point in trial.curve]
    assert work[0] * 2 == work[1]
    assert work[1] - work[0] == work[4] - work[3]  # without a weight between hidden layers, none is cut
    seconds = [point["seconds"] for point in trial.curve]
    assert seconds == sorted(seconds)


def test_ways_of_a_seed_start_alike_and_a_trial_is_repeatable(setting: Setting) -> None:
    one, again, other = (run(setting, Way(1, 0, 2), seed) for seed in (3, 3, 4))
    assert one.final["loss"] == again.final["loss"] != other.final["loss"]
    at_once = run(setting, Way(2, 0, 2), 3)
    assert at_once.merged["epoch"] == 0
    assert at_once.parameters == [one.parameters[0], *at_once.parameters[1:]]


def test_trials_are_taken_up_again(setting: Setting, tmp_path: Path) -> None:
    said: list[str] = []
    ways = [Way(1, 0, 1), Way(2, 1, 2)]
    found = run_all(setting, ways, [0, 1], tmp_path / "t.json", said.append)
    assert len(said) == 4
    assert run_all(setting, ways, [0, 1], tmp_path / "t.json", said.append) == found
    assert len(said) == 4
    assert list(read(tmp_path / "t.json").values()) == found
    changed = replace(setting, about="fewer images")
    assert [trial.about for trial in run_all(changed, ways, [0], tmp_path / "t.json", said.append)] != [""]
    assert len(said) == 6  # trials of something else aren't taken up
    page = Page("Title", "command", found)
    assert page.ways == ["baseline", "K=2, merged at 1"]
    assert [trial.seed for trial in page.of("baseline")] == [0, 1]


def test_trials_of_an_older_program_are_run_again(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('[{"way": "baseline", "seed": 0, "about": "v2", "way_of_training": ""}]')
    said: list[str] = []
    (found,) = run_all(setting, [Way(1, 0, 1)], [0], tmp_path / "t.json", said.append)
    assert len(said) == 1
    assert found.curve


@pytest.fixture
def calm(tmp_path: Path) -> Setting:
    """Without dropout, in double precision."""
    (tmp_path / "double.py").write_text(in_double())
    task = load_task(tmp_path / "double.py")
    tested = replace(task, test_data=task.validation_data)
    return Setting(calm_net, (torch.randn(3, 6).double(),), lambda _: tested)


WAYS_OF_PARTS = [
    Way(2, 2, 4),
    Way(4, 4, 6, kind="tree"),
    Way(2, 4, 6, kind="rounds", rounds=2),
    Way(2, 4, 6, kind="plateau", patience=2),
]


@pytest.mark.parametrize("way", WAYS_OF_PARTS, ids=lambda way: way.kind)
def test_stacked_trials_are_those_in_turn(calm: Setting, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding: the same batches, optimizers and schedules, whenever the stack is made."""
    in_turn = run(calm, way, seed=1)
    monkeypatch.setattr(Runner, "_fastest", lambda self, trainees: "contiguous")
    stacked = run(replace(calm, stack="auto"), way, seed=1)
    assert (set(in_turn.stages), set(stacked.stages)) == ({"in turn"}, {"contiguous"})
    assert len(stacked.stages) == {"tree": 2, "rounds": 2}.get(way.kind, 1)
    assert [p["loss"] for p in stacked.curve] == pytest.approx([p["loss"] for p in in_turn.curve], rel=1e-9)
    assert stacked.merged["loss"] == pytest.approx(in_turn.merged["loss"], rel=1e-9)
    assert [p["loss"] for p in stacked.parts] == pytest.approx([p["loss"] for p in in_turn.parts], rel=1e-9)
    assert stacked.samples == in_turn.samples


def test_what_trials_share_changes_none_of_them(setting: Setting) -> None:
    """Sub-models are trained once for merges at several epochs; each trial is what it is alone, with all that it cost."""
    ways = [Way(2, at, 4) for at in (0, 1, 3)] + [Way(2, 1, 4, kind="wider"), Way(2, 2, 4)]
    shared: dict[Any, Any] = {}
    together = [run(setting, way, 2, shared) for way in ways]  # a later one mustn't change an earlier one either
    for way, found in zip(ways, together, strict=True):
        alone = run(setting, way, 2)
        for name in ("way", "merged", "curve", "parts", "final"):
            assert scores(getattr(found, name)) == scores(getattr(alone, name)), (way, name)
        assert (found.samples, found.multiply_adds, found.parameters) == (
            alone.samples,
            alone.multiply_adds,
            alone.parameters,
        )
    assert {key[0] for key in shared} == {"once", "wider"}


def scores(found: Any) -> Any:
    """What doesn't depend on the time it took."""
    if isinstance(found, list):
        return [scores(item) for item in found]
    if isinstance(found, dict):
        return {name: value for name, value in found.items() if name not in ("seconds", "evaluation")}
    return found


def test_a_plateau_ends_the_training_of_the_parts(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged once the validation loss hasn't fallen for `patience` epochs, looked at every so many, or at the latest epoch."""
    told = iter(repeated([3.0, 2.0, 2.5, 2.1, 9.9]))
    monkeypatch.setattr("tools.experiments.methods.evaluate", lambda *_: [{"loss": next(told)}])
    way = Way(2, 5, 6, kind="plateau", patience=2)
    trial = run(setting, way, seed=0)
    assert trial.merged["epoch"] == 4
    assert [point["epoch"] for point in trial.curve] == [1, 2, 3, 4, 5, 6]
    told = iter(repeated([3.0, 2.0, 1.5]))
    assert run(setting, replace(way, merge_at=3), seed=0).merged["epoch"] == 3
    told = iter(repeated([3.0, 2.5, 2.0, 2.1, 2.2, 2.3]))
    assert (
        run(setting, replace(way, epochs=8, merge_at=7), seed=0).merged["epoch"] == 6
    )  # it is seen at 5, and looked at then


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_new_round_takes_up_the_weights_and_momentum_of_the_last(momentum: float) -> None:
    """Merged again untrained, sub-models are the network that was split, where nothing is cut."""
    torch.manual_seed(0)
    model, x = calm_net(), torch.randn(4, 6).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    for _ in range(2):
        model(x).square().sum().backward()
        optimizer.step()
    base = {name: value.clone() for name, value in model.state_dict().items()}

    def cut(module: torch.nn.Module) -> Any:
        return graphsplit.split(module, (x,), k=2, strategy="random", seed=3)

    split = cut(model)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=momentum) for one in split.submodels]
    as_it_is = {name: value.clone() for name, value in split.merge_state_dict(base=base).items()}
    resumed(split, optimizers, optimizer, cut)
    again = split.merge_state_dict(base=base)
    assert any(not torch.equal(as_it_is[name], value) for name, value in base.items())  # halved outputs, without it
    assert all(torch.allclose(again[name], value, rtol=1e-12) for name, value in base.items())
    if not momentum:
        assert not any(one.state for one in optimizers)
        return
    into = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    split.merge_optimizers(optimizers, into=into)
    names = [name for name, _ in model.named_parameters()]
    for name, parameter in zip(names, model.parameters(), strict=True):
        merged, known = into.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"]
        kept = merged != 0
        assert kept.float().mean() >= 0.45
        assert torch.allclose(merged[kept], known[kept], rtol=1e-12), name
    assert all(torch.equal(value, base[name]) for name, value in model.state_dict().items())  # nothing else has moved


@pytest.mark.skipif(sys.platform != "linux", reason="another allocator")
def test_freed_memory_is_kept() -> None:
    """A step that takes what the one before left asks the system for none."""
    import resource

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(10_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert keeps_memory()
    faults()
    assert faults() < 10_000  # of 40 MB each time they are 100,000


def test_trials_of_another_layout_are_run_again(setting: Setting, tmp_path: Path) -> None:
    ways, said = [Way(1, 0, 1)], list[str]()
    run_all(setting, ways, [0], tmp_path / "t.json", said.append)
    (found,) = run_all(replace(setting, layout="channels_last"), ways, [0], tmp_path / "t.json", said.append)
    assert len(said) == 2
    assert found.on["layout"] == "channels_last"
    assert found.baseline


def test_duplicated_has_all_weights_and_the_layers_of_a_merged_network(setting: Setting) -> None:
    """None of them cut or scaled, as those of a merge before any training are."""
    from models.cuda_convnet import CudaConvnet

    seen: list[Any] = []

    class Stopped(Runner):
        def epochs(self, trainees: Sequence[Trainee], first: int, until: int) -> None:
            seen.append((self.model, trainees[0].module))
            self.trial.curve.append({"loss": 0.0})

        def ended(self, whole: Trainee) -> Any:
            return self.trial

        def finish(self, whole: Trainee, merged_at: int) -> Any:
            seen.append((self.model, whole.module))
            return self.trial

        def watched(self, trainees: Sequence[Trainee]) -> None: ...

    def build() -> CudaConvnet:
        return CudaConvnet((8, 8, 8, 8))

    whole = replace(setting, build=build, inputs=(torch.randn(2, 3, 24, 24),))
    for way in (Way(2, 0, 2, kind="duplicated"), Way(2, 0, 2)):
        methods.WAYS[way.kind](Stopped(whole, way, 0))
    (model, duplicated), (_, merged) = seen
    x = 1e6 * torch.randn(2, 3, 24, 24)  # initial weights are tiny, and so would be what a norm divides by
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in duplicated.state_dict().items())
    assert not torch.equal(merged.state_dict()["conv2.weight"], own["conv2.weight"])  # what a merge would have cut
    assert not torch.equal(duplicated.eval()(x), model.eval()(x))  # two norms, each over its own part
    assert Way(2, 0, 2, kind="duplicated").title == "Duplicated"


def repeated(losses: Sequence[float]) -> list[float]:
    """The means of two sub-models' losses that lie a half apart on both sides."""
    return [found for loss in losses for found in (loss - 0.5, loss + 0.5)]


def test_a_curve_may_be_of_few_batches_and_the_end_is_of_all(setting: Setting) -> None:
    task = setting.task(0)
    assert task.validation_data is not None
    pieces = [(x[at : at + 4], y[at : at + 4]) for x, y in task.validation_data() for at in (0, 4)]
    setting = replace(setting, task=lambda _: replace(task, test_data=lambda: pieces))
    few, whole = (run(replace(setting, curve=curve), Way(2, 1, 2), seed=0) for curve in (1, None))
    assert few.final["loss"] == whole.final["loss"]
    assert few.merged["loss"] == whole.merged["loss"]
    assert few.curve[-1]["loss"] != whole.curve[-1]["loss"]


def test_trials_say_what_they_took(setting: Setting) -> None:
    trial = run(setting, Way(2, 2, 3), seed=0)
    assert 0 < trial.parallel < trial.seconds
    assert trial.evaluation > 0
    before = PeakMemory("cpu")
    held = torch.zeros(8_000_000)
    del held
    if PeakMemory.RESET.exists():
        assert 30e6 < before.bytes() < 60e6


def test_weights_drawn_for_the_narrow_width(setting: Setting) -> None:
    parts = [net(), net()]
    draw_afresh(parts, seed=0)
    assert not torch.equal(parts[0].up.weight, parts[1].up.weight)
    assert parts[0].up.weight.abs().max() <= 6**-0.5
    assert parts[0].up.bias.abs().max() <= 6**-0.5
    assert torch.equal(parts[0].norm.weight, net().norm.weight)


def test_a_widened_network_computes_what_the_narrow_one_did() -> None:
    """Before the noise; and what is trained is one sub-model alone."""
    from models.cuda_convnet import CudaConvnet

    torch.manual_seed(0)
    model = CudaConvnet((8, 8, 8, 8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    split = graphsplit.split(model, (torch.randn(2, 3, 24, 24),), k=2)
    x = torch.randn(3, 3, 24, 24)
    narrow = split.submodels[0].eval()
    assert torch.allclose(widened(split, narrow, noise=0.0).eval()(x), narrow(x), rtol=1e-3, atol=1e-4)
    noisy = widened(split, narrow).eval()
    assert not torch.allclose(noisy(x), narrow(x), rtol=1e-3, atol=1e-4)
    weight = noisy.conv2.weight
    assert not torch.equal(weight[:4], weight[4:])


@pytest.mark.parametrize(
    "way", [Way(2, 4, 6, kind="rounds", rounds=2), Way(4, 4, 6, kind="tree"), Way(2, 2, 4), Way(2, 2, 4, kind="wider")]
)
def test_every_way_goes_on_with_the_schedule(setting: Setting, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever trains from some epoch on has the learning rate that the schedule has there, and at the epochs behind it."""
    seen: list[tuple[int, float]] = []
    epochs = Runner.epochs

    def watched(self: Runner, trainees: Sequence[Trainee], first: int, until: int) -> None:
        seen.extend((first, one.optimizer.param_groups[0]["lr"]) for one in trainees)
        epochs(self, trainees, first, until)
        seen.extend((until, one.optimizer.param_groups[0]["lr"]) for one in trainees)

    def schedule(optimizer: torch.optim.Optimizer, epochs: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: 1 / (1 + epoch)
        )  # of the epoch, not of a step

    monkeypatch.setattr(Runner, "epochs", watched)
    run(replace(setting, task=lambda epochs: replace(setting.task(epochs), schedule=schedule)), way, seed=0)
    assert len({epoch for epoch, _ in seen}) > 2
    assert all(rate == pytest.approx(0.05 / (1 + epoch)) for epoch, rate in seen)


def test_a_trial_of_a_widened_network(setting: Setting) -> None:
    trial = run(setting, Way(2, 2, 4, kind="wider"), seed=0)
    assert trial.way == "Net2WiderNet at 2"
    assert trial.samples == 23 * 4
    assert len(trial.parts) == 1
    assert len(trial.curve) == 4


@pytest.mark.parametrize(
    ("way", "samples", "sizes"),
    [
        (Way(4, 4, 6, kind="tree"), 23 * (4 * 2 + 2 * 2 + 2), 7),
        (Way(2, 4, 6, kind="rounds", rounds=2), 23 * (2 * 4 + 2), 3),
        (Way(2, 2, 3, init="fresh"), 23 * (2 * 2 + 1), 3),
        (Way(2, 2, 3, init="rescale"), 23 * (2 * 2 + 1), 3),
    ],
    ids=lambda value: value.title if isinstance(value, Way) else None,
)
def test_a_trial_beyond_the_paper(setting: Setting, way: Way, samples: int, sizes: int) -> None:
    trial = run(setting, way, seed=0)
    assert trial.samples == samples
    assert [point["epoch"] for point in trial.curve] == list(range(1, way.epochs + 1))
    assert len(trial.parameters) == sizes
    assert trial.merged["epoch"] == way.merge_at
    assert trial.final["loss"] > 0
    assert run(setting, way, seed=0).final["loss"] == trial.final["loss"]
