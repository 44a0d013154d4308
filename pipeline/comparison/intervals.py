"""Intervals of scores and of Δm, and what they allow one to say, out of what each image adds to the scores.

The method: `pipeline/comparison/estimate.py`. Images are drawn alike for a run, its baselines and all seeds, so what
makes an image easy for all of them moves no gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.comparison.estimate import Estimate, interval
from pipeline.core import paths
from pipeline.core.errors import ComparisonError
from pipeline.evaluation.statistics import SplitStatistics, read_statistics
from pipeline.metrics.resampling import draw, resampled_performance, resampled_scores, scores_without_each
from pipeline.results.comparison import DELTA_M, Comparison, Gain, Interval, Row, Score
from pipeline.results.run_metrics import RunMetrics

Resampled = dict[tuple[str, int, str], np.ndarray]
"""By run, seed and task: the score of each resample, and after these the score without each image, (R + N,)."""

Counted = dict[str, np.ndarray]
"""By task: which images count in its scores, (N,) bool: those with a label, and of human parts those with people."""


def add_intervals(delta: Comparison, results: Sequence[RunMetrics]) -> Comparison:
    """The comparison with an interval for every score and Δm, and a sentence for every Δm.

    results: what it was made from. Raises DataError where the statistics of one are missing or not those of its
    scores, ComparisonError where two were scored on other images.
    """
    resampled, counted = _resample(results)
    gains = {
        run: _estimate([_performance(delta.per_seed, resampled, run, row.seed) for row in rows], rows, delta, counted)
        for run in delta.delta_m
        if (rows := _of(delta.per_seed, run, DELTA_M))
    }
    return replace(
        delta,
        delta_m={run: _gain(gain, gains[run]) for run, gain in delta.delta_m.items()},
        scores={
            run: {task: _score(score, run, task, delta, resampled, counted) for task, score in of.items()}
            for run, of in delta.scores.items()
        },
        per_seed=[_row(row, delta, resampled, counted) for row in delta.per_seed],
        conclusions=[conclusion(run, gains[run], _networks(delta, results, run)) for run in delta.delta_m],
    )


def gain_differences(delta: Comparison, results: Sequence[RunMetrics], reference: str) -> list[str]:
    """A sentence for each other run with a Δm: its difference to that of `reference`, with the same seeds and images.

    Raises ComparisonError for a reference that has no Δm, and DataError as `add_intervals` does.
    """
    if reference not in delta.delta_m:
        others = f"these have: {', '.join(delta.delta_m)}" if delta.delta_m else "nor has any other run"
        raise ComparisonError(f"{reference} has no Δm to compare with; {others}")
    if len(delta.delta_m) == 1:
        raise ComparisonError(f"{reference} is the only run with a Δm: there is none to compare with")
    resampled, counted = _resample(results)
    first = _gains(delta, resampled, reference)
    sentences = []
    for run in delta.delta_m:
        if run == reference:
            continue
        if _baselines(delta, run) != _baselines(delta, reference):
            sentences.append(f"{run}: not comparable with {reference}, whose Δm is over other tasks or baselines")
            continue
        own = _gains(delta, resampled, run)
        seeds = [seed for seed in own if seed in first]
        rows = [Row(run, seed, DELTA_M, delta=own[seed][0] - first[seed][0]) for seed in seeds]
        found = _estimate([own[seed][1] - first[seed][1] for seed in seeds], rows, delta, counted) if seeds else None
        fewest = min(_networks(delta, results, name) for name in (run, reference))
        sentences.append(conclusion(run, found, fewest, reference))
    return sentences


def _gains(delta: Comparison, resampled: Resampled, run: str) -> dict[int, tuple[float, np.ndarray]]:
    """By seed: Δm, where it is defined, and Δm by resample."""
    return {
        row.seed: (row.delta, _performance(delta.per_seed, resampled, run, row.seed))
        for row in _of(delta.per_seed, run, DELTA_M)
        if row.delta is not None
    }


def _baselines(delta: Comparison, run: str) -> dict[str, str | None]:
    return {task: score.baseline_run for task, score in delta.scores[run].items()}


def _networks(delta: Comparison, results: Sequence[RunMetrics], run: str) -> int:
    """How many different networks there are of a run, or of that of its baselines which has the fewest."""
    own = {run, *(row.baseline_run for row in delta.per_seed if row.run == run and row.baseline_run)}
    return min(len({each.weights_sha256 for each in results if each.run == name}) for name in own)


def _resample(results: Sequence[RunMetrics]) -> tuple[Resampled, Counted]:
    """Scores of all results in the same resamples of their images, and which of these count."""
    ids: list[str] = []
    weights = np.zeros((0, 0))
    found: Resampled = {}
    counted: Counted = {}
    for result in results:
        kept = read_statistics(result)
        if not ids:
            ids, weights = kept.ids, draw(len(kept.ids))
        if kept.ids != ids:
            raise ComparisonError(
                f"{paths.statistics_file(result.run, result.seed)} is of other images than those of {results[0].name}: "
                f"{_difference(kept, ids)}; run `dvc repro`"
            )
        for task, statistics in kept.tasks.items():
            formula = kept.formulas[task]
            drawn, without = resampled_scores(weights, statistics, formula), scores_without_each(statistics, formula)
            found[result.run, result.seed, task] = np.concatenate([drawn, without])
            if task not in counted:
                counted[task] = np.any([values.reshape(len(ids), -1).any(1) for values in statistics.values()], axis=0)
    return found, counted


def _difference(kept: SplitStatistics, ids: list[str]) -> str:
    if len(kept.ids) != len(ids):
        return f"{len(kept.ids)} against {len(ids)}"
    return next(f"{ours} against {theirs}" for ours, theirs in zip(kept.ids, ids, strict=True) if ours != theirs)


def _of(rows: Sequence[Row], run: str, task: str) -> list[Row]:
    return [row for row in rows if row.run == run and row.task == task]


def _performance(rows: Sequence[Row], resampled: Resampled, run: str, seed: int) -> np.ndarray:
    """Δm of one run and seed, over the baselines that `compare` found, (R + N,)."""
    own = [row for row in rows if (row.run, row.seed) == (run, seed) and row.task != DELTA_M]
    scores = {row.task: resampled[run, seed, row.task] for row in own}
    baselines = {row.task: resampled[row.baseline_run, seed, row.task] for row in own if row.baseline_run}
    return resampled_performance(scores, baselines, {row.task: bool(row.higher_is_better) for row in own})


def _estimate(
    resampled: Sequence[np.ndarray], rows: Sequence[Row], delta: Comparison, counted: Counted
) -> Estimate | None:
    """Of the rows of one run and task, one a seed, with their values by resample."""
    values = [row.delta if row.task == DELTA_M else row.score for row in rows]
    if any(value is None for value in values):
        return None
    tasks = [rows[0].task] if rows[0].task != DELTA_M else list(delta.scores[rows[0].run])
    images = len(counted[tasks[0]])
    every = np.stack(resampled)
    without_each = every[:, -images:][:, np.any([counted[task] for task in tasks], axis=0)]
    fewest = min(int(counted[task].sum()) for task in tasks)
    return interval([value for value in values if value is not None], every[:, :-images], without_each, fewest)


def _row(row: Row, delta: Comparison, resampled: Resampled, counted: Counted) -> Row:
    """With the interval over images, of this seed."""
    values = (
        _performance(delta.per_seed, resampled, row.run, row.seed)
        if row.task == DELTA_M
        else resampled[row.run, row.seed, row.task]
    )
    found = _estimate([values], [row], delta, counted)
    return replace(row, low=found.low, high=found.high) if found else row


def _score(score: Score, run: str, task: str, delta: Comparison, resampled: Resampled, counted: Counted) -> Score:
    own = _of(delta.per_seed, run, task)
    found = _estimate([resampled[run, row.seed, task] for row in own], own, delta, counted)
    return replace(score, interval=_interval(found)) if found else score


def _gain(gain: Gain, found: Estimate | None) -> Gain:
    if found is None:
        return gain
    gain = replace(gain, interval=_interval(found), verdict=found.verdict)
    if found.verdict != "not distinguishable":
        return gain
    return replace(gain, images_needed=found.images_needed, seeds_needed=found.seeds_needed)


def _interval(found: Estimate) -> Interval:
    variance = found.image_variance + found.seed_variance
    return Interval(
        low=found.low,
        high=found.high,
        standard_error=found.standard_error,
        image_share=found.image_variance / variance if variance else 1.0,
        seed_share=None if found.seeds == 1 else found.seed_variance / variance if variance else 0.0,
        seeds=found.seeds,
        images=found.images,
        resamples=found.resamples,
    )


# -- in words -----------------------------------------------------------------------------------------------


def conclusion(run: str, found: Estimate | None, networks: int | None = None, reference: str | None = None) -> str:
    """What Δm and its interval say of a run, in a sentence. networks: how many there are; None: one a seed.

    reference: the run to which `found` is the difference in Δm; None: to its baselines.
    """
    if found is None:
        return f"{run}: no interval, since too few images have a score and a baseline"
    digits = _digits(found.low, found.high)
    low, high = _signed(found.low, digits), _signed(found.high, digits)
    size = f"{_count(found.seeds, 'seed')}, {_count(found.images, 'image')}"
    alone = "" if found.seeds > 1 else "; of one seed, so over images alone: another seed may give another sign"
    if networks is not None and networks < found.seeds:
        alone += f"; {_count(networks, 'network')} for {found.seeds} seeds: another training may give another sign"
    if found.verdict != "not distinguishable":
        by = f"{abs(found.mean):.{digits}f} {'points of Δm' if reference else '%'}"
        than = reference or "its baselines"
        return f"{run}: {found.verdict} than {than} by {by} (95 % interval {low} to {high}, {size}){alone}"
    mean = _signed(found.mean, digits)
    what = f"{reference} at 95 %: difference in" if reference else "its baselines at 95 %:"
    return f"{run}: not distinguishable from {what} Δm {mean} ({low} to {high}, {size}); {_needed(found)}{alone}"


def _needed(found: Estimate) -> str:
    images = None if found.images_needed is None else f"about {_count(found.images_needed, 'image')}"
    seeds = None if found.seeds_needed is None else _count(found.seeds_needed, "seed")
    if images and seeds:
        return f"at this size it would take {images} or {seeds}"
    if images:
        return f"at this size it would take {images}" + ("; no number of seeds would do" if found.seeds > 1 else "")
    if seeds:
        return f"at this size it would take {seeds}; no number of images would do"
    if found.seeds == 1:
        return "at this size no number of images would do"
    return "at this size neither more images nor more seeds alone would do"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _digits(low: float, high: float) -> int:
    """Digits after the point: two that count in half the interval, and no bound reads as 0 that is none; 4 at most."""
    half = (high - low) / 2
    least = min(max(1 - math.floor(math.log10(half)), 0), 4) if half > 0 else 2
    bounds = [bound for bound in (low, high) if bound]
    return next((digits for digits in range(least, 4) if all(round(bound, digits) for bound in bounds)), 4)


def _signed(value: float, digits: int) -> str:
    """With a minus sign for a hyphen."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no minus before a zero
