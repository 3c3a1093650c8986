"""Pages of results: tables with means and deviations over seeds, and the pictures that belong to them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tools.experiments.trials import Trial
from tools.shared.tables import cell

COLOURS = ("#333333", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
"""Okabe and Ito's, which the colour-blind tell apart."""
STYLES = ("-", "--", ":")
"""Of lines whose colour another line has already."""
SHORT = 7
"""So many lines of a legend have room inside a picture."""
NAMES = {
    "epoch": "epoch",
    "multiply_adds": "multiply-adds",
    "seconds": "seconds",
    "loss": "test loss",
    "error": "test error",
}


def mean_and_deviation(values: Sequence[float], digits: int, *, sign: bool = False) -> str:
    """`1.23 (0.04)`: the mean, and the standard deviation over the seeds where there are several."""
    mean = f"{statistics.fmean(values):{'+' if sign else ''}.{digits}f}"
    return f"{mean} ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else mean


class Page:
    """A Markdown page about trials."""

    def __init__(self, title: str, command: str, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self.ways = list(dict.fromkeys(trial.way for trial in trials))
        seeds = len({trial.seed for trial in trials})
        self.lines = [f"# {title}", "", "Made by a program:", "", f"    {command}", ""]
        if not trials:
            return
        self.say(ran_on([trial.on for trial in trials]))
        self.say(
            f"Means over {seeds} seeds, standard deviations in brackets. Ways of the same seed start from the same weights. "
            "Seconds count splitting and merging. Peak memory is what a way takes on top of data and program."
        )
        if not all(map(of_all, trials)):
            self.say(
                "Merges and ends are measured on all test data; curves, and when a way is first as good as another, on the first "
                "batches alone, to save time. Dots are where the sub-models are merged."
            )

    def of(self, way: str) -> list[Trial]:
        """A way's trials, by seed."""
        return sorted((trial for trial in self.trials if trial.way == way), key=lambda trial: trial.seed)

    def say(self, text: str) -> None:
        """A paragraph."""
        self.lines += [text, ""]

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table, its first column left-aligned."""
        self.lines += ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
        self.lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows] + [""]

    def ends(self, name: str, title: str, times: float = 1.0, *, parallel: bool = False) -> None:
        """How each way ended, what it took, and how far it is from the first way's trial of the same seed.

        parallel: also in how many seconds, if sub-models trained side by side.
        """
        rows = []
        for way in self.ways:
            found, base = self.of(way), self.of(self.ways[0])
            paired = [times * (t.final[name] - b.final[name]) for t, b in zip(found, base, strict=True)]
            rows.append(
                (
                    way,
                    f"{min(found[0].parameters):,}",
                    mean_and_deviation([times * trial.final[name] for trial in found], 3),
                    mean_and_deviation(paired, 3, sign=True) if way != self.ways[0] else "",
                    *((mean_and_deviation([trial.final["loss"] for trial in found], 4),) if name != "loss" else ()),
                    f"{statistics.fmean(trial.multiply_adds for trial in found) / 1e9:,.0f}",
                    mean_and_deviation([trial.seconds for trial in found], 0),
                    *((mean_and_deviation([trial.parallel for trial in found], 0),) if parallel else ()),
                    mean_and_deviation([trial.seconds + trial.evaluation for trial in found], 0),
                    f"{statistics.fmean(trial.peak_memory for trial in found) / 2**20:,.0f}",
                    trained(found),
                )
            )
        costs = ("seconds", *(("side by side",) if parallel else ()), "and evaluation", "peak MiB", "sub-models train")
        scores = (title, "less the first", *(("test loss",) if name != "loss" else ()))
        self.table(("way", "parameters of a part", *scores, "G multiply-adds", *costs), rows)

    def reached(self, name: str, title: str) -> None:
        """When each way first is as good as the first way at its end: the share of the first one's multiply-adds and seconds.

        Seconds count evaluation. Both are read off the curves, and so is the first way's end, which it may itself have seen
        earlier: where errors go up and down, any way has.
        """
        rows = []
        for way in self.ways:
            shares = []
            for trial, base in zip(self.of(way), self.of(self.ways[0]), strict=True):
                hits = [point for point in trial.curve if point[name] <= base.curve[-1][name]]
                if hits:
                    spent, whole = hits[0]["seconds"] + hits[0]["evaluation"], base.seconds + base.evaluation
                    shares.append((hits[0]["multiply_adds"] / base.multiply_adds, spent / whole))
            total = len(self.of(way))
            work, clock = ([share[at] for share in shares] for at in (0, 1))
            cells = (mean_and_deviation(work, 2), mean_and_deviation(clock, 2)) if shares else ("never", "never")
            rows.append((way, f"{len(shares)} of {total}", *cells))
        self.table((f"way, to the first one's final {title}", "seeds", "of its multiply-adds", "of its seconds"), rows)

    def held_out(self, name: str, title: str, times: float = 1.0) -> None:
        """How each way ended on data that nothing was trained or measured on: what to choose a way by."""
        rows = []
        for way in self.ways:
            found, base = self.of(way), self.of(self.ways[0])
            paired = [times * (t.held_out[name] - b.held_out[name]) for t, b in zip(found, base, strict=True)]
            scores = mean_and_deviation([times * trial.held_out[name] for trial in found], 3)
            losses = mean_and_deviation([trial.held_out["loss"] for trial in found], 4)
            less = mean_and_deviation(paired, 3, sign=True) if way != self.ways[0] else ""
            rows.append((way, scores, less, losses))
        self.table(("way, on held-out data", title, "less the first", "loss"), rows)

    def stopped_early(self, name: str, title: str, times: float = 1.0) -> None:
        """Each way against the baseline that is stopped when it has cost as much, in multiply-adds and in seconds."""
        rows = []
        for way in self.ways:
            found = self.of(way)
            if found[0].baseline:
                continue
            cells: list[str] = []
            for cost in COSTS:
                shares, less = [], []
                for trial in found:
                    points = baselines(self.trials, trial.seed, cost, name)
                    spent = float(getattr(trial, cost))
                    shares.append(spent / points[-1][0])
                    less.append(times * (at_its_end(trial, name) - at_cost(points, spent)))
                cells += [
                    mean_and_deviation(shares, 2),
                    mean_and_deviation(less, 4 if name == "loss" else 3, sign=True),
                ]
            rows.append((way, *cells))
        self.say(
            f"Less the baseline stopped early ({title}; below zero the way is better), at equal multiply-adds and at equal "
            "seconds without evaluation: between the lengths that were trained it is interpolated, and what costs more than "
            "the whole baseline is compared with that. Shares are of the whole baseline's costs."
        )
        self.table(
            ("way", "share of multiply-adds", "less the baseline of as many", "share of seconds", "of as many seconds"),
            rows,
        )

    def picture(self, path: Path, title: str) -> None:
        """A picture that lies beside the page."""
        self.lines += [f"![{title}]({path.name})", ""]

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self.lines).rstrip() + "\n"


COSTS = ("multiply_adds", "seconds")


def baselines(trials: Sequence[Trial], seed: int, cost: str, name: str) -> list[tuple[float, float]]:
    """What the baselines of a seed cost and how they ended, the cheapest first; without a schedule, at each epoch."""
    own = [trial for trial in trials if trial.baseline and trial.seed == seed]
    found = [(float(getattr(trial, cost)), at_its_end(trial, name)) for trial in own if not trial.steady]
    found += [(point[cost], point[name]) for trial in own if trial.steady for point in trial.curve]
    return sorted(found)


def at_its_end(trial: Trial, name: str) -> float:
    """A trial's last score: where it is compared with points of curves, on as much data as these."""
    return (trial.curve[-1] if trial.steady else trial.final)[name]


def at_cost(points: Sequence[tuple[float, float]], cost: float) -> float:
    """The score at a cost, between the two nearest; at the ends the first's and the last's."""
    for (low, before), (high, behind) in pairwise(points):
        if low <= cost <= high:
            return before + (behind - before) * (cost - low) / (high - low)
    return points[0][1] if cost < points[0][0] else points[-1][1]


def trained(trials: Sequence[Trial]) -> str:
    """How sub-models were trained, stage by stage; of how many seeds, where that differs."""
    found = Counter(", ".join(trial.stages) for trial in trials)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{stages} ({number})" for stages, number in found.most_common())


def ran_on(surroundings: Sequence[Mapping[str, str]]) -> str:
    """What trials ran on, see `runner.surroundings`: how many of them, where that differs."""
    found = Counter(
        f"{on.pop('device')}, images {on.pop('layout')}, freed memory {on.pop('memory', 'given back')}, "
        f"seconds {on.pop('clock')}; " + ", ".join(f"{name} {number}" for name, number in on.items())
        for on in map(dict, surroundings)
    )
    total = len(surroundings)
    each = (f"{what} ({number} of {total} trials)" if len(found) > 1 else what for what, number in found.most_common())
    return "On " + "; and on ".join(each) + "."


def curves(page: Page, path: Path, names: Sequence[str], *alongs: str) -> Path:
    """Curves of the ways, the mean over the seeds, with a mark where the parts are merged: a panel for each name and axis."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    panels = [(name, along) for along in alongs for name in names]
    width = 5 * len(panels) + 2.4 * (len(page.ways) > SHORT)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 3.6))
    for ax, (name, along) in zip(axes, panels, strict=True):
        for number, way in enumerate(page.ways):
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
            trials = page.of(way)
            points = [[t.curve[at] for t in trials] for at in range(min(len(t.curve) for t in trials))]
            xs = [statistics.fmean(p[along] for p in each) for each in points]
            ys = [statistics.fmean(p[name] for p in each) for each in points]
            ax.plot(xs, ys, style, color=colour, label=way, linewidth=1.4)
            if trials[0].merged:
                marks = [t.merged if of_all(t) else _at_the_merge(t) for t in trials]
                at = statistics.fmean(mark[along] for mark in marks), statistics.fmean(mark[name] for mark in marks)
                ax.plot(*at, marker="o", color=colour, markersize=4)
        ax.set_yscale("log")
        ax.set_xlabel(NAMES[along])
        ax.set_ylabel(NAMES.get(name, name))
        ax.grid(alpha=0.3)
    if len(page.ways) > SHORT:
        axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    else:
        axes[0].legend(fontsize=7)
    return _saved(figure, path)


def of_all(trial: Trial) -> bool:
    """Whether a trial's curve was measured on all test data, as its merge and its end were."""
    if not trial.curve or trial.merged.get("epoch") == trial.final["epoch"]:  # which ends with the sub-models' mean
        return True
    return all(trial.curve[-1].get(name) == value for name, value in trial.final.items())


def _at_the_merge(trial: Trial) -> dict[str, float]:
    """The point of the curve just before the merge, or the first behind one that came before all training."""
    at = int(trial.merged["epoch"])
    return trial.curve[max(at - 1, 0)]


def scatter(page: Page, path: Path) -> Path:
    """What pairs of sub-models give the correct class of each test image, one panel for each K."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    shown = [t for way in page.ways for t in page.of(way)[:1] if t.extra.get("probabilities") and len(t.curve) > 0]
    shown = [t for t in shown if t.merged.get("epoch", 0) > 0]
    figure, axes = plt.subplots(1, len(shown), figsize=(3.6 * len(shown), 3.6), squeeze=False)
    for ax, trial in zip(axes[0], shown, strict=True):
        each = trial.extra["probabilities"]
        for one in range(len(each)):
            for other in range(one):
                ax.scatter(each[other], each[one], s=1, color=COLOURS[1], alpha=0.3, linewidths=0, rasterized=True)
        ax.set_title(trial.way, fontsize=9)
        ax.set_xlabel("one sub-model")
        ax.set_ylabel("another")
    return _saved(figure, path)


def _saved(figure: object, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.tight_layout()  # type: ignore[attr-defined]
    figure.savefig(path, metadata={"Date": None}, dpi=100)  # type: ignore[attr-defined]
    plt.close("all")
    return path
