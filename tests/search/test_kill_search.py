"""`stages.search` as processes: killed at moments drawn by a seed, and several workers at once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.support import forked
from tests.support.searched import make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KILLS, TRIALS = 10, 20
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Searched:
    """A project and the processes that search in it."""

    def __init__(self, folder: Path, **search: object):
        self.folder = make_project(folder)
        raw = yaml.safe_load((folder / "params.yaml").read_text())
        raw["search"] |= search
        (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))

    def start(self) -> forked.Process:
        hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"PIPELINE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        return forked.Process(self.folder, ["stages.search", "depth"], environment, self.folder / "search.log")

    def said(self) -> str:
        return (self.folder / "search.log").read_text()

    @property
    def journal(self) -> Path | None:
        return next(iter(self.folder.glob(".runs/search/*/journal.log")), None)

    def lines(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal else 0

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        if self.journal is None or not self.lines():
            return []
        storage = JournalStorage(JournalFileBackend(str(self.journal)))
        return optuna.load_study(study_name="tiny/depth", storage=storage).trials

    def finished(self) -> dict[int, tuple]:
        """{number: what is known of it} of trials that ended."""
        return {
            each.number: (each.state, tuple(each.params.items()), each.value, tuple(each.intermediate_values.items()))
            for each in self.trials()
            if each.state in DONE
        }

    def runs(self) -> list:
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        return client.search_runs([each.experiment_id for each in client.search_experiments()])


def test_kills_lose_no_finished_trial_and_repeat_none(tmp_path):
    project, draw = Searched(tmp_path, trials=TRIALS), random.Random(0)
    known: dict[int, tuple] = {}
    killed_running = 0
    for _ in range(KILLS):
        process = project.start()
        moment = project.lines() + draw.randint(1, 14)  # a trial writes about ten lines
        while project.lines() < moment and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.choice((0.0, 0.0, draw.uniform(0, 1))))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = project.finished()
        assert {number: found.get(number) for number in known} == known, "what was finished is as it was"
        known = found
        killed_running += any(each.state is TrialState.RUNNING for each in project.trials())
    assert killed_running >= KILLS // 2 and len(known) < TRIALS, "kills that met trials, and before the end"

    last = project.start()
    assert last.wait() == 0, project.said()
    found = project.finished()
    assert {number: found.get(number) for number in known} == known
    assert len(found) == TRIALS
    params = [values[1] for values in found.values()]
    assert len(set(params)) == TRIALS, "none is done twice"
    states = [each.state for each in project.trials()]
    assert TrialState.RUNNING not in states and TrialState.WAITING not in states
    retried = {each.user_attrs["retry_of"]: each for each in project.trials() if "retry_of" in each.user_attrs}
    assert retried
    for number, again in retried.items():
        before = project.trials()[number]
        assert before.state is TrialState.FAIL and before.params.items() <= again.params.items()
    assert not [run.info.run_name for run in project.runs() if run.info.status == "RUNNING"]
    [study] = [run for run in project.runs() if "search_kind" in run.data.tags]
    children = [run for run in project.runs() if "search_trial" in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {study.info.run_id}
    ended = {int(run.data.tags["search_trial"]): run.info.status for run in children}
    assert {ended[number] for number in found} == {"FINISHED"}
    assert "Traceback" not in project.said()


def test_two_workers_share_a_study(tmp_path):
    project = Searched(tmp_path, trials=10, budget=1)
    (tmp_path / "mlflow.db").unlink()  # they make it, too
    workers = [project.start(), project.start()]
    assert [each.wait() for each in workers] == [0, 0], project.said()
    found = [each for each in project.trials() if each.state in DONE]
    assert len(found) == 10 and len({tuple(each.params.items()) for each in found}) == 10
    assert {each.user_attrs["worker"] for each in found} == {"worker-0.lock", "worker-1.lock"}
    assert len([run for run in project.runs() if "search_kind" in run.data.tags]) == 1
    assert {run.info.status for run in project.runs()} == {"FINISHED"}


def test_a_request_to_end_puts_the_trial_back(tmp_path):
    project = Searched(tmp_path, trials=4)
    process = project.start()
    while not any(each.state is TrialState.RUNNING and each.params for each in project.trials()):
        assert process.poll() is None, project.said()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130, project.said()
    states = [each.state for each in project.trials()]
    assert TrialState.RUNNING not in states and states.count(TrialState.WAITING) <= 1
    assert "Traceback" not in project.said()
