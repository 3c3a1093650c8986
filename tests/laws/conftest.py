"""Fixtures of the laws' tests."""

from __future__ import annotations

import pytest

from tests.laws.cases import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Split, trained and merged networks by name and number of parts, shared by all the laws' tests."""
    return Made(tmp_path_factory.mktemp("laws"))
