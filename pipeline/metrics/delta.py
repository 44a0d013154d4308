"""The multi-task performance Δm: how much better a multi-task network is than its single-task baselines.

Arithmetic only. Maninis, Radosavovic, Kokkinos, "Attentive Single-Tasking of Multiple Tasks" CVPR 2019.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Mean and sample standard deviation of `n` values; std is None when there is only one."""

    mean: float
    std: float | None
    n: int


def relative_gain(score: float, baseline: float, higher_is_better: bool) -> float:
    """s · (score − baseline) / baseline in percent, s = −1 where lower is better: positive is always better.

    Raises ValueError when it is not defined: a baseline that is not above 0, a number that is not finite.
    """
    if not (math.isfinite(score) and math.isfinite(baseline)):
        raise ValueError(f"score {score} against baseline {baseline}: both must be finite")
    if baseline <= 0:
        raise ValueError(f"a baseline of {baseline} allows no relative gain; it must be above 0")
    gain = 100.0 * (score - baseline) / baseline
    return gain if higher_is_better else -gain


def multi_task_performance(
    scores: Mapping[str, float], baselines: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> float:
    """Δm = 100/M · Σ_t s_t (m_t − b_t)/b_t in percent, over the M tasks of `scores`.

    Raises ValueError when there is no task, KeyError when a task has no baseline.
    """
    if not scores:
        raise ValueError("Δm needs at least one task")
    return statistics.fmean(
        relative_gain(score, baselines[task], higher_is_better[task]) for task, score in scores.items()
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation over seeds. Raises ValueError for no values."""
    if not values:
        raise ValueError("a spread needs at least one value")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))
