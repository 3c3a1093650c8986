"""How many atoms of each family every part gets: evenly, and where layers or groups ask for it, solved as integers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from graphsplit.errors import UnevenError
from graphsplit.labels.arrays import Ids
from graphsplit.partition.families import Structure

Shares = npt.NDArray[np.float64]
GAP = 0.02
"""How far from the nearest whole numbers a solution may be: proving the last of it can take ten times as long."""


def counts(structure: Structure, shares: Shares, describe: Sequence[str]) -> Ids:
    """Atoms of each family for each part, shape (families, parts).

    `shares` sum to 1; `describe` names the node of each equal-count constraint for a refusal.
    Raises UnevenError when no whole numbers satisfy every layer and every group.
    """
    sizes = np.array([len(f.atoms) for f in structure.families], np.int64)
    exact = sizes[:, None] * shares[None, :]
    found = np.floor(exact + 1e-9).astype(np.int64)
    if not (found.sum(axis=1) == sizes).all():
        found = _remainders(structure, sizes, found, shares)
    if _feasible(structure, found):
        return found
    solved = _solve(structure, sizes, exact, near=True)
    if solved is None:
        solved = _solve(structure, sizes, exact, near=False)
    if solved is None:
        titles = list(dict.fromkeys(describe))
        nodes = ", ".join(titles[:4]) + (f" and {len(titles) - 4} more" if len(titles) > 4 else "") or "the layers"
        raise UnevenError(
            f"the vertices can't be divided into {shares.size} parts: no whole numbers satisfy the equal counts of {nodes}",
            tuple((structure.constraint_nodes[c], _atoms(structure, c)) for c in _in_the_way(structure, sizes, exact)),
            hint="try another -k, or --keep one of these layers undivided",
        )
    return solved


def _in_the_way(structure: Structure, sizes: Ids, exact: npt.NDArray[np.float64]) -> list[int]:
    """Equal counts that can't be satisfied by themselves; where each can, the first that can't with those before it."""

    def feasible(constraints: Collection[int]) -> bool:
        rows, offsets = (
            table[np.isin(table[:, column], list(constraints))]
            for table, column in ((structure.rows, 1), (structure.offsets, 0))
        )
        return _solve(replace(structure, rows=rows, offsets=offsets), sizes, exact, near=False) is not None

    numbers = [int(c) for c in np.unique(structure.rows[:, 1])]
    if not feasible([]):
        return []
    alone = [c for c in numbers if not feasible([c])]
    if alone:
        return alone
    fits, fails = 1, len(numbers)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if feasible(numbers[:middle]) else (fits, middle)
    return numbers[fails - 1 : fails]


def _atoms(structure: Structure, constraint: int) -> Ids:
    """The atoms that an equal count counts."""
    mine = np.unique(structure.rows[structure.rows[:, 1] == constraint, 0])
    return np.concatenate([structure.families[f].atoms for f in mine])


def _remainders(structure: Structure, sizes: Ids, found: Ids, shares: Shares) -> Ids:
    """Give left-over atoms, one at a time, to the part whose layers are furthest below their share."""
    found = found.copy()
    layers = len(structure.layers)
    by_family: dict[int, tuple[Ids, Ids]] = {}
    order = np.argsort(structure.usage[:, 0], kind="stable")
    usage = structure.usage[order]
    bounds = np.searchsorted(usage[:, 0], np.arange(len(sizes) + 1))
    for f in range(len(sizes)):
        mine = usage[bounds[f] : bounds[f + 1]]
        by_family[f] = (mine[:, 1], mine[:, 2])
    load = np.zeros((layers, shares.size))
    total = np.zeros(layers)
    for f in range(len(sizes)):
        which, often = by_family[f]
        load[which] += often[:, None] * found[f][None, :]
        total[which] += often * sizes[f]
    for f in range(len(sizes)):
        which, often = by_family[f]
        taken = np.zeros(shares.size, np.int64)
        for _ in range(int(sizes[f] - found[f].sum())):
            empty = (load[which] == 0).sum(axis=0)
            missing = total[which][:, None] * shares[None, :] - load[which]
            need = (missing / total[which][:, None]).sum(axis=0) + 1e3 * empty - 1e6 * taken
            part = int(np.argmax(np.round(need, 9)))
            found[f, part] += 1
            taken[part] += 1
            load[which, part] += often
    return found


def _offsets(structure: Structure, constraint: int) -> Ids:
    """For each row of a constraint the elements of it that every part has."""
    mine = structure.offsets[structure.offsets[:, 0] == constraint]
    found: Ids = mine[np.argsort(mine[:, 1]), 2]
    return found


def _feasible(structure: Structure, found: Ids) -> bool:
    load = np.zeros((len(structure.layers), found.shape[1]), np.int64)
    np.add.at(load, structure.usage[:, 1], structure.usage[:, 2:3] * found[structure.usage[:, 0]])
    if not (load > 0).all():
        return False
    for constraint in np.unique(structure.rows[:, 1]):
        mine = structure.rows[structure.rows[:, 1] == constraint]
        shared = _offsets(structure, int(constraint))
        taken = np.repeat(shared[:, None], found.shape[1], axis=1)
        np.add.at(taken, mine[:, 2], mine[:, 3:4] * found[mine[:, 0]])
        if not ((taken == taken[:1]).all() and (taken > 0).all()):
            return False
    return True


class _Program:
    """Rows of a mixed-integer program: terms (column, factor) whose sum lies between two bounds."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, float]] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        self.entries.extend((len(self.lower), column, value) for column, value in terms)
        self.lower.append(low)
        self.upper.append(high)

    def constraint(self, columns: int) -> LinearConstraint:
        """All rows, over this many columns."""
        rows, places, values = zip(*self.entries, strict=True)
        matrix = coo_array((values, (rows, places)), shape=(len(self.lower), columns)).tocsr()
        return LinearConstraint(matrix, self.lower, self.upper)


