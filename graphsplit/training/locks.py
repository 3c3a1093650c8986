"""One training of a network at a time: a lock on the folder that it writes, which the system drops however its holder ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from graphsplit.files import inside
from graphsplit.training.task import TrainingError

LOCK = ".lock"
PATIENCE = 10.0
"""Seconds: workers of a loader keep the lock of a process that was killed until they notice, within five."""


@contextmanager
def held(folders: Iterable[Path]) -> Iterator[None]:
    """Hold folders, which are made where they are missing. Raises TrainingError where another process has one of them."""
    with ExitStack() as stack:
        for folder in sorted(folders):  # in one order, or two trainings could wait for each other
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(inside(folder, LOCK)).acquire(timeout=PATIENCE))
            except Timeout:
                raise TrainingError(
                    f"another process is training in {str(folder)!r}", hint="wait until it has ended, or end it"
                ) from None
            except NotImplementedError:  # a file system without locks
                continue
            except OSError as error:
                raise TrainingError(f"cannot write in {str(folder)!r}: {error.strerror}") from error
        yield
