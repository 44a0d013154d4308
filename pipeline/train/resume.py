"""Resuming a training after a kill, exactly: its attempts and their checkpoints.

    checkpoint.pt    the last checkpoint: tensors and plain values, so that loading it runs no code; at its end a
                     checksum of all bytes before, since torch looks at none
    before.pt        the checkpoint before that, for when the last one is damaged

They lie in the folder of the training's key: see pipeline/core/run_folders.py.
"""

from __future__ import annotations

import io
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from filelock import FileLock, Timeout

from pipeline.compute import distributed
from pipeline.core import paths, run_folders
from pipeline.core.console import warn
from pipeline.core.errors import DataError, TrainingError
from pipeline.core.integrity import ChecksumWriter, read_checksummed
from pipeline.tracking.metric_queue import Point
from pipeline.train.state import TrainingState

_LOCK_SECONDS = 10.0  # forked workers of a killed process hold its lock until they notice, some seconds later
_CHECKPOINT, _BEFORE = "checkpoint.pt", "before.pt"


@dataclass
class Attempt:
    """One process's turn at a training, and what the turns before it left.

    training_id: names the training among all. began: when its first attempt began, in seconds since 1970. number:
    counts attempts from 1. processes: how many train together; cpu_threads: how many of torch's threads in each.
    The rest is of the last checkpoint: the TrainingState, if there is one, all metrics logged so far, and the seconds
    that the attempts took.
    """

    folder: Path
    training_id: str
    began: float
    number: int
    processes: int = 1
    cpu_threads: int = 1
    state: dict[str, Any] | None = None
    points: list[Point] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """The key of the training: the name of its folder."""
        return self.folder.name

    def save(self, state: dict[str, Any], points: Iterable[Point], seconds: float) -> None:
        """Write a checkpoint; the last one stays, as the one before, also if that fails. Raises OSError."""
        own = {"training_id": self.training_id, "began": self.began, "number": self.number}
        content = {"state": state, "points": [tuple(point) for point in points], "seconds": seconds, "attempt": own}
        path = self.folder / _CHECKPOINT
        with paths.atomic(path, "wb") as file:
            writer = ChecksumWriter(file)
            try:
                with without_crc32():
                    torch.save(content, cast("IO[bytes]", writer))  # it writes and flushes, no more
            except RuntimeError as error:  # torch hides a failed write in an error of its own
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            writer.finish()
            file.flush()
            os.fsync(file.fileno())  # it is whole: not before then does it take the place of the last
            with suppress(FileNotFoundError):  # the first
                path.replace(self.folder / _BEFORE)

    def finish(self, model: str, weights_sha256: str) -> None:
        """Note what the training made: the name of the model's folder, and the weights. Raises OSError."""
        paths.write_json(self.folder / run_folders.RESULT, {"model": model, "weights_sha256": weights_sha256})

    def load(self) -> None:
        """Read the last checkpoint. One that is damaged is reported and laid aside, and the one before it read.

        Where none is whole, training starts from nothing. Raises TrainingError for one that can't be read now, but
        perhaps later.
        """
        for path in (self.folder / _CHECKPOINT, self.folder / _BEFORE):
            try:
                content = read_checkpoint(path)
            except FileNotFoundError:
                continue
            except DataError as error:
                damaged = path.with_suffix(".damaged")
                path.replace(damaged)
                others = path.name == _CHECKPOINT and (self.folder / _BEFORE).exists()
                following = "the one before it is read" if others else "training starts from nothing"
                warn(f"warning: the checkpoint is damaged: {error}. It is now {damaged}; {following}")
            else:
                self.state, self.seconds = content["state"], content["seconds"]
                self.points = [Point(*point) for point in content["points"]]
                return


@contextmanager
def without_crc32() -> Iterator[None]:
    """torch writes a CRC-32 of each tensor too, which it never reads: the checksum of the whole file is enough."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, whose bytes are compared with its checksum first.

    Raises FileNotFoundError where there is none, DataError for one that is damaged, TrainingError for one that can't be
    read now, but perhaps later.
    """
    try:
        return torch.load(io.BytesIO(read_checksummed(path)), map_location="cpu", weights_only=True)
    except (OSError, MemoryError, RuntimeError) as error:
        of_memory = "can't allocate memory" in str(error)  # what torch's allocator says in a RuntimeError
        if isinstance(error, FileNotFoundError) or (isinstance(error, RuntimeError) and not of_memory):
            raise
        raise TrainingError(
            f"the checkpoint {path} can't be read: {error or type(error).__name__}. Free some memory, or see to the "
            "disk, and run `dvc repro` again; to start from nothing instead, delete it"
        ) from None


