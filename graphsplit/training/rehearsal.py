"""One batch of what networks are evaluated on, before hours of training: a task that fails there would fail behind them."""

from __future__ import annotations

from torch import nn

from graphsplit.training.confidence import confidences
from graphsplit.training.folder import Training
from graphsplit.training.streams import apart, drawn
from graphsplit.training.task import Task, TrainingError
from graphsplit.training.trainee import Trainee, evaluate, make


def rehearse(task: Task, module: nn.Module, training: Training) -> Trainee:
    """Evaluate a sub-model on a batch of the validation data and of the test data, as `run` does later; gives it as it trains.

    Nothing that is drawn here counts. Raises TrainingError.
    """
    with apart(training.seed):
        trainee = make(task, module, [0], training.device, training.schedule, training.layout)
        for name, made in (("validation_data", task.validation_data), ("test_data", task.test_data)):
            if made is None:
                continue
            data = drawn(made, training.seed)
            if hasattr(data, "__next__"):
                raise TrainingError(
                    f"{name}() gives a {type(data).__name__}, which can be gone through once only",
                    hint="give a DataLoader, or a list of batches",
                )
            evaluate(task, trainee, data, name=name, most=1)
            if made is (task.test_data or task.validation_data):
                confidences(task, trainee, data, name=name, most=1)
    return trainee
