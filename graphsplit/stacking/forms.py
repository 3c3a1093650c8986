"""In which layouts a node can run for all parts at once, read off its rule line.

A value of K parts stands in one of these *layouts*, a number each: `LEAD` puts the parts on an axis of their own in front,
`[K, …]`; `a >= 0` folds them into axis `a`, in front of what it holds: `[n, K·c, …]` for 1.

Two readings of a rule line say which are right. **Fold**: a factor that stands first in an axis of every operand that differs
between parts, and of every result, and that the op neither contracts nor takes statistics of, indexes computations
that know nothing of each other; K times as many of them are the K parts'. So groups of a convolution, channels of a batch norm,
samples of a pool. **Lead**: operands and results that all begin with the same bundle of axes have one axis more in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import cast

from graphsplit.errors import RuleError
from graphsplit.formats.torch_nodes import signature
from graphsplit.graph import AttributeValue, Node
from graphsplit.notation import Layout, Rule, bind, fitted
from graphsplit.notation.rule import ELLIPSIS
from graphsplit.stacking.table import MOVED, SAMPLES

LEAD = -1
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """One way to run a node: the layout of each tensor operand (None: as it is) and of each result.

    `pads` counts axes of size 1 that go behind that of the parts.
    """

    operands: tuple[int | None, ...]
    results: tuple[int, ...]
    pads: tuple[int, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    op: str = ""


@dataclass(frozen=True)
class Asked:
    """A node with all that its forms depend on: example shapes, which operands differ between parts, and how many these are.

    `attributes` hold the op's defaults too.
    """

    node: Node
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    stacked: tuple[bool, ...]
    attributes: Mapping[str, object]
    parts: int


def moving(asked: Asked, name: str) -> list[Form]:
    """The forms of an op that moves elements, from what its arguments mean."""
    if name in SAMPLES:
        return _by_sample(asked)
    move, first = MOVED.get(name), asked.inputs[0]
    known = {argument.name for argument in signature(asked.node.domain, asked.node.op)}
    if move is None or not first or not known.issuperset(move.axes):
        return []
    attributes = dict(asked.node.attributes)
    for key in move.axes:
        given = asked.attributes.get(key)
        if not isinstance(given, int | tuple) or given == ():
            return []
        attributes[key] = _shifted(given)
    pads = [max(0, 2 - len(first)) if move.pads else 0] + [0] * (len(asked.inputs) - 1)
    for key, front in ((move.sizes, asked.parts), (move.order, 0), (move.times, 1)):
        if not key:
            continue
        given = attributes.pop(key)
        assert isinstance(given, tuple)
        behind = _shifted(given) if key == move.order else given
        assert isinstance(behind, tuple)
        attributes[move.renamed or key] = cast("tuple[int, ...]", (front, *behind))
        pads[0] = len(given) - len(first) if key != move.order and not move.renamed else 0
    wanted = [LEAD if shape is not None else None for shape in asked.inputs]
    if move.pads and not asked.stacked[0]:
        wanted[0] = None  # a bias that all parts share is the same for every row
    return [Form(tuple(wanted), (LEAD,) * len(asked.outputs), tuple(pads), attributes, move.op)]


def _shifted(axes: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """Axes counted from the front, with one more in front of them; those counted from the end stay."""
    if isinstance(axes, tuple):
        return tuple(axis + 1 if axis >= 0 else axis for axis in axes)
    return axes + 1 if axes >= 0 else axes


def _by_sample(asked: Asked) -> list[Form]:
    pad, first = asked.node.attributes.get("pad", ()), asked.inputs[0]
    assert isinstance(pad, tuple)
    if first is None or len(first) < 2 or len(pad) >= 2 * len(first):
        return []
    return [Form((0,), (0,), (0,))]


def ruled(asked: Asked, rules: Sequence[Rule]) -> list[Form]:
    """The forms that an op's rule lines allow."""
    for rule in rules:
        whole_lines = all(str(operand) == ELLIPSIS for operand in rule.operands)
        if rule.refuse or rule.opaque or (rule.move and not whole_lines):
            continue
        try:
            if rule.reduce or rule.equation:
                bound = bind(rule, asked.inputs, asked.outputs, asked.attributes)
                layout = Layout(bound.operands, bound.results, {}, bound.mix, bound.whole, bound.stat, bound.tags)
                return [*_reduced(asked, rule), *_folded(asked, rule, layout, dict(bound.sizes))]
            layout, sizes = fitted(rule, asked.inputs, asked.outputs, asked.attributes)
        except RuleError:
            continue
        return [*_led(asked, rule, layout), *_folded(asked, rule, layout, sizes)]
    return []


