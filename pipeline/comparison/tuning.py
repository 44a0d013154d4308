"""Whether runs and their baselines were tuned alike: else a gain may be one of the tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipeline.core.names import SINGLE_TASK
from pipeline.params.messages import show
from pipeline.params.run_values import current_value, is_same
from pipeline.params.schema import Params
from pipeline.results.comparison import Comparison, Tuning


def add_tuning(delta: Comparison, params: Params) -> Comparison:
    """The comparison with what `tuned` of params says of each run, and a caveat where that isn't the same all over.

    A run that has other values now than those that were found counts as not tuned.
    """
    tunings: dict[str, Tuning | None] = {}
    caveats = []
    for name in delta.runs:
        tuned = params.tuned.get(name)
        changed = dict(_changed(params, name))
        if tuned and changed:
            listed = ", ".join(f"{key} is {now}, not {found}" for key, (now, found) in changed.items())
            caveats.append(f"{name}: not as it was tuned: {listed}; so it counts as not tuned")
        tunings[name] = Tuning(tuned.trials, tuned.epochs, list(tuned.values)) if tuned and not changed else None
    for name, facts in delta.runs.items():
        if facts.architecture != SINGLE_TASK and not params.run(name).adopted:  # of whose tuning nobody knows
            trained = [each for each in _baselines(delta, name) if not params.run(each).adopted]
            caveats += _pair_caveats(name, trained, tunings)
    runs = {name: replace(facts, tuning=tunings[name]) for name, facts in delta.runs.items()}
    return replace(delta, runs=runs, caveats=[*delta.caveats, *caveats])


def _changed(params: Params, name: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(key, (value now, value found)) of what was edited since."""
    for key, found in params.tuned[name].values.items() if name in params.tuned else ():
        now = current_value(params, name, key)
        if not is_same(now, found):
            yield key, ("left out" if now is ... else show(now), show(found))


def _baselines(delta: Comparison, name: str) -> list[str]:
    return list(dict.fromkeys(score.baseline_run for score in delta.scores[name].values() if score.baseline_run))


def _pair_caveats(name: str, baselines: list[str], tunings: dict[str, Tuning | None]) -> Iterator[str]:
    """Baselines that were tuned otherwise than a run, by number and length of trials: a single task has fewer keys."""
    ours = tunings[name]
    for baseline in baselines:
        theirs = tunings[baseline]
        same = ours and theirs and (ours.trials, ours.epochs) == (theirs.trials, theirs.epochs)
        if not same and (ours or theirs):
            yield f"{name} against {baseline}: tuned by {ours or 'no trials'} against {theirs or 'no trials'}"
