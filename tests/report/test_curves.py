"""Δm by step, against gains worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.report.curves import gain_curves
from pipeline.results.comparison import Comparison, Gain, RunFacts, Score
from pipeline.visual import figures

SINGLE = RunFacts("single_task", "net", 1, 1, 1)
BOTH = RunFacts("multi_task", "net", 1, 1, 1)
SCORES = {
    "semseg": {"semseg": Score("mIoU", True, 1.0)},
    "depth": {"depth": Score("rmse", False, 1.0)},
    "both": {
        "semseg": Score("mIoU", True, 1.0, baseline_run="semseg"),
        "depth": Score("rmse", False, 1.0, baseline_run="depth"),
    },
}
DELTA = Comparison({"both": Gain(0.0, None, 2)}, SCORES, {"semseg": SINGLE, "depth": SINGLE, "both": BOTH}, [], [], [])


def frame(**columns: list[float]) -> pd.DataFrame:
    names = {"semseg": "semseg/mIoU", "depth": "depth/rmse"}
    return pd.DataFrame({"epoch": [1, 2, 3, 4]} | {names[name]: values for name, values in columns.items()})


NONE = math.nan
HISTORIES = {
    "semseg": [frame(semseg=[10, 20, 20, 40]), frame(semseg=[10, 20, 20, 40])],
    "depth": [frame(depth=[2, 2, 2, 2]), frame(depth=[2, 2, 2, 2])],
    "both": [
        frame(semseg=[11, 20, 22, 40], depth=[2, 1, 2, 1]),  # 5, 25, 5, 25
        frame(semseg=[10, 20, 20, 44], depth=[2, 2, 1, 1]),  # 0, 0, 25, 30
    ],
}


def test_gains_are_those_of_each_seed_against_its_own_baselines():
    curve = gain_curves(DELTA, HISTORIES, {"both": 10})["both"]
    assert list(curve.index) == [10, 20, 30, 40] and curve.index.name == "step"
    seeds = np.array([[5, 0], [25, 0], [5, 25], [25, 30]])
    half = stats.t.ppf(0.975, 1) * seeds.std(1, ddof=1) / math.sqrt(2)
    assert curve["mean"].to_numpy() == pytest.approx(seeds.mean(1))
    assert curve["low"].to_numpy() == pytest.approx(seeds.mean(1) - half)
    assert curve["high"].to_numpy() == pytest.approx(seeds.mean(1) + half)


def test_epochs_that_lack_a_score_or_a_gain_are_no_points():
    lacking = HISTORIES | {"depth": [frame(depth=[2, NONE, 2, 2]), frame(depth=[2, 2, 2, 2])]}
    assert list(gain_curves(DELTA, lacking, {"both": 1})["both"].index) == [1, 3, 4]
    nothing_right = HISTORIES | {"semseg": [frame(semseg=[0, 20, 20, 40]), frame(semseg=[10, 20, 20, 40])]}
    assert list(gain_curves(DELTA, nothing_right, {"both": 1})["both"].index) == [2, 3, 4]
    last_alone = HISTORIES | {"depth": [frame(depth=[NONE, NONE, NONE, 2])] * 2}
    assert gain_curves(DELTA, last_alone, {"both": 1}) == {}
    assert gain_curves(DELTA, HISTORIES | {"both": [frame(semseg=[1, 1, 1, 1])] * 2}, {"both": 1}) == {}


def test_a_single_seed_has_no_interval(tmp_path):
    one = {name: frames[:1] for name, frames in HISTORIES.items()}
    curve = gain_curves(DELTA, one, {"both": 10})["both"]
    assert curve["mean"].tolist() == pytest.approx([5, 25, 5, 25]) and curve[["low", "high"]].isna().all(axis=None)
    figures.save(figures.gain_curves({"both": curve}, figures.run_styles(["both"])), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000
