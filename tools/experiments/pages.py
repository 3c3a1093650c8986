"""Pages of results: tables with means and deviations over seeds, and the pictures that belong to them."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from tools.experiments.trials import Trial
from tools.shared.tables import cell, versions

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
        single = not torch.cuda.is_available() and torch.get_num_threads() == 1
        clock = "Seconds are the process's own, of one thread" if single else "Seconds are of the clock on the wall"
        known = ", ".join(f"{name} {number}" for name, number in versions(["graphsplit", "torch"]).items())
        seeds = len({trial.seed for trial in trials})
        device = (
            torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else f"{torch.get_num_threads()} CPU thread{'s' * (not single)}"
        )
        self.lines = [f"# {title}", "", f"Made by a program, on {platform.machine()} with {device} ({known}):", ""]
        self.lines += [f"    {command}", ""]
        if not trials:
            self.say(f"{clock}.")
            return
        self.say(
            f"Means over {seeds} seeds, standard deviations in brackets. Ways of the same seed start from the same weights. "
            f"{clock}; they count splitting and merging. Peak memory is what a way takes on top of data and program."
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
                )
            )
        costs = ("seconds", *(("side by side",) if parallel else ()), "and evaluation", "peak MiB")
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

    def picture(self, path: Path, title: str) -> None:
        """A picture that lies beside the page."""
        self.lines += [f"![{title}]({path.name})", ""]

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self.lines).rstrip() + "\n"


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
