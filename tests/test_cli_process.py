"""The command as a process: its exit codes and streams, what it imports, and its progress."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphsplit.cli import output as cli_output
from tests.command_line import ROOT, lenet, start

__all__ = ["lenet"]  # fixtures


def test_exit_codes_and_streams_of_the_process(lenet: Path) -> None:
    done = start("inspect", lenet, "-k", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    refused = start("split", "nowhere.onnx", "-k", 2, cwd=lenet.parent)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
    assert start("split", lenet).returncode == 2
    assert start("--version").stdout.startswith("graphsplit ")
    assert start("-h").returncode == 0


def test_a_closed_pipe_is_no_error(lenet: Path) -> None:
    command = f"{sys.executable} -c 'from graphsplit.cli import main; main()' inspect {lenet} --json | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from graphsplit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'onnx', 'scipy', 'networkx', 'torch', 'onnxruntime', 'rich'}\n"
        "print('loaded', sorted(heavy & sys.modules.keys()))"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert time.perf_counter() - begin < 3  # 0.1 s on a quiet machine


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "models/lenet.onnx", "--task", "models/glyphs_task.py"],
        ["run", "models/lenet.onnx", "--task", "models/glyphs_task.py", "-k", "2", "--pretrain", "1"],
        ["split", "models.lenet:LeNet", "--input", "1x1x28x28", "-k", "2"],
    ],
    ids=lambda words: words[0],
)
def test_without_torch_it_says_what_to_install(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch': raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from graphsplit.cli import main\n"
        f"main({arguments!r}, prog_name='graphsplit')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "graphsplit[torch]" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_imports_neither_torch_nor_onnxruntime(lenet: Path) -> None:
    code = (
        "import sys; from graphsplit.cli import main\n"
        f"try: main(['inspect', {str(lenet)!r}, '-k', '2'])\nexcept SystemExit: pass\n"
        "print('loaded', sorted({'torch', 'onnxruntime'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_progress_is_for_terminals_and_long_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with cli_output.Bar() as quiet:
        quiet.begin -= 5
        quiet("narrowing", 1, 2)
    assert quiet.shown is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli_output.Bar() as early:
        early("narrowing", 1, 2)
    assert early.shown is None
    with cli_output.Bar() as late:
        late.begin -= 5
        late("narrowing [x]", 1, 2)
        late("narrowing [x]", 2, 2)
    assert late.shown is not None
    assert late.shown.finished
    assert capsys.readouterr().out == ""
