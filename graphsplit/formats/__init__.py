"""One module a file format, load and save together: the only home of the `onnx` and `onnx_ir` packages."""
