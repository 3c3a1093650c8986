"""Training sub-models and merged networks on a user's task, to the same result however often it is interrupted."""

from graphsplit.training.folder import Training, TrainingOptions, train_parts
from graphsplit.training.loop import Outcome
from graphsplit.training.method import Result
from graphsplit.training.run_folder import PARTS
from graphsplit.training.start import run, train
from graphsplit.training.task import Task, TrainingError, load_task

__all__ = [
    "PARTS",
    "Outcome",
    "Result",
    "Task",
    "Training",
    "TrainingError",
    "TrainingOptions",
    "load_task",
    "run",
    "train",
    "train_parts",
]
