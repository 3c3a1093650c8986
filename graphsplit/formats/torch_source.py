"""Where in the user's own source an op was called: torch keeps it with every node of a graph."""

from __future__ import annotations

import os
import traceback

import torch
from torch import fx

_TORCH = os.path.dirname(torch.__file__) + os.sep
_STANDARD = os.path.dirname(os.__file__) + os.sep
_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep


def node_source(node: fx.Node) -> str:
    """`at file.py:12: the line` of the innermost call outside torch, or `in module '…'` that the op belongs to."""
    trace = node.meta.get("stack_trace") or ""
    found = ""
    lines = trace.splitlines()
    for i, line in enumerate(lines):
        if line.strip().startswith("File "):
            path, _, rest = line.strip().removeprefix('File "').partition('", line ')
            number = rest.split(",")[0].strip()
            if _is_users(path):
                code = lines[i + 1].strip() if i + 1 < len(lines) else ""
                found = f"at {os.path.basename(path)}:{number}: {code}"
    if found:
        return found
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return f"in module {modules[-1][0].removeprefix('L__self__') or 'self'!r}" if modules else ""


def source_line(error: BaseException) -> str:
    """` (file.py:12: the line)` of the innermost frame outside torch that an error came through; "" where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(frame.filename):
            return f" ({os.path.basename(frame.filename)}:{frame.lineno}: {frame.line})"
    return ""


def _is_users(path: str) -> bool:
    installed = f"{os.sep}site-packages{os.sep}" in path
    return not path.startswith((_TORCH, _OWN, "<")) and (installed or not path.startswith(_STANDARD))
