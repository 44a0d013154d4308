"""Where a study is kept: a journal in the project's folder, or a database that several machines share.

    .runs/search/<run>-<digest>/journal.log      all that Optuna knows of the study, without search.storage
    .runs/search/<run>-<digest>/study.lock       held while trials are handed out
    .runs/search/<run>-<digest>/worker-<n>.lock  held by the n-th worker as long as it lives

A worker that is killed loses its lock to the system, by which the others see that its trial is to be done again. (Only
Optuna's databases have a heartbeat of their own, by which a worker of another machine is judged.)
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core import paths
from pipeline.core.errors import SearchError
from pipeline.tracking.address import without_password

_LOCK_SECONDS = 60.0  # for another worker to hand itself a trial
_MOST_WORKERS = 1000
_BEAT_SECONDS, _STALE_SECONDS = 60, 300
_SHOWN = 300  # characters of what a database says
STORAGE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
_DAMAGED = (ValueError, KeyError, TypeError, AssertionError, AttributeError)  # what Optuna's reader ends in


@dataclass(frozen=True)
class Place:
    """Where the study `name` is kept. address: search.storage. folder: what workers on this machine share."""

    name: str
    address: str | None
    folder: Path

    @classmethod
    def of(cls, name: str, address: str | None, run: str) -> Place:
        """The place of a study of `run`."""
        digest = hashlib.sha256(f"{address}\n{name}".encode()).hexdigest()[:12]
        return cls(name, address, paths.search_folder(f"{run}-{digest}"))

    @property
    def journal(self) -> Path:
        """The file that holds the study where no database does."""
        return self.folder / "journal.log"

    @property
    def lock(self) -> FileLock:
        """The lock under which trials are handed out."""
        return FileLock(self.folder / "study.lock", timeout=_LOCK_SECONDS)

    def __str__(self) -> str:
        where = os.path.relpath(self.journal) if self.address is None else without_password(self.address)
        return f"study {self.name} in {where}"


class _JournalLock:
    """Optuna's lock on its journal, as one of the system: Optuna's own outlives a killed process by half a minute."""

    def __init__(self, path: Path):
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_storage(place: Place, on_stale: Callable[..., None]) -> BaseStorage:
    """The storage of a study. on_stale(study, trial): called for a trial whose worker on another machine is gone.

    Raises SearchError where it can't be opened or read.
    """
    with translate_storage_errors(place):
        if place.address is not None:
            try:
                return RDBStorage(
                    place.address,
                    heartbeat_interval=_BEAT_SECONDS,
                    grace_period=_STALE_SECONDS,
                    heartbeat_stale_trial_callback=on_stale,
                )
            except ImportError as error:
                raise SearchError(
                    f"{place} can't be opened: its driver is not installed ({error.__cause__ or error}); install it "
                    "(PostgreSQL: pip install psycopg2-binary), or name another with +, such as postgresql+psycopg://..."
                ) from None
            except RuntimeError as error:  # tables of another version of Optuna
                raise SearchError(f"{place} can't be used: {' '.join(str(error).split())[:_SHOWN]}") from None
        place.folder.mkdir(parents=True, exist_ok=True)
        lock = _JournalLock(place.folder / "journal.lock")
        lock.acquire()
        try:
            _drop_torn_line(place.journal)
        finally:
            lock.release()
        try:
            return JournalStorage(JournalFileBackend(str(place.journal), lock_obj=lock))  # type: ignore[arg-type]
        except _DAMAGED as error:
            raise SearchError(
                f"{place} is damaged ({error or type(error).__name__}): bring the file back from a copy, or begin anew "
                "with --restart"
            ) from None


def delete(place: Place, storage: BaseStorage | None = None) -> None:
    """Remove a study for good. Raises SearchError where that can't be done."""
    with translate_storage_errors(place):
        if place.address is None:
            place.journal.unlink(missing_ok=True)
        elif place.name in optuna.get_all_study_names(storage or place.address):
            optuna.delete_study(study_name=place.name, storage=storage or place.address)


@contextmanager
def translate_storage_errors(place: Place) -> Iterator[None]:
    """What a database or a disk says within the block, as a SearchError of one line."""
    try:
        yield
    except STORAGE_ERRORS as error:
        reason: object = error
        while isinstance(reason, BaseException) and (inner := getattr(reason, "orig", None) or reason.__cause__):
            reason = inner
        said = without_password(" ".join(str(reason).split()))[:_SHOWN]
        raise SearchError(
            f"{place} can't be used: {said}. Correct search.storage, or start the database, and run it again: finished "
            "trials are kept"
        ) from None
    except Timeout as error:
        raise SearchError(
            f"{place}: {error.lock_file} has been held by another process for {_LOCK_SECONDS:.0f} s"
        ) from None


class Worker:
    """One process of a study, known by a lock that it holds."""

    def __init__(self, place: Place):
        """Raises SearchError where the folder can't hold locks."""
        self._place = place
        place.folder.mkdir(parents=True, exist_ok=True)
        self._prefix = "" if place.address is None else f"{platform.node()}:{_own_id(place)}:"
        for number in range(_MOST_WORKERS):
            self._lock = FileLock(self._file(number), timeout=0)
            if _taken(self._lock):
                self.number = number
                return
        raise SearchError(f"{place}: {_MOST_WORKERS} workers hold locks in {place.folder}; end some of them")

    @property
    def name(self) -> str:
        """What it writes into its trials; with a database, other machines have workers of the same number."""
        return self._prefix + self._file(self.number).name

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def is_gone(self, name: str) -> bool | None:
        """Whether the worker of this name has ended. None for one of another machine."""
        if not name.startswith(self._prefix):
            return None
        file = self._place.folder / name.removeprefix(self._prefix)
        if file == self._file(self.number):
            return True  # it had the number before this one
        lock = FileLock(file, timeout=0)
        if not _taken(lock):
            return False
        lock.release()
        return True

    def others(self) -> int:
        """How many other workers there are on this machine."""
        files = [file for file in self._place.folder.glob("worker-*.lock") if file != self._file(self.number)]
        return sum(not self.is_gone(self._prefix + file.name) for file in files)

    def _file(self, number: int) -> Path:
        return self._place.folder / f"worker-{number}.lock"


def _own_id(place: Place) -> str:
    """Tells this folder from that of another machine, which may have the same name and path, as containers do."""
    file = place.folder / "folder.id"
    with place.lock:
        if not file.exists():
            with paths.atomic(file) as new:
                new.write(uuid.uuid4().hex)
        return file.read_text(encoding="utf-8")


def beat(storage: BaseStorage, trial_id: int) -> None:
    """Let a database know that a trial is being trained."""
    if isinstance(storage, RDBStorage):
        storage.record_heartbeat(trial_id)


@contextmanager
def heartbeat(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Within the block a database hears every minute that the trial is still being trained."""
    if not isinstance(storage, RDBStorage):
        yield
        return
    ended = threading.Event()

    def beats() -> None:
        while True:
            with suppress(*STORAGE_ERRORS):  # the trial itself will say so when it has something to record
                storage.record_heartbeat(trial_id)
            if ended.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beats, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1)


def is_old(started: float | None) -> bool:
    """Whether a trial that names no worker was begun too long ago for one to be about to write its name there."""
    return started is not None and time.time() - started > _STALE_SECONDS


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def _drop_torn_line(journal: Path) -> None:
    """Cut off what a crash left of a last line: Optuna would write the next one behind it, and then read neither."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(journal, whole)
