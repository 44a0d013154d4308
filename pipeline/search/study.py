"""A study that several workers share: who trains which values, and that no kill loses a trial or repeats one.

A trial is RUNNING from the moment at which a worker hands it to itself, under a lock, with its name in it. Where that
worker is gone, the next one that looks puts the same values back to wait and calls the old trial failed. What a trial
found is written into it before Optuna marks it complete, so a kill between the two loses nothing.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from typing import Any

import optuna
from optuna import Trial
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.core import shutdown
from pipeline.core.errors import SearchError
from pipeline.search.plan import ID, Plan, open_study
from pipeline.search.space import Values, distributions, size, snapped, suggest, untried
from pipeline.search.storage import Place, Worker, beat, delete, is_old, open_storage

# What trials and studies hold beside Optuna's own.
WORKER, RESULT, RETRY_OF, AS_IT_STANDS, REASON, REPEATS, OWN = (
    "worker", "result", "retry_of", "as_it_stands", "reason", "repeats", "own",
)  # fmt: skip

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.ERROR)


class SharedStudy:
    """One worker's hold on a study."""

    def __init__(self, place: Place, plan: Plan, restart: bool = False):
        """Open the study, or begin it.

        restart: remove what there is of it first. Raises SearchError where it can't be opened, or is about something
        else.
        """
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", category=UserWarning)
        self.place, self.plan = place, plan
        self._own: set[int] = set()  # trials that this worker began
        self.recovered: list[int] = []  # numbers of trials whose workers were found to be gone
        self.worker = Worker(place)
        try:
            with place.lock:
                if restart:
                    self._remove()
                self.storage = open_storage(place, self._put_back)
                self.study = open_study(place, plan, self.storage)
                if not self.trials():
                    self._add_start()
        except BaseException:
            self.worker.close()
            raise
        sampler_seed = (
            f"{plan.seed} {len(self.trials())} {self.worker.name}"  # the same one would propose the same again
        )
        number = int.from_bytes(hashlib.sha256(sampler_seed.encode()).digest()[:4])
        self._rng = random.Random(number)
        self.study.sampler = optuna.samplers.TPESampler(seed=number)
        self.study.pruner = optuna.pruners.MedianPruner()

    # -- what there is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Tells this study from a later one of the same name."""
        return str(self.study.user_attrs[ID])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Its trials, in their order; all, without states."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def as_it_stands(self) -> FrozenTrial | None:
        """The trial of the run as it stands, once it has ended."""
        ended = (each for each in self.trials() if each.user_attrs.get(AS_IT_STANDS) and RESULT in each.user_attrs)
        return next((each for each in ended if each.state.is_finished()), None)

    def done(self) -> int:
        """How many trials ended; that of the run as it stands counts where its values lie within the space."""
        return len(self.trials(*_DONE))

    # -- one trial after the other ---------------------------------------------------------------------------

    def next_trial(self) -> tuple[Trial, Values] | str | None:
        """Hand this worker a trial: a new one, or one whose worker was killed.

        None where there is nothing more to do; the reason, where that may change by itself.
        """
        with shutdown.deferred(), self.place.lock:
            self._recover()
            while True:
                if self.plan.waits_for_start and not self.as_it_stands() and not self._start(TrialState.WAITING):
                    if self._start(TrialState.RUNNING):
                        return "another worker trains the run as it stands, which the others are compared with"
                    raise SearchError(self._lost_start())
                if not self._has_more():
                    return None
                trial = self.study.ask()
                beat(self.storage, trial._trial_id)  # from now on another machine notices if this process ends
                self._own.add(trial.number)
                trial.set_user_attr(WORKER, self.worker.name)
                if trial.user_attrs.get(AS_IT_STANDS):
                    if not self._has_earlier_start(trial.number):
                        trial.set_user_attr(OWN, self.plan.own)
                        return trial, {}
                    self.study.tell(trial, state=TrialState.FAIL)
                    continue
                values = suggest(trial, self.plan.entries)
                if self._is_surplus(trial):
                    self.study.tell(trial, state=TrialState.FAIL)
                    return None
                if not self._repeats(trial.number, values):
                    return trial, values
                trial.set_user_attr(REPEATS, True)
                self.study.tell(trial, state=TrialState.FAIL)
                if (other := untried(self.plan.entries, self._tried(), self._rng)) is None:
                    return None
                self.study.enqueue_trial(other)

    def finish(self, trial: Trial, value: float, result: dict[str, Any]) -> None:
        """End a trial with its value. result: what else it found, as JSON."""
        with shutdown.deferred(), self.place.lock:
            trial.set_user_attr(RESULT, {"value": value, **result})
            self._tell_result(trial.number)

    def prune(self, trial: Trial, reason: str) -> None:
        """End a trial that promises nothing."""
        self._end(trial, reason, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """End a trial that met a fault; its values are not tried again by themselves."""
        self._end(trial, reason, TrialState.FAIL)

    def put_back(self) -> None:
        """Let what this worker has begun and not ended be done again with the same values, by whoever comes next."""
        with shutdown.deferred(), self.place.lock:
            for trial in self.trials(TrialState.RUNNING):
                if trial.number in self._own and RESULT in trial.user_attrs:
                    self._tell_result(trial.number)
                elif trial.number in self._own:
                    self._put_back(self.study, trial)
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def is_alone(self) -> bool:
        """Whether no trial is under way or waits."""
        with self.place.lock:
            waits = self.trials(TrialState.WAITING) and self._has_more()  # else fewer are asked for than before
            return not self.trials(TrialState.RUNNING) and not waits

    def close(self) -> None:
        """Give up this worker's hold."""
        self.worker.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _remove(self) -> None:
        if others := self.worker.others():
            raise SearchError(
                f"{self.place}: {others} other worker{'s use' if others > 1 else ' uses'} it, so it can't be removed; "
                "end them first"
            )
        delete(self.place)

    def _add_start(self, **attrs: object) -> None:
        start = self.plan.start or {}
        of = distributions(self.plan.entries) if start else {}
        user = {AS_IT_STANDS: True, **attrs}
        self.study.add_trial(create_trial(state=TrialState.WAITING, params=start, distributions=of, user_attrs=user))

    def _end(self, trial: Trial, reason: str, state: TrialState) -> None:
        with shutdown.deferred(), self.place.lock:
            if not self._trial(trial.number).state.is_finished():
                trial.set_user_attr(REASON, reason)
                self.study.tell(trial, state=state)

    def _trial(self, number: int) -> FrozenTrial:
        return self.trials()[number]

    def _start(self, *states: TrialState) -> list[FrozenTrial]:
        return [each for each in self.trials(*states) if each.user_attrs.get(AS_IT_STANDS)]

    def _has_earlier_start(self, number: int) -> bool:
        """Whether, of workers on several machines that began the study at once, another one's comes first."""
        earlier = [each for each in self._start() if each.number < number]
        return any(each.state is not TrialState.FAIL or RESULT in each.user_attrs for each in earlier)

    def _lost_start(self) -> str:
        reasons = [each.user_attrs[REASON] for each in self._start() if REASON in each.user_attrs]
        return (
            f"{self.place}: the run as it stands could not be trained, so there is nothing to compare with "
            f"({reasons[-1] if reasons else 'it failed'}). Correct it, or let search.objective be one task; "
            "then --restart"
        )

    def _counted(self) -> list[FrozenTrial]:
        """Trials that ended or are under way, without that of a run that lies outside the space."""
        every = self.trials(*_DONE, TrialState.RUNNING)
        return [each for each in every if each.params or not each.user_attrs.get(AS_IT_STANDS)]

    def _has_more(self) -> bool:
        if self._start(TrialState.WAITING):
            return True
        if len(self._counted()) >= self.plan.trials:
            return False
        combinations = size(self.plan.entries)
        exhausted = combinations is not None and len(self._tried()) >= combinations
        return bool(self.trials(TrialState.WAITING)) or not exhausted

    def _tried(self) -> list[Values]:
        """Different values of the trials that ended, are under way or wait, whatever became of them."""
        every = [each.system_attrs.get("fixed_params", each.params) for each in self._kept()]
        found = [snapped(self.plan.entries, values) for values in every if values]
        return [dict(pairs) for pairs in {tuple(sorted(values.items())): None for values in found}]

    def _kept(self) -> list[FrozenTrial]:
        """Trials whose values are not to be tried again: not those that are put back, nor repeats."""
        failed = [each for each in self.trials(TrialState.FAIL) if REASON in each.user_attrs]
        return [*self.trials(*_DONE, TrialState.RUNNING, TrialState.WAITING), *failed]

    def _repeats(self, number: int, values: Values) -> bool:
        earlier = (each for each in self._kept() if each.number < number and each.params)
        return any(snapped(self.plan.entries, each.params) == values for each in earlier)

    def _is_surplus(self, trial: Trial) -> bool:
        """Whether, of workers on several machines that each took a last trial, another was first."""
        return sum(each.number < trial.number for each in self._counted()) >= self.plan.trials

    def _tell_result(self, number: int) -> None:
        trial = self._trial(number)
        if trial.user_attrs.get(AS_IT_STANDS) and not trial.params:  # outside the space, so none of its trials
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self.study.tell(number, trial.user_attrs[RESULT]["value"], skip_if_finished=True)

    def _recover(self) -> None:
        """End the trials whose workers are gone: with what they had found, or to be done again."""
        for trial in self.trials(TrialState.RUNNING):  # first of all: what is found is not to be stale
            if RESULT in trial.user_attrs and trial.number not in self._own:
                self._tell_result(trial.number)
        optuna.storages.fail_stale_trials(self.study)
        for trial in self.trials(TrialState.RUNNING):
            if self._is_lost(trial):
                self._put_back(self.study, trial)
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.recovered.append(trial.number)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if trial.number in self._own:
            return False
        if worker is None:  # killed before it wrote its name; on this machine, that takes the lock that we hold
            started = trial.datetime_start
            return self.place.address is None or is_old(started.timestamp() if started else None)
        return bool(self.worker.is_gone(str(worker)))

    def _put_back(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Have the values of a trial wait to be tried again; nothing where they do already."""
        if any(each.user_attrs.get(RETRY_OF) == trial.number for each in study.get_trials(deepcopy=False)):
            return
        attrs = {RETRY_OF: trial.number}
        if trial.user_attrs.get(AS_IT_STANDS):
            self._add_start(**attrs)
        elif fixed := trial.system_attrs.get("fixed_params"):
            study.enqueue_trial(fixed, user_attrs=attrs)
        elif trial.params:
            study.add_trial(
                create_trial(
                    state=TrialState.WAITING,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs=attrs,
                )
            )
