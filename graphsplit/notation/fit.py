"""What a rule line says of one node: the sizes of its factors, and the factors that each axis carries.

Fitting goes in two steps: `layout_of` counts the axes of each bundle, then `_solve` here finds the sizes.
Both refuse with a RuleError what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod

from graphsplit.errors import RuleError
from graphsplit.notation.layout import Axes, Layout, layout_of, misfit, paired
from graphsplit.notation.line import parse
from graphsplit.notation.rule import ELLIPSIS, Rule

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """A rule fitted to one node's shapes.

    A bundle `s` stands expanded as `s.0`, `s.1`, …; `...` as `....0`, …, counted so that equal names align among the
    operands. An axis of size 1 carries no factor. `mix`, `whole` and `stat` hold expanded names of
    factors larger than 1.
    """

    rule: Rule
    sizes: Mapping[str, int]
    operands: tuple[Axes | None, ...]
    results: tuple[Axes | None, ...]
    mix: frozenset[str]
    whole: frozenset[str]
    stat: frozenset[str]
    tags: tuple[str | None, ...]


def bind(
    rule: Rule,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    attributes: Mapping[str, object],
) -> Bound:
    """Fit a rule to a node: the shapes of its inputs (None where absent or unknown) and outputs, and its attributes.

    Attributes hold the op's defaults where the node leaves one out, and as "axes" the value of a known `#axes` operand.
    A rule with `refuse` is fitted like any other: what it fits is refused by whoever asked.
    Raises RuleError when the rule doesn't fit.
    """
    if rule.guard and not rule.holds(attributes):
        misfit(
            rule, f"its guard is for other attributes than { ({name: attributes.get(name) for name, _ in rule.guard}) }"
        )
    if rule.equation:
        return _equation(rule, inputs, outputs, attributes)
    if rule.reduce:
        return _reduce(rule, inputs, outputs, attributes)
    layout, sizes = fitted(rule, inputs, outputs, attributes)
    return Bound(
        rule=rule,
        sizes=sizes,
        operands=_carried(layout.operands, inputs, sizes),
        results=_carried(layout.results, outputs, sizes),
        mix=_thick(layout.mix, sizes),
        whole=_thick(layout.whole, sizes),
        stat=_thick(layout.stat, sizes),
        tags=layout.tags,
    )


def fitted(
    rule: Rule,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    attributes: Mapping[str, object],
) -> tuple[Layout, dict[str, int]]:
    """The factors of each axis as the line has them, of size 1 too, and the sizes of all factors.

    Not for a rule that says `reduce` or `equation`, whose factors aren't in the line. Raises RuleError when the rule doesn't
    fit.
    """
    places = tuple([_place(rule, attribute, default, inputs, attributes) for _, attribute, default in rule.at])
    ranks_in = tuple([None if shape is None else len(shape) for shape in inputs])
    ranks_out = tuple([None if shape is None else len(shape) for shape in outputs])
    counts, lengths = _counts(rule, attributes) if rule.counts else ({}, ())
    products = {factor: size for factor, size in counts.items() if "*" in factor}
    layout = layout_of(rule, ranks_in, ranks_out, places, lengths)
    fixed = {**layout.fixed, **{factor: size for factor, size in counts.items() if factor not in products}}
    return layout, _solve(rule, layout, inputs, outputs, fixed, products)


def shapes(
    rule: Rule, inputs: Sequence[Shape | None], outputs: int, attributes: Mapping[str, object]
) -> list[Shape | None]:
    """The shapes that a rule says its results have, None where a result holds what no operand tells. Raises RuleError."""
    bound = bind(rule, inputs, [None] * outputs, attributes)
    found: list[Shape | None] = []
    held = {f.name for o, shape in zip(rule.operands, inputs, strict=False) if shape is not None for f in o.factors}
    for result in paired(rule, rule.results, [None] * outputs, "output"):
        axes: list[tuple[str, ...]] = []
        for axis in result.axes or ():
            count = sum(name.startswith(f"{axis[0].name}.") for name in bound.sizes) if axis[0].many else 0
            members = [(f"{axis[0].name}.{i}",) for i in range(count)]
            axes += members if axis[0].many else [tuple(f.name for f in axis)]
        known = result.axes is not None and all(f.name in held or f.size is not None for f in result.factors)
        found.append(tuple(prod(bound.sizes[name] for name in axis) for axis in axes) if known else None)
    return found


def _counts(rule: Rule, attributes: Mapping[str, object]) -> tuple[dict[str, int], tuple[tuple[str, int], ...]]:
    """The sizes of factors that attributes hold, and the lengths of bundles among them."""
    counts: dict[str, int] = {}
    lengths: list[tuple[str, int]] = []
    for attribute, factor in rule.counts:
        value = attributes.get(attribute)
        if factor not in rule.bundles:
            counts[factor] = _integer(rule, attribute, value)
            continue
        if not isinstance(value, (tuple, list)) or not all(isinstance(size, int) for size in value):
            misfit(rule, f"attribute {attribute} is {value!r}, not a list of integers")
        counts.update((f"{factor}.{i}", size) for i, size in enumerate(value))
        lengths.append((factor, len(value)))
    return counts, tuple(lengths)


def _integer(rule: Rule, attribute: str, value: object) -> int:
    """An attribute that holds one integer; also a known operand's value with one element."""
    item = getattr(value, "item", None)
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    elif item is not None and getattr(value, "size", 0) == 1:
        value = item()
    if not isinstance(value, int):
        misfit(rule, f"attribute {attribute} is {value!r}, not an integer")
    return value


