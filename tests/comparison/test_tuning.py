"""What `tuned` of params says of runs and their baselines."""

from __future__ import annotations

import pytest

from pipeline.comparison.tuning import add_tuning
from pipeline.params.load import parse_params
from pipeline.results.comparison import Comparison, RunFacts, Score, Tuning
from stages.check import warnings

RECIPE = {"backbone": "net", "input_size": [64, 64], "batch_size": 4, "epochs": 2, "lr": 1e-3, "weight_decay": 0.0}
FOUND = {"trials": 12, "epochs": 2, "values": {"training.lr": 1e-3, "training.weight_decay": 0.0}}
TUNING = Tuning(12, 2, ["training.lr", "training.weight_decay"])


def raw(tuned: dict, **training: object) -> dict:
    return {
        "data": {"dataset": "rooms", "tasks": ["semseg", "depth"]},
        "training": RECIPE,
        "seeds": [0],
        "runs": {
            "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
            "depth": {"architecture": "single_task", "tasks": ["depth"]},
            "both": {"architecture": "multi_task", "tasks": ["semseg", "depth"], "training": training},
        },
        "tuned": tuned,
    }


def compared(tuned: dict, **training: object) -> Comparison:
    """The comparison of the three runs, with what is said of their tuning."""
    params = parse_params(raw(tuned, **training))
    alone = {task: {task: Score("m", True, 1.0, None, 1)} for task in ("semseg", "depth")}
    pair = {task: Score("m", True, 1.0, None, 1, task, 1.0, 0.0) for task in ("semseg", "depth")}
    runs = {name: RunFacts(run.architecture, "net", 1, 1, 1) for name, run in params.runs.items()}
    return add_tuning(Comparison({}, {**alone, "both": pair}, runs, [], [], ["first"]), params)


def test_runs_tuned_alike_need_no_caveat():
    delta = compared(dict.fromkeys(("semseg", "depth", "both"), FOUND))
    assert {name: facts.tuning for name, facts in delta.runs.items()} == dict.fromkeys(delta.runs, TUNING)
    assert delta.caveats == ["first"]


def test_nothing_tuned_is_no_caveat_either():
    delta = compared({})
    assert {facts.tuning for facts in delta.runs.values()} == {None} and delta.caveats == ["first"]


@pytest.mark.parametrize(
    ("tuned", "says"),
    [
        (
            {"both": FOUND},
            ["tuned by 12 trials of 2 epochs over training.lr, training.weight_decay against no trials"] * 2,
        ),
        (
            {"semseg": FOUND, "depth": FOUND | {"trials": 4}, "both": FOUND},
            ["training.weight_decay against 4 trials of 2 epochs over"],
        ),
        ({"semseg": FOUND, "depth": FOUND}, ["tuned by no trials against 12 trials"] * 2),
        ({"semseg": FOUND, "depth": FOUND, "both": FOUND | {"epochs": 1}}, ["12 trials of 1 epoch over"] * 2),
    ],
)
def test_a_pair_that_was_tuned_unlike_is_a_caveat(tuned: dict, says: list[str]):
    caveats = compared(tuned).caveats[1:]
    assert len(caveats) == len(says)
    assert all(each in caveat for each, caveat in zip(says, caveats, strict=True)), caveats


def test_of_an_adopted_run_nobody_knows():
    tree = raw({"semseg": FOUND, "depth": FOUND, "both": FOUND})
    for adopted in ("both", "semseg"):
        runs = {name: dict(run) for name, run in tree["runs"].items()}
        runs[adopted]["adopted"] = {"0": {"file": "a.pth", "sha256": "0" * 64}}
        params = parse_params(tree | {"runs": runs, "tuned": {name: FOUND for name in runs if name != adopted}})
        assert add_tuning(compared({}), params).caveats == ["first"]


def test_values_edited_since_count_as_not_tuned():
    delta = compared(dict.fromkeys(("semseg", "depth", "both"), FOUND), lr=4e-3)
    assert delta.runs["both"].tuning is None and delta.runs["semseg"].tuning == TUNING
    assert delta.caveats[1] == "both: not as it was tuned: training.lr is 0.004, not 0.001; so it counts as not tuned"
    assert len(delta.caveats) == 4


def test_numbers_as_yaml_1_1_reads_them_are_numbers():
    text = {"trials": 12, "epochs": 2, "values": {"training.lr": "1e-03"}}
    assert compared({"both": text}).runs["both"].tuning == Tuning(12, 2, ["training.lr"])


def test_a_tuned_run_that_there_is_none_of_is_named():
    """A run that was taken out may come back, so it is no fault."""
    params = parse_params(raw({"bolh": FOUND}))
    assert "tuned.bolh: unknown run 'bolh'; did you mean 'both'?" in "\n".join(warnings(params))
