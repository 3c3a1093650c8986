"""How sure each sub-model is of what is right, sample by sample: what the report of a run compares them by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from graphsplit.files import atomic_file, finite
from graphsplit.training.streams import apart
from graphsplit.training.task import Task, TrainingError, batches
from graphsplit.training.trainee import Trainee, batch_of, outputs_of

CONFIDENCE = "confidence.json"
MOST = 2000
"""So many samples at most: enough for a picture."""


def leave_confidence(
    task: Task, trainee: Trainee, data: Iterable[Any], folder: Path, *, name: str = "test_data"
) -> None:
    """Write what the task's `confidence` gives for the first samples of data, in evaluation mode, to a sub-model's folder.

    name: the task's function that gave the data, for messages.
    Does nothing for a task without that function. Raises TrainingError where it doesn't give a number for each sample.
    """
    if task.confidence is None:
        return
    found = confidences(task, trainee, data, name=name)
    with atomic_file(folder / CONFIDENCE, force=True) as staged:
        staged.write_text(json.dumps(finite(found), allow_nan=False) + "\n", encoding="utf-8")


def confidences(
    task: Task, trainee: Trainee, data: Iterable[Any], *, name: str = "test_data", most: int = MOST
) -> list[float]:
    """What the task's `confidence` gives for the first samples, of `most` batches at most; nothing where it has none.

    Raises TrainingError where it doesn't give a number for each sample.
    """
    found: list[float] = []
    if task.confidence is None:
        return found
    trainee.module.eval()
    with torch.no_grad(), apart(0):
        for item in islice(batches(data, name, task.path), most):
            inputs, targets = batch_of(item, trainee.device, name)
            (outputs,) = outputs_of(trainee, [inputs], name)
            values = task.confidence(outputs, targets)
            if not torch.is_tensor(values) or values.dim() != 1:
                raise TrainingError(
                    "confidence() doesn't give a number for each sample",
                    hint="such as softmax(outputs, 1)[range(len(targets)), targets]",
                )
            found += [round(float(value), 4) for value in values[: MOST - len(found)]]
            if len(found) >= MOST:
                break
    trainee.module.train()
    return found
