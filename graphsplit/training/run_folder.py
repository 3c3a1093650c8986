"""The folder of a run: what it was asked for and what it took, begun whole or not at all, and begun anew with `force`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from graphsplit.files import FOLDER_FILES, MANIFEST_NAME, atomic_file
from graphsplit.manifest import Manifest
from graphsplit.training.folder import FOLDER
from graphsplit.training.locks import LOCK, held
from graphsplit.training.task import TrainingError

PARTS, MERGED, TRAINED, ASKED = "parts", "merged", "trained", "run.json"
"""The folder of the split, the network as the merge left it, what it became, and what the run was asked for."""
SECONDS = "seconds"
OURS = (PARTS, FOLDER, ASKED, f"{MERGED}.*", f"{TRAINED}.*")
LEAVING, ASIDE, GONE = (f".{word}.graphsplit-tmp" for word in ("leaving", "aside", "gone"))
"""Where the run before is while `force` begins another: on its way there, all of it, and when it is no longer needed."""
LONGEST = 80

Splitter = Callable[[Path], object]
"""Writes the network's split into the folder that it is called with."""


@contextmanager
def place(out: Path, *, force: bool = False) -> Iterator[None]:
    """Make the folder of a run and hold it; one that nothing came into is gone behind it. Raises TrainingError."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    if any((out / name).exists() for name in (LEAVING, ASIDE, GONE)):
        with held([out]):
            _settled(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = [entry.name for entry in out.iterdir() if entry.name != ASKED and not entry.name.startswith(".")]
    except OSError as error:
        raise TrainingError(f"{str(out)!r}: {error.strerror}", hint="choose another -o") from error
    ours = (out / ASKED).exists()
    if foreign and not _begun(out) and not (force and ours):
        raise TrainingError(
            f"{str(out)!r} isn't empty, and holds no {'split' if ours else 'run'}",
            hint="choose another -o" + ", or start over with --force" * ours,
        )
    try:
        with held([out]):
            yield
    finally:
        if [entry.name for entry in out.iterdir()] == [LOCK]:
            (out / LOCK).unlink(missing_ok=True)
        for folder in made:
            if any(folder.iterdir()):
                break
            folder.rmdir()


def begin(
    split: Splitter, out: Path, asked: Mapping[str, Any], ready: Callable[[], None], *, resume: bool, force: bool
) -> None:
    """Make the split of a run, or take up the one that is there; `ready` raises what speaks against training it.

    A run that is refused leaves the folder as it was. Raises TrainingError.
    """
    if not _begun(out) or (force and not resume):
        _anew(split, out, asked, ready)
        return
    if not resume:
        raise TrainingError(
            f"{str(out)!r} holds a run already",
            hint="add --resume to go on with it, or --force to start over, or choose another -o",
        )
    _same(out, asked)
    ready()


def _begun(out: Path) -> bool:
    return (out / PARTS / MANIFEST_NAME).exists()


def _anew(split: Splitter, out: Path, asked: Mapping[str, Any], ready: Callable[[], None]) -> None:
    """Begin a run: the one before steps aside, and comes back if this one is refused, or killed before it has begun."""
    old = _replaced(out)
    (out / LEAVING).mkdir()
    try:
        for entry in old:
            entry.rename(out / LEAVING / entry.name)
        (out / LEAVING).rename(out / ASIDE)
        _write(out, asked)
        split(out / PARTS)
        ready()
        (out / ASIDE).rename(out / GONE)
    finally:
        _settled(out)


def _settled(out: Path) -> None:
    """Bring back the run that another one was to replace, unless that has begun; then the older one goes."""
    if (out / ASIDE).exists():
        for name in (PARTS, ASKED):
            _remove(out / name)  # of the one that hasn't begun
        (out / ASIDE).rename(out / LEAVING)
    if (out / LEAVING).exists():
        for entry in list((out / LEAVING).iterdir()):
            entry.rename(out / entry.name)
        (out / LEAVING).rmdir()
    if (out / GONE).exists():
        shutil.rmtree(out / GONE, ignore_errors=True)  # on NFS a file stays while somebody has it open


def _replaced(out: Path) -> list[Path]:
    """What belongs to an earlier run. Raises TrainingError where there is anything else."""
    found = [entry for entry in sorted(out.iterdir()) if not entry.name.startswith(".")]
    held_too = [(entry, OURS) for entry in found]
    if (out / PARTS).is_dir():
        inner = (*FOLDER_FILES, FOLDER)
        held_too += [(e, inner) for e in sorted((out / PARTS).iterdir()) if not e.name.startswith(".")]
    for entry, names in held_too:
        if not any(fnmatch(entry.name, name) for name in names):
            raise TrainingError(
                f"{str(entry.parent)!r} holds {entry.name!r}, which no run wrote: it will not be replaced",
                hint="move it elsewhere first, or choose another -o",
            )
    return found


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


# -- what was asked for ------------------------------------------------------------------------------------------


def _same(out: Path, asked: Mapping[str, Any]) -> None:
    """Raise TrainingError where a run that goes on is asked for something else than before."""
    known = {**_recorded(out / PARTS), **_read(out)}
    for name, value in json.loads(json.dumps(asked)).items():
        before = known.get(name, value)  # an earlier version kept fewer
        if before != value:
            raise TrainingError(
                f"{_said(name, value)}: the run in {str(out)!r} was begun with {_said(name, before)}",
                hint="go on with what it was begun with, choose another -o, or start over: --force without --resume",
            )


def _recorded(parts: Path) -> dict[str, Any]:
    """What the manifest says of the options of a split, as a run notes them."""
    manifest = Manifest.read(parts)
    options = manifest.options
    found = {name: getattr(options, name) for name in ("strategy", "init", "outputs")}
    sets = {name: list(getattr(options, name)) for name in ("keep", "trainable", "constant", "rules")}
    return {"k": manifest.parts, **found, **sets}


def _said(name: str, value: Any) -> str:
    """An option with its value, as it would be typed."""
    if name == "patience":
        return "--merge-when epoch" if value is None else f"--merge-when plateau --patience {value}"
    option = {"k": "-k", "model": "MODEL"}.get(name, f"--{name}")
    if value is None or value == []:
        return f"no {option}"
    if name == "shares":
        return f"{option} {','.join(f'{share:g}' for share in value)}"
    text = " ".join(f"{option} {one}" for one in (value if isinstance(value, list) else [value]))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _read(out: Path) -> dict[str, Any]:
    path = out / ASKED
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{str(path)!r} can't be read: {error}", hint="start over with --force") from error
    if not isinstance(found, dict):
        raise TrainingError(f"{str(path)!r} doesn't say what a run was asked for", hint="start over with --force")
    return found


def _write(out: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(out / ASKED, force=True) as staged:
        staged.write_text(json.dumps(content) + "\n", encoding="utf-8")


class Clock:
    """Seconds by what was done in them, kept in the folder of a run: what a resumed run does again doesn't count again."""

    def __init__(self, out: Path) -> None:
        self.out = out

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Take the time of what is done meanwhile. A second word tells apart what counts as one in the end."""
        begin = time.monotonic()
        yield
        content = _read(self.out)
        content.setdefault(SECONDS, {}).setdefault(name, time.monotonic() - begin)
        _write(self.out, content)

    @property
    def seconds(self) -> dict[str, float]:
        """The sums, by the first word."""
        found: dict[str, float] = {}
        for name, seconds in _read(self.out).get(SECONDS, {}).items():
            kind = name.partition(" ")[0]
            found[kind] = found.get(kind, 0.0) + seconds
        return found
