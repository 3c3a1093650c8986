"""Reports as text: compact tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from typing import Protocol

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from graphsplit.report.content import (
    Comparison,
    GraphInspection,
    Inspection,
    LayerFacts,
    NetworkFacts,
    Note,
    Report,
    Size,
)
from graphsplit.report.whole import largest

MAX_NOTES = 12
MAX_FAMILIES = 30
STYLES = {"private": "yellow", "output": "cyan", "whole": "dim"}
CONCATENATED = "a part alone then no longer has the original cost function"


def printable(text: str) -> str:
    """The text with control characters spelled out: names come from files, and must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def memory(value: int) -> str:
    """An amount of bytes, such as 1.6 MiB."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def times(shape: Sequence[int] | None) -> str:
    """A shape, such as 2x20x24x24."""
    return "?" if shape is None else "x".join(map(str, shape)) or "scalar"


def percent(share: float) -> str:
    """A share with two digits behind the point."""
    return f"{100 * share:.2f}%"


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str | Text]], title: str = "") -> Table:
    """A table without lines. A column is (heading, "left", "right" or "name"); names are folded, numbers never."""
    found = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title or None, title_justify="left", title_style="bold"
    )
    for heading, kind in columns:
        justify = "right" if kind == "right" else "left"
        found.add_column(heading, justify=justify, overflow="fold", no_wrap=kind == "right", header_style="dim")  # type: ignore[arg-type]
    for row in rows:
        found.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return found


def say(console: Console, *items: RenderableType) -> None:
    """Print tables as they are and strings as plain text, wrapped nowhere."""
    for item in items:
        if isinstance(item, str):
            console.print(Text(printable(item)), soft_wrap=True)
        else:
            console.print(item)


def show_inspection(console: Console, found: Inspection) -> None:
    """What a split does."""
    say(console, heading(found.network), "")
    show_sizes(console, found)
    say(console, "", _layers([layer for layer in found.layers if layer.own or layer.kind == "private"]))
    families = [
        (str(f.number), number(f.atoms), spread(f.atoms_of_parts), _several(f.layers))
        for f in found.families[:MAX_FAMILIES]
    ]
    columns = [("family", "right"), ("atoms", "right"), ("a part", "left"), ("layers", "name")]
    say(console, "", table(columns, families, "families"))
    if len(found.families) > MAX_FAMILIES:
        say(console, f"… and {number(len(found.families) - MAX_FAMILIES)} more (--json lists all)")
    show_remarks(console, found)


def heading(network: NetworkFacts) -> str:
    """One line about a network."""
    probes = [f"{v.name} {times(v.probe)}" for v in network.inputs if v.probe]
    counted = f"{number(network.multiply_adds)} multiply-adds" + f" ({', '.join(probes)})" * bool(probes)
    name, nodes = network.name or "network", number(network.nodes)
    return f"{name}: {nodes} nodes, {number(network.parameters)} parameters, {counted}"


def show_sizes(console: Console, found: Inspection) -> None:
    """Parameters and multiply-adds, full against the parts; parts of one size share a row."""
    parameters, work = found.parameter_sizes, found.multiply_add_sizes
    rows = [("whole", number(parameters.full), "", number(work.full), "")]
    each = list(zip(parameters.parts, parameters.shares, work.parts, work.shares, strict=True))
    for (mine, share, adds, part_of), group in groupby(enumerate(each), key=lambda item: item[1]):
        parts = [k for k, _ in group]
        name = f"part {parts[0]}" if len(parts) == 1 else f"parts {parts[0]}-{parts[-1]}, each"
        rows.append((name, number(mine), percent(share), number(adds), percent(part_of)))
    columns = [
        ("", "left"),
        ("parameters", "right"),
        ("share", "right"),
        ("multiply-adds", "right"),
        ("share", "right"),
    ]
    say(console, table(columns, rows))
    at = max(range(found.parts), key=parameters.parts.__getitem__)
    sizes = [("activations", found.activation_bytes), ("file", found.stored_bytes)]
    text = [f"{name} {memory(s.parts[at])} ({percent(s.shares[at])})" for name, s in sizes]
    say(console, f"largest part: {', '.join(text)}")


def show_remarks(console: Console, found: Inspection) -> None:
    """What is repeated, private or concatenated, and what isn't trained."""
    _notes(console, "repeated for each part in the merged network", found.repeated)
    _notes(console, "private: not divided, each part has its own", found.private)
    joined = [o.name for o in found.outputs if o.merge == "concat"]
    averaged = [o.name for o in found.outputs if o.merge == "mean"]
    say(console, "")
    if averaged:
        say(console, f"outputs averaged by the merge: {_several(averaged)}")
    if joined:
        say(console, f"outputs concatenated: {_several(joined)}: {CONCATENATED}")
    fixed = [c.name for c in found.constants if "float" in c.dtype and prod(c.shape) > 1]
    if fixed:
        say(console, f"untrained, so the same in every part: {_several(fixed)}")


def _notes(console: Console, title: str, notes: Sequence[Note]) -> None:
    if not notes:
        return
    say(console, "", f"{title}:")
    reasons: dict[str, list[str]] = {}
    for found in notes:
        reasons.setdefault(found.reason, []).append(found.node)
    for reason, names in list(reasons.items())[:MAX_NOTES]:
        say(console, f"  {_several(names)}: {reason}")
    if len(reasons) > MAX_NOTES:
        rest = sum(len(names) for names in list(reasons.values())[MAX_NOTES:])
        say(console, f"  … and {number(rest)} more (--json lists all)")


