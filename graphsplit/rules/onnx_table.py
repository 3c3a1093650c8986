"""The rule table of ONNX files: all lines of the `onnx_*` modules and of onnxruntime's own ops."""

from graphsplit.rules import (
    microsoft_refused,
    microsoft_table,
    onnx_attention,
    onnx_elementwise,
    onnx_layers,
    onnx_movement,
    onnx_refused,
)

MODULES = (
    onnx_elementwise, onnx_layers, onnx_attention, onnx_movement, onnx_refused, microsoft_table, microsoft_refused,
)  # fmt: skip
TABLE = "".join(module.TABLE for module in MODULES)
