"""Law 4: every sub-model passes the checker, runs, keeps the source's inputs and outputs, and has every layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from tests.laws.cases import ALL, SEEDS_REFUSED, Made, Split, make_seed, splits
from tests.laws.check import Case, trained, valid_parts


def assert_valid(case: Case) -> None:
    found = valid_parts(case)
    assert not found.complaints, found.complaints[:5]
    onnx.checker.check_model(onnx.load(case.merged), full_check=True)


@pytest.mark.parametrize(("name", "k"), splits())
def test_parts_are_networks(made: Made, name: str, k: Split) -> None:
    assert_valid(made(name, k))


@pytest.mark.parametrize("seed", [seed for seed in range(0, 60, 5) if seed not in SEEDS_REFUSED])
def test_generated(tmp_path: Path, seed: int) -> None:
    assert_valid(make_seed(seed, tmp_path))


# -- negative controls ------------------------------------------------------------------------------------------------------


def renamed_output(model: onnx.ModelProto) -> None:
    old = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Identity", [old], ["other"]))
    model.graph.output[0].name = "other"


def other_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "another"


def invalid_node(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    node.attribute.append(onnx.helper.make_attribute("colour", 3))


def empty_layer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[0])[:0], "empty")
    )


def not_finite(model: onnx.ModelProto) -> None:
    for i, tensor in enumerate(model.graph.initializer):
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype.kind == "f" and array.ndim:
            array.fill(float("nan"))
            model.graph.initializer[i].CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (renamed_output, "other outputs"),
        (other_type, "is declared in another way"),
        (invalid_node, "colour"),
        (empty_layer, "is empty"),
        (not_finite, "isn't finite"),
    ],
)
def test_an_invalid_part_is_reported(tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], complaint: str) -> None:
    case = trained(ALL["lenet"](), 2, tmp_path)
    assert not valid_parts(case).complaints
    model = onnx.load(case.parts[1].file)
    spoil(model)
    onnx.save(model, case.parts[1].file)
    assert any(complaint in text for text in found_in(case)), found_in(case)


def found_in(case: Case) -> list[str]:
    """Complaints, also where a part is so wrong that it doesn't run."""
    try:
        return valid_parts(case).complaints
    except Exception as error:  # noqa: BLE001
        return [str(error)]
