"""Merging: trained sub-models matched with their split, and their tensors put back together.

Tensors and index sets alone: neither torch nor an ONNX runtime.
"""

from graphsplit.recombine.compose import compose
from graphsplit.recombine.match import Trained, match_parts
from graphsplit.recombine.tensors import LazyMerged, Leaf, leaves_of, merge_momentum, merged_tensor

__all__ = [
    "LazyMerged",
    "Leaf",
    "Trained",
    "compose",
    "leaves_of",
    "match_parts",
    "merge_momentum",
    "merged_tensor",
]
