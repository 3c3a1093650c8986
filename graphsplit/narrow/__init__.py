"""Narrowing: a graph, a plan and a part give the part's sub-model."""

from graphsplit.narrow.narrower import NarrowDialect, SubModel, narrow

__all__ = ["NarrowDialect", "SubModel", "narrow"]
