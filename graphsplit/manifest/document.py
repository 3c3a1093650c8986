"""The manifest as a whole: read, checked, and written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphsplit.errors import ManifestError
from graphsplit.files import MANIFEST_NAME
from graphsplit.manifest import read
from graphsplit.manifest.content import Note, Options, OutputEntry, ParameterEntry, Source, SubModelFile
from graphsplit.manifest.ranges import Group
from graphsplit.manifest.strict import Field, parse
from graphsplit.manifest.write import (
    canonical,
    entry_json,
    group_json,
    note_json,
    options_json,
    output_json,
    split_digest,
)
from graphsplit.selection import Selection

__all__ = ["FORMAT", "VERSION", "Manifest", "part_elements"]

FORMAT = "graphsplit"
VERSION = 1
MAX_PARTS = 65536
_KEYS = (
    "format",
    "version",
    "generator",
    "split",
    "parts",
    "options",
    "source",
    "submodels",
    "groups",
    "parameters",
    "outputs",
    "taps",
    "repeated",
    "private",
    "averaged",
)


@dataclass(frozen=True)
class Manifest:
    """What a split did: enough to merge its sub-models and to check them. `docs/manifest.md` is the specification."""

    parts: int
    generator: str
    split: str
    options: Options
    source: Source
    submodels: tuple[SubModelFile, ...]
    groups: tuple[Group, ...]
    parameters: Mapping[str, ParameterEntry]
    outputs: tuple[OutputEntry, ...]
    taps: tuple[str, ...] = ()
    repeated: tuple[Note, ...] = ()
    private: tuple[Note, ...] = ()
    averaged: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        *,
        generator: str,
        options: Options,
        source: Source,
        submodels: Sequence[SubModelFile],
        groups: Sequence[Group],
        parameters: Mapping[str, ParameterEntry],
        outputs: Sequence[OutputEntry],
        taps: Sequence[str] = (),
        repeated: Sequence[Note] = (),
        private: Sequence[Note] = (),
        averaged: Sequence[str] = (),
    ) -> Manifest:
        """A manifest with its groups numbered in order of first use, and its split's digest, checked as on reading.

        Raises ManifestError for content that breaks the specification.
        """
        parameters = {name: parameters[name] for name in sorted(parameters)}
        groups, parameters, outputs = _renumbered(groups, parameters, outputs)
        found = cls(
            len(submodels),
            generator,
            "",
            options,
            source,
            tuple(submodels),
            groups,
            parameters,
            tuple(outputs),
            tuple(taps),
            tuple(repeated),
            tuple(private),
            tuple(averaged),
        )
        found = replace(found, split=split_digest(found._content()))
        assert cls.loads(found.dumps(), origin="the manifest of this split") == found, (
            "a manifest is not what it reads as"
        )
        return found

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Manifest:
        """The manifest of a split's folder. Raises ManifestError where it is missing or breaks the specification."""
        path = Path(folder) / MANIFEST_NAME
        try:
            text = path.read_bytes().decode("utf-8", errors="strict")
        except UnicodeDecodeError as error:
            raise ManifestError(f"{str(path)!r}: not UTF-8 (byte {error.start})") from error
        except OSError as error:
            raise ManifestError(
                f"cannot read {str(path)!r}: {error.strerror}",
                hint=f"name a folder that `graphsplit split` wrote: it holds {MANIFEST_NAME}",
            ) from error
        return cls.loads(text, origin=repr(str(path)), folder=Path(folder))

    @classmethod
    def loads(cls, text: str, *, origin: str = MANIFEST_NAME, folder: Path | None = None) -> Manifest:
        """The manifest in a text; `origin` is what messages call it, `folder` where its paths must stay.

        Raises ManifestError for a text that breaks the specification.
        """
        return _read(cls, parse(text, origin), folder)

    def dumps(self) -> str:
        """The canonical text: equal content gives equal bytes."""
        return canonical(self._content())

    def _content(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "generator": self.generator,
            "split": self.split,
            "parts": self.parts,
            "options": options_json(self.options),
            "source": {"file": self.source.file, "digest": self.source.digest},
            "submodels": [{"file": s.file, "digest": s.digest, "elements": s.elements} for s in self.submodels],
            "groups": [group_json(group) for group in self.groups],
            "parameters": {name: entry_json(entry) for name, entry in self.parameters.items()},
            "outputs": [output_json(output) for output in self.outputs],
            "taps": list(self.taps),
            "repeated": [note_json(note) for note in self.repeated],
            "private": [note_json(note) for note in self.private],
            "averaged": list(self.averaged),
        }

    def selection(self, name: str, part: int) -> Selection:
        """What one part takes of a parameter."""
        return self.parameters[name].selection(self.groups, part)

    def part_shape(self, name: str, part: int) -> tuple[int, ...]:
        """The shape of one part's slice of a parameter."""
        return self.parameters[name].part_shape(self.groups, part)

    def check_digest(self, file: str, digest: str) -> None:
        """Compare the structure digest of a file of the split with the one that the manifest holds for it.

        Raises ManifestError when they differ.
        """
        known = {self.source.file: self.source.digest, **{s.file: s.digest for s in self.submodels}}
        if known[file] != digest:
            raise ManifestError(
                f"{file!r} is not the network that was split: its structure has the digest {digest}, "
                f"the manifest says {known[file]}",
                hint="only weights may change: nodes, names, shapes and constants stay as `split` wrote them",
            )


