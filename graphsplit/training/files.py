"""Networks to train, in the files that they come from: opened as modules, and their weights put back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphsplit.executor import OnnxModule, trainable, write_weights
from graphsplit.formats import torch_archive
from graphsplit.formats.torch_tensors import TorchTensor
from graphsplit.formats.weights import write_safetensors
from graphsplit.graph import Tensor
from graphsplit.modules import factory
from graphsplit.modules.source import with_weights
from graphsplit.training.task import TrainingError

WEIGHTS, ARCHIVE, ONNX = ".safetensors", ".pt2", ".onnx"
TAKEN = "a split's folder, an .onnx file, a .pt2 file that graphsplit wrote, or package.module:factory"


def open_network(path: str | os.PathLike[str]) -> nn.Module:
    """A network as a module that trains: an `.onnx` file, a `.pt2` with the weights beside it, or what a factory makes.

    Raises TrainingError for anything else, and what reading raises.
    """
    text = os.fspath(path)
    suffix = Path(text).suffix.lower()
    if suffix == ARCHIVE:
        return torch_archive.load(text)
    if suffix == ONNX:
        return trainable(text)
    if factory.names_module(text):
        return factory.build(text)
    raise TrainingError(f"{text!r} is no network to train", hint=f"give {TAKEN}")


def put_back(module: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Put a sub-model's weights where `open_network` found them; gives the file that was written.

    Those of a `.pt2` go into the `.safetensors` beside it.
    """
    if isinstance(module, OnnxModule):
        write_weights(module, path)
        return Path(path)
    target = Path(path).with_suffix(WEIGHTS)
    write_safetensors(tensors_of(module), target, metadata=torch_archive.read_metadata(path), force=True)
    return target


def save_as(module: nn.Module, path: str | os.PathLike[str], target: Path) -> None:
    """Write a trained network: of a `.pt2` or `.onnx` file a new one, of a factory's module its weights."""
    if isinstance(module, OnnxModule):
        write_weights(module, path, out=target, force=True)
        return
    if Path(path).suffix.lower() == ARCHIVE:
        source = torch_archive.load_filled(path)
        torch_archive.save(with_weights(module.cpu(), source), target, force=True)
    else:
        write_safetensors(tensors_of(module), target, force=True)


def target_of(path: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> Path:
    """The file that a single network's training writes. Raises TrainingError for one of another kind, or that is the source."""
    text = os.fspath(path)
    suffix = Path(text).suffix.lower() if Path(text).suffix.lower() in (ARCHIVE, ONNX) else WEIGHTS
    name = Path(text).stem if suffix != WEIGHTS else text.rpartition(":")[2].rpartition(".")[2]
    target = Path(out) if out is not None else Path(text).with_name(f"{name}-trained{suffix}")
    if target.suffix.lower() != suffix:
        raise TrainingError(f"-o {str(target)!r}: what comes of {text!r} is a {suffix} file")
    if target.resolve() == Path(text).resolve():
        raise TrainingError(f"-o {str(target)!r} is the network that is trained", hint="choose another name")
    return target


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """What a module's state dict holds, each tensor once, under the first of its names."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    state: Mapping[str, Any] = module.state_dict(keep_vars=True)
    for name, value in state.items():
        if torch.is_tensor(value) and id(value) not in seen:
            seen.add(id(value))
            found[name] = TorchTensor(value.detach().cpu())
    return found
