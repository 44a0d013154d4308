"""What a study is about, and the refusal to continue one that is about something else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from pipeline.core.errors import SearchError
from pipeline.core.provenance import Inputs
from pipeline.params.search import Entry
from pipeline.search.space import Values
from pipeline.search.storage import Place

ID, _INPUTS = "id", "inputs"  # what a study holds beside Optuna's own
_NAMED = 10  # differences that a message names


@dataclass(frozen=True)
class Plan:
    """What a study is about.

    inputs: all that a trial's result depends on but its values. own: values of the run as it stands. start: the same,
    where they lie within the space. waits_for_start: no other trial has a value before the run as it stands is trained.
    """

    entries: Mapping[str, Entry]
    trials: int
    seed: int
    maximize: bool
    waits_for_start: bool
    inputs: Inputs
    own: Values
    start: Values | None


def open_study(place: Place, plan: Plan, storage: BaseStorage) -> optuna.Study:
    """The study at a place, which is begun where there is none.

    Raises SearchError where it is about something else: Optuna itself keeps the direction of a study that it has, and
    mixes trials of whatever it is given.
    """
    direction = StudyDirection.MAXIMIZE if plan.maximize else StudyDirection.MINIMIZE
    try:
        study = optuna.create_study(study_name=place.name, storage=storage, direction=direction)
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=place.name, storage=storage)
    remedy = "give another name in search.study, or remove this study by --restart"
    if study.directions != [direction]:
        found = ", ".join(each.name.lower() for each in study.directions)
        raise SearchError(f"{place} is to {found} its value, params ask to {direction.name.lower()} it: {remedy}")
    known = study.user_attrs.get(_INPUTS)
    if known is None and study.get_trials(deepcopy=False):
        raise SearchError(f"{place} was not begun by this command: {remedy}")
    if known is None:
        study.set_user_attr(ID, uuid.uuid4().hex)
        study.set_user_attr(_INPUTS, plan.inputs.values)
    elif changed := Inputs(known).differences(plan.inputs):
        lines = [f"{name}: {_short(before)} -> {_short(now)}" for name, (before, now) in changed.items()]
        more = [f"and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
        raise SearchError(
            "\n  ".join([f"{place} is about other trials than params and code make now:", *lines[:_NAMED], *more])
            + f"\n{remedy}"
        )
    return study


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    digest = len(value) == 64 and all(each in "0123456789abcdef" for each in value)
    return value[:8] if digest else json.dumps(value)[:80] if "\n" in value else value[:80]