def show_graph(console: Console, found: GraphInspection) -> None:
    """What a network is made of."""
    say(console, heading(found.network))
    for axis in found.dynamic:
        name = "a dynamic axis" if axis.symbol is None else f"dynamic: {axis.symbol!r}"
        say(
            console,
            f"input {axis.input!r}, axis {axis.axis}: {name}" + f", tried with {axis.probe}" * (axis.probe is not None),
        )
    rows = [
        (
            layer.node,
            layer.op,
            times(layer.result),
            number(layer.elements),
            number(layer.multiply_adds),
        )
        for layer in found.layers
    ]
    columns = [
        ("layer", "name"),
        ("op", "name"),
        ("result", "left"),
        ("parameters", "right"),
        ("multiply-adds", "right"),
    ]
    say(console, "", table(columns, rows, "layers"))
    if found.refused:
        say(console, "", f"refused, {number(len(found.refused))} in all:")
        for refusal in found.refused:
            say(console, f"  {refusal.reason}" + f"\n    hint: {refusal.hint}" * bool(refusal.hint))


def show_comparison(console: Console, found: Comparison) -> None:
    """Sizes of the largest part for several numbers of parts."""
    rows = []
    refused = []
    for row in found.rows:
        if row.parameters is None or row.multiply_adds is None:
            rows.append((str(row.parts), "refused", "", "", ""))
            refused.append(f"K = {row.parts} refused: {row.refused}")
        else:
            rows.append((str(row.parts), *_of_largest(row.parameters), *_of_largest(row.multiply_adds)))
    columns = [
        ("K", "right"),
        ("parameters", "right"),
        ("share", "right"),
        ("multiply-adds", "right"),
        ("share", "right"),
    ]
    say(
        console, table(columns, rows, f"{printable(found.network) or 'network'}: the largest part for each K"), *refused
    )


def _of_largest(amount: Size) -> tuple[str, str]:
    value, share = largest(amount)
    return number(value), percent(share)


def show_split(console: Console, found: Inspection, folder: str) -> None:
    """The summary of a split that was made."""
    parts = "1 part" if found.parts == 1 else f"{number(found.parts)} parts"
    say(console, f"split {found.network.name or 'the network'} into {parts} in {folder}", "")
    show_sizes(console, found)
    show_remarks(console, found)


class CheckLike(Protocol):
    """One check of a verification."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def worst(self) -> float | None: ...
    @property
    def tolerance(self) -> float | None: ...


class VerificationLike(Protocol):
    """The result of `verify`, as far as it is shown."""

    @property
    def passed(self) -> bool: ...
    @property
    def checks(self) -> Sequence[CheckLike]: ...
    @property
    def runtime(self) -> str: ...


def show_verification(console: Console, found: VerificationLike) -> None:
    """Every check, its worst deviation against what is allowed, and the verdict."""

    def digits(value: float | None) -> str:
        return "" if value is None else f"{value:.2g}"

    rows = [
        (
            Text("ok", "green") if c.passed else Text("FAILED", "bold red"),
            c.name,
            digits(c.worst),
            digits(c.tolerance),
            c.detail,
        )
        for c in found.checks
    ]
    columns = [("", "left"), ("check", "name"), ("worst", "right"), ("allowed", "right"), ("", "name")]
    failed = sum(not c.passed for c in found.checks)
    verdict = (
        f"all {number(len(rows))} checks hold"
        if found.passed
        else f"{number(failed)} of {number(len(rows))} checks failed"
    )
    say(console, table(columns, rows), "", f"{verdict} (run with {found.runtime})")


def spread(counts: Sequence[int]) -> str:
    """How many each part has: one number where all have as many, else all, or of many the fewest and the most."""
    if len(set(counts)) <= 1:
        return number(counts[0]) if counts else ""
    if len(counts) <= 4:
        return ", ".join(map(number, counts))
    return f"{number(min(counts))} to {number(max(counts))}"


def _layers(layers: Sequence[LayerFacts]) -> Table:
    """The table of layers, with a column of atoms where they aren't the vertices themselves."""
    joined = any(layer.atoms != layer.vertices for layer in layers)
    rows: list[list[str | Text]] = []
    for layer in layers:
        divided = layer.kind == "divided"
        rows.append([layer.node, layer.op, Text(layer.kind, STYLES.get(layer.kind, ""))])
        rows[-1].append(number(layer.vertices) if divided else "")
        rows[-1] += [number(layer.atoms) if divided else ""] if joined else []
        rows[-1] += [spread(layer.vertices_of_parts) if divided else "all", _ranges(layer.families)]
    columns = [("layer", "name"), ("op", "name"), ("kind", "left"), ("vertices", "right")]
    columns += [("atoms", "right")] if joined else []
    return table([*columns, ("a part", "left"), ("family", "left")], rows, "layers")


def _ranges(numbers: Sequence[int]) -> str:
    found: list[list[int]] = []
    for value in numbers:
        if found and value == found[-1][-1] + 1:
            found[-1].append(value)
        else:
            found.append([value])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]
    return ", ".join(texts[:3]) + ", …" * (len(texts) > 3)


def _several(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    return ", ".join(names[:3]) + f" and {number(len(names) - 3)} more" * (len(names) > 3)


def show(console: Console, report: Report) -> None:
    """Any report as text."""
    from graphsplit.report.stories import show_explanation, show_pair

    if report.report == "split":
        show_inspection(console, report)
    elif report.report == "graph":
        show_graph(console, report)
    elif report.report == "comparison":
        show_comparison(console, report)
    elif report.report == "explanation":
        show_explanation(console, report)
    else:
        show_pair(console, report)
