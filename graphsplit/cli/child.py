"""The command as a process that ends with the one that started it, however that ends: then its standard input ends."""

from __future__ import annotations

import os
import threading

from graphsplit.cli import main

ENDED = 143
"""What a shell says of a process that SIGTERM ended."""


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os._exit(ENDED)


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    main()
