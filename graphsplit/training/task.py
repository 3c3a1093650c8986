"""A task: what networks are trained for. Data, loss, optimizer, schedule and metrics, in a Python file of the user's.

def train_data():                      # batches of (inputs, targets), made anew each epoch: a DataLoader, as a rule
def loss(outputs, targets):            # a scalar: the mean over the batch
def optimizer(model):                  # a torch optimizer of the model's parameters
def schedule(optimizer, epochs):       # optional: a scheduler of torch.optim.lr_scheduler, stepped after each epoch
def metrics(outputs, targets):         # optional: numbers by name, means over the batch
def confidence(outputs, targets):      # optional: a number for each sample, such as the probability given to its class
def validation_data():                 # optional, and so is test_data
EPOCHS = 100                           # optional: what --epochs is by default
SCHEDULE_EACH = "step"                 # optional: step the schedule after each batch
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import os
import re
import sys
import tempfile
import tokenize
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsplit.errors import GraphsplitError

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn
    from torch.optim import Optimizer

REQUIRED = ("train_data", "loss", "optimizer")
OPTIONAL = ("schedule", "metrics", "confidence", "validation_data", "test_data")
EACH = ("epoch", "step")


class TrainingError(GraphsplitError):
    """A task that isn't one, user code that fails, or a training that can't go on."""


@dataclass(frozen=True)
class Task:
    """The functions of a task, which may as well come from anywhere else than a file.

    digest: tells versions of a file apart, by its code and its settings; comments, layout, the number of epochs, and settings
    that are texts, which say where data lie, don't count. Empty for a task that has no file.
    """

    train_data: Callable[[], Iterable[Any]]
    loss: Callable[[Any, Any], Any]
    optimizer: Callable[[nn.Module], Optimizer]
    schedule: Callable[[Any, int], Any] | None = None
    metrics: Callable[[Any, Any], dict[str, Any]] | None = None
    confidence: Callable[[Any, Any], Any] | None = None
    validation_data: Callable[[], Iterable[Any]] | None = None
    test_data: Callable[[], Iterable[Any]] | None = None
    epochs: int | None = None
    schedule_each: str = "epoch"
    path: Path | None = None
    digest: str = ""


def load_task(path: str | os.PathLike[str], settings: Mapping[str, str] | None = None) -> Task:
    """Run a task file and take its functions; `settings` replace its constants.

    Raises TrainingError for a file that isn't a task, or fails, and for a setting that it doesn't have.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"--task {str(path)!r}: there is no such file", hint="a task is a Python file")
    module = _run(path)
    given = {name: _setting(path, module, name, text) for name, text in (settings or {}).items()}
    digest = _digest(path, module, given)
    for name, value in given.items():
        setattr(module, name, value)
    _importable(path, module, given)
    for name in REQUIRED:
        if not callable(getattr(module, name, None)):
            raise TrainingError(
                f"{str(path)!r} has no function {name!r}",
                hint=f"a task has {', '.join(REQUIRED)}: see docs/training.md",
            )
    for name in OPTIONAL:
        if not callable(getattr(module, name, lambda: None)):
            raise TrainingError(f"{str(path)!r}: {name} is no function")
    epochs, each = getattr(module, "EPOCHS", None), getattr(module, "SCHEDULE_EACH", "epoch")
    if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
        raise TrainingError(f"{str(path)!r}: EPOCHS is {epochs!r}, and no number of epochs")
    if each not in EACH:
        raise TrainingError(f"{str(path)!r}: SCHEDULE_EACH is {each!r}", hint=f"choose {' or '.join(EACH)}")
    found = {
        name: _guarded(path, name, getattr(module, name)) for name in (*REQUIRED, *OPTIONAL) if hasattr(module, name)
    }
    return Task(**found, epochs=epochs, schedule_each=each, path=path.absolute(), digest=digest)


LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING)
STRUCTURE = (tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE, tokenize.ENDMARKER)


