"""Law 4: valid parts."""

from __future__ import annotations

import numpy as np
import onnx

from tests.laws.check.making import Case, Found
from tests.laws.check.running import Runner, planned_inputs
from tests.networks.inputs import graph_inputs


def valid_parts(case: Case) -> Found:
    """Law 4: each sub-model passes the checker, runs, has the source's inputs and outputs, and no empty layer."""
    found = Found()
    inputs = planned_inputs(case)
    concatenated = {entry.name for entry in case.split.manifest.outputs if entry.merge == "concat"}
    for part in case.parts:
        model = onnx.load(part.file)
        try:
            onnx.checker.check_model(model, full_check=True)
        except onnx.checker.ValidationError as error:
            found.check(False, f"{part.suffix}: {error}")
        for what, ours, theirs in (
            ("inputs", model.graph.input, case.model.graph.input),
            ("outputs", model.graph.output, case.model.graph.output),
        ):
            names = [v.name for v in graph_inputs(model)] if what == "inputs" else [v.name for v in ours]
            wanted = [v.name for v in graph_inputs(case.model)] if what == "inputs" else [v.name for v in theirs]
            found.check(names == wanted, f"{part.suffix}: other {what}")
            by_name = {v.name: v for v in theirs}
            for value in ours:
                if value.name in names and value.name in by_name and value.name not in concatenated:
                    same = _signature(value) == _signature(by_name[value.name])
                    found.check(same, f"{part.suffix}: {value.name!r} is declared in another way")
        source = case.plan.graph.tensors
        for tensor in model.graph.initializer:
            full = source[tensor.name].shape if tensor.name in source else (1,)
            found.check(0 not in tensor.dims or 0 in full, f"{part.suffix}: {tensor.name!r} is empty")
        values = Runner(part.file, ())(inputs)
        for name, value in values.items():
            found.check(
                bool(value.dtype.kind != "f" or np.isfinite(value).all()), f"{part.suffix}: {name!r} isn't finite"
            )
    return found


def _signature(value: onnx.ValueInfoProto) -> tuple[object, ...]:
    kind = value.type.tensor_type
    return kind.elem_type, kind.HasField("shape"), tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
