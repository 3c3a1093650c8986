"""A manifest's canonical text: equal content gives equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from graphsplit.manifest.content import Note, Options, OutputEntry, ParameterEntry
from graphsplit.manifest.kinds import Counts
from graphsplit.manifest.ranges import Group, Ranges

__all__ = ["canonical", "entry_json", "group_json", "note_json", "options_json", "output_json", "split_digest"]

Json = Mapping[str, object] | Sequence[object] | str | int | float | None


def canonical(value: Json) -> str:
    """JSON with sorted keys and escapes beyond ASCII; what holds no object stands on one line. Ends with a newline."""
    return _text(value, "") + "\n"


def _text(value: object, indent: str) -> str:
    if isinstance(value, Mapping) and not _is_flat(value):
        inner = indent + "  "
        lines = [f"{inner}{json.dumps(key)}: {_text(value[key], inner)}" for key in sorted(value)]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        inner = indent + "  "
        return "[\n" + ",\n".join(inner + _text(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(", ", ": "))


def _is_flat(value: Mapping[str, object]) -> bool:
    """Whether an object holds numbers, strings and null alone."""
    return bool(not value or all(item is None or isinstance(item, str | int | float) for item in value.values()))


def split_digest(content: Mapping[str, object]) -> str:
    """SHA-256 of the canonical text of a manifest without its member `split`."""
    rest = {key: value for key, value in content.items() if key != "split"}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def options_json(options: Options) -> dict[str, object]:
    """The options as JSON."""
    found = {field.name: getattr(options, field.name) for field in fields(options)}
    return {**found, "sizes": dict(options.sizes)}


def group_json(group: Group) -> dict[str, object]:
    """A vertex group as JSON."""

    def pairs(ranges: Ranges) -> list[list[int]]:
        found: list[list[int]] = ranges.pairs.tolist()
        return found

    return {
        "size": group.size,
        "parts": [pairs(ranges) for ranges in group.parts],
        "common": pairs(group.common),
        "private": pairs(group.private),
        "output": pairs(group.output),
    }


def entry_json(entry: ParameterEntry) -> dict[str, object]:
    """A parameter's entry as JSON, without its name."""
    blocked = entry.blocked
    return {
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "role": entry.role,
        "axes": list(entry.axes),
        "blocked": None
        if blocked is None
        else {"axis": blocked.axis, "along": blocked.along, "groups": list(blocked.groups)},
        "scale": entry.scale,
        "counts": {field.name: getattr(entry.counts, field.name) for field in fields(Counts)},
    }


def note_json(note: Note) -> dict[str, object]:
    """A listed node as JSON."""
    return asdict(note)


def output_json(output: OutputEntry) -> dict[str, object]:
    """An output as JSON."""
    return asdict(output)
