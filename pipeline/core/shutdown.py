"""Ending well: what a stage does on SIGINT, SIGTERM or SIGHUP, and when the DVC that started it is gone.

Killing `dvc` leaves the process of the stage alive, and with it a training that nobody waits for. So a thread looks for
the processes between this one and DVC every second, and treats their loss like SIGTERM.

The main thread gets a KeyboardInterrupt; within `deferred` it may first finish what it is at. However long that takes,
the process is gone `grace_seconds` after it was asked to end: the thread sees to it, since Python's own signal handlers
wait for the end of whatever call into C the main thread is in, and one backward pass can take a minute.

A program that starts several DVCs side by side gives them its number as STARTER, and is then watched like DVC itself.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from pipeline.core.console import warn

EXIT_CODE = 130  # what shells give for Ctrl-C
STARTER = "PIPELINE_STARTER"

GRACE_SECONDS = 7.0
_LAST_WORDS_SECONDS = 2.0
_LOOK_SECONDS = 1.0  # between two looks at DVC
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_watch: _Watch | None = None  # that of this process, while there is one


@contextmanager
def graceful_shutdown(grace_seconds: float = GRACE_SECONDS) -> Iterator[None]:
    """Within the block, signals and the loss of DVC end the process as described above. For the main thread."""
    global _watch
    _watch = _Watch(grace_seconds)
    try:
        with _watch.installed():
            yield
    finally:
        _watch = None


def requested() -> bool:
    """Whether this process was asked to end."""
    return _watch is not None and _watch.requested


def request() -> None:
    """Note that this process was asked to end: another that trains with it was."""
    if _watch is not None:
        _watch.requested = True


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block the first request only sets `requested`: KeyboardInterrupt is raised at the block's end.

    A second request raises it at once.
    """
    if _watch is None:
        yield
        return
    _watch.deferring = True
    try:
        yield
    finally:
        _watch.deferring = False
    if _watch.requested:
        _watch.interrupt()


@contextmanager
def on_forced_exit(say: Callable[[], None]) -> Iterator[None]:
    """Within the block, `say` is called by another thread before a process that overran its time is ended."""
    if _watch is None:
        yield
        return
    _watch.on_forced_exit.append(say)
    try:
        yield
    finally:
        _watch.on_forced_exit.remove(say)


class _Watch:
    """Signal handlers, and the thread that looks at DVC and at the clock."""

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.requested = False
        self.deferring = False
        self.on_forced_exit: list[Callable[[], None]] = []
        self._interrupted = False
        self._line = ancestors_to_dvc()
        self._told, self._wakeup = socket.socketpair()  # C writes a signal's number to it, whatever Python is at
        self._wakeup.setblocking(False)

    @contextmanager
    def installed(self) -> Iterator[None]:
        # What is ignored stays ignored: SIGHUP under nohup, SIGINT in the background of a script.
        ignored = {each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_IGN}
        before = {each: signal.signal(each, self._handle) for each in _SIGNALS if each not in ignored}
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._run, args=(threading.main_thread().ident,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for each, handler in before.items():
                signal.signal(each, handler)
            self._wakeup.shutdown(socket.SHUT_WR)  # ends the thread; closing would not while a fork has it open too
            thread.join()
            self._wakeup.close()
            self._told.close()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt, once: what cleans up after it is not interrupted again."""
        if not self._interrupted:
            self._interrupted = True
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if not (first and self.deferring):
            self.interrupt()

    def _run(self, main_thread: int) -> None:
        deadline = None
        while True:
            wait = _LOOK_SECONDS if deadline is None else max(deadline - time.monotonic(), 0)
            if select.select([self._told], [], [], wait)[0]:
                numbers = self._told.recv(4096)
                if not numbers:
                    return
                if deadline is None and any(number in _SIGNALS for number in numbers):
                    deadline = time.monotonic() + self.grace_seconds
            elif deadline is not None:
                self._leave()
            elif is_broken(self._line):
                warn("what started this stage is gone: the stage ends too")
                signal.pthread_kill(main_thread, signal.SIGTERM)

    def _leave(self) -> None:
        words = threading.Thread(target=lambda: [say() for say in self.on_forced_exit], daemon=True)
        words.start()
        words.join(_LAST_WORDS_SECONDS)
        warn("ended: what it was busy with took too long")
        os._exit(EXIT_CODE)


def ancestors_to_dvc() -> list[psutil.Process]:
    """This process, its parent and so on, up to the DVC that runs it as a stage; this process alone outside DVC.

    DVC gives DVC_STAGE to what it starts, so it is the first ancestor without it. The one that started DVC comes last,
    where there is such a one.
    """
    line = [psutil.Process()]
    if "DVC_STAGE" in os.environ:
        for ancestor in line[0].parents():
            line.append(ancestor)
            if not _has_stage(ancestor):
                break
        if STARTER in os.environ and _is_dvc(line[-1]):
            line.append(_process_or(int(os.environ[STARTER]), line[0]))
    return line


def _is_dvc(process: psutil.Process) -> bool:
    """Slurm starts a stage elsewhere than DVC, where numbers of processes mean others."""
    try:
        return "dvc" in process.cmdline()
    except psutil.Error:
        return False


def _process_or(number: int, other: psutil.Process) -> psutil.Process:
    """The process of this number; `other`, which is nobody's parent in the line, where it is gone."""
    try:
        return psutil.Process(number)
    except psutil.NoSuchProcess:
        return other


def _has_stage(process: psutil.Process) -> bool:
    try:
        return process.environ().get("DVC_STAGE") == os.environ["DVC_STAGE"]
    except psutil.Error:  # another user's process, or one that just ended
        return False


def is_broken(line: list[psutil.Process]) -> bool:
    """Whether a process of the line is gone: its child then has another parent, even before the dead one is reaped."""
    try:
        adopted = len(line) > 1 and _adopts(line[-1])  # DVC was gone before the line was drawn
        return adopted or any(child.ppid() != parent.pid for child, parent in itertools.pairwise(line))
    except psutil.NoSuchProcess:
        return True


def _adopts(process: psutil.Process) -> bool:
    """Whether this is the process that orphans are given to. In a container DVC may have its number, 1."""
    name = process.name()
    return name == "systemd" or (process.pid == 1 and not name.startswith(("dvc", "python")))


def _hold_signals() -> None:
    if _watch is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release_signals() -> None:
    if _watch is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _forget() -> None:
    """In the child of a fork: a signal to it is not one to the stage, and Ctrl-C is the stage's own business."""
    global _watch
    if _watch is not None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a stage under nohup needs it still; any other ends it
        _release_signals()
        _watch = None


# Signals wait while a process forks: one that came to the child before it has forgotten would be taken for the stage's.
os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_forget)
