"""Files that are whole or absent: folders and files appear under their name only when they are complete.

Whatever is written goes into a hidden folder beside its target, `.<name>.<random>.graphsplit-tmp`, and is renamed into
place at the end. A run that fails or is killed leaves the old state or none, and at most such a hidden folder, which
the next run for the same target removes (a lock on the folder tells it that nobody writes there any more). The promise
is about processes, not about power: nothing is forced out to the disk.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType, TracebackType

from graphsplit.errors import FormatError, GraphsplitError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock: stale folders stay until someone deletes them
    fcntl = None

__all__ = [
    "FOLDER_FILES",
    "MANIFEST_NAME",
    "OutputError",
    "OutputFolder",
    "atomic_file",
    "finite",
    "inside",
    "replaceable",
    "sha256",
]

MANIFEST_NAME = "manifest.json"
FOLDER_FILES = (MANIFEST_NAME, "submodel_*", "source*", "merged*")
_SUFFIX = ".graphsplit-tmp"
_OLD = "replaced"
_NEW = "new"


class OutputError(GraphsplitError):
    """An output that graphsplit refuses to write: it exists already, or something that is not ours is in its place."""


class OutputFolder:
    """A folder that appears complete or not at all.

    `with OutputFolder(target, force=force) as folder:` gives an empty folder to write into. At the end of the block it
    is renamed to `target`; an exception removes it. With `force` an earlier folder of graphsplit's is replaced, at the
    end and not before: one that holds `manifest.json`, and nothing but files whose names match `owned`; an empty folder
    counts as one. A link to a folder stays a link, and the folder that it leads to is replaced. `protect` names files
    that must survive (the inputs of the run): a target that holds one is refused.

    Raises OutputError on entering where the target may not be replaced, and on leaving when it has appeared meanwhile.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        force: bool = False,
        owned: Collection[str] = FOLDER_FILES,
        protect: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        self.target = _resolved(Path(target))
        self.force = force
        self.owned = tuple(owned)
        self.protect = tuple(Path(path).resolve() for path in protect)
        self._stage: _Stage | None = None

    def __enter__(self) -> Path:
        _recover(self.target)
        self._check()
        self._stage = _Stage(self.target)
        folder = self._stage.folder / _NEW
        folder.mkdir()
        return folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stage is not None, "left before it was entered"
        try:
            if kind is None:
                self._check()
                self._replace(self._stage.folder)
        finally:
            self._stage.remove()

    def _replace(self, stage: Path) -> None:
        """Rename the new folder into place: the old one steps aside first, and comes back if that fails."""
        old = stage / _OLD
        try:
            if self.target.exists():
                self.target.rename(old)
            (stage / _NEW).rename(self.target)
        except OSError as error:
            if old.exists() and not self.target.exists():
                old.rename(self.target)
            raise OutputError(f"cannot write {str(self.target)!r}: {error.strerror}") from error

    def _check(self) -> None:
        """Refuse a target that may not be written or replaced."""
        target = self.target
        if not target.exists():
            return
        if not target.is_dir():
            raise OutputError(f"{str(target)!r} is a file, not a folder", hint="choose another name for the output")
        if not self.force:
            raise OutputError(f"{str(target)!r} exists already", hint="add --force to replace it, or choose another -o")
        names = sorted(entry.name for entry in target.iterdir())
        if names and MANIFEST_NAME not in names:
            raise OutputError(
                f"{str(target)!r} is not a graphsplit folder (it has no {MANIFEST_NAME}): it will not be replaced",
                hint="choose another -o",
            )
        foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in self.owned)]
        if foreign:
            raise OutputError(
                f"{str(target)!r} holds {foreign[0]!r}, which graphsplit did not write: it will not be replaced",
                hint="move that file elsewhere first, or choose another -o",
            )
        held = [path for path in self.protect if path.is_relative_to(target)]
        if held:
            raise OutputError(
                f"{str(target)!r} holds {str(held[0])!r}, an input of this run: it will not be replaced",
                hint="choose another -o",
            )


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Write one file, and files that belong to it, so that they appear complete or not at all.

    Gives a path with the target's own name in an empty folder; what is written beside it there (`merged.onnx.data`
    beside `merged.onnx`) appears beside the target, before it. Where such files replace earlier ones the old target
    goes first: a run killed in between leaves no target, never one with another's data. A link is followed.

    Raises OutputError when a file to be written exists and `force` is not set, or a folder is in its place.
    """
    target = _resolved(Path(path))
    _recover(target)
    _check_file(target, force)
    stage = _Stage(target)
    try:
        folder = stage.folder / _NEW
        folder.mkdir()
        yield folder / target.name
        sides = sorted(entry.name for entry in folder.iterdir() if entry.name != target.name)
        for name in (*sides, target.name):
            _check_file(target.parent / name, force)
        _replace_files(stage.folder, target, sides)
    finally:
        stage.remove()


def replaceable(path: str | os.PathLike[str]) -> None:
    """Raise OutputError where `atomic_file` with `force` would: before the work whose result is written."""
    _check_file(_resolved(Path(path)), force=True)


def inside(folder: str | os.PathLike[str], relative: str) -> Path:
    """The path of `relative` in `folder`, after checking that it stays there whatever links lie on the way.

    Raises FormatError for an absolute path, a drive, a backslash, a `..`, an empty name, or a link that leads out.
    """
    refused = f"the path {relative!r} leaves its folder or is not a plain relative path"
    hint = "only files in the same folder, or below it, are read"
    pure, windows = PurePosixPath(relative), PureWindowsPath(relative)
    if (
        not pure.parts
        or "\0" in relative
        or "\\" in relative
        or ".." in pure.parts
        or pure.is_absolute()
        or windows.drive
    ):
        raise FormatError(refused, hint=hint)
    path = Path(folder) / pure
    try:
        stays = path.resolve().is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError):
        stays = False
    if not stays:
        raise FormatError(refused, hint=hint)
    return path


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises FormatError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FormatError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error


class _Stage:
    """A hidden folder beside a target, locked while it is in use."""

    def __init__(self, target: Path) -> None:
        if not target.parent.is_dir():
            raise OutputError(f"the folder {str(target.parent)!r} does not exist", hint="create it first")
        while True:
            self.folder = target.parent / f".{target.name}.{secrets.token_hex(6)}{_SUFFIX}"
            try:
                self.folder.mkdir()
            except OSError as error:
                raise OutputError(f"cannot write in {str(target.parent)!r}: {error.strerror}") from error
            self._lock = _locked(self.folder, wait=True)
            if self.folder.exists():  # another run may take it for a stale one before the lock is held
                return
            self._unlock()  # pragma: no cover - needs another process to strike within microseconds

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(folder: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of a folder; None where there are no such locks. OSError: someone holds it."""
    if fcntl is None:  # pragma: no cover - Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        if wait:  # a file system without locks
            return None
        raise
    return descriptor


