"""Narrowing: a graph, a plan and a part give the part's sub-model."""

from graphsplit.narrow.narrower import NarrowError, SubModel, narrow
from graphsplit.narrow.part import NarrowDialect

__all__ = ["NarrowDialect", "NarrowError", "SubModel", "narrow"]
