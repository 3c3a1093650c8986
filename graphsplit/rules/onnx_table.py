"""The rule table of ONNX files: all lines of the `onnx_*` modules and of onnxruntime's own ops."""

from graphsplit.rules import microsoft_table, onnx_elementwise, onnx_layers, onnx_movement, onnx_refused

TABLE = "".join(
    module.TABLE for module in (onnx_elementwise, onnx_layers, onnx_movement, onnx_refused, microsoft_table)
)
