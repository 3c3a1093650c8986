"""What an experiment's trials are, and the file that keeps them.

A trial is a network, a seed, a way to train it, and the curves and costs that came of it. Trials are kept as they end; what is
there isn't run again.

`seconds` are those of training, splitting and merging, `evaluation` those of measuring after each epoch, as any training would:
a process's own seconds where one thread computes, since other programs disturb these less, else those of the clock on the wall.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from graphsplit.training import Task
from graphsplit.training.trainee import Layout

Init = Literal["keep", "rescale", "fresh"]
Kind = Literal["once", "wider", "tree", "rounds", "plateau", "duplicated"]
Points = list[dict[str, float]]


@dataclass(frozen=True)
class Way:
    """How a network is trained: K parts up to an epoch, then the merged network; K = 1 is the baseline.

    init: what sub-models start from: slices of the network's weights as they are, rescaled, or weights drawn for their width.
    kind: "once" is the paper's; "wider" trains one sub-model alone, and widens it as Net2WiderNet does; "tree" merges K = 4 to
    two halves midway; "rounds" merges and splits otherwise, `rounds` times; "plateau" merges once the sub-models' mean validation
    loss hasn't fallen for `patience` epochs, at `merge_at` at the latest; "duplicated" trains the whole network throughout, with
    all its weights, but with the duplicated layers that a merge of K parts has.
    """

    k: int
    merge_at: int
    epochs: int
    init: Init = "keep"
    kind: Kind = "once"
    rounds: int = 1
    patience: int = 0
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
            "plateau": f"K={self.k}, merged on a plateau of {self.patience}",
            "duplicated": "Duplicated",
        }
        return kinds[self.kind] + f", {self.init}" * (self.init != "keep")


@dataclass
class Trial:
    """What came of it: a point for each epoch, of the parts' means before the merge and of the whole network behind it.

    held_out: as `final`, on the validation data. parallel: `seconds` as they would be if sub-models that train one after another
    trained side by side. peak_memory: how many bytes it took at the most, on top of what there was before. stages: how the
    sub-models of each stage trained: "in turn", or the layout of their stack. baseline: the whole network trained as it is;
    steady: without a schedule, so that each point of its curve is the end of a shorter training. on: what it ran on.
    """

    way: str
    seed: int
    about: str = ""
    curve: Points = field(default_factory=list)
    merged: dict[str, float] = field(default_factory=dict)
    parts: Points = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    parallel: float = 0.0
    evaluation: float = 0.0
    peak_memory: int = 0
    multiply_adds: int = 0
    samples: int = 0
    parameters: list[int] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    baseline: bool = False
    steady: bool = False
    on: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What all ways of an experiment share.

    task: of so many epochs, for its data may depend on them as well. stack: whether sub-models train stacked where that is
    faster. layout: of images in memory, wherever sub-models aren't stacked. curve: how many test batches an epoch is measured
    on; the merge and the end are measured on all. watch: sees the sub-models just before they are merged. about: what else tells
    trials apart, such as the number of images; those of other settings are run again.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    task: Callable[[int], Task]
    device: str = "cpu"
    stack: Literal["auto", "off"] = "off"
    layout: Layout = "contiguous"
    curve: int | None = None
    watch: Callable[[Sequence[nn.Module]], dict[str, Any]] | None = None
    about: str = ""


def read(file: Path) -> dict[tuple[str, int], Trial]:
    """The trials in a file; of those that an older program wrote what is still kept, and they are run again."""
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    names = {one.name for one in fields(Trial)}
    kept = ({name: value for name, value in item.items() if name in names} for item in content)
    return {(item["way"], item["seed"]): Trial(**item) for item in kept}


def write(file: Path, trials: Mapping[tuple[str, int], Trial]) -> None:
    """Write trials, a line each; an interrupted run leaves what there was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_text("[\n" + ",\n".join(_lines(trials.values())) + "\n]\n", encoding="utf-8")
    scratch.replace(file)


def _lines(trials: Iterable[Trial]) -> list[str]:
    return [json.dumps(_rounded(asdict(trial))) for trial in trials]


def _rounded(value: Any) -> Any:
    """Numbers to seven digits: what is behind them is noise, and takes most of the file."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
