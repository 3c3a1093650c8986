"""Torch modules, split and merged in memory: an `nn.Module` in, `nn.Module`s out."""

from graphsplit.modules.split import ModuleSplit, split_module

__all__ = ["ModuleSplit", "split_module"]