def _reduced(asked: Asked, rule: Rule) -> list[Form]:
    """A statistic along axes that it names."""
    axes = asked.attributes.get("dim")
    if not rule.reduce or not isinstance(axes, int | tuple) or axes == () or not asked.inputs[0]:
        return []
    operands = (LEAD, *(None for _ in asked.inputs[1:]))
    attributes = {**asked.node.attributes, "dim": _shifted(axes)}
    return [Form(operands, (LEAD,) * len(asked.outputs), (0,) * len(operands), attributes)]


def _led(asked: Asked, rule: Rule, layout: Layout) -> list[Form]:
    """The form with the parts' axis in front, where every operand and result begins with the same bundle of axes."""
    present = [o for o, shape in zip(rule.operands, asked.inputs, strict=False) if shape is not None]
    first = {o.axes[0][0] if o.axes else None for o in (*present, *rule.results) if o.tag is None}
    bundle = first.pop()
    if first or bundle is None or not bundle.many or rule.whole or bundle.name in rule.stat | rule.mix:
        return []
    if any(stacked and tag not in (None, "like") for stacked, tag in zip(asked.stacked, layout.tags, strict=True)):
        return []
    own = [sum(axis[0].startswith(f"{bundle.name}.") for axis in axes or ()) for axes in layout.operands]
    most = max(own)
    pads, wanted = [], list[int | None]()
    for count, stacked, tag, shape in zip(own, asked.stacked, layout.tags, asked.inputs, strict=True):
        # what all parts share meets the last axes by itself; where axes have to be the same, it is repeated
        needed = tag is None and shape is not None and (stacked or bundle.name != ELLIPSIS)
        wanted.append(LEAD if needed else None)
        pads.append(most - count if needed else 0)
    attributes = dict(asked.node.attributes)
    for _, key, default in rule.at:
        axis = asked.attributes.get(key, default)
        assert isinstance(axis, int)
        attributes[key] = axis + 1 if axis >= 0 else axis
    attributes.pop("memory_format", None)  # it says an order of the axes of a single part
    return [Form(tuple(wanted), (LEAD,) * len(asked.outputs), tuple(pads), attributes)]


def _folded(asked: Asked, rule: Rule, layout: Layout, sizes: Mapping[str, int]) -> list[Form]:
    """The forms with the parts folded into an axis."""
    start = next((i for i, stacked in enumerate(asked.stacked) if stacked and layout.tags[i] is None), None)
    if start is None:
        return []
    found = []
    for axis in layout.operands[start] or ():
        if axis and axis[0] not in layout.mix | layout.whole | layout.stat:
            form = _fold(asked, rule, layout, sizes, axis[0])
            found += [form] if form else []
    return found


def _fold(asked: Asked, rule: Rule, layout: Layout, sizes: Mapping[str, int], factor: str) -> Form | None:
    """The form with the parts in front of a factor, if all that it says holds for this node."""
    wanted: list[int | None] = []
    for axes, shape, stacked, tag in zip(layout.operands, asked.inputs, asked.stacked, layout.tags, strict=True):
        place = _place(axes, factor)
        if shape is None or tag is not None or (place is None and not stacked):
            if (stacked and tag != "like") or any(factor in axis for axis in axes or ()):
                return None
            wanted.append(None)
            continue
        broadcast = place is not None and prod(sizes[name] for name in (axes or ())[place]) != shape[place]
        if place is None or broadcast:
            return None
        wanted.append(place)
    results = [_place(axes, factor) for axes in layout.results]
    attributes = dict(asked.node.attributes)
    for key, held in rule.counts:
        count = asked.attributes.get(key)
        if held == factor and isinstance(count, int):
            attributes[key] = count * asked.parts
        elif factor in held.split("*") or factor.rpartition(".")[0] == held:
            return None
    if None in results:
        return None
    given = tuple(place for place in results if place is not None)
    return Form(tuple(wanted), given, (0,) * len(wanted), attributes)


def _place(axes: tuple[tuple[str, ...], ...] | None, factor: str) -> int | None:
    """The axis that a factor comes first in."""
    return next((i for i, axis in enumerate(axes or ()) if axis and axis[0] == factor), None)