def _place(
    rule: Rule, attribute: str, default: int, inputs: Sequence[Shape | None], attributes: Mapping[str, object]
) -> int:
    """The position that an `at` reads from an attribute."""
    if attribute not in attributes:
        if attribute == "axes":
            _require_axes(rule, inputs)
        return default
    return _integer(rule, attribute, attributes[attribute])


def _require_axes(rule: Rule, inputs: Sequence[Shape | None]) -> None:
    for operand, shape in zip(rule.operands, inputs, strict=False):
        if operand.tag == "axes" and shape is not None:
            misfit(rule, "the value of its operand #axes isn't known")


def _solve(
    rule: Rule,
    layout: Layout,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    fixed: Mapping[str, int],
    products: Mapping[str, int],
) -> dict[str, int]:
    """The size of every factor: one equation an axis (and a product `a*b`), solved until nothing changes."""
    sizes: dict[str, int] = {}
    composites = [(tuple(product.split("*")), size, False) for product, size in products.items()]
    for axes, shape in zip(layout.operands, inputs, strict=True):
        for axis, dim in zip(axes, shape, strict=True) if axes is not None and shape is not None else ():
            if len(axis) > 1:
                composites.append((axis, dim, True))
                continue
            known = sizes.get(axis[0], 1)
            if known == 1:
                sizes[axis[0]] = dim
            elif dim not in (1, known):
                misfit(rule, f"the sizes of {axis[0]} disagree: {known} and {dim}")
    for name, size in fixed.items():
        if sizes.setdefault(name, size) != size:
            misfit(rule, f"the sizes of {name} disagree: {size} and {sizes[name]}")
    for axes, shape in zip(layout.results, outputs, strict=True):
        for axis, dim in zip(axes, shape, strict=True) if axes is not None and shape is not None else ():
            if len(axis) > 1:
                composites.append((axis, dim, False))
            elif sizes.setdefault(axis[0], dim) != dim:
                misfit(rule, f"the sizes of {axis[0]} disagree: {sizes[axis[0]]} and {dim} in the result")
    while composites:
        waiting = [entry for entry in composites if not _factored(rule, *entry, sizes)]
        if len(waiting) == len(composites):
            axis, dim, _ = waiting[0]
            misfit(rule, f"the size {dim} of ({' '.join(axis)}) does not tell the sizes of its factors")
        composites = waiting
    return sizes


def _factored(rule: Rule, axis: tuple[str, ...], dim: int, broadcasts: bool, sizes: dict[str, int]) -> bool:
    """Whether the sizes of all factors of a composite axis are known, now that the axis has size `dim`."""
    known, unknown = 1, []
    for name in axis:
        if name in sizes:
            known *= sizes[name]
        else:
            unknown.append(name)
    if not unknown:
        if known != dim and not (broadcasts and dim == 1):
            misfit(rule, f"the factors of ({' '.join(axis)}) make {known}, the axis has size {dim}")
        return True
    if known == dim != 0 or dim == 1:
        sizes.update(dict.fromkeys(unknown, 1))
        return _factored(rule, axis, dim, broadcasts, sizes)
    if len(unknown) > 1:
        return False
    if not known or dim % known:
        misfit(rule, f"the axis ({' '.join(axis)}) has size {dim}, which is no multiple of {known}")
    sizes[unknown[0]] = dim // known
    return True


def _carried(
    found: tuple[Axes | None, ...], shapes: Sequence[Shape | None], sizes: Mapping[str, int]
) -> tuple[Axes | None, ...]:
    """The factors that each axis carries: none of size 1, and none where the axis itself has size 1 (broadcast)."""
    return tuple(
        [
            None
            if axes is None or shape is None
            else tuple(
                [
                    () if dim == 1 else axis if len(axis) == 1 else tuple([name for name in axis if sizes[name] != 1])
                    for axis, dim in zip(axes, shape, strict=True)
                ]
            )
            for axes, shape in zip(found, shapes, strict=True)
        ]
    )


