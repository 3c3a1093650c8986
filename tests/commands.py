"""The command line run in this process, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from graphsplit.cli import main

Run = Callable[..., Result]


def runner(monkeypatch: pytest.MonkeyPatch) -> Run:
    """What runs a command; exceptions that aren't exits come through, for no command may let one."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="graphsplit")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
