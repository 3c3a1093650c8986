"""ONNX graphs as torch modules that train, and their weights back into the files. The whole room needs torch."""

from graphsplit.executor.module import OnnxModule, trainable
from graphsplit.executor.store import write_weights
from graphsplit.executor.table import implementation

__all__ = ["OnnxModule", "implementation", "trainable", "write_weights"]
