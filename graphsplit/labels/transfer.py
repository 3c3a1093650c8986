"""What one node does to labels, read off its rule alone: which axes pass, mix, make new vertices or are taken whole.

No function here knows the name of an op. Arrays are in *factor space*: one axis for each factor of the bound rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graphsplit.labels.arrays import (
    COMMON,
    OUTPUT,
    PRIVATE,
    UNKNOWN,
    Ids,
    Labels,
    from_factors,
    highest,
    lowest,
    matrix_of,
    meet,
    squeeze_constant_axes,
    to_factors,
    uniform,
)
from graphsplit.labels.couplings import resolve
from graphsplit.labels.parameters import Claim, Derived
from graphsplit.labels.site import Flow, Site


class Transfer:
    """The labels of a node's results, and the couplings and claims that it makes on the way."""

    def __init__(self, flow: Flow, site: Site) -> None:
        self.flow, self.site, bound = flow, site, site.bound
        self.sizes = dict(bound.sizes)
        self.order = [f for f, size in self.sizes.items() if size > 1]
        self.position = {f: i for i, f in enumerate(self.order)}
        self.result = next((set(_names(axes)) for axes in bound.results if axes is not None), set())
        self.data: dict[int, Ids] = {}
        self.parameters: dict[int, Derived] = {}
        for j, (operand, axes) in enumerate(zip(site.operands, bound.operands, strict=False)):
            if isinstance(operand, Labels) and axes is not None and bound.tags[j] is None:
                self.data[j] = self._read(operand, axes)
            elif isinstance(operand, Derived) and axes is not None:
                self.parameters[j] = operand

    # -- entry ---------------------------------------------------------------------------------------------------

    def run(self) -> list[Labels]:
        """Labels of each result, by the node's rule."""
        weights = {j: p for j, p in self.parameters.items() if self.factors(j) & self.site.bound.mix}
        out = self._mixed(weights) if weights else self._passed()
        for j in self.parameters:
            if j not in weights:
                taken = (self.factors(j) & self.site.bound.stat) - self.result
                self._claim(j, self.factors(j) - taken - {letter for letter, _ in self.site.bound.rule.back}, out)
                if taken:  # an axis that is looked up has no part of its own, wherever else it is used
                    self._claim(j, taken, np.full((1,) * len(self.order), COMMON, np.int64))
            self._claim_fed_back(j, out)
        return [
            self._result(axes, shape, out)
            for axes, shape in zip(self.site.bound.results, self.site.shapes, strict=True)
        ]

    def _claim_fed_back(self, operand: int, out: Ids) -> None:
        """A recurrent weight takes the results of the step before: its columns belong to the vertices of its rows."""
        for letter, fed in self.site.bound.rule.back:
            if letter in self.factors(operand) and letter in self.position and fed in self.position:
                once = highest(out, self._varying(out, self.site.bound.whole))
                alone = self._collapsed(once, self._varying(once, set(self.order) - {fed}))
                columns = np.swapaxes(alone, self.position[fed], self.position[letter])
                self._claim(operand, {letter}, columns, contracted=True)

    def factors(self, operand: int) -> set[str]:
        """The factors of one operand."""
        return set(_names(self.site.bound.operands[operand] or ()))

    def _read(self, labels: Labels, axes: tuple[tuple[str, ...], ...]) -> Ids:
        array = to_factors(labels.core, axes, self.sizes, self.order)
        if self.flow.classes is not None:
            array = squeeze_constant_axes(resolve(array, self.flow.classes))
        return array

    def _axes(self, factors: Iterable[str]) -> tuple[int, ...]:
        return tuple(sorted(self.position[f] for f in factors if f in self.position))

    def _varying(self, array: Ids, factors: Iterable[str]) -> tuple[int, ...]:
        return tuple(axis for axis in self._axes(factors) if array.shape[axis] > 1)

    # -- activations only, and parameters that meet them element by element --------------------------------------

    def _passed(self) -> Ids:
        """Results that take their labels from the operands: elementwise ops, norms, pools, contractions of activations."""
        new = self._new_factors()
        out = np.full((1,) * len(self.order), COMMON, np.int64)
        contracted = self._contracted()
        for j, array in self.data.items():
            part = self._in_groups(j, self._reduced(j, array, contracted))
            self.flow.couplings.add(out, part, self.site.index)
            out = meet(out, part)
        if new:
            ids = self._fresh(new, out)
            self.flow.couplings.add(out, ids, self.site.index)
            if self._varying(ids, self.site.bound.stat) and self.flow.classes is not None:
                self.flow.statistic(self.site.index)
            return ids
        if self.parameters:
            return self._behind_parameters(out)
        return out

    def _behind_parameters(self, out: Ids) -> Ids:
        """A parameter makes common data private; behind the output layers only a sum may hold one, and stays an output."""
        made = OUTPUT if self.site.tail else PRIVATE
        return np.where(out == COMMON, made, out)

    def _contracted(self) -> frozenset[str]:
        """Factors that make atoms: contracted between two labelled activations, or always whole."""
        found = set(self.site.bound.whole)
        for factor in self.site.bound.mix:
            holders = [a for j, a in self.data.items() if factor in self.factors(j)]
            if len(holders) > 1 and all(bool((a > 0).any()) for a in holders):
                found.add(factor)
        return frozenset(found)

    def _reduced(self, operand: int, array: Ids, contracted: frozenset[str]) -> Ids:
        """One operand's labels over the factors of the result."""
        factors = self.factors(operand)
        atoms = self._varying(array, factors & contracted)
        if atoms:
            self.flow.couplings.along(array, atoms, self.site.index)
            array = highest(array, atoms)
        gone = factors - self.result
        return self._statistic(operand, array, (factors & self.site.bound.stat) | gone, gone)

    def _in_groups(self, operand: int, array: Ids) -> Ids:
        """Vertices on an axis (g r) of which another operand holds g alone, and whole: each of its g serves a group of them."""
        for names in self.site.bound.operands[operand] or ():
            varying = {f for f in names if self._varying(array, {f})}
            for j, other in self.data.items():
                held = varying & self.factors(j)
                inner = self._axes(varying - held)
                if not held or not inner or self._varying(other, held) or self.flow.classes is None:
                    continue
                rows = matrix_of(array, self._axes(held))
                if self.flow.mode(self.site.index, "group", array) == "atomic" or rows.shape[1] < self.flow.parts:
                    self.flow.couplings.along(array, inner, self.site.index)
                    return highest(array, inner)
                self.flow.equal_counts(self.site.index, rows)
        return array

    def _served(self, operand: int, factors: set[str]) -> bool:
        """Whether another operand holds these factors, and whole: then a part can't have others of them in each row."""
        others = [(self.factors(j), array) for j, array in self.data.items() if j != operand >= 0]
        return any(held & factors and not self._varying(array, factors) for held, array in others)

    def _statistic(self, operand: int, array: Ids, over: set[str], gone: set[str]) -> Ids:
        """Take a statistic over some factors; those that are `gone` are not in the result."""
        varying = self._varying(array, over)
        if not varying:
            return array
        if not (array > 0).any():
            return lowest(array, self._varying(array, gone))
        if self._varying(array, gone) and self.result - self._known():
            if not self.site.bound.rule.window:
                return self._resized(array, self._varying(array, gone))
            array, gone, made = self._slid(operand, array, gone)
            varying = self._varying(array, over | made)
        rows = tuple(a for a, size in enumerate(array.shape) if size > 1 and a not in varying)
        if rows and self.flow.classes is not None:
            served = self._served(operand, {self.order[a] for a in varying})
            if served or self.flow.mode(self.site.index, "group", array) == "atomic":
                self.flow.couplings.along(array, varying, self.site.index)
                return highest(array, self._varying(array, gone))
            self.flow.equal_counts(self.site.index, matrix_of(array, rows))
        if self.flow.classes is not None:
            self.flow.statistic(self.site.index)
        return self._collapsed(array, self._varying(array, gone))

    def _slid(self, operand: int, array: Ids, gone: set[str]) -> tuple[Ids, set[str], set[str]]:
        """Windows at every position of labelled axes: a result belongs to the vertex in the middle of its window.

        Gives the labels, the factors that are still gone, and those that took their place.
        """
        axes = self.site.bound.operands[operand] or ()
        results = next((axes for axes in self.site.bound.results if axes is not None), ())
        before = [f for f in _names(axes) if f in gone]
        after = [f for f in _names(results) if f not in self._known()]
        made: set[str] = set()
        for old, new in zip(before, after, strict=True):
            if not self._varying(array, {old}):
                continue
            size, wanted = self.sizes[old], self.sizes[new]
            places = np.clip(np.arange(wanted) + (size - wanted) // 2, 0, size - 1)
            array = array.take(places, axis=self.position[old])
            if wanted > 1:
                array = np.swapaxes(array, self.position[old], self.position[new])
            made.add(new)
        return array, gone - set(before), made

    def _known(self) -> set[str]:
        """Factors of any operand."""
        return set().union(*(self.factors(j) for j in (*self.data, *self.parameters)))

    def _resized(self, array: Ids, axes: tuple[int, ...]) -> Ids:
        """Vertices along a spatial axis that changes its size: no part can have a slice of it, so each must have all."""
        self.flow.undivided(self.site.index, array)
        return lowest(np.where(array > 0, PRIVATE, array), axes)

    def _collapsed(self, array: Ids, axes: tuple[int, ...]) -> Ids:
        if not axes:
            return array
        low, high = lowest(array, axes), highest(array, axes)
        several = UNKNOWN if self.flow.classes is None else PRIVATE
        return np.where(low == high, low, np.where(low == UNKNOWN, UNKNOWN, several))

    # -- activations mixed by weights ----------------------------------------------------------------------------

    def _mixed(self, weights: dict[int, Derived]) -> Ids:
        """Sums of weighted inputs: the input axis of the weight belongs to the data, its output axis makes vertices."""
        of_weights = set().union(*(self.factors(j) for j in weights))
        out: Ids | None = None
        others = np.full((1,) * len(self.order), COMMON, np.int64)
        for j, given in self.data.items():
            if not self.factors(j) & self.site.bound.mix:
                others = self._join(others, self._reduced(j, given, frozenset()))
                continue
            array = self._one_label_a_column(j, given, of_weights)
            shared = self._varying(array, self.factors(j) - of_weights)
            if shared:
                return self._shared_weight(weights, array)
            self._claim_inputs(weights, j, array)
            undecided = self.flow.classes is None and self._by_rows(j, given, of_weights)
            out = array if undecided else self._outputs(array, self.factors(j) & of_weights & self.result)
        assert out is not None, f"{self.site.node.title} mixes parameters only"
        out = self._join(out, others)
        for j in weights:
            self._claim(j, self.factors(j) & self.result, out)
        return out

    def _join(self, a: Ids, b: Ids) -> Ids:
        self.flow.couplings.add(a, b, self.site.index)
        return meet(a, b)

    def _one_label_a_column(self, operand: int, array: Ids, of_weights: set[str]) -> Ids:
        """Settle labels that change along an axis on which the weight doesn't: they share its columns."""
        mix, node = self.site.bound.mix, self.site.index
        loose = self._varying(array, self.factors(operand) - of_weights)
        columns = self._varying(array, mix)
        if not loose:
            return array
        if not (array > 0).any():
            return lowest(array, loose)
        gone = tuple(a for a in loose if self.order[a] not in self.result)
        if gone and not columns:
            return self._resized(array, gone)
        if not columns:
            return array
        if self.flow.classes is None:
            return np.full((1,) * len(self.order), UNKNOWN, np.int64)
        if gone or self.flow.mode(node, "columns", array) == "columns":
            self.flow.couplings.along(array, loose, node)
            return highest(array, loose)
        self.flow.couplings.along(array, columns, node)
        return highest(array, columns)

    def _by_rows(self, operand: int, array: Ids, of_weights: set[str]) -> bool:
        """Whether labels change along columns and along an axis on which the weight doesn't, and are to be read along that.

        Then the first pass doesn't know whether the weight makes vertices.
        """
        loose = self._varying(array, self.factors(operand) & self.result - of_weights)
        both = bool(loose) and bool(self._varying(array, self.site.bound.mix)) and bool((array > 0).any())
        return both and self.flow.mode(self.site.index, "columns", array) == "rows"

    def _shared_weight(self, weights: dict[int, Derived], array: Ids) -> Ids:
        """A weight used alike by several vertices: it is duplicated, and the vertices pass."""
        self.flow.shared(self.site.index, array)
        out = self._statistic(-1, array, set(self.site.bound.stat), set())
        private = np.full((1,) * len(self.order), PRIVATE, np.int64)
        for j in weights:
            self._claim(j, self.factors(j), private)
        return np.where(out == COMMON, PRIVATE, out)

    def _claim_inputs(self, weights: dict[int, Derived], operand: int, array: Ids) -> None:
        for j in weights:
            shared = self.factors(j) & self.factors(operand)
            if shared & self.site.bound.mix:
                self._claim(j, shared, array, contracted=True)

    def _outputs(self, array: Ids, grouping: set[str]) -> Ids:
        """The vertices behind a contraction; those of one group are coupled with its inputs, unless groups are kept."""
        groups = self._varying(array, grouping) if (array > 0).any() else ()
        groups = self._axes(self.flow.grouping(self.site.index, {self.order[a] for a in groups}))
        columns = self._axes(self.site.bound.mix) if groups else ()
        keeps = (
            bool(groups)
            and bool(columns)
            and (self.site.frontier or self.flow.mode(self.site.index, "group", array) != "atomic")
        )
        ids = self._fresh(self._new_factors() | {self.order[a] for a in groups}, array, keeps or not groups)
        if keeps:
            self.flow.equal_counts(self.site.index, matrix_of(array, self._varying(array, grouping)))
            if not self.site.frontier and self.flow.mode(self.site.index, "group", array) == "alike":
                self.flow.couplings.along(ids, self._varying(ids, grouping), self.site.index)
            self.flow.equal_counts(self.site.index, matrix_of(ids, self._varying(ids, grouping)))
        elif groups:
            self.flow.couplings.along(array, columns, self.site.index)
            self.flow.couplings.add(highest(array, columns), ids, self.site.index)
        self.flow.couplings.along(ids, self._varying(ids, self.site.bound.whole), self.site.index)
        return ids

    def _new_factors(self) -> set[str]:
        """Factors of a parameter and the result alone: they make vertices. A broadcast axis doesn't."""
        mixed = {j for j in self.data if self.factors(j) & self.site.bound.mix} or set(self.data)
        of_data = set().union(*(self.factors(j) for j in mixed)) if mixed else set()
        found = set().union(*(self.factors(j) for j in self.parameters)) if self.parameters else set()
        return {f for f in (found & self.result) - of_data if not f.startswith("...")}

    def _fresh(self, factors: set[str], data: Ids, may_be_output: bool = True) -> Ids:
        factors = factors | self._new_factors()
        if not self.site.bound.mix:
            factors |= {self.order[a] for a in self._varying(data, self.result)}
            may_be_output = may_be_output and not (data > 0).any()
        # what does more than add up (attention with its projections) is no output layer
        rule = self.site.bound.rule
        may_be_output = may_be_output and not (rule.back or rule.whole or (factors & self.site.bound.stat))
        shape = tuple(self.sizes[f] if f in factors else 1 for f in self.order)
        ids = self.flow.fresh(self.site.index, shape, self.site.frontier and may_be_output)
        return squeeze_constant_axes(ids)

    # -- results -------------------------------------------------------------------------------------------------

    def _claim(self, operand: int, factors: set[str], array: Ids, contracted: bool = False) -> None:
        """Give the labels of `array` to a parameter, along those of its axes that hold `factors`."""
        axes = self.site.bound.operands[operand]
        assert axes is not None
        own = self.factors(operand)
        array = self._collapsed(array, self._varying(array, set(self.order) - own))
        core = from_factors(array, axes, self.sizes, self.order)
        touched = tuple(a for a, names in enumerate(axes) if set(names) & factors)
        self.flow.claim(self.parameters[operand], Claim(self.site.index, touched, core, contracted))

    def _result(self, axes: tuple[tuple[str, ...], ...] | None, shape: tuple[int, ...] | None, out: Ids) -> Labels:
        if axes is None or shape is None:
            return uniform(
                shape, int(out.min()) if out.max() <= 0 else UNKNOWN if self.flow.classes is None else PRIVATE
            )
        reduced = self._collapsed(out, self._varying(out, set(self.order) - set(_names(axes))))
        return Labels(shape, squeeze_constant_axes(from_factors(reduced, axes, self.sizes, self.order)))


def _names(axes: Sequence[tuple[str, ...]]) -> list[str]:
    return [f for names in axes for f in names]
