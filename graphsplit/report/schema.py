"""The JSON Schema of the reports, read off their dataclasses: `docs/inspect.schema.json` is a copy."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from graphsplit.report.content import Report

PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """The schema of everything that `inspect --json` and `explain --json` print."""
    return schema_of(
        get_args(Report),
        "graphsplit reports",
        "What `graphsplit inspect --json` and `graphsplit explain --json` print.",
    )


def schema_of(reports: Sequence[Any], title: str, description: str) -> dict[str, Any]:
    """The schema of what is one of these dataclasses."""
    definitions: dict[str, Any] = {}
    found = [_of(report, definitions) for report in reports]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        **({"oneOf": found} if len(found) > 1 else found[0]),
        "$defs": dict(sorted(definitions.items())),
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)} if len(arguments) > 1 else {"const": arguments[0]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(a, definitions) for a in arguments]}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is tuple:
        items = [_of(a, definitions) for a in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if is_dataclass(kind):
        return _object(kind, definitions)
    return {"type": PLAIN[kind]}


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        definitions[name] = {
            "description": " ".join((kind.__doc__ or "").split()),
            "type": "object",
            "properties": {n: _of(hints[n], definitions) for n in names},
            "required": names,
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}
