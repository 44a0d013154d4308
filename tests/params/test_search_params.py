"""The section `search` of params.yaml: what it takes, and that each wrong value is named with what is allowed."""

from __future__ import annotations

import pytest

from pipeline.params.load import parse_params
from pipeline.params.search_rules import entries_of
from pipeline.search.space import current_values, trial_params
from tests.support.params_tree import message, put, some_params


def with_search(**search: object) -> dict:
    raw = some_params()
    raw["search"] = search
    return raw


def test_ranges_choices_and_numbers_as_text():
    space = parse_params(
        with_search(
            space={
                "training.lr": {"low": "1e-4", "high": 1e-2, "log": True},  # YAML 1.1 reads 1e-4 as text
                "training.batch_size": {"low": 2, "high": 8, "step": 2},
                "training.clip_norm": [None, "1e0"],
                "options.att": [True, False],
            }
        )
    ).search.space
    lr, size = space["training.lr"], space["training.batch_size"]
    assert (lr.low, lr.high, lr.log, lr.whole) == (1e-4, 1e-2, True, False)
    assert (size.low, size.high, size.step, size.whole) == (2, 8, 2, True)
    assert (space["training.clip_norm"], space["options.att"]) == ((None, 1.0), (True, False))


def test_without_the_section_nothing_is_searched():
    search = parse_params(some_params()).search
    assert (search.space, search.trials, search.budget, search.objective) == ({}, 20, None, "relative_gain")


def test_a_run_has_the_part_of_the_space_that_it_can_use():
    raw = with_search(
        space={"training.lr": [1, 2], "training.task_weights.depth": [1, 2], "options.att": [True, False]}
    )
    params = parse_params(raw)
    assert list(entries_of(params, "depth")) == ["training.lr"]
    assert list(entries_of(params, "both")) == ["training.lr", "training.task_weights.depth", "options.att"]


def test_balancing_is_searched_in_runs_of_several_tasks():
    raw = with_search(space={"balancing.c": {"low": 0.1, "high": 0.9}})
    raw["runs"]["both"]["balancing"] = {"method": "cagrad", "c": 0.4}
    params = parse_params(raw)
    assert entries_of(params, "depth") == {} and list(entries_of(params, "both")) == ["balancing.c"]
    assert current_values(params, "both", {"balancing.c": entries_of(params, "both")["balancing.c"]}) == {
        "balancing.c": 0.4
    }
    tried = trial_params(params, "both", {"balancing.c": 0.7}).run("both").balancing
    assert (tried.method, tried.options) == ("cagrad", {"c": 0.7})
    raw["search"]["space"]["balancing.c"]["low"] = -1
    assert "search.space.balancing.c: got -1; c of cagrad must be a number of at least 0" in message(raw)


@pytest.mark.parametrize(
    ("balancing", "space", "said"),
    [
        ({"method": "cagrad", "c": 0.4}, {}, "run both has options of cagrad, which other methods don't take"),
        ({"method": "cagrad"}, {"balancing.c": [0.1, 0.2]}, "balancing.c is an option of one method alone; search the"),
        ({}, {}, "run both can't be balanced by sdmgrad: training.accumulate: got 1"),
    ],
)
def test_methods_are_searched_where_each_can_train(balancing, space, said):
    raw = with_search(space={"balancing.method": ["cagrad", "sdmgrad"], **space})
    raw["runs"]["both"]["balancing"] = balancing
    assert said in message(raw)
    raw["runs"]["both"]["balancing"] = {}
    raw["search"]["space"] = {"balancing.method": ["fixed", "sdmgrad"], "training.accumulate": [2, 4]}
    assert list(entries_of(parse_params(raw), "both")) == ["balancing.method", "training.accumulate"]