def _recover(target: Path) -> None:
    """Clear away what killed runs for this target left behind; put back a target that had only stepped aside."""
    if fcntl is None or not target.parent.is_dir():
        return
    prefix = f".{target.name}."
    for stale in sorted(target.parent.iterdir()):
        middle = stale.name.removeprefix(prefix).removesuffix(_SUFFIX)
        if stale.name != f"{prefix}{middle}{_SUFFIX}" or not _is_token(middle) or not stale.is_dir():
            continue
        try:
            lock = _locked(stale, wait=False)
        except OSError:
            continue  # in use
        try:
            if (stale / _OLD).is_dir() and not target.exists():
                (stale / _OLD).rename(target)
            shutil.rmtree(stale, ignore_errors=True)
        finally:
            if lock is not None:
                os.close(lock)


def _is_token(text: str) -> bool:
    return len(text) == 12 and all(character in "0123456789abcdef" for character in text)


def _resolved(target: Path) -> Path:
    """The target with its links followed. Raises OutputError for a link to nothing, or in a circle."""
    if target.is_symlink() and not target.exists():
        raise OutputError(f"{str(target)!r} is a link that leads nowhere", hint="remove it, or choose another -o")
    resolved = target.resolve()
    if not resolved.name:
        raise OutputError(f"{str(target)!r} cannot be an output", hint="choose another -o")
    return resolved


def _check_file(target: Path, force: bool) -> None:
    if target.is_dir():
        raise OutputError(f"{str(target)!r} is a folder", hint="choose another name for the output file")
    if target.exists() and not force:
        raise OutputError(f"{str(target)!r} exists already", hint="add --force to replace it, or choose another -o")


def _replace_files(stage: Path, target: Path, sides: Iterable[str]) -> None:
    """Rename the staged files into place, the target last; on an error what was replaced comes back."""
    new, old = stage / _NEW, stage / "files"
    if not (new / target.name).exists():
        raise AssertionError(f"nothing was written to {target.name!r}")
    old.mkdir()
    sides = tuple(sides)
    moved: list[str] = []
    placed: list[str] = []
    try:
        if sides:
            for name in (target.name, *sides):
                if (target.parent / name).exists():
                    (target.parent / name).rename(old / name)
                    moved.append(name)
        for name in (*sides, target.name):
            (new / name).replace(target.parent / name)
            placed.append(name)
    except OSError as error:
        for name in placed:
            (target.parent / name).unlink()
        for name in moved:
            (old / name).rename(target.parent / name)
        raise OutputError(f"cannot write {str(target)!r}: {error.strerror}") from error


def finite(content: object) -> object:
    """The content with numbers that JSON has no word for as text: "inf", "-inf", "nan"."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
