"""What the whole suite shares: tests of torch modules are left out where torch isn't installed, and that is said."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests")  # helpers assert too

HAS_TORCH = find_spec("torch") is not None
collect_ignore_glob = (
    []
    if HAS_TORCH
    else [
        "test_torch_*.py",
        "test_modules*.py",
        "test_merge_optimizers*.py",
        "test_training*.py",
        "test_executor*.py",
        "test_stacking*.py",
    ]
)

# no test goes by the time it takes, on a machine that others use
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_report_header() -> str:
    return "torch: installed" if HAS_TORCH else "torch: not installed, so the tests of torch modules are left out"


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """For programs that collect garbage before they measure: they needn't go through all that other tests have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
