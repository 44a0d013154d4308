"""One worker of a study: takes trials until there are enough, trains them and records each in MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from optuna import Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from pipeline.core import names
from pipeline.core.console import warn
from pipeline.core.errors import DataError, ParamsError, SearchError, TrackingError, TrainingError
from pipeline.core.provenance import Inputs
from pipeline.params.schema import Params
from pipeline.params.search import RELATIVE_GAIN, Range
from pipeline.params.search_rules import entries_of
from pipeline.search.objective import Primary, TrialScores, maximizes, value_of
from pipeline.search.plan import Plan
from pipeline.search.space import Values, current_values, own_values, trial_params
from pipeline.search.storage import STORAGE_ERRORS, Place, heartbeat, translate_storage_errors
from pipeline.search.study import RESULT, SharedStudy
from pipeline.search.trial import check_packed, train_trial, trial_inputs
from pipeline.tracking.run_log import RunLog
from pipeline.tracking.search_runs import STATE, StudyRuns, study_runs

_LOOK_SECONDS = 1.0
DIVERGED = "diverged"


class Pruned(Exception):
    """The scores so far promise less than those of half of the trials before."""


def runs_to_search(params: Params, asked: list[str]) -> list[str]:
    """Names of runs, those asked for, else all of `runs` that the search is about; what is left out is reported.

    Raises ParamsError for an empty space, an unknown run and one that can't be searched.
    """
    if not params.search.space:
        example = "{training.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}"
        raise ParamsError(f"params: search.space is empty; say what is to be searched, such as {example}")
    for name in asked:
        if name in params.runs_from_single_task:
            raise ParamsError(
                f"run {name}: it starts from networks that were trained on the samples which trials keep out, so their "
                "scores would mean nothing; search the values of a run of runs"
            )
        if name not in params.runs:
            raise ParamsError(f"params: {names.unknown('run', name, params.runs)}")
    found = []
    for name in asked or params.runs:
        if (why := _not_concerned(params, name)) is None:
            found.append(name)
        elif asked:
            raise ParamsError(f"run {name}: {why}")
        else:
            print(f"run {name} is left out: {why}", flush=True)
    if not found:
        raise ParamsError("params: search is about none of the runs; see above")
    return found


def plan_of(params: Params, name: str) -> Plan:
    """What the study of a run is about. Raises DataError where there is no prepared data."""
    search, entries = params.search, entries_of(params, name)
    every = trial_inputs(trial_params(params, name, {}), name).values
    # Values that are searched differ from trial to trial, and the run's own may: they are no part of the study.
    inputs = {key: value for key, value in every.items() if not any(_is_of(key, each) for each in entries)}
    inputs |= {f"space {key}": json.dumps(_plain(entry)) for key, entry in entries.items()}
    inputs |= {
        "search.objective": search.objective,
        "search.budget": str(search.budget),
        "evaluation.select_on": str(params.evaluation.select_on),
    }
    return Plan(
        entries,
        search.trials,
        search.seed,
        maximizes(search.objective),
        search.objective == RELATIVE_GAIN,
        Inputs(inputs),
        own_values(params, name, entries),
        current_values(params, name, entries),
    )


def _is_of(name: str, key: str) -> bool:
    """Whether an input is the value of a key of the space, or a part of it."""
    return f"{name}.".startswith(f"param {key}.")


def study_name(params: Params, name: str) -> str:
    """What the study of a run is called in the storage."""
    return f"{params.search.study or params.experiment}/{name}"


@contextmanager
def opened(params: Params, name: str, restart: bool = False) -> Iterator[SharedStudy]:
    """The study of a run, with this process among its workers. Raises SearchError, ParamsError and DataError."""
    check_packed(params.data)
    place = Place.of(study_name(params, name), params.search.storage, name)
    with translate_storage_errors(place):
        study = SharedStudy(place, plan_of(params, name), restart)
        try:
            yield study
        finally:
            study.close()


def work(params: Params, name: str, study: SharedStudy) -> None:
    """Train trials until the study has as many as params ask for, or all combinations.

    Raises SearchError, TrackingError and DataError; what was finished before is kept.
    """
    tags = {"search_name": study.place.name, "search_run": name, "objective": params.search.objective}
    with study.place.lock:  # or two workers that begin at once would make two
        runs = study_runs(params.experiment, f"search {name}", study.id, tags)
    try:
        _close_trials(study, runs)
        _work(params, name, study, runs)
    except BaseException:
        with suppress(SearchError, OSError, *STORAGE_ERRORS):  # else the next worker finds the trial without one
            study.put_back()
        _end_parent(study, runs, "KILLED")
        raise
    _end_parent(study, runs, "FINISHED")


def _work(params: Params, name: str, study: SharedStudy, runs: StudyRuns) -> None:
    waited = False
    while (handed := _next(study, runs)) is not None:
        if isinstance(handed, str):
            if not waited:
                print(f"{name}: {handed}; this one waits", flush=True)
            waited = True
            time.sleep(_LOOK_SECONDS)
            continue
        trial, values = handed
        if changed := study.plan.inputs.differences(plan_of(params, name).inputs):
            raise SearchError(
                f"{study.place}: inputs changed while trials were trained ({', '.join(list(changed)[:5])}): undo the "
                "edit, or begin anew with --restart"
            )
        _Turn(params, name, study, runs, trial, values).go()


def _next(study: SharedStudy, runs: StudyRuns) -> tuple[Trial, Values] | str | None:
    handed = study.next_trial()
    for number in study.recovered:
        warn(f"trial {number} was not ended by its worker, which is gone: its values are tried again")
    if study.recovered:
        study.recovered.clear()
        _close_trials(study, runs)
    return handed


def _close_trials(study: SharedStudy, runs: StudyRuns) -> None:
    """End in MLflow what a kill left open there."""
    ended = [each for each in study.trials() if each.state.is_finished()]
    runs.close_trials({each.number: "KILLED" if each.state is TrialState.FAIL else "FINISHED" for each in ended})


class _Turn:
    """One trial that this worker trains."""

    def __init__(
        self, params: Params, name: str, study: SharedStudy, runs: StudyRuns, trial: Trial, values: Values
    ) -> None:
        self.name, self.study, self.runs, self.trial, self.values = name, study, runs, trial, values
        self.search, self.keeps_best = params.search, params.evaluation.select_on is not None
        self.original = params
        start = study.as_it_stands()
        self.start: Primary | None = start.user_attrs[RESULT]["scores"] if start else None
        self.is_start = not values and start is None

    def go(self) -> None:
        """Train the trial and end it, whatever happens; what is no fault of its values is raised."""
        number, study = self.trial.number, self.study
        began = time.monotonic()
        try:
            params = trial_params(self.original, self.name, self.values)
            with (
                heartbeat(study.storage, self.trial._trial_id),
                self.runs.trial(number, f"{self.name}-trial-{number}", {"search_run": self.name}) as log,
            ):
                self._train(params, log)
        except (TrainingError, ParamsError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0]
            study.prune(self.trial, f"{DIVERGED}: {reason}" if isinstance(error, TrainingError) else reason)
            self._say(f"ended early: {reason}", began)
        except UpdateFinishedTrialError:
            self._say("given up: another worker took it over, since this one was not heard of for minutes", began)
        except (TrackingError, DataError, SearchError, OSError, *STORAGE_ERRORS):
            raise  # its values are not to blame: `work` puts them back
        except Exception as error:
            study.fail(self.trial, f"{type(error).__name__}: {error}")
            raise

    def _train(self, params: Params, log: RunLog) -> None:
        run = params.run(self.name)
        log.params(params.shown(self.name) | {"run": self.name, "seed": params.seeds[0]})
        log.tags({"search_values": json.dumps(self.values)})
        scores = TrialScores(run.tasks, self.keeps_best, lambda epoch, found: self._watch(epoch, found, log))
        self.last = run.training.epochs
        began = time.monotonic()
        try:
            train_trial(params, self.name, scores, log.metrics)
        except Pruned as pruned:
            log.tags({STATE: "pruned"})
            self.study.prune(self.trial, str(pruned))
            self._say(f"pruned {pruned}", began)
            return
        except (TrainingError, ParamsError):
            log.tags({STATE: "failed"})
            raise
        assert scores.scores is not None and scores.epoch is not None
        value = self._value(scores.scores)
        if self.is_start:
            for epoch, found in scores.by_epoch.items():
                self.trial.report(value_of(self.search.objective, found, scores.scores), epoch)
        log.metrics({"objective": value}, self.last)
        log.tags({STATE: "complete"})
        self.study.finish(self.trial, value, {"scores": scores.scores, "epoch": scores.epoch})
        shown = ", ".join(f"{task} {found:.4g}" for task, found in scores.scores.items())
        self._say(f"{self.search.objective} {value:.4g} ({shown})", began)

    def _watch(self, epoch: int, found: Primary, log: RunLog) -> None:
        """After an epoch: report to Optuna, and end a trial that it prunes."""
        if self.is_start and self.search.objective == RELATIVE_GAIN:
            return  # what it is compared with is its own end
        value = value_of(self.search.objective, found, self.start)
        log.metrics({"objective_by_epoch": value}, epoch)
        if self.is_start:
            return
        self.trial.report(value, epoch)
        if epoch < self.last and self.trial.should_prune():
            raise Pruned(f"after epoch {epoch}: {self.search.objective} {value:.4g} is worse than the median before")

    def _value(self, scores: Primary) -> float:
        return value_of(self.search.objective, scores, scores if self.is_start else self.start)

    def _say(self, what: str, began: float) -> None:
        shown = ", ".join(f"{key.partition('.')[2]} {_shown(value)}" for key, value in self.values.items())
        total = self.search.trials
        done = self.study.done()
        seconds = time.monotonic() - began
        which = "as it stands" if self.is_start else shown
        print(f"{self.name} trial {self.trial.number}, {which}: {what}; {seconds:.0f} s, {done} of {total}", flush=True)


def _end_parent(study: SharedStudy, runs: StudyRuns, status: str) -> None:
    """End the study's run in MLflow, unless other workers of this machine still use it."""
    with study.place.lock:  # two that end at once would each see the other
        last = not study.worker.others()
        study.close()
    if last:
        runs.end(status)


def _not_concerned(params: Params, name: str) -> str | None:
    objective, tasks = params.search.objective, params.runs[name].tasks
    if params.runs[name].adopted:
        return "it is adopted, so no trial of it could be trained"
    if not entries_of(params, name):
        return f"search.space has no key for its architecture {params.runs[name].architecture} and its tasks"
    if objective not in (RELATIVE_GAIN, *tasks):
        return f"search.objective is {objective}, and its tasks are {', '.join(tasks)}"
    return None


def _plain(entry: object) -> object:
    return entry.model_dump() if isinstance(entry, Range) else entry


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
