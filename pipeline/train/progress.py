"""How far a training is: a bar on a terminal; elsewhere, as in a log or beside other trainings, a line a minute."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from pipeline.core.console import duration, warn

_SECONDS = 60.0  # between two lines


class Progress:
    """Steps done out of `total`, of which `done` were done before; used as a context. shown: False says nothing."""

    def __init__(self, name: str, total: int, done: int, shown: bool):
        # None: tqdm draws its bar on a terminal only.
        self._bar = tqdm(total=total, initial=done, desc=name, unit="step", disable=None if shown else True)
        self._lines = shown and self._bar.disable
        self._name, self._total, self._before, self._done = name, total, done, done
        self._began = self._last = time.monotonic()
        self._loss = ""

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def update(self) -> None:
        """One more step is done."""
        self._bar.update()
        self._done += 1
        now = time.monotonic()
        if self._lines and now - self._last >= _SECONDS:
            self._last = now
            left = (now - self._began) / (self._done - self._before) * (self._total - self._done)
            warn(f"{self._name}: step {self._done} of {self._total}{self._loss}, about {duration(left)} to go")

    def show_loss(self, loss: float) -> None:
        """The loss that is shown from now on."""
        self._bar.set_postfix({"loss": f"{loss:.3f}"}, refresh=False)
        self._loss = f", loss {loss:.3f}"
