"""How far networks that are trained side by side have come, and how long the rest may take."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from statistics import fmean

from pipeline.core.console import duration

Job = tuple[str, ...]
"""Stages that run one after the other, each needing the one before."""
Efforts = Mapping[str, int]
"""{run: the arithmetic of its training, 0 where nothing is known of it}."""
Timed = Sequence[tuple[float, float]]
"""(arithmetic of a training, seconds that it has taken so far) of each."""


def run_of(job: Job) -> str:
    """The run that a job trains."""
    return job[0].partition("@")[2].rpartition("-")[0]


def progress(
    done: Mapping[Job, float],
    failed: Sequence[Job],
    running: Mapping[Job, float],
    waiting: Sequence[Job],
    at_a_time: int,
    efforts: Efforts,
) -> str:
    """How many jobs are done, and how long the rest may take: by their arithmetic, where all of it is known.

    done, running: with the seconds that each took so far. Nothing of the latter before as many are done as run at a
    time: one alone may be the shortest or the longest.
    """
    jobs = [*done, *failed, *running, *waiting]
    words = f"{len(done)} of {len(jobs)}" + (f", {len(failed)} failed" if failed else "")
    if not (running or waiting) or len(done) < at_a_time:
        return words
    known = all(efforts[run_of(job)] for job in jobs)
    effort = {job: efforts[run_of(job)] if known else 1 for job in jobs}
    ended, begun = ([(effort[job], seconds) for job, seconds in some.items()] for some in (done, running))
    left = time_left(ended, begun, [effort[job] for job in waiting], at_a_time)
    return f"{words}, about {duration(left)} to go" if left else words  # longer than any line says: nobody knows


def time_left(done: Timed, running: Timed, waiting: Sequence[float], slots: int) -> float:
    """Seconds until the last one ends. done: at least one. waiting: the arithmetic of those to come, in their order.

    A training takes what its start and its scoring take, and more by its arithmetic: a line through those that have
    ended, which neither falls nor begins below 0. One that runs longer than the line says may end at any moment.
    """
    start, slope = _line(done)
    ends = [max(0.0, start + slope * effort - seconds) for effort, seconds in running]
    ends += [0.0] * (slots - len(ends))
    heapq.heapify(ends)
    for effort in waiting:
        heapq.heappush(ends, heapq.heappop(ends) + start + slope * effort)
    return max(ends)


def _line(done: Timed) -> tuple[float, float]:
    """Value at 0 and slope of the least squares' line, neither below 0; of equal efforts the line from 0."""
    middle, mean = (fmean(column) for column in zip(*done, strict=True))
    spread = sum((effort - middle) ** 2 for effort, _ in done)
    if not spread:
        return 0.0, mean / middle
    slope = sum((effort - middle) * (seconds - mean) for effort, seconds in done) / spread
    if slope <= 0:
        return mean, 0.0
    if mean < slope * middle:
        return 0.0, sum(effort * seconds for effort, seconds in done) / sum(effort**2 for effort, _ in done)
    return mean - slope * middle, slope