@contextmanager
def attempt(key: str) -> Iterator[Attempt]:
    """Begin or resume the training of `key`. Raises TrainingError while another process holds it."""
    folder = paths.training_folder(key)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=_LOCK_SECONDS):
            run_folders.mention_old(folder)
            yield _next_attempt(folder)
    except Timeout:
        raise TrainingError(
            f"another process trains exactly this at the moment (it holds {folder / 'lock'}): "
            "wait for it, or end it and run `dvc repro` again to resume from its checkpoint"
        ) from None


def follow(key: str) -> Attempt:
    """The attempt that another process, which this one works with, has begun."""
    folder = paths.training_folder(key)
    found = Attempt(folder, **paths.read_json(folder / run_folders.RECORD))
    found.load()
    return found


def _next_attempt(folder: Path) -> Attempt:
    for partial in folder.glob(".*"):  # what a kill in the middle of a write left
        partial.unlink()
    known = run_folders.read_record(folder)
    if known is None and (folder / run_folders.RECORD).exists():
        known = _record_of_checkpoint(folder)
        run = "the same" if known else "a new"
        warn(f"warning: {folder / run_folders.RECORD} is damaged: the training continues, in {run} MLflow run")
    known = known or {"training_id": uuid.uuid4().hex, "began": time.time(), "number": 0}
    known |= {"number": known["number"] + 1, "processes": distributed.world_size()}
    known["cpu_threads"] = torch.get_num_threads()
    try:
        paths.write_json(folder / run_folders.RECORD, known)
    except OSError as error:
        raise TrainingError(f"{folder}, where checkpoints are kept, can't be written to: {error}") from None
    found = Attempt(folder, **known)
    found.load()
    return found


def _record_of_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What the last checkpoint says of its attempt, where attempts.json is damaged: it is the same training still."""
    for path in (folder / _CHECKPOINT, folder / _BEFORE):
        with suppress(FileNotFoundError, DataError):  # `load` says what is damaged
            return read_checkpoint(path)["attempt"]
    return None


class Checkpoints:
    """Keeps the state of a training as it goes: at the end of each epoch, and every so many minutes in between.

    logged: what goes into a checkpoint beside the state, which is all metrics and the seconds spent so far.
    """

    def __init__(self, attempt: Attempt, minutes: float, logged: Callable[[], tuple[Iterable[Point], float]]):
        self._attempt, self._interval, self._logged = attempt, 60 * minutes, logged
        self._last = time.monotonic()
        self._failing = False
        self._step = 0  # of the last checkpoint

    def restore(self, state: TrainingState) -> None:
        """Bring `state` to where the last checkpoint was, if there is one.

        Raises TrainingError where processes that work together did not find the same one.
        """
        kept, self._attempt.state = self._attempt.state, None  # no second copy in memory all through the training
        if kept is not None:
            state.load_state_dict(kept)
            self._step = state.step
            if distributed.is_main_process():
                print(f"resuming from a checkpoint: {state.epoch} epochs, {state.step} steps done", flush=True)
        found = distributed.all_gather(state.step)
        if len(set(found)) > 1:
            raise TrainingError(
                f"the processes found checkpoints of steps {', '.join(map(str, found))}: "
                f"{self._attempt.folder} is not the same folder for all of them"
            )

    @property
    def exist(self) -> bool:
        """Whether there is one to resume from that `restore` has not used yet."""
        return self._attempt.state is not None

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for the next one."""
        return time.monotonic() - self._last >= self._interval

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint. A full disk is reported once, and leaves the last checkpoint as it is.

        Processes call it together; the first one writes.
        """
        self._last = time.monotonic()
        content = state.state_dict()
        if not distributed.is_main_process():
            return
        try:
            self._attempt.save(content, *self._logged())
        except OSError as error:
            if not self._failing:
                warn(
                    f"warning: no checkpoint can be written: {error}. Training continues, but after a kill `dvc repro` "
                    f"would resume from step {self._step}; free some space in {self._attempt.folder}"
                )
            self._failing = True
        else:
            self._failing, self._step = False, state.step