LIST = "must be a list of choices, such as [a, b], or {low: a, high: b}, with log: true or step: c if wanted"
SPACES = {
    "no range": ({"training.lr": 3}, f"training.lr: got 3; {LIST}"),
    "one choice": ({"training.lr": [1]}, "training.lr: got [1]; must be two or more different choices"),
    "the same twice": ({"training.lr": [1, 1]}, "training.lr: got [1, 1]; must be two or more different choices"),
    "a list as choice": ({"training.lr": [[1], 2]}, "training.lr: got [1] among the choices; each must be one value"),
    "half a range": ({"training.lr": {"low": 1}}, "training.lr.high: missing; it must be given"),
    "a range of text": ({"training.lr": {"low": "x", "high": 2}}, "training.lr: got low 'x'; must be a number"),
    "a typo in a range": ({"training.lr": {"low": 1, "high": 2, "stp": 1}}, "did you mean training.lr.step?"),
    "upside down": ({"training.lr": {"low": 2, "high": 1}}, "training.lr: low 2 must be less than high 1"),
    "log of nothing": ({"training.lr": {"low": 0, "high": 1, "log": True}}, "got low 0; must be above 0 where log is"),
    "log in steps": ({"training.lr": {"low": 1, "high": 2, "log": True, "step": 1}}, "log: true and step exclude"),
    "a step beyond": ({"training.lr": {"low": 1, "high": 2, "step": 0.3}}, "got step 0.3; must divide high - low, 1"),
    "what training refuses": ({"training.lr": {"low": -1, "high": 1}}, "search.space.training.lr: got -1; must be gr"),
    "fractions of images": ({"training.batch_size": {"low": 2.0, "high": 9.0}}, "must be a whole number"),
    "a choice refused": ({"training.optimizer": ["adam", "adamm"]}, "got 'adamm'; must be 'adam', 'adamw' or 'sgd'"),
    "a typo": (
        {"training.lrr": [1, 2]},
        "search.space.training.lrr: unknown key; did you mean search.space.training.l",
    ),
    "no section": ({"lr": [1, 2]}, "search.space.lr: unknown key; it must begin with training., options. or"),
    "no method": (
        {"balancing.method": ["uw", "ux"]},
        "search.space.balancing.method: got 'ux'; must be a list of fixed, uw",
    ),
    "no such option": ({"balancing.d": [1, 2]}, "balancing.d: unknown option of these runs' balancing 'd'"),
    "an option's typo": ({"options.fpma_mas": [1, 2]}, "'fpma_mas'; did you mean 'fpma_mask'? Allowed: head, ctam_red"),
    "an option's range": ({"options.fpma_mask": {"low": 1, "high": 2}}, "sequential_attention has 'channels', 'tasks'"),
    "an option's value": ({"options.fpma_mask": ["channels", "x"]}, "got 'x'; sequential_attention has 'channels', 't"),
    "one for true": ({"options.att": [1, False]}, "got 1; sequential_attention has true, false"),
    "a task of none": ({"training.task_weights.sal": [1, 2]}, "none of the runs has several tasks with this one among"),
    "what decides the scoring": ({"training.validate_every": [1, 2]}, "training.validate_every: can't be searched"),
    "no space": (5, "search.space: got 5; must be keys and values, such as {training.lr: {low: 1.0e-4"),
}


@pytest.mark.parametrize("kind", SPACES)
def test_a_wrong_space_is_named_with_what_is_allowed(kind: str):
    space, said = SPACES[kind]
    assert said in message(with_search(space=space))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trials", 0, "search.trials: got 0; must be greater than or equal to 1"),
        ("budget", 0, "search.budget: got 0; must be greater than or equal to 1"),
        ("objective", "depht", "search.objective: unknown objective 'depht'; did you mean 'depth'?"),
        ("objective", "normals", "search.objective: got 'normals'; must be one of relative_gain, semseg, depth, edge"),
        ("storage", "abc", "search.storage: got 'abc'; must be null, or a database's address such as postgresql"),
        ("seed", 1.5, "search.seed: got 1.5; must be a whole number in plain digits"),
        ("study", "", "search.study: got ''; must be text"),
        ("trails", 3, "search.trails: unknown key; did you mean search.trials?"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(key: str, value: object, said: str):
    assert said in message(with_search(**{key: value}))


def test_epochs_come_from_the_space_or_from_the_budget():
    raw = with_search(space={"training.epochs": [1, 2]})
    parse_params(raw)
    put(raw, "search.budget", 3)
    assert "search.space.training.epochs: search.budget 3 says how many; set that to null, or take" in message(raw)
