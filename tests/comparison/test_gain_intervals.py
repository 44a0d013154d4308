"""From what images add to what can be said of a run: pairing, sentences, and files that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.comparison.baselines import compare
from pipeline.comparison.estimate import Estimate
from pipeline.comparison.intervals import add_intervals, conclusion, gain_differences
from pipeline.comparison.tables import format_table, write_delta
from pipeline.core import paths
from pipeline.core.errors import ComparisonError, DataError
from pipeline.core.integrity import file_sha256
from pipeline.evaluation.statistics import SplitStatistics, read_statistics
from pipeline.metrics.resampling import draw
from pipeline.results.comparison import Comparison
from tests.support.compared import raw_params
from tests.support.result_files import with_statistics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kept(results, in_tmp):
    return [with_statistics(one) for one in results]


def test_scores_and_gains_get_intervals_around_their_means(kept):
    delta = add_intervals(compare(kept), kept)
    for entry in (*delta.delta_m.values(), *(score for of in delta.scores.values() for score in of.values())):
        interval = entry.interval
        assert interval.low < entry.mean < interval.high
        assert (interval.seeds, interval.images, interval.resamples) == (2, 40, 4000)
        assert interval.image_share + interval.seed_share == pytest.approx(1)
    for row in delta.per_seed:
        assert row.low < (row.delta if row.task == "delta_m" else row.score) < row.high
    gain = delta.delta_m["both"]
    assert gain.verdict == "not distinguishable" and gain.interval.seed_share > 0.9, "25 and -5 by seed"
    assert delta.conclusions == [conclusion_of(delta)]
    write_delta(delta)
    assert Comparison.read(paths.DELTA_JSON) == delta
    assert ",mean,delta_m,,,,,,10.0" in paths.DELTA_CSV.read_text()


def conclusion_of(delta):
    gain = delta.delta_m["both"]
    low, high = (f"{each:.0f}".replace("-", "−") for each in (gain.interval.low, gain.interval.high))
    return (
        f"both: not distinguishable from its baselines at 95 %: Δm 10 ({low} to {high}, 2 seeds, 40 images); at this "
        f"size it would take {gain.seeds_needed} seeds; no number of images would do"
    )


def test_the_interval_of_one_seed_is_by_hand(kept):
    """One task and seed: RMSE of all images is the root of a mean, so its error is half that of the mean."""
    one = [result for result in kept if result.seed == 0]
    found = add_intervals(compare(one), one).scores["depth"]["depth"].interval
    squared = read_statistics(one[1]).tasks["depth"]["squared"] / 1e7
    expected = squared.std(ddof=1) / np.sqrt(40) / (2 * np.sqrt(squared.mean()))
    assert found.standard_error == pytest.approx(expected, rel=0.03)
    assert found.seed_share is None


def test_what_makes_images_hard_for_all_moves_no_gain(results, in_tmp):
    """Run and baseline that differ by a factor in every image: Δm is known exactly, and the scores are not."""
    one = [with_statistics(result, noise=0.9) for result in results if result.seed == 0]
    hard = np.linspace(0.5, 1.5, 40)
    for result in one:
        kept = read_statistics(result)
        scores = {task: of[result.primary_metric[task].metric] for task, of in result.tasks.items()}
        tasks = {}
        for task in kept.tasks:
            if task == "depth":
                tasks[task] = {"squared": scores[task] ** 2 * 1e7 * hard, "pixels": np.full(40, 10_000_000)}
            else:
                hit = np.rint(scores[task] * 1e5 * hard).astype(int)[:, None]
                tasks[task] = {"hit": hit, "labelled": np.full((40, 1), 10_000_000), "predicted": hit}
        SplitStatistics(kept.ids, tasks, kept.formulas).write(paths.statistics_file(result.run, 0))
    one = [replace(each, statistics_sha256=file_sha256(paths.statistics_file(each.run, 0))) for each in one]
    delta = add_intervals(compare(one), one)
    assert delta.scores["both"]["depth"].interval.standard_error > 0.01
    assert delta.delta_m["both"].interval.standard_error < 1e-4
    assert delta.delta_m["both"].verdict == "better"


def test_a_run_without_a_defined_score_has_no_interval(kept):
    undefined = []
    for one in kept:
        if one.run == "semseg":
            arrays = {name: np.zeros((40, 1), int) for name in ("hit", "labelled", "predicted")}
            ids = [str(i) for i in range(40)]
            path = paths.statistics_file(one.run, one.seed)
            SplitStatistics(ids, {"semseg": arrays}, {"semseg": "mean_iou"}).write(path)
            one.tasks["semseg"]["mIoU"] = None
            one = replace(one, statistics_sha256=file_sha256(path))
        undefined.append(one)
    delta = add_intervals(compare(undefined), undefined)
    assert delta.delta_m == {} and delta.conclusions == []
    assert delta.scores["semseg"]["semseg"].interval is None
    assert delta.scores["depth"]["depth"].interval is not None


def test_a_task_that_few_images_have_a_label_of_counts_those(results, in_tmp):
    kept = [with_statistics(one, labelled={"semseg": 6}) for one in results]
    delta = add_intervals(compare(kept), kept)
    assert delta.scores["semseg"]["semseg"].interval.images == delta.delta_m["both"].interval.images == 6
    assert delta.scores["depth"]["depth"].interval.images == 40
    assert "2 seeds, 6 images" in delta.conclusions[0]


# -- two runs that share their baselines --------------------------------------------------------------------


def another(results, scores):
    """A run `other` with the baselines of `both` and these scores, {seed: {task: score}}."""
    return [
        replace(
            one,
            run="other",
            weights_sha256=f"{5 + one.seed}" * 64,
            tasks={
                task: {one.primary_metric[task].metric: value, "images": 8} for task, value in scores[one.seed].items()
            },
        )
        for one in results
        if one.run == "both"
    ]


def test_two_runs_differ_by_their_gains_with_the_same_seed(results, in_tmp):
    """Δm of both is 25 and -5, of other 12.5 and -5: 12.5 and 0 apart, 6.25 on the mean, t(1) = 12.7 times 6.25."""
    other = another(results, {0: {"semseg": 36.0, "depth": 0.7}, 1: {"semseg": 40.0, "depth": 0.55}})
    kept = [with_statistics(one, noise=1e-6) for one in [*results, *other]]
    delta = compare(kept)
    assert [delta.delta_m[run].mean for run in ("both", "other")] == pytest.approx([10, 3.75])
    (sentence,) = gain_differences(delta, kept, "other")
    half = 12.706 * 6.25
    assert sentence.startswith(
        f"both: not distinguishable from other at 95 %: difference in Δm 6 "
        f"(−{half - 6.25:.0f} to {half + 6.25:.0f}, 2 seeds, 40 images); "
    )
    (reverse,) = gain_differences(delta, kept, "both")
    assert f"difference in Δm −6 (−{half + 6.25:.0f} to {half - 6.25:.0f}," in reverse


def test_a_small_constant_difference_is_found_whatever_the_seeds_do_to_both(results, in_tmp):
    """Against the baselines neither run is distinguishable (25 and -5 by seed); against one another they are."""
    scores = {one.seed: {"semseg": 0.0, "depth": 0.0} for one in results}
    for one in results:
        if one.run == "both":  # one point of each task's gain less: the baseline's hundredth
            baseline = {each.run: each for each in results if each.seed == one.seed}
            scores[one.seed]["semseg"] = one.tasks["semseg"]["mIoU"] - baseline["semseg"].tasks["semseg"]["mIoU"] / 100
            scores[one.seed]["depth"] = one.tasks["depth"]["rmse"] + baseline["depth"].tasks["depth"]["rmse"] / 100
    kept = [with_statistics(one, noise=1e-6) for one in [*results, *another(results, scores)]]
    delta = add_intervals(compare(kept), kept)
    assert {gain.verdict for gain in delta.delta_m.values()} == {"not distinguishable"}
    (sentence,) = gain_differences(delta, kept, "both")
    assert sentence.startswith("other: worse than both by 1.00"), sentence


def test_runs_without_the_same_baselines_are_not_compared(kept):
    delta = compare(kept)
    with pytest.raises(ComparisonError, match="semseg has no Δm to compare with; these have: both"):
        gain_differences(delta, kept, "semseg")
    with pytest.raises(ComparisonError, match="both is the only run with a Δm: there is none to compare with"):
        gain_differences(delta, kept, "both")
    with pytest.raises(ComparisonError, match="both has no Δm to compare with; nor has any other run"):
        gain_differences(replace(delta, delta_m={}), kept, "both")
    others = {"delta_m": delta.delta_m["both"], "scores": {}, "runs": delta.runs["both"]}
    lone = replace(delta, **{name: getattr(delta, name) | {"lone": value} for name, value in others.items()})
    sentence = "lone: not comparable with both, whose Δm is over other tasks or baselines"
    assert gain_differences(lone, kept, "both") == [sentence]


# -- files -------------------------------------------------------------------------------------------------


def test_a_missing_damaged_or_other_file_is_one_message(kept):
    delta, path = compare(kept), paths.statistics_file("both", 1)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"both-1.parquet is damaged, or not the file that reports/metrics/both-1.json"):
        add_intervals(delta, kept)
    path.unlink()
    with pytest.raises(DataError, match=r"reports/statistics/both-1.parquet is missing; run `dvc repro`"):
        add_intervals(delta, kept)


def test_a_file_that_gives_another_score_is_refused(kept):
    kept[0].tasks["semseg"]["mIoU"] *= 1 + 1e-8
    with pytest.raises(
        DataError, match=r"semseg-0.parquet does not fit reports/metrics/semseg-0.json \(semseg is 32.0"
    ):
        add_intervals(compare(kept), kept)


def test_a_file_that_is_no_table_is_refused(kept):
    path = paths.statistics_file("semseg", 0)
    path.write_bytes(b"PAR1 of another kind")
    with pytest.raises(
        DataError, match=r"semseg-0.parquet does not fit .*run `python -m stages.doctor --verify --fix`"
    ):
        read_statistics(replace(kept[0], statistics_sha256=file_sha256(path)))


def test_other_images_are_refused(kept):
    kept[-1] = with_statistics(kept[-1], ids=[str(i + 1) for i in range(40)])
    with pytest.raises(ComparisonError, match=r"both-1.parquet is of other images than those of semseg-0: 1 against 0"):
        add_intervals(compare(kept), kept)
    kept[-1] = with_statistics(kept[-1], images=20)
    with pytest.raises(ComparisonError, match="20 against 40"):
        add_intervals(compare(kept), kept)


@pytest.mark.slow
def test_processes_with_other_threads_write_the_same(kept):
    """delta.json, to the bit, whatever the number of threads that multiply matrices."""
    for one in kept:
        one.write(paths.metrics_file(one.run, one.seed))
    paths.PARAMS.write_text(yaml.safe_dump(raw_params(), sort_keys=False))
    written = []
    for threads in "1", "2":
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }
        subprocess.run([sys.executable, "-m", "stages.compare"], check=True, env=environment, capture_output=True)
        written.append(paths.DELTA_JSON.read_bytes())
    assert written[0] == written[1]
    here = add_intervals(compare(kept), kept)
    assert Comparison.read(paths.DELTA_JSON) == here and here.conclusions[0] in format_table(here)
    assert draw(40).sum() == 4000 * 40


# -- sentences ---------------------------------------------------------------------------------------------


def estimate(mean, low, high, image_variance=1.0, seed_variance=0.0, seeds=1, interaction=0.0, images=24):
    return Estimate(mean, low, high, image_variance, seed_variance, interaction, images - 1, images, seeds, 4000)


def test_sentences():
    assert conclusion("sca", estimate(-10.9, -16.1, -5.7, seed_variance=1, seeds=2)) == (
        "sca: worse than its baselines by 10.9 % (95 % interval −16.1 to −5.7, 2 seeds, 24 images)"
    )
    assert conclusion("mtl", estimate(1.94, 1.62, 2.26)) == (
        "mtl: better than its baselines by 1.94 % (95 % interval 1.62 to 2.26, 1 seed, 24 images); of one seed, so "
        "over images alone: another seed may give another sign"
    )
    assert conclusion("mtl", None).startswith("mtl: no interval")
    between = conclusion("mtl", estimate(-0.4, -3.0, 2.2, 0.02, 0.5, 3, interaction=0.4))
    assert between.startswith(
        "mtl: not distinguishable from its baselines at 95 %: Δm −0.4 (−3.0 to 2.2, 3 seeds, 24 images); at this size "
        "it would take "
    )
    assert between.endswith(" seeds") or between.endswith("would do")


@pytest.mark.parametrize(
    ("found", "bounds"),
    [
        (estimate(4.0, 0.03, 7.97), "better than its baselines by 4.00 % (95 % interval 0.03 to 7.97,"),
        (estimate(3.9, -0.04, 7.84), "Δm 3.90 (−0.04 to 7.84,"),
        (estimate(40.0, 0.2, 79.8), "better than its baselines by 40.0 % (95 % interval 0.2 to 79.8,"),
        (estimate(-3.0, -6.0, 0.0), "Δm −3.0 (−6.0 to 0.0,"),
    ],
)
def test_no_bound_reads_as_0_that_is_none(found, bounds):
    assert bounds in conclusion("run", found)


@pytest.mark.parametrize(
    ("found", "end"),
    [
        (estimate(1.0, -1.0, 3.0), "it would take about 95 images; of one seed, so over images alone: another seed "
         "may give another sign"),
        (estimate(1.0, -1.0, 3.0, 1.0, 0.01, 4), "images; no number of seeds would do"),
        (estimate(1.0, -9.0, 11.0, 0.01, 3.0, 2), "it would take 27 seeds; no number of images would do"),
        (estimate(0.001, -4.0, 4.0), "at this size no number of images would do; of one seed, so over images alone: "
         "another seed may give another sign"),
        (estimate(0.0, -1.0, 1.0, 1.0, 1.0, 2), "at this size neither more images nor more seeds alone would do"),
    ],
)  # fmt: skip
def test_what_it_would_take_is_said(found, end):
    assert conclusion("run", found).endswith(end)