def _thick(names: frozenset[str], sizes: Mapping[str, int]) -> frozenset[str]:
    """The names of factors that are there and larger than 1."""
    return frozenset([name for name in names if sizes.get(name, 1) != 1]) if names else names


def _reduce(
    rule: Rule,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    attributes: Mapping[str, object],
) -> Bound:
    """Bind a reduction: factors a.0, a.1, … of its first operand, the reduced ones statistics."""
    operands = paired(rule, rule.operands, inputs, "input")
    paired(rule, rule.results, outputs, "output")
    shape = inputs[0] if inputs else None
    if shape is None:
        misfit(rule, "the shape of its first input isn't known")
    axes = _reduced(rule, len(shape), inputs, attributes)
    names = [f"a.{i}" for i in range(len(shape))]
    held = tuple((name,) if dim != 1 else () for name, dim in zip(names, shape, strict=True))
    keep = bool(attributes.get("keepdims", 1))
    left = tuple(() if i in axes else axis for i, axis in enumerate(held) if keep or i not in axes)
    expected = tuple(1 if i in axes else dim for i, dim in enumerate(shape) if keep or i not in axes)
    for out in outputs:
        if out is not None and out != expected:
            misfit(rule, f"the result has shape {out}, not {expected}")
    return Bound(
        rule=rule,
        sizes=dict(zip(names, shape, strict=True)),
        operands=(held, *(None for _ in inputs[1:])),
        results=tuple(None if out is None else left for out in outputs),
        mix=frozenset(),
        whole=frozenset(),
        stat=frozenset(name for axis in axes for name in held[axis]),
        tags=tuple(o.tag for o in operands),
    )


def _reduced(rule: Rule, rank: int, inputs: Sequence[Shape | None], attributes: Mapping[str, object]) -> frozenset[int]:
    """The axes that a reduction goes over: its `axes`, else its `axis`, else all."""
    given = attributes.get("axes", attributes.get("axis"))
    if given is None:
        _require_axes(rule, inputs)
    flat = getattr(given, "reshape", None)
    held: Iterable[object] = flat(-1).tolist() if flat else given if isinstance(given, Iterable) else [given]
    listed = [axis for axis in held if isinstance(axis, int)]
    found = frozenset(axis + rank * (axis < 0) for axis in listed)
    if not all(0 <= axis < rank for axis in found):
        misfit(rule, f"axes {sorted(listed)} are out of range for rank {rank}")
    if not found and not attributes.get("noop_with_empty_axes", 0):
        return frozenset(range(rank))
    return found


def _equation(
    rule: Rule,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    attributes: Mapping[str, object],
) -> Bound:
    """Bind an Einsum through the rule that its equation says."""
    equation = attributes.get("equation")
    text = equation.decode() if isinstance(equation, bytes) else str(equation or "")
    said = _einsum(rule, text)
    if len(said.operands) != len(inputs):
        misfit(rule, f"the equation {text!r} has {len(said.operands)} operands, the node {len(inputs)}")
    bound = bind(said, inputs, outputs, {})
    return Bound(rule, bound.sizes, bound.operands, bound.results, bound.mix, bound.whole, bound.stat, bound.tags)


@lru_cache(maxsize=1024)
def _einsum(rule: Rule, equation: str) -> Rule:
    """The rule that an equation says: letters of several operands that the result leaves out mix, others are stat."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    letters = [letter for letter in chain.from_iterable(terms) if letter != "."]
    if not arrow:
        right = ELLIPSIS * (ELLIPSIS in left) + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))

    def axes(term: str) -> str:
        return " ".join(term.replace(ELLIPSIS, "~")).replace("~", ELLIPSIS) or "()"

    gone = sorted(
        {*letters, *([ELLIPSIS] if ELLIPSIS in left else [])} - {*right, *([ELLIPSIS] if "." in right else [])}
    )
    mixed = [name for name in gone if sum(name in term for term in terms) > 1]
    summed = [name for name in gone if name not in mixed]
    line = f"{rule.op} {', '.join(map(axes, terms))} -> {axes(right)}"
    line += f" | mix {' '.join(mixed)}" * bool(mixed) + f" | stat {' '.join(summed)}" * bool(summed)
    try:
        return parse(line)
    except RuleError as error:
        raise RuleError(f"the equation {equation!r} is not one that splits: {error}") from error
