"""Metrics on their way to a store that may be away for a while: none is lost, and each arrives once.

A store behind a network can take its time or be gone, so a thread sends to it and training never waits. All points are
kept: a training that is resumed gives the store whatever it lacks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from pipeline.core.console import warn
from pipeline.core.errors import TrackingError

PATIENCE_SECONDS = 60.0  # how long the end of a stage waits for a store that is unreachable

_A_BATCH = 1000  # as many as MLflow takes at once
_SEND_SECONDS = 5.0  # how far curves in the browser lag behind the training
_SILENT_SECONDS = 15.0  # before it is printed that a request has no answer yet
_FIRST_PAUSE, _LONGEST_WAIT = 0.5, 8.0  # seconds between two attempts while a stage waits
_LONGEST_PAUSE = 30.0  # seconds between two attempts at a store that is unreachable
_TELL_SECONDS = 60.0  # between two warnings

Result = TypeVar("Result")


class Point(NamedTuple):
    """One value of one metric. timestamp: milliseconds since 1970."""

    name: str
    value: float
    timestamp: int
    step: int


class TrackingUnavailable(Exception):
    """The store did not answer, or said that it can't just now; what was asked of it may have been done or not."""


class TrackingBlocked(TrackingUnavailable):
    """The store can't be used until somebody fixes something: a password, a certificate, a full disk."""


def retry_while_unavailable(action: Callable[[], Result], remedy: str) -> Result:
    """Repeat `action` while the store is unreachable, which is printed once.

    Raises TrackingError, ending with `remedy`, when that takes too long, and at once for a store that is blocked.
    """
    began = time.monotonic()
    pause = _FIRST_PAUSE
    silence = threading.Timer(_SILENT_SECONDS, warn, ["waiting for the answer of MLflow's store"])
    silence.daemon = True
    silence.start()
    try:
        while True:
            try:
                return action()
            except TrackingBlocked as blocked:
                raise TrackingError(f"{blocked}. {remedy}") from None
            except TrackingUnavailable as away:
                if time.monotonic() + pause > began + PATIENCE_SECONDS:
                    raise TrackingError(f"{away}, for {PATIENCE_SECONDS:.0f} s. {remedy}") from None
                if pause == _FIRST_PAUSE:
                    silence.cancel()
                    warn(f"{away}: tried again for {PATIENCE_SECONDS:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT)
    finally:
        silence.cancel()


def within(seconds: float, action: Callable[[], None]) -> None:
    """Do `action` in a thread; raise TrackingUnavailable when it has not ended after `seconds`: it may still end."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            action()
        except BaseException as error:  # raised below, where it was asked for
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TrackingUnavailable(f"no answer within {seconds:.0f} s")
    if raised:
        raise raised[0]


class MetricQueue:
    """Takes points and sends them in batches, a few seconds later.

    send: gives points to the store. arrived: asks it for every (name, step) that it has, which are not sent again.
    follow: sends what else there is, once no point is left. All raise TrackingUnavailable. points: what attempts before
    this one logged. background: send in a thread of its own. recovered: called when the store answers again.
    """

    def __init__(
        self,
        send: Callable[[list[Point]], None],
        arrived: Callable[[], set[tuple[str, int]]],
        points: Iterable[Point] = (),
        background: bool = False,
        recovered: Callable[[], None] = lambda: None,
        follow: Callable[[], None] = lambda: None,
    ):
        self.points = list(points)
        self._give, self._ask, self._recovered, self._follow = send, arrived, recovered, follow
        self._arrived: set[tuple[str, int]] | None = None  # None: to be asked
        self._sent = 0  # of self.points
        self._sending = threading.Lock()
        self._due = time.monotonic() + _SEND_SECONDS
        self._failures = 0
        self._told = -_TELL_SECONDS
        self._refusal: TrackingError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True) if background else None
        if self._thread:
            self._thread.start()

    def add(self, values: dict[str, float], step: int) -> None:
        """Take the values of one step. Raises TrackingError when the store refused what it was sent."""
        now = int(time.time() * 1000)
        self.points += [Point(name, float(value), now, step) for name, value in values.items()]
        if self._refusal:
            raise self._refusal
        if not self._thread and time.monotonic() >= self._due:
            self._try_to_send()

    def send(self) -> None:
        """Send all that is here by now: steps may come faster than the store answers. Raises TrackingUnavailable."""
        with self._sending:
            end = len(self.points)
            try:
                while self._sent < end:
                    self._send_batch()
            except TrackingUnavailable:
                self._arrived = None  # perhaps it got the points and the answer was lost: ask before they go again
                raise
            self._follow()

    def close(self) -> None:
        """End the thread; what it is sending may still arrive."""
        self._closed.set()

    def _send_batch(self) -> None:
        if self._arrived is None:
            self._arrived = self._ask()
        batch = self.points[self._sent : self._sent + _A_BATCH]
        fresh = [point for point in batch if (point.name, point.step) not in self._arrived]
        if fresh:
            self._give(fresh)
        self._sent += len(batch)

    def _try_to_send(self) -> None:
        """Send; an unreachable store is reported, once a minute at most, and tried again at growing intervals."""
        try:
            self.send()
        except TrackingUnavailable as away:
            self._failures += 1
            self._due = time.monotonic() + min(2.0 ** (self._failures - 1), _LONGEST_PAUSE)
            if time.monotonic() - self._told >= _TELL_SECONDS and not self._closed.is_set():
                self._told = time.monotonic()
                waiting = len(self.points) - self._sent
                what = f"{waiting} metrics are kept" if waiting else "pictures are kept"
                warn(f"warning: {away}. Work continues; {what}, and sent when it answers")
        else:
            self._due = time.monotonic() + _SEND_SECONDS
            if self._failures:
                self._failures, self._told = 0, -_TELL_SECONDS
                warn("the tracking store answers again, and has every metric")
                self._recovered()

    def _run(self) -> None:
        while not self._closed.wait(max(self._due - time.monotonic(), 0)):
            try:
                self._try_to_send()
            except TrackingError as error:
                self._refusal = error  # `add` raises it, where the work is done
                return
