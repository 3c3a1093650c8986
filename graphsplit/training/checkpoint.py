"""Checkpoints: all that a training needs to go on as if nothing had happened. Written whole or not at all, read as plain data."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphsplit.executor import OnnxModule
from graphsplit.files import atomic_file
from graphsplit.training.streams import accelerators
from graphsplit.training.task import TrainingError
from graphsplit.training.trainee import Trainee

FORMAT = 1
ANEW = "put a copy of it back, or start anew: --force in place of --resume"


@dataclass
class Progress:
    """How far a training is: whole epochs, batches of the one begun, and what was summed up so far.

    losses: sums over the epoch's samples, one for each sub-model. seconds: of training and evaluation, over all runs.
    each: multiply-adds of a sample, measured once. lines: of the metrics file that belong to this.
    """

    epoch: int = 0
    step: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)
    counted: int = 0
    samples: int = 0
    seconds: float = 0.0
    multiply_adds: int = 0
    each: float = 0.0
    peak_memory: int = 0
    lines: int = 0


def save(path: Path, trainee: Trainee, progress: Progress, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint in the place of the one before."""
    content = {
        "format": FORMAT,
        "identity": dict(identity),
        "progress": dict(vars(progress)),
        "model": _state(trainee.module),
        "buffers": _unsaved(trainee.module),
        "optimizer": _plain(trainee.optimizer.state_dict()),
        "schedule": None if trainee.schedule is None else _plain(trainee.schedule.state_dict()),
        "random": _random(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, force=True) as staged:
        torch.save(content, staged)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's content: plain data and tensors. Raises TrainingError for a file that is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"there is no checkpoint {os.fspath(path)!r}", hint=ANEW) from None
    except OSError as error:
        raise TrainingError(f"{os.fspath(path)!r} can't be read: {error.strerror}") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        # a whole file that the safe loader refuses is an archive all the same
        whole = zipfile.is_zipfile(path)
        raise TrainingError(
            f"{os.fspath(path)!r} can't be read as a checkpoint: {reason:.200}"
            if whole
            else f"{os.fspath(path)!r} is damaged or cut short, and no checkpoint: {reason:.200}",
            hint="a schedule or optimizer that keeps more than numbers and tensors in its state can't be resumed"
            if whole
            else ANEW,
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TrainingError(f"{os.fspath(path)!r} is no checkpoint of this version of graphsplit")
    return content


def refuse_another(
    content: Mapping[str, Any], identity: Mapping[str, Any], path: Path, *, other_task: bool = False
) -> None:
    """Raise TrainingError where a checkpoint belongs to another training, or to one of another task, unless that is wanted."""
    known = content["identity"]
    for name, value in identity.items():
        if name != "task" and known.get(name) != value:
            raise TrainingError(
                f"{str(path)!r} was written with {name} {known.get(name)!r}, and this training has {value!r}",
                hint="resume with the same settings, or start anew with --force",
            )
    tasks = known.get("task"), identity.get("task")
    if all(tasks) and tasks[0] != tasks[1] and not other_task:
        raise TrainingError(
            f"{str(path)!r} was written with another task: its code or its settings have changed since",
            hint="put them back, or add --other-task to go on with these data and loss; the optimizer keeps its old settings",
        )


def restore(content: Mapping[str, Any], trainee: Trainee, path: Path) -> Progress:
    """Put a checkpoint's content back. Raises TrainingError where it doesn't fit."""
    try:
        trainee.module.load_state_dict(content["model"])
        for name, value in content.get("buffers", {}).items():
            held = trainee.module.get_buffer(name)
            if not torch.equal(held.cpu(), value):  # what is expanded can't be written to, and no training moves it
                held.copy_(value)
        trainee.optimizer.load_state_dict(content["optimizer"])
        if trainee.schedule is not None and content["schedule"] is not None:
            trainee.schedule.load_state_dict(content["schedule"])
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise TrainingError(
            f"{str(path)!r} doesn't fit the network or its optimizer: {str(error).splitlines()[0]:.200}",
            hint="resume with the same task and network, or start anew with --force",
        ) from error
    _set_random(content["random"])
    return Progress(**content["progress"])


def _plain(value: Any) -> Any:
    """Numbers of numpy's as Python's: a schedule may compute rates with numpy, and plain data is all that is read back."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_plain(item) for item in value]) if type(value) in (list, tuple) else value
    return value.item() if isinstance(value, np.generic) else value


def _state(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value.detach() if torch.is_tensor(value) else value for name, value in module.state_dict().items()}


def _unsaved(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that a state dict leaves out, and that training may move all the same. An ONNX file's are constants."""
    if isinstance(module, OnnxModule):
        return {}
    saved = module.state_dict()
    return {name: buffer.detach() for name, buffer in module.named_buffers() if name not in saved}


def _random() -> dict[str, Any]:
    """The global generators, as plain data. Python's and numpy's count as well: a forward may draw from them."""
    kind, keys, position, gauss, cached = np.random.get_state()  # noqa: NPY002 - users' code draws from it
    version, words, second = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [one.get_state() for one in accelerators()],
        "numpy": [kind, [int(word) for word in keys], int(position), int(gauss), float(cached)],
        "python": [version, list(words), second],
    }


def _set_random(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    for one, own in zip(accelerators(), state["cuda"], strict=False):  # a machine may have more of them, or fewer
        one.set_state(own)
    kind, keys, position, gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, gauss, cached))  # noqa: NPY002 - as above
    version, words, second = state["python"]
    random.setstate((version, tuple(words), second))
