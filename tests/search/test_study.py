"""A study that workers share, without trainings: what is handed out, what a kill leaves, what is refused."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.core.errors import SearchError
from pipeline.core.provenance import Inputs
from pipeline.params.search import Range
from pipeline.search.plan import Plan
from pipeline.search.storage import Place, Worker
from pipeline.search.study import AS_IT_STANDS, RESULT, WORKER, SharedStudy

LR = {"training.lr": Range(low=1e-4, high=1e-2, log=True)}
TWO = {"training.optimizer": ("adam", "sgd")}


in_both = pytest.mark.parametrize("place", [None, pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True)


def plan(entries=LR, trials=8, seed=0, maximize=True, start=None, waits=False, **inputs: str) -> Plan:
    return Plan(entries, trials, seed, maximize, waits, Inputs({"data": "d", **inputs}), start or {}, start)


@pytest.fixture
def place(in_tmp: Path, request: pytest.FixtureRequest) -> Place:
    """In a journal; for tests `in_both`, in a database too."""
    address = f"sqlite:///{in_tmp}/search.db" if getattr(request, "param", None) else None
    return Place.of("experiment/run", address, "run")


def values_of(study: SharedStudy, count: int) -> list[dict]:
    """Finish `count` trials; their values, without the run as it stands."""
    found = []
    while len(found) < count:
        trial, values = study.next_trial()
        study.finish(trial, 0.0 if not values else values["training.lr"], {"scores": {"depth": 1.0}, "epoch": 1})
        if values:
            found.append(values)
    return found


def gone(study: SharedStudy) -> None:
    """As a kill leaves it: the system takes the lock back, nothing else happens."""
    study.close()


@in_both
def test_a_worker_that_comes_later_proposes_other_values(place):
    first = SharedStudy(place, plan(trials=20))
    before = values_of(first, 3)
    first.close()
    second = SharedStudy(place, plan(trials=20))
    third = SharedStudy(place, plan(trials=20))
    after = [*values_of(second, 3), *values_of(third, 3)]
    assert len({each["training.lr"] for each in (*before, *after)}) == 9


def test_one_worker_alone_is_reproducible_by_its_seed(in_tmp):
    def proposed(name: str, seed: int) -> list[dict]:
        study = SharedStudy(Place.of(name, None, "run"), plan(seed=seed))
        try:
            return values_of(study, 3)
        finally:
            study.close()

    assert proposed("a", 0) == proposed("b", 0) != proposed("c", 1)


def test_the_run_as_it_stands_comes_first(place):
    study = SharedStudy(place, plan(start={"training.lr": 1e-3}))
    trial, values = study.next_trial()
    assert values == {} and trial.number == 0
    study.finish(trial, 0.0, {"scores": {}, "epoch": 1})
    assert study.as_it_stands().params == {"training.lr": 1e-3} and study.done() == 1


@in_both
def test_of_two_that_began_a_study_at_once_one_trains_the_run_as_it_stands(place):
    study = SharedStudy(place, plan(waits=True))
    study._add_start()  # as the other did, on a machine whose lock is another
    trial, values = study.next_trial()
    assert (trial.number, values) == (0, {})
    study.finish(trial, 0.0, {"scores": {"depth": 1.0}, "epoch": 1})
    assert study.next_trial()[1]
    assert study.trials()[1].state is TrialState.FAIL


def test_outside_the_space_it_is_none_of_the_trials(place):
    study = SharedStudy(place, plan(trials=2))
    values_of(study, 2)
    assert study.next_trial() is None
    assert study.done() == 2 and study.as_it_stands().state is TrialState.FAIL


@in_both
def test_trials_are_the_total_over_all_workers(place):
    workers = [SharedStudy(place, plan(trials=7)) for _ in range(3)]
    held = []
    while round_ := [(worker, handed) for worker in workers if (handed := worker.next_trial()) is not None]:
        held += round_
        assert len(held) < 20
    for worker, (trial, _) in held:
        worker.finish(trial, 0.0, {"scores": {}, "epoch": 1})
    numbers = [trial.number for _, (trial, _) in held]
    assert len(numbers) == len(set(numbers)) == 8, "and the run as it stands, outside"
    assert all(worker.next_trial() is None for worker in workers)


def test_others_wait_for_what_they_are_compared_with(place):
    first, second = SharedStudy(place, plan(waits=True)), SharedStudy(place, plan(waits=True))
    trial, _ = first.next_trial()
    assert "another worker trains the run as it stands" in second.next_trial()
    first.finish(trial, 0.0, {"scores": {"depth": 1.0}, "epoch": 1})
    assert second.next_trial()[1]


def test_a_comparison_that_failed_is_said_at_once(place):
    first, second = SharedStudy(place, plan(waits=True)), SharedStudy(place, plan(waits=True))
    trial, _ = first.next_trial()
    first.prune(trial, "diverged: the loss of depth is nan")
    with pytest.raises(SearchError, match=r"could not be trained.*the loss of depth is nan.*one task; then --restart"):
        second.next_trial()


@in_both
def test_what_a_killed_worker_left_is_tried_again_with_the_same_values(place):
    first = SharedStudy(place, plan(trials=3))
    values_of(first, 1)
    trial, values = first.next_trial()
    second = SharedStudy(place, plan(trials=3))
    assert second.next_trial()[1] != values, "while the first lives, its trial is its own"
    gone(first)
    again, same = second.next_trial()
    assert same == values and again.number != trial.number and second.recovered == [trial.number]
    second.finish(again, 1.0, {"scores": {}, "epoch": 1})
    assert second.next_trial() is None
    assert [each.state for each in second.trials()].count(TrialState.COMPLETE) == 2


def test_the_run_as_it_stands_is_tried_again_too(place):
    first = SharedStudy(place, plan(start={"training.lr": 1e-3}, waits=True))
    first.next_trial()
    gone(first)
    trial, values = (second := SharedStudy(place, plan(start={"training.lr": 1e-3}, waits=True))).next_trial()
    assert values == {} and trial.number == 1 and trial.user_attrs[AS_IT_STANDS]
    second.finish(trial, 0.0, {"scores": {}, "epoch": 1})
    assert second.as_it_stands().number == 1


@in_both
def test_what_was_found_before_a_kill_is_not_lost(place):
    first = SharedStudy(place, plan(trials=2))
    values_of(first, 1)
    trial, _ = first.next_trial()
    trial.set_user_attr(RESULT, {"value": 5.0, "scores": {}, "epoch": 1})  # killed before Optuna marked it complete
    gone(first)
    second = SharedStudy(place, plan(trials=2))
    assert second.next_trial() is None
    assert second.trials(TrialState.COMPLETE)[-1].value == 5.0


def test_a_kill_before_a_worker_wrote_its_name(in_tmp):
    place = Place.of("experiment/run", None, "run")
    first = SharedStudy(place, plan(trials=2))
    values_of(first, 1)
    first.study.ask()
    gone(first)
    second = SharedStudy(place, plan(trials=2))
    assert len(values_of(second, 1)) == 1
    assert second.next_trial() is None


@in_both
def test_an_interrupted_trial_waits_for_the_next_worker(place):
    first = SharedStudy(place, plan())
    values_of(first, 1)
    _, values = first.next_trial()
    first.put_back()
    first.put_back()  # once
    second = SharedStudy(place, plan())
    assert second.next_trial()[1] == values
    assert second.next_trial()[1] != values


@in_both
def test_no_combination_is_tried_twice_and_the_study_ends_when_all_are(place):
    study = SharedStudy(place, plan(TWO, trials=50))
    found = []
    while (handed := study.next_trial()) is not None:
        found.append(handed[1])
        study.finish(handed[0], 0.0, {"scores": {}, "epoch": 1})
    assert sorted(each["training.optimizer"] for each in found if each) == ["adam", "sgd"]


def test_a_trial_that_met_a_fault_is_not_tried_again_by_itself(place):
    study = SharedStudy(place, plan(trials=3))
    values_of(study, 1)
    trial, values = study.next_trial()
    study.fail(trial, "RuntimeError: x")
    assert values not in values_of(study, 2)


def test_a_choice_that_met_a_fault_does_not_come_back(place):
    study = SharedStudy(place, plan(TWO, trials=9))
    values_of(study, 0)
    study.finish(study.next_trial()[0], 0.0, {"scores": {}, "epoch": 1})
    trial, values = study.next_trial()
    study.fail(trial, "RuntimeError: x")
    later = SharedStudy(place, plan(TWO, trials=9))
    trial, others = later.next_trial()
    assert others != values
    later.finish(trial, 0.0, {"scores": {}, "epoch": 1})
    assert later.next_trial() is None


def test_a_result_that_is_there_when_a_worker_is_interrupted_counts(place):
    study = SharedStudy(place, plan(trials=2))
    values_of(study, 1)
    trial, _ = study.next_trial()
    trial.set_user_attr(RESULT, {"value": 5.0, "scores": {}, "epoch": 1})
    study.put_back()
    assert study.trials(TrialState.COMPLETE)[-1].value == 5.0 and not study.trials(TrialState.WAITING)


def test_a_trial_that_waits_and_that_nobody_asks_for_any_more_holds_nothing_up(place):
    """After an interrupt, with fewer trials than before."""
    first = SharedStudy(place, plan(trials=5))
    values_of(first, 2)
    first.next_trial()
    first.put_back()
    assert not first.is_alone()
    first.close()
    second = SharedStudy(place, plan(trials=2))
    assert second.next_trial() is None and second.is_alone()


@in_both
def test_steps_are_tried_as_one_writes_them(place):
    """0.1 and 0.2 make 0.30000000000000004: that is 0.3, and no other value."""
    key = "training.augmentation.flip"
    entries = {key: Range(low=0.0, high=0.5, step=0.1)}
    study = SharedStudy(place, plan(entries, trials=50, start={key: 0.3}))
    found = [0.3]
    while (handed := study.next_trial()) is not None:
        found += handed[1].values()
        study.finish(handed[0], 0.0, {"scores": {}, "epoch": 1})
    assert sorted(found) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_two_machines_of_one_name_and_path_tell_each_other_apart(in_tmp, monkeypatch):
    """As containers have: each its own disk, one database."""
    names = []
    for machine in ("a", "b"):
        folder = in_tmp / machine
        monkeypatch.setattr("pipeline.core.paths.search_folder", lambda name, to=folder: to / name)
        monkeypatch.setattr("platform.node", lambda: "trainer")
        worker = Worker(Place.of("experiment/run", f"sqlite:///{in_tmp}/search.db", "run"))
        names.append(worker.name)
        worker.close()
    assert names[0] != names[1] and all(name.startswith("trainer:") for name in names)


# -- what is refused -----------------------------------------------------------------------------------------


@in_both
def test_another_direction_is_refused(place):
    SharedStudy(place, plan()).close()
    with pytest.raises(SearchError, match=r"is to maximize its value, params ask to minimize it: give another name in"):
        SharedStudy(place, plan(maximize=False))


@in_both
def test_other_inputs_are_refused_by_name(place):
    before = plan(**{"space training.lr": "1", "file a.py": "a" * 64, "search.budget": "3"})
    SharedStudy(place, before).close()
    with pytest.raises(SearchError) as caught:
        SharedStudy(place, plan(**{"space training.lr": "2", "file a.py": "b" * 64}))
    assert str(caught.value).splitlines() == [
        f"{place} is about other trials than params and code make now:",
        "  file a.py: aaaaaaaa -> bbbbbbbb",
        "  search.budget: 3 -> nothing",
        "  space training.lr: 1 -> 2",
        "give another name in search.study, or remove this study by --restart",
    ]
    study = SharedStudy(place, plan(), restart=True)
    assert not study.done() and len(study.trials()) == 1


@in_both
def test_a_study_is_not_removed_under_another_worker(place):
    study = SharedStudy(place, plan())
    with pytest.raises(SearchError, match="1 other worker uses it, so it can't be removed; end them first"):
        SharedStudy(place, plan(), restart=True)
    study.close()
    SharedStudy(place, plan(), restart=True)


def test_a_study_of_other_hands_is_refused(in_tmp):
    address = f"sqlite:///{in_tmp}/search.db"
    study = optuna.create_study(study_name="experiment/run", storage=address, direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(SearchError, match="was not begun by this command: give another name"):
        SharedStudy(Place.of("experiment/run", address, "run"), plan())


@pytest.mark.parametrize("content", ["no json\n{}\n", '{"op_code": 99, "worker_id": "x"}\n', "[]\n", '{"a": 1}\n'])
def test_a_damaged_journal_is_said_in_one_line(in_tmp, content):
    place = Place.of("experiment/run", None, "run")
    place.folder.mkdir(parents=True)
    place.journal.write_text(content)
    with pytest.raises(
        SearchError, match=r"^study experiment/run in .runs/search/run-\w+/journal.log is damaged .*--res"
    ):
        SharedStudy(place, plan())
    SharedStudy(place, plan(), restart=True)


def test_a_line_that_a_crash_cut_off_is_dropped(in_tmp):
    place = Place.of("experiment/run", None, "run")
    first = SharedStudy(place, plan())
    values_of(first, 2)
    first.close()
    with place.journal.open("a") as file:
        file.write('{"op_code": 4, "worker_id": "x", "stu')
    second = SharedStudy(place, plan())
    assert second.done() == 2
    values_of(second, 1)
    assert second.done() == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:////nowhere/at/all.db", "can't be used: unable to open database file. Correct search.storage"),
        ("oracle://user:secret@127.0.0.1/x", r"in oracle://user:\*\*\*@127.0.0.1/x can't be opened: its driver is not"),
        ("nonsense://x", "can't be used: .*nonsense"),
    ],
)
def test_a_database_that_can_not_be_used_is_said_in_one_line(in_tmp, address, said):
    with pytest.raises(SearchError, match=said) as caught:
        SharedStudy(Place.of("experiment/run", address, "run"), plan())
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_workers_of_other_machines_are_left_to_the_heartbeat(in_tmp):
    address = f"sqlite:///{in_tmp}/search.db"
    place = Place.of("experiment/run", address, "run")
    study = SharedStudy(place, plan())
    values_of(study, 1)
    trial, values = study.next_trial()
    trial.set_user_attr(WORKER, "elsewhere:/home:worker-0.lock")
    gone(study)
    again = SharedStudy(place, plan())
    assert again.next_trial()[1] != values
    assert again.worker.is_gone("elsewhere:/home:worker-0.lock") is None


def test_workers_have_numbers_of_their_own(in_tmp):
    place = Place.of("experiment/run", None, "run")
    first, second = Worker(place), Worker(place)
    assert (first.name, second.name, first.others()) == ("worker-0.lock", "worker-1.lock", 1)
    second.close()
    assert (first.others(), Worker(place).number) == (0, 1)
