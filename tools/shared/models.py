"""ONNX files that a program tries, and which of them are the same network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError


@dataclass(frozen=True, slots=True)
class Model:
    """A file with the section that it is listed in, and what it is called there."""

    section: str
    title: str
    path: Path


def find(sections: Iterable[tuple[str, Path]]) -> list[Model]:
    """The models of files and folders, by section and name."""
    found: list[Model] = []
    for section, place in sections:
        files = sorted(place.rglob("*.onnx")) if place.is_dir() else [place]
        found.extend(
            Model(section, file.relative_to(place if place.is_dir() else place.parent).as_posix(), file)
            for file in files
        )
    return found


def distinct(models: Sequence[Model]) -> list[Model]:
    """The first of all models with the same nodes, wiring, attributes and tensor shapes, in each section."""
    seen: set[tuple[str, str]] = set()
    found: list[Model] = []
    for model in models:
        key = (model.section, topology(model.path))
        if key not in seen:
            seen.add(key)
            found.append(model)
    return found


def topology(path: Path) -> str:
    """A digest of a model's nodes, wiring, attributes and tensor shapes: of no name and no weight."""
    content = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return hashlib.sha256(content).hexdigest()
    names: dict[str, int] = {"": 0}
    lines = [
        f"{tensor.data_type} {list(tensor.dims)} {names.setdefault(tensor.name, len(names))}"
        for tensor in model.graph.initializer
    ]
    lines += [str(names.setdefault(value.name, len(names))) for value in model.graph.input]
    for node in model.graph.node:
        wires = [names.setdefault(name, len(names)) for name in (*node.input, *node.output)]
        lines.append(f"{node.domain} {node.op_type} {len(node.input)} {wires}")
        lines += sorted(_attribute(attribute) for attribute in node.attribute)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _attribute(attribute: onnx.AttributeProto) -> str:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return f"{attribute.name} {attribute.t.data_type} {list(attribute.t.dims)}"
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return attribute.name
    content: bytes = attribute.SerializeToString(deterministic=True)
    return content.hex()
