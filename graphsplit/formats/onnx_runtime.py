"""Running ONNX files: in onnxruntime where it is installed, else in the reference evaluator that comes with onnx."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from graphsplit.errors import RunError
from graphsplit.graph import Array

__all__ = ["Engine", "RunError", "Session", "check_file", "engine", "engine_title"]

Engine = Literal["onnxruntime", "reference"]
THREADS = 2
_FATAL = 4  # onnxruntime's level of messages: what goes wrong comes as an exception, once


def engine() -> Engine:
    """The runtime at hand."""
    return "onnxruntime" if find_spec("onnxruntime") is not None else "reference"


def engine_title(kind: Engine) -> str:
    """A runtime's name and version."""
    if kind == "onnxruntime":
        return f"onnxruntime {import_module('onnxruntime').__version__}"
    return f"the reference evaluator of onnx {onnx.__version__}"


def check_file(path: str | os.PathLike[str], *, full: bool = True) -> str | None:
    """What onnx's own checker says against a file (`full`: with strict shape inference), None where it accepts it.

    It is given the path, so that data beside the file and files beyond 2 GB are checked as well.
    """
    try:
        onnx.checker.check_model(os.fspath(path), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return _first_line(error)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        return f"the checker failed: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Non-zero status code returned while ", "", line)[:200]


class Session:
    """A loaded ONNX file, and the values that it gives: its outputs, and `taps`, values inside it.

    Graph optimisations are off: they would compute the same network in different ways before and after a split.
    """

    def __init__(self, path: str | os.PathLike[str], taps: Iterable[str] = (), *, kind: Engine | None = None) -> None:
        """Raises RunError when the runtime doesn't take the file.

        A tap must be the result of a node, and no output already.
        """
        self.path = Path(path)
        self.kind: Engine = kind or engine()
        try:
            self._session = self._onnxruntime(taps) if self.kind == "onnxruntime" else self._reference(taps)
        except Exception as error:
            raise RunError(f"{self.path.name!r} cannot be loaded: {_first_line(error)}") from error

    def _onnxruntime(self, taps: Iterable[str]) -> Any:
        ort = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.log_severity_level = _FATAL
        options.enable_cpu_mem_arena = False
        folder = str(self.path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        # A message that follows another in one stream is merged into it: the taps are appended to the outputs.
        data = self.path.read_bytes() + _outputs(taps).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.outputs = tuple(value.name for value in session.get_outputs())
        return session

    def _reference(self, taps: Iterable[str]) -> Any:
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(self.path)
        model.graph.output.extend(_outputs(taps).graph.output)
        self.outputs = tuple(value.name for value in model.graph.output)
        return ReferenceEvaluator(model)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, object]:
        """The values by name; one that isn't a tensor (a sequence, an optional) comes as the runtime gives it.

        Raises RunError.
        """
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                if self.kind == "onnxruntime":
                    options = import_module("onnxruntime").RunOptions()
                    options.log_severity_level = _FATAL
                    found = self._session.run(None, dict(inputs), options)
                else:
                    found = self._session.run(None, dict(inputs))
        except Exception as error:
            raise RunError(f"{self.path.name!r} cannot be run: {_first_line(error)}") from error
        return dict(zip(self.outputs, found, strict=True))


def _outputs(names: Iterable[str]) -> onnx.ModelProto:
    """A model of nothing but outputs. Runtimes infer their types."""
    return onnx.ModelProto(graph=onnx.GraphProto(output=[onnx.ValueInfoProto(name=name) for name in names]))