def _digest(path: Path, module: ModuleType, settings: Mapping[str, Any]) -> str:
    """What a task does, as a number: see `Task`. A setting that is the file's own value doesn't count."""
    tokens = tokenize.tokenize(io.BytesIO(path.read_bytes()).readline)
    # how deep a block is indented and how a line ends is layout, that it is and does isn't
    words = [
        tokenize.tok_name[token.type] if token.type in STRUCTURE else token.string
        for token in tokens
        if token.type not in LAYOUT
    ]
    told = {name: value for name, value in settings.items() if name != "EPOCHS" and not isinstance(value, str)}
    words += [f"{name}={value!r}" for name, value in sorted(told.items()) if value != getattr(module, name)]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _setting(path: Path, module: ModuleType, name: str, text: str) -> Any:
    """The value that a text stands for: of the kind that the task's constant has."""
    known = sorted(n for n in vars(module) if n.isupper() and isinstance(vars(module)[n], int | float | str | tuple))
    if name not in known and name != "EPOCHS":
        raise TrainingError(
            f"--set {name}: {str(path)!r} has no such constant", hint=f"it has {', '.join(known) or 'none'}"
        )
    old = getattr(module, name, 1)
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    fits = isinstance(value, type(old)) or (isinstance(old, float) and isinstance(value, int))
    if not fits or (isinstance(old, int) and isinstance(value, bool) != isinstance(old, bool)):
        raise TrainingError(f"--set {name}={text}: {str(path)!r} has {old!r} there, of type {type(old).__name__}")
    return type(old)(value)


def _run(path: Path) -> ModuleType:
    """The file as a module under a name of its own, its folder importable."""
    name = f"graphsplit_task_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{str(path)!r} is no Python file", hint="a task's name ends in .py")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module
    with blaming(path, "the file"):
        spec.loader.exec_module(module)
    return module


SHIMS: list[tempfile.TemporaryDirectory[str]] = []
"""A folder of this process's, on the path that processes which it spawns begin with."""


def _importable(path: Path, module: ModuleType, settings: Iterable[str]) -> None:
    """Let spawned processes import the task by its module's name, with its settings: workers of loaders unpickle its classes."""
    if not SHIMS:
        SHIMS.append(tempfile.TemporaryDirectory(prefix="graphsplit-task-"))
        sys.path.append(SHIMS[0].name)
    file = repr(str(path.absolute()))
    lines = [f"__file__ = {file}", f"with open({file}, 'rb') as file:\n    exec(compile(file.read(), {file}, 'exec'))"]
    lines += [f"{name} = {getattr(module, name)!r}" for name in settings]
    (Path(SHIMS[0].name) / f"{module.__name__}.py").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def blaming(path: Path | None, what: str, hint: str = "") -> Iterator[None]:
    """Whatever code of the user's raises inside becomes a TrainingError: what raised it, where in the task's file, and why.

    That a task ends the program is an error too: nothing would say that the training isn't done.
    """
    try:
        yield
    except GraphsplitError:
        raise
    except (Exception, SystemExit) as error:
        raise _failure(path or Path("the task"), what, error, hint) from error


def _guarded(path: Path, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the user's whose failures say where in the file they came up."""

    def guarded(*args: Any) -> Any:
        with blaming(path, f"{name}()"):
            return function(*args)

    return guarded


def batches(data: Iterable[Any], name: str, path: Path | None) -> Iterator[Any]:
    """The batches of a task's data; code of the user's that fails in them is said where it stands."""
    with blaming(path, f"the data of {name}()"):
        yield from data


WORKER = re.compile(r"Caught \w+ in .*\nOriginal Traceback")
"""What torch makes of an error in a loader's worker: the whole traceback, as the message of another error."""


def _failure(path: Path, what: str, error: BaseException, hint: str = "") -> TrainingError:
    places = [(Path(f.filename), f.lineno, f.line) for f in traceback.extract_tb(error.__traceback__)]
    said = f"{type(error).__name__}: {error}"
    if WORKER.match(str(error)):
        lines = str(error).strip().splitlines()
        found = [re.match(r' +File "(.*)", line (\d+)', line) for line in lines]
        places = [(Path(m[1]), int(m[2]), lines[i + 1].strip()) for i, m in enumerate(found[:-1]) if m]
        said = lines[-1]
    theirs = [place for place in places if place[0] != Path(__file__)]  # a task's file may well be called task.py
    own = [place for place in theirs if place[0] == path.absolute()] or [p for p in theirs if p[0].name == path.name]
    where = f"{path}:{own[-1][1]}" if own else str(path)
    line = f" ({own[-1][2]})" if own and own[-1][2] else ""
    return TrainingError(f"{where}: {what} raised {said}{line}", hint=hint)
