"""What is drawn for a trial, and the params that it trains with."""

from __future__ import annotations

import random

import optuna
import pytest

from pipeline.core.errors import ParamsError
from pipeline.params.load import parse_params
from pipeline.params.schema import Params
from pipeline.params.search_rules import entries_of
from pipeline.search.space import current_values, distributions, is_same, size, suggest, trial_params, untried
from pipeline.search.summary import most_epochs
from tests.support.params_tree import some_params


def searching(space: dict, **search: object) -> Params:
    raw = some_params()
    raw["search"] = {"space": space, **search}
    return parse_params(raw)


SPACE = {
    "training.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "training.batch_size": {"low": 2, "high": 8, "step": 2},
    "training.augmentation.flip": {"low": 0.0, "high": 0.5, "step": 0.25},
    "training.clip_norm": [None, 1.0],
    "options.att": [True, False],
}


def test_what_is_proposed_lies_in_the_space_and_has_the_types_of_params():
    params = searching(SPACE)
    entries = entries_of(params, "both")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [suggest(study.ask(), entries) for _ in range(50)]
    assert {each["training.batch_size"] for each in seen} == {2, 4, 6, 8}
    assert {each["training.augmentation.flip"] for each in seen} == {0.0, 0.25, 0.5}
    assert {each["training.clip_norm"] for each in seen} == {None, 1.0}
    assert all(1e-4 <= each["training.lr"] <= 1e-2 for each in seen)
    assert all(type(each["options.att"]) is bool for each in seen)
    for values in seen[:5]:
        run = trial_params(params, "both", values).run("both")
        assert (run.training.lr, run.training.batch_size) == (values["training.lr"], values["training.batch_size"])
        assert run.training.augmentation.flip == values["training.augmentation.flip"]
        assert run.options == {"ctam_reduction": "per_task", "att": values["options.att"]}


def test_a_trial_trains_its_run_with_the_budget_and_a_tenth_kept_out():
    params = searching({"training.lr": [1e-3, 1e-2]}, budget=2)
    trial = trial_params(params, "both", {"training.lr": 1e-2})
    before, after = params.run("both"), trial.run("both")
    assert (trial.evaluation.select_on, after.training.epochs, after.training.validate_every) == ("train_holdout", 2, 1)
    same = {"epochs", "validate_every", "lr"}
    assert before.training.model_dump(exclude=same) == after.training.model_dump(exclude=same)
    assert before.model_dump(exclude={"training"}) == after.model_dump(exclude={"training"})
    assert list(trial.runs) == ["both"]


def test_values_that_exclude_each_other_are_refused():
    params = searching({"training.batch_size": [4, 6], "training.accumulate": [1, 4]})
    with pytest.raises(ParamsError, match=r"a trial of both: .*accumulate: 4 equal parts of batch_size 6"):
        trial_params(params, "both", {"training.batch_size": 6, "training.accumulate": 4})


def test_a_run_as_it_stands_may_lie_outside():
    params = searching({"training.lr": [1e-4, 1e-3], "options.fpma_mask": ["channels", "tasks"]})
    assert current_values(params, "both", entries_of(params, "both")) == {
        "training.lr": 1e-4,
        "options.fpma_mask": "channels",  # the default
    }
    params = searching({"training.lr": {"low": 2e-4, "high": 1e-3}})
    assert current_values(params, "both", entries_of(params, "both")) is None
    params = searching({"training.batch_size": {"low": 3, "high": 9, "step": 3}})
    assert current_values(params, "both", entries_of(params, "both")) is None


def test_whole_choices_and_defaults_are_what_the_run_has():
    """Numbers are the same by their size: weight 2 of params is 2.0; true is no number."""
    params = searching({"training.task_weights.depth": [1, 2], "options.fpma_mask": ["channels", "tasks"]})
    entries = entries_of(params, "both")
    assert current_values(params, "both", entries) == {
        "training.task_weights.depth": 2,
        "options.fpma_mask": "channels",
    }
    assert is_same(1, 1.0) and not is_same(True, 1) and not is_same("1", 1) and is_same(None, None)


def test_combinations_are_counted_and_the_last_is_found():
    entries = entries_of(searching({key: SPACE[key] for key in SPACE if key != "training.lr"}), "both")
    assert size(entries) == 4 * 3 * 2 * 2
    rng, tried = random.Random(0), []
    while (values := untried(entries, tried, rng)) is not None:
        assert values not in tried
        tried.append(values)
    assert len(tried) == size(entries)
    endless = entries_of(searching(SPACE), "both")
    assert size(endless) is None
    values = untried(endless, tried, rng)
    assert all(distributions(endless)[key]._contains(distributions(endless)[key].to_internal_repr(value))
               for key, value in values.items())  # fmt: skip


def test_a_range_has_as_many_values_as_three_digits_can_write():
    """Drawn without end, the last ones would be looked for for ever."""
    entries = entries_of(searching({"training.lr": {"low": 1.0e-3, "high": 1.035e-3}}), "both")
    rng, tried = random.Random(0), []
    while (values := untried(entries, tried, rng)) is not None:
        assert values not in tried
        tried.append(values)
    assert sorted(each["training.lr"] for each in tried) == [0.001, 0.00101, 0.00102, 0.00103]


def test_how_long_trials_are_at_most():
    """Of the study, not of what the run has today: applying the best number of epochs changes that."""
    assert most_epochs(searching({"training.lr": [1e-4, 1e-3]}), "both") == 3
    assert most_epochs(searching({"training.lr": [1e-4, 1e-3]}, budget=1), "both") == 1
    assert most_epochs(searching({"training.epochs": [1, 5, 3]}), "both") == 5
    assert most_epochs(searching({"training.epochs": {"low": 1, "high": 10}}), "both") == 10
