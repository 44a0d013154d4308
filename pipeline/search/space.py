"""The space of a study: what is drawn for a trial, and the params that a trial trains with."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Mapping
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pipeline.params.load import parse_params
from pipeline.params.run_values import current_value, is_same
from pipeline.params.schema import Params, merge
from pipeline.params.search import Entry, Range, Scalar
from pipeline.params.search_rules import nested

Values = dict[str, Any]
"""{key of the space: value} of one trial."""

HOLDOUT = "train_holdout"  # of evaluation.select_on: the tenth of train that trials are scored on
_MOST_LISTED = 100_000  # combinations of choices that are written out to find one that was not tried
_DRAWS = 100
_DIGITS = 3  # of a number out of a range: nobody could tell 0.00831 from 0.008312108785706818


def distributions(entries: Mapping[str, Entry]) -> dict[str, BaseDistribution]:
    """The space as Optuna has it."""
    return {key: _distribution(entry) for key, entry in entries.items()}


def suggest(trial: Trial, entries: Mapping[str, Entry]) -> Values:
    """Values for a trial: those that it was given, where it is a retry, else what the study's sampler proposes."""
    return snapped(entries, {key: _suggest(trial, key, each) for key, each in distributions(entries).items()})


def snapped(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> Values:
    """Values of a range as one writes them: those in steps 0.3, not 0.30000000000000004, others to three digits."""
    return {key: _snap(entries[key], value) for key, value in values.items()}


def _snap(entry: Entry, value: Any) -> Any:
    if not isinstance(entry, Range) or entry.whole:
        return value
    if entry.step is None:
        return min(max(float(f"{value:.{_DIGITS}g}"), float(entry.low)), float(entry.high))
    return float(min(round(entry.low + round((value - entry.low) / entry.step) * entry.step, 12), entry.high))


def trial_params(params: Params, name: str, values: Values) -> Params:
    """Params of a trial of run `name`: its own, with the values, the budget's epochs, and a tenth of train kept out.

    The tenth is scored after each epoch where `validate_every` is 0 or null. Raises ParamsError for values that are
    allowed one by one and not together.
    """
    run = params.runs[name]
    every = params.run(name).training.validate_every or 1
    own: dict[str, Any] = {"training": {"validate_every": every}}
    if params.search.budget is not None:
        own["training"]["epochs"] = params.search.budget
    for key, value in values.items():
        own = merge(own, nested(key, value))
    raw = params.model_dump(exclude={"search", "runs", "runs_from_single_task", "tuned"})
    raw["evaluation"]["select_on"] = HOLDOUT
    return parse_params({**raw, "runs": {name: merge(run.model_dump(exclude_unset=True), own)}}, f"a trial of {name}")


def own_values(params: Params, name: str, entries: Mapping[str, Entry]) -> Values:
    """What the run has for each key as it stands; without options of its balancing that it leaves out."""
    own = {key: current_value(params, name, key) for key in entries}
    return {key: value for key, value in own.items() if value is not ...}


def current_values(params: Params, name: str, entries: Mapping[str, Entry]) -> Values | None:
    """What the run has for each key, as choices of the space have it; None where one of them lies outside the space."""
    own, values = own_values(params, name, entries), {}
    for key, entry in entries.items():
        value = own.get(key, ...)
        if not _contains(entry, value):
            return None
        values[key] = value if isinstance(entry, Range) else next(each for each in entry if is_same(each, value))
    return snapped(entries, values)


def size(entries: Mapping[str, Entry]) -> int | None:
    """How many combinations there are; None: without end."""
    counts = [_count(entry) for entry in entries.values()]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def untried(entries: Mapping[str, Entry], tried: Collection[Values], rng: random.Random) -> Values | None:
    """Values drawn at random that no trial had; None where there are none left, or none was found."""
    count = size(entries)
    if count is not None and count <= _MOST_LISTED:
        every = (dict(zip(entries, each, strict=True)) for each in itertools.product(*map(_listed, entries.values())))
        left = [values for values in every if values not in tried]
        return rng.choice(left) if left else None
    draws = (snapped(entries, {key: _draw(entry, rng) for key, entry in entries.items()}) for _ in range(_DRAWS))
    return next((values for values in draws if values not in tried), None)


def _distribution(entry: Entry) -> BaseDistribution:
    if not isinstance(entry, Range):
        return CategoricalDistribution(entry)
    if entry.whole:
        return IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log, step=entry.step)


def _suggest(trial: Trial, key: str, of: BaseDistribution) -> Scalar:
    if isinstance(of, IntDistribution):
        return trial.suggest_int(key, of.low, of.high, step=of.step, log=of.log)
    if isinstance(of, FloatDistribution):
        return trial.suggest_float(key, of.low, of.high, step=of.step, log=of.log)
    assert isinstance(of, CategoricalDistribution)
    return trial.suggest_categorical(key, of.choices)


def _contains(entry: Entry, value: object) -> bool:
    if not isinstance(entry, Range):
        return any(is_same(value, choice) for choice in entry)
    if isinstance(value, bool) or not isinstance(value, int | float) or not entry.low <= value <= entry.high:
        return False
    if step := entry.step or entry.whole:
        return abs((value - entry.low) / step - round((value - entry.low) / step)) < 1e-8
    return True


def _count(entry: Entry) -> int | None:
    if not isinstance(entry, Range):
        return len(entry)
    if entry.step is None and not entry.whole:
        return None
    return round((entry.high - entry.low) / (entry.step or 1)) + 1


def _listed(entry: Entry) -> tuple[Scalar, ...]:
    if not isinstance(entry, Range):
        return entry
    count, step = _count(entry), entry.step or 1
    assert count is not None
    return tuple(_snap(entry, entry.low + i * step) for i in range(count))


def _draw(entry: Entry, rng: random.Random) -> Scalar:
    if not isinstance(entry, Range):
        return rng.choice(entry)
    if entry.log:
        drawn = math.exp(rng.uniform(math.log(entry.low), math.log(entry.high)))
        drawn = min(max(drawn, entry.low), entry.high)
        return round(drawn) if entry.whole else drawn
    if (count := _count(entry)) is not None:
        return _snap(entry, entry.low + rng.randrange(count) * (entry.step or 1))
    return rng.uniform(entry.low, entry.high)