def _solve(structure: Structure, sizes: Ids, exact: npt.NDArray[np.float64], *, near: bool) -> Ids | None:
    """Whole numbers as near to the exact shares as the constraints let them be, up to GAP, by mixed-integer programming.

    `near` keeps every count within one of its share, rounded. No part gets more of a layer than its share and one atom of
    each family (law 7), whatever the constraints ask for.
    """
    families, parts = exact.shape
    variables = families * parts
    program = _Program()
    for f in range(families):
        program.add([(f * parts + p, 1.0) for p in range(parts)], float(sizes[f]), float(sizes[f]))
    _add_layers(program, structure, exact)
    _add_equal_counts(program, structure, parts)
    for v, share in enumerate(exact.ravel()):  # deviation >= |count - exact|, which the objective sums
        program.add([(variables + v, 1.0), (v, -1.0)], -float(share), np.inf)
        program.add([(variables + v, 1.0), (v, 1.0)], float(share), np.inf)
    low = np.zeros(2 * variables)
    high = np.concatenate([np.repeat(sizes, parts).astype(float), np.full(variables, np.inf)])
    if near:
        low[:variables] = np.maximum(0, np.floor(exact.ravel() + 1e-9) - 1)
        high[:variables] = np.minimum(high[:variables], np.ceil(exact.ravel() - 1e-9) + 1)
    whole = np.concatenate([np.ones(variables), np.zeros(variables)])
    result = milp(
        1 - whole,
        integrality=whole,
        bounds=Bounds(low, high),
        constraints=program.constraint(2 * variables),
        options={"time_limit": 60.0, "mip_rel_gap": GAP},
    )
    if result.x is None:
        return None
    found: Ids = np.round(result.x[:variables]).astype(np.int64).reshape(families, parts)
    return found


def _add_layers(program: _Program, structure: Structure, exact: npt.NDArray[np.float64]) -> None:
    """Every part gets some of each layer, and no more than its share and one atom of each family."""
    parts = exact.shape[1]
    for layer in range(len(structure.layers)):
        mine = structure.usage[structure.usage[:, 1] == layer]
        for p in range(parts):
            share = float(sum(n * exact[f, p] for f, _, n in mine))
            most = np.floor(share + float(mine[:, 2].sum()) + 1e-9)
            program.add([(int(f) * parts + p, float(n)) for f, _, n in mine], 1.0, float(most))


def _add_equal_counts(program: _Program, structure: Structure, parts: int) -> None:
    """Each part takes as many out of each row as out of the first."""
    for constraint in np.unique(structure.rows[:, 1]):
        mine = structure.rows[structure.rows[:, 1] == constraint]
        first = mine[mine[:, 2] == 0]
        shared = _offsets(structure, int(constraint))
        for row in range(len(shared)):
            here = mine[mine[:, 2] == row]
            for p in range(parts):
                plus = [(int(f) * parts + p, float(n)) for f, _, _, n in here]
                minus = [(int(f) * parts + p, -float(n)) for f, _, _, n in first]
                if row == 0:
                    program.add(plus, 1.0 - float(shared[0]), np.inf)
                else:
                    missing = float(shared[0] - shared[row])
                    program.add(plus + minus, missing, missing)
