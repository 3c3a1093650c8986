"""Where sub-models train: in processes of this machine, or on a Ray cluster. Each is one job, which finds all in its folder.

A job that its machine or the system ends is started again from its last checkpoint; what a job refuses ends the training.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from graphsplit.training import checkpoint
from graphsplit.training.folder import Training, part_folder, train_parts
from graphsplit.training.loop import CHECKPOINT, METRICS, Outcome, Report, outcome_of
from graphsplit.training.task import TrainingError, load_task

RESTARTS = 3
POLL = 0.2
EXTRA = "the extra 'ray': pip install 'graphsplit[ray]'"


@dataclass(frozen=True)
class Job:
    """One sub-model to train: all that another process, or another machine with the same storage, has to know."""

    folder: str
    part: int
    task: str
    training: Training
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """Where it keeps its checkpoint and its metrics."""
        return part_folder(Path(self.folder), self.part)

    @property
    def epochs_done(self) -> int:
        """Epochs that its metrics file has."""
        path = self.place / METRICS
        return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0

    def run(self) -> None:
        """Train, here and now."""
        settings = {**self.settings, "EPOCHS": str(self.training.schedule)}
        train_parts(self.folder, load_task(self.task, settings), self.training, parts=[self.part])

    def outcome(self) -> Outcome:
        """What it came to, from what it left."""
        return outcome_of(checkpoint.read(self.place / CHECKPOINT)["progress"], self.place / METRICS, [self.part])[0]


def in_processes(
    jobs: Sequence[Job], at_once: int, devices: Sequence[str] = (), report: Report | None = None
) -> list[Outcome]:
    """Train with `at_once` processes side by side, on the devices in turns. Raises TrainingError."""
    waiting, running = list(jobs), dict[int, _Child]()
    threads = str(max(1, (os.cpu_count() or 1) // at_once))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                slot = next(number for number in range(at_once) if number not in running)
                device = devices[slot % len(devices)] if devices else None
                running[slot] = _Child(waiting.pop(0), device, threads)
            time.sleep(POLL)
            for slot, child in list(running.items()):
                _told(report, [child.job])
                if child.ended():
                    del running[slot]
    finally:
        for child in running.values():
            child.process.terminate()
        for child in running.values():
            child.leave()
    return [job.outcome() for job in jobs]


class _Child:
    """A job in a process of its own: this program's own command, so that it is what a batch system would start."""

    def __init__(self, job: Job, device: str | None, threads: str) -> None:
        self.job, self.device, self.threads, self.restarts = job, device or job.training.device, threads, 0
        self._start(resume=job.training.resume)

    def _start(self, *, resume: bool) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(  # noqa: S603 - this program, and what it was given itself
            self._command(resume=resume),
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", self.threads)},
            stdin=subprocess.PIPE,  # it ends when this process does, and the child with it
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
        )

    def _command(self, *, resume: bool) -> list[str]:
        job, training = self.job, self.job.training
        words = [
            sys.executable,
            "-m",
            "graphsplit.cli.child",
            "train",
            job.folder,
            "--task",
            job.task,
            "--part",
            str(job.part),
        ]
        words += ["--epochs", str(training.epochs), "--schedule-epochs", str(training.schedule)]
        words += ["--seed", str(training.seed), "--device", self.device, "--checkpoint-every", str(training.every)]
        words += [word for name, text in job.settings.items() for word in ("--set", f"{name}={text}")]
        words += ["--layout", training.layout, *["--other-task"] * training.other_task]
        return words + ["--resume"] * resume + ["--force"] * (training.force and not resume)

    def ended(self) -> bool:
        """Whether the job is done; one that was killed is started again. Raises TrainingError for what it refused."""
        code = self.process.poll()
        if code is None:
            return False
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip()
        self._close()
        said, message, hint = _refusal(text)
        if said:  # by the task, or by Python as it crashed: as it is
            sys.stderr.write(f"part {self.job.part}:\n{said}\n")
        if code == 0:
            return True
        if code > 0:
            raise TrainingError(
                f"part {self.job.part}: {message or f'its process ended with exit code {code}'}", hint=hint
            )
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise TrainingError(f"part {self.job.part}: its process was killed {self.restarts} times (signal {-code})")
        self._start(resume=True)
        return False

    def leave(self) -> None:
        """Wait for the end of the process, which leaves its last checkpoint."""
        self.process.wait()
        self._close()

    def _close(self) -> None:
        for file in (self.errors, self.process.stdin):
            if file is not None:
                file.close()


def _refusal(text: str) -> tuple[str, str, str]:
    """What a process wrote besides its refusal, the refusal's message, and its hint. A crash's message is its last line."""
    said, mark, refusal = text.rpartition("graphsplit: error: ")
    if mark and (not said or said.endswith("\n")):
        message, _, hint = refusal.partition("\n  hint: ")
        return said.strip(), message.strip(), hint.strip()
    return text, text.rpartition("\n")[2].strip() if "Traceback (most recent" in text else "", ""


def on_ray(
    jobs: Sequence[Job], address: str | None = None, report: Report | None = None, **resources: Any
) -> list[Outcome]:
    """Train on a Ray cluster whose nodes share the folder's storage; `resources` are each job's (num_cpus, num_gpus, …).

    Ray starts a job whose worker or node died again, and it goes on from its last checkpoint. Raises TrainingError.
    """
    ray = _ray()
    with _connected(ray, address):
        jobs = [_anywhere(job) for job in jobs]
        remote = ray.remote(max_retries=RESTARTS, **{"num_cpus": 1, **resources})(_run_job)
        waiting = {remote.remote(job): job for job in jobs}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=POLL)
                _told(report, list(waiting.values()))
                for reference in done:
                    job = waiting.pop(reference)
                    _answer(ray, reference, job)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
    return [job.outcome() for job in jobs]


def _run_job(job: Job) -> tuple[str, str] | None:
    """What a worker does: errors of ours are an answer, for a retry would meet them again."""
    from graphsplit.errors import GraphsplitError

    try:
        job.run()
    except GraphsplitError as error:
        return error.message, error.hint
    return None


def _anywhere(job: Job) -> Job:
    """The job as another process takes it up: by absolute paths, going on where an earlier worker was."""
    from dataclasses import replace

    if not job.training.resume and (job.place / CHECKPOINT).exists():
        raise TrainingError(
            f"{str(job.place)!r} holds a training already",
            hint="add --resume to go on with it, or --force to start anew from the weights as they are",
        )
    training = replace(job.training, resume=True, force=False)
    return replace(job, folder=str(Path(job.folder).absolute()), task=str(Path(job.task).absolute()), training=training)


def _answer(ray: Any, reference: Any, job: Job) -> None:
    try:
        refused = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise TrainingError(f"part {job.part}: {str(error).strip().splitlines()[-1]}") from error
    if refused is not None:
        raise TrainingError(f"part {job.part}: {refused[0]}", hint=refused[1])


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise TrainingError("--engine ray: Ray isn't installed", hint=EXTRA) from None
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Join a cluster, or the one that this process is in already, which stays."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"--engine ray:{address}: {error}", hint="start a cluster with `ray start --head`"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _told(report: Report | None, jobs: Sequence[Job]) -> None:
    if report is None:
        return
    for job in jobs:
        report(f"part {job.part}", min(job.epochs_done, job.training.epochs), job.training.epochs)
