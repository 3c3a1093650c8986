"""Which indices of its parameters each part has, spelled as slices."""

from __future__ import annotations

import numpy as np

from graphsplit.draw.content import Slices
from graphsplit.labels.arrays import Ids
from graphsplit.planning import ParameterPlan, Plan

RUNS = 3
"""More runs of indices than these are told by their number."""
PARTS = 8


def slices(plan: Plan) -> tuple[Slices, ...]:
    """Of every parameter that parts have slices of, what each of the first parts has."""
    found = []
    for parameter in plan.parameters.values():
        each = tuple(_slice(plan, parameter, part) for part in range(min(plan.parts, PARTS)))
        if plan.parts > 1 and any(text.strip("[:, ]") for text in each):
            found.append(Slices(parameter.name, each))
    return tuple(found)


def _slice(plan: Plan, parameter: ParameterPlan, part: int) -> str:
    taken = parameter.selection(plan.partition.owner, part)
    axes = [":" if indices is None else spelled(indices) for indices in taken.axes]
    if parameter.blocked is not None:
        axes[parameter.blocked.axis] = f"by blocks of axis {parameter.blocked.along}"
    return f"[{', '.join(axes)}]"


def spelled(indices: Ids) -> str:
    """Indices in order as slices: `0:25`, `1:50:2`, `0:3 + 6:9`; many runs by their number."""
    if len(indices) == 0:
        return "none"
    steps = np.diff(indices)
    if len(indices) > 1 and (steps == steps[0]).all():
        return _run(int(indices[0]), int(indices[-1]), int(steps[0]))
    ends = np.flatnonzero(steps != 1)
    starts, stops = indices[np.r_[0, ends + 1]], indices[np.r_[ends, len(indices) - 1]]
    runs = [_run(int(a), int(b), 1) for a, b in zip(starts[:RUNS], stops[:RUNS], strict=True)]
    more = f" + … ({len(indices)} in {len(starts)} runs)" if len(starts) > RUNS else ""
    return " + ".join(runs) + more


def _run(first: int, last: int, step: int) -> str:
    return str(first) if first == last else f"{first}:{last + 1}" + (f":{step}" if step > 1 else "")
