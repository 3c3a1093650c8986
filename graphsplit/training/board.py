"""The metrics for TensorBoard as well, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BOARD = "tensorboard"


class Board:
    """Event files beside the metrics file. A training that goes on drops what a killed run wrote behind its last checkpoint."""

    def __init__(self, folder: Path | None, epoch: int) -> None:
        self.folder, self.epoch = folder, epoch
        self.writer: Any = None

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines of an epoch: a scalar for each number, by part where there are several."""
        if self.folder is None or find_spec("tensorboard") is None:
            return
        if self.writer is None:
            writers: Any = import_module("torch.utils.tensorboard")
            self.writer = writers.SummaryWriter(str(self.folder / BOARD), purge_step=self.epoch + 1)
        for line in lines:
            part = f" of part {line['part']}" if len(lines) > 1 else ""
            scalars = {"loss": line["loss"], "learning rate": line["learning_rate"]}
            scalars |= {f"validation {name}": value for name, value in line.get("validation", {}).items()}
            for name, value in scalars.items():
                self.writer.add_scalar(name + part, value, line["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Close the event file, if there is one."""
        if self.writer is not None:
            self.writer.close()
