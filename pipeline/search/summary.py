"""What a study found: a table of its best trials, and the best values as an edit of params.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.core import paths
from pipeline.core.errors import SearchError
from pipeline.params.load import load_params, parse_params
from pipeline.params.run_values import current_value, is_same
from pipeline.params.schema import Params
from pipeline.params.search import Range
from pipeline.params.tuned import Tuned
from pipeline.params.yaml_edit import Path, set_values
from pipeline.params.yaml_file import parse_yaml
from pipeline.search.space import Values, snapped
from pipeline.search.study import AS_IT_STANDS, OWN, RESULT, SharedStudy

_SHOWN = 5  # trials of the table


def best_trials(study: SharedStudy) -> list[FrozenTrial]:
    """Trials that ended, best first, and that of the run as it stands among them; the earlier of equals first."""
    found = [each for each in study.trials(TrialState.COMPLETE) if RESULT in each.user_attrs]
    start = study.as_it_stands()
    if start is not None and all(each.number != start.number for each in found):
        found.append(start)
    sign = -1 if study.plan.maximize else 1
    return sorted(found, key=lambda each: (sign * each.user_attrs[RESULT]["value"], each.number))


def table(study: SharedStudy, objective: str) -> str:
    """The best trials: value, values of the space, and the scores that they had."""
    best = best_trials(study)
    states = [each.state for each in study.trials()]
    done = f"{study.done()} trials, {states.count(TrialState.PRUNED)} of them ended early"
    if not best:
        return f"{study.place}: {done}; none has a value"
    keys, tasks = list(study.plan.entries), list(best[0].user_attrs[RESULT]["scores"])
    rows = [["trial", objective, *(key.partition(".")[2] for key in keys), *tasks]]
    for each in best[:_SHOWN]:
        result, values = each.user_attrs[RESULT], snapped(study.plan.entries, each.params)
        own = [_shown(values[key]) if key in values else "as it stands" for key in keys]
        mark = " (as it stands)" if each.user_attrs.get(AS_IT_STANDS) else ""
        scores = [_shown(result["scores"][task]) for task in tasks]
        rows.append([f"{each.number}{mark}", _shown(result["value"]), *own, *scores])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{study.place}: {done}", *lines])


def best_values(study: SharedStudy) -> Values:
    """The values of the best trial: those that the run had, where none did better than it as it stands.

    Raises SearchError where no trial has a value.
    """
    best = best_trials(study)
    if not best:
        raise SearchError(
            f"{study.place}: no trial has a value, all ended early: widen search.space, or look at the losses in MLflow"
        )
    own = best[0].user_attrs.get(OWN)
    return snapped(study.plan.entries, best[0].params) if own is None else dict(own)


def edit_of(params: Params, name: str, study: SharedStudy, values: Values) -> tuple[str, str] | None:
    """The text of params.yaml as it is, and with these values and what the run was tuned with; None where it has them.

    Raises ParamsError where the file can't be edited in place.
    """
    before = paths.PARAMS.read_bytes().decode("utf-8")
    after = set_values(before, dict(_changes(params, name, values, study.done())), str(paths.PARAMS))
    return (before, after) if after != before else None


def diff(before: str, after: str) -> str:
    """The edit as a unified diff."""
    old, new = (text.removeprefix("\ufeff").splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, str(paths.PARAMS), f"{paths.PARAMS} (best)", n=2)).rstrip("\n")


def apply(before: str, after: str) -> None:
    """Write the edit. Raises SearchError where the file was edited meanwhile, ParamsError for invalid values."""
    parse_params(parse_yaml(after, paths.PARAMS), str(paths.PARAMS))
    if paths.PARAMS.read_bytes().decode("utf-8") != before:
        raise SearchError(f"{paths.PARAMS} was edited meanwhile: nothing was written; run it with --apply again")
    with paths.atomic(paths.PARAMS, "wb") as file:
        file.write(after.encode("utf-8"))
    load_params(paths.PARAMS)


def is_as_it_stands(params: Params, name: str, values: Values) -> bool:
    """Whether the run has these values already."""
    return all(is_same(current_value(params, name, key), value) for key, value in values.items())


def _changes(params: Params, name: str, values: Values, trials: int) -> Iterator[tuple[Path, Any]]:
    """Those values that params don't have already, at their place in params.yaml."""
    for key, value in values.items():
        if not is_same(current_value(params, name, key), value):
            yield ("runs", name, *key.split(".")), value
    epochs = most_epochs(params, name)
    if params.tuned.get(name) != Tuned(trials=trials, epochs=epochs, values=values):
        yield ("tuned", name), {"trials": trials, "epochs": epochs, "values": values}


def most_epochs(params: Params, name: str) -> int:
    """Of a trial: those that params say, or where they are searched the most that a trial may have."""
    entry = params.search.space.get("training.epochs")
    if entry is None:
        return params.search.budget or params.run(name).training.epochs
    choices = (entry.high,) if isinstance(entry, Range) else entry
    return max(int(each) for each in choices if isinstance(each, int | float))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
