"""What the report says beside its tables."""

from __future__ import annotations

from pipeline.params.load import parse_params
from pipeline.report.texts import below_trivial
from pipeline.results.comparison import Comparison, RunFacts, Score
from tests.support.params_tree import some_params


def entry(mean):
    return Score("any", True, mean=mean)


def compared(scores):
    facts = RunFacts("multi_task", "net", 1, 1, 1)
    return Comparison(
        delta_m={}, scores=scores, runs=dict.fromkeys(scores, facts), per_seed=[], conclusions=[], caveats=[]
    )


def test_a_score_below_the_constant_is_called_that_and_no_gain():
    """A baseline at 4.85 m against 1.13 m for the mean depth: Δm over it would be large, and mean nothing."""
    params = parse_params(some_params())
    tasks = ("semseg", "depth")
    trivial = {"semseg": {"mIoU": 2.7}, "depth": {"rmse": 1.13}}
    scores = {name: {} for name in params.all_runs}
    scores |= {"depth": {"depth": entry(4.85)}, "both": {"semseg": entry(2.7), "depth": entry(1.12)}}
    found = list(below_trivial(params, tasks, compared(scores), trivial))
    assert len(found) == 2
    assert "`depth` has learned nothing of depth**: rmse 4.850 is no better than 1.130" in found[0]
    assert "`both` has learned nothing of semantic segmentation**: mIoU 2.70" in found[1]


def test_a_score_that_is_not_defined_says_nothing():
    params = parse_params(some_params())
    scores = {name: {"semseg": entry(None)} for name in params.all_runs}
    assert not list(below_trivial(params, ("semseg",), compared(scores), {"semseg": {"mIoU": 2.7}}))
    scores = {name: {"semseg": entry(1.0)} for name in params.all_runs}
    assert not list(below_trivial(params, ("semseg",), compared(scores), {"semseg": {"mIoU": None}}))
