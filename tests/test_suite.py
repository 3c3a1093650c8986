"""The suite itself, where something optional isn't installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; import pytest; "
    "sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
)


def test_every_test_is_collected_or_left_out_without_torch() -> None:
    """The README's test command installs none: a module that imports it unguarded ends the whole run."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "tests"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "tests/test_cli.py::" in done.stdout
    assert "tests/test_stacking.py::" not in done.stdout


def test_a_module_that_needs_torch_unguarded_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import torch\n\n\ndef test() -> None: ...\n")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "test_it.py"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "test_it.py" in done.stdout
