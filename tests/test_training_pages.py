"""The pages of the experiments: tables that compare ways with the baseline that cost as much, and what trials ran on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

from tools.experiments.pages import Page, mean_and_deviation, ran_on, trained
from tools.experiments.trials import Trial


def made(way: str, costs: Sequence[float], scores: Sequence[float], **more: Any) -> Trial:
    """A trial whose multiply-adds are ten times its seconds."""
    curve = [
        {"epoch": n + 1, "seconds": cost, "evaluation": 0.0, "multiply_adds": 10 * cost, "error": score, "loss": score}
        for n, (cost, score) in enumerate(zip(costs, scores, strict=True))
    ]
    on = {"device": "x", "layout": "contiguous", "clock": "the process's own", "torch": "2"}
    values = {"seconds": costs[-1], "multiply_adds": int(10 * costs[-1]), "final": curve[-1], "curve": curve, "on": on}
    return Trial(way, 0, **(values | {"parameters": [1]} | more))


def test_ways_are_compared_with_the_baseline_that_cost_as_much() -> None:
    """Between lengths that were trained it is interpolated; a schedule's baselines are trials, others points of a curve."""
    steady = made("baseline", [1.0, 2.0, 4.0], [0.9, 0.5, 0.3], baseline=True, steady=True)
    on_all = {
        "epoch": 2,
        "error": 9.0,
    }  # as points of curves are, it is compared on the batches that curves are measured on
    cheap = made("cheap", [1.0, 3.0], [0.7, 0.25], steady=True, multiply_adds=20, final=on_all)
    page = Page("Title", "command", [steady, cheap])
    page.stopped_early("error", "error")
    assert "| cheap | 0.50 | -0.250 | 0.75 | -0.150 |" in page.text()
    scheduled = [
        made("baseline", [1.0, 4.0], [0.9, 0.3], baseline=True),
        made("short", [1.0, 2.0], [0.8, 0.6], baseline=True),
        made("dear", [1.0, 5.0], [0.7, 0.5]),
        made("cheap", [0.5, 1.0], [0.7, 0.65]),
    ]
    page = Page("Title", "command", scheduled)
    page.stopped_early("error", "error")
    assert "| dear | 1.25 | +0.200 | 1.25 | +0.200 |" in page.text()
    assert "| cheap | 0.25 | +0.050 | 0.25 | +0.050 |" in page.text()
    assert "| short |" not in page.text()


def test_a_page_says_what_each_trial_ran_on_and_how() -> None:
    one = made("a", [1.0], [0.5], stages=["in turn"])
    other = replace(one, on={**one.on, "device": "y"}, seed=1, stages=["contiguous", "in turn"])
    assert (
        "On x, images contiguous, freed memory given back, seconds the process's own; torch 2."
        in Page("Title", "command", [one]).text()
    )
    assert (
        "x, images contiguous, freed memory given back, seconds the process's own; torch 2 (1 of 2 trials); and on y, "
        in ran_on([one.on, other.on])
    )
    assert trained([one, one]) == "in turn"
    assert trained([one, other]) == "in turn (1); contiguous, in turn (1)"


def test_a_mean_with_its_deviation() -> None:
    assert mean_and_deviation([1.0, 2.0, 3.0], 2) == "2.00 (1.00)"
    assert mean_and_deviation([0.5], 1, sign=True) == "+0.5"