def part_elements(parameters: Iterable[ParameterEntry], groups: Sequence[Group], part: int) -> int:
    """How many elements of a part train."""
    total = 0
    for entry in parameters:
        if entry.role != "constant":
            number = 1
            for size in entry.part_shape(groups, part):
                number *= size
            total += number
    return total


def _uses(parameters: Mapping[str, ParameterEntry], outputs: Sequence[OutputEntry]) -> Iterable[int]:
    """The numbers of groups in order of use."""
    for entry in parameters.values():
        yield from (number for number in entry.axes if number is not None)
        if entry.blocked is not None:
            yield from entry.blocked.groups
    yield from (output.group for output in outputs if output.group is not None)


def _renumbered(
    groups: Sequence[Group], parameters: Mapping[str, ParameterEntry], outputs: Sequence[OutputEntry]
) -> tuple[tuple[Group, ...], dict[str, ParameterEntry], tuple[OutputEntry, ...]]:
    """Equal groups made one, unused ones dropped, and the rest in order of first use."""
    place: dict[Group, int] = {}
    number = {old: place.setdefault(groups[old], len(place)) for old in dict.fromkeys(_uses(parameters, outputs))}
    entries = {}
    for name, entry in parameters.items():
        axes = tuple(None if index is None else number[index] for index in entry.axes)
        blocked = entry.blocked
        if blocked is not None:
            blocked = replace(blocked, groups=tuple(number[index] for index in blocked.groups))
        entries[name] = replace(entry, axes=axes, blocked=blocked)
    merged = tuple(o if o.group is None else replace(o, group=number[o.group]) for o in outputs)
    return tuple(place), entries, merged


def _read(cls: type[Manifest], root: Field, folder: Path | None) -> Manifest:
    found = _header(root)
    parts = found["parts"].integer(1, MAX_PARTS)
    submodels = tuple(read.read_submodel(item, folder) for item in found["submodels"].items())
    if len(submodels) != parts:
        found["submodels"].refuse(f"there are {len(submodels)} sub-models for {parts} parts")
    groups = tuple(read.read_group(item, parts) for item in found["groups"].items())
    parameters = {
        name: read.read_entry(name, item, groups, parts) for name, item in sorted(found["parameters"].members().items())
    }
    outputs = tuple(read.read_output(item, groups) for item in found["outputs"].items())
    read.refuse_duplicates(found["outputs"], [output.name for output in outputs], "output")
    manifest = cls(
        parts,
        found["generator"].name(),
        found["split"].digest(),
        read.read_options(found["options"], parts),
        read.read_source(found["source"], folder),
        submodels,
        groups,
        parameters,
        outputs,
        found["taps"].names(),
        read.read_notes(found["repeated"]),
        read.read_notes(found["private"]),
        found["averaged"].names(),
    )
    _check(manifest, found)
    return manifest


def _header(root: Field) -> dict[str, Field]:
    """The members, after a look at format and version: another version may have other members."""
    members = root.members()
    if "format" not in members or members["format"].value != FORMAT:
        root.refuse("not a graphsplit manifest: its format is not 'graphsplit'")
    if "version" not in members:
        root.refuse("the key 'version' is missing")
    version = members["version"].integer()
    if version != VERSION:
        root.refuse(
            f"the manifest has version {version}, and this graphsplit reads version {VERSION}",
            hint="upgrade graphsplit (pip install -U graphsplit), or split the network again",
        )
    return root.object(_KEYS)


def _check(manifest: Manifest, found: dict[str, Field]) -> None:
    """What holds between the pieces."""
    files = [*(submodel.file.casefold() for submodel in manifest.submodels), manifest.source.file.casefold()]
    for i, file in enumerate(files):
        if file in files[:i]:
            where = found["source"] if i == manifest.parts else found["submodels"].items()[i]
            where.refuse(f"the file {where.members()['file'].text()!r} is listed already")
    order = tuple(dict.fromkeys(_uses(manifest.parameters, manifest.outputs)))
    if order != tuple(range(len(manifest.groups))):
        found["groups"].refuse("the groups are not numbered in order of their first use, or one is not used")
    if len(set(manifest.groups)) != len(manifest.groups):
        found["groups"].refuse("two groups are equal")
    for part, submodel in enumerate(manifest.submodels):
        elements = part_elements(manifest.parameters.values(), manifest.groups, part)
        if submodel.elements != elements:
            item = found["submodels"].items()[part]
            item.refuse(f"{submodel.elements} elements are said to train: by the parameters' layouts {elements} do")
    expected = split_digest(manifest._content())
    if manifest.split != expected:
        found["split"].refuse(
            "the digest does not fit the content: the manifest was changed after the split, or damaged",
            hint="restore the file that `graphsplit split` wrote, or split the network again",
        )
