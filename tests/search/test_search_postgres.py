"""A study on PostgreSQL that two machines share; here two projects, whose locks tell each other nothing."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.core.errors import SearchError
from pipeline.search import storage
from pipeline.search.storage import Place, heartbeat, translate_storage_errors
from pipeline.search.study import SharedStudy
from tests.search.test_study import gone, plan, values_of
from tests.support.postgres import NEEDS_POSTGRES, running_postgres

pytestmark = [pytest.mark.slow, *NEEDS_POSTGRES]


@pytest.fixture
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def machines(postgres, tmp_path):
    """The study as seen from two machines."""
    return [Place("experiment/run", postgres.uri, tmp_path / name) for name in ("one", "other")]


def test_machines_share_trials_and_propose_different_values(machines):
    first, second = (SharedStudy(place, plan(trials=12)) for place in machines)
    found = [*values_of(first, 4), *values_of(second, 4), *values_of(first, 2), *values_of(second, 2)]
    assert len({each["training.lr"] for each in found}) == 12
    assert first.next_trial() is None and second.next_trial() is None
    assert first.worker.name != second.worker.name


def test_of_workers_that_take_a_last_trial_at_once_one_gets_it(machines):
    studies = [SharedStudy(machines[i % 2], plan(trials=6)) for i in range(2)]
    values_of(studies[0], 5)
    gate, handed = threading.Barrier(2), []

    def take(study: SharedStudy) -> None:
        gate.wait()
        handed.append(study.next_trial())

    threads = [threading.Thread(target=take, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in handed) == 1


def test_a_machine_that_is_gone_is_noticed_by_the_heartbeat(machines, monkeypatch):
    monkeypatch.setattr(storage, "_BEAT_SECONDS", 1)
    monkeypatch.setattr(storage, "_STALE_SECONDS", 3)
    first, second = (SharedStudy(place, plan(trials=5)) for place in machines)
    values_of(first, 1)
    trial, values = first.next_trial()
    with heartbeat(first.storage, trial._trial_id):
        time.sleep(5)
        assert second.next_trial()[1] != values, "it lives"
    gone(first)
    time.sleep(5)
    again, same = second.next_trial()
    assert same == values and again.number > trial.number


def test_a_database_that_stops_is_said_in_one_line(machines, postgres):
    study = SharedStudy(machines[0], plan())
    values_of(study, 1)
    postgres.stop()
    said = r"can't be used: .* finished trials are kept"
    with pytest.raises(SearchError, match=said) as caught, translate_storage_errors(machines[0]):
        study.next_trial()
    assert "\n" not in str(caught.value)
    postgres.start()
    with pytest.raises(SearchError, match="can't be used"), translate_storage_errors(machines[0]):
        SharedStudy(Place("x", postgres.uri.replace("/postgres", "/nothing"), machines[0].folder), plan())
    study.close()
    assert SharedStudy(machines[0], plan()).done() == 1
