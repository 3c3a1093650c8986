"""One batch of what networks are evaluated on, before hours of training: a task that fails there would fail behind them."""

from __future__ import annotations

from torch import nn

from graphsplit.training.confidence import confidences
from graphsplit.training.folder import Training
from graphsplit.training.streams import apart, held_out
from graphsplit.training.task import Task
from graphsplit.training.trainee import Trainee, evaluate, make


def rehearse(task: Task, module: nn.Module, training: Training) -> Trainee:
    """Evaluate a sub-model on a batch of the validation data and of the test data, as `run` does later; gives it as it trains.

    Nothing that is drawn here counts. Raises TrainingError.
    """
    with apart(training.seed):
        trainee = make(task, module, [0], training.device, training.schedule, training.layout)
        for name in ("validation_data", "test_data"):
            data = held_out(task, name, training.seed)
            if data is None:
                continue
            evaluate(task, trainee, data, name=name, most=1)
            if name == "test_data" or task.test_data is None:
                confidences(task, trainee, data, name=name, most=1)
    return trainee
