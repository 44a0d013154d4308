from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from pipeline.comparison.baselines import SAME_RECIPE, TUNED, compare, find_baseline
from pipeline.comparison.intervals import add_intervals
from pipeline.comparison.load_results import load_results
from pipeline.comparison.tables import format_table, write_delta
from pipeline.core import paths
from pipeline.core.errors import ComparisonError, DataError
from pipeline.params.load import parse_params
from pipeline.params.schema import Training
from pipeline.results.comparison import Comparison
from pipeline.results.run_metrics import PrimaryMetric, RunMetrics
from tests.support.compared import change, pick, raw_params
from tests.support.result_files import with_statistics

ROOT = Path(__file__).parents[2]


def known(entry: object) -> dict[str, object]:
    """What is not None of a dataclass."""
    return {key: value for key, value in asdict(entry).items() if value is not None}


def write(results: list[RunMetrics]) -> None:
    for one in results:
        one.write(paths.metrics_file(one.run, one.seed))


# -- arithmetic --------------------------------------------------------------------------------------------


def test_delta_of_a_hand_computed_case(results):
    delta = compare(results)
    assert delta.delta_m.keys() == {"both"}
    assert known(delta.delta_m["both"]) == pytest.approx({"mean": 10.0, "std": 15 * 2**0.5, "n": 2})
    assert known(delta.scores["both"]["depth"]) == pytest.approx(
        {
            "metric": "rmse",
            "higher_is_better": False,
            "mean": 0.6,
            "std": 0.0,
            "n": 2,
            "baseline_run": "depth",
            "baseline": 0.65,
            "delta": 2.5,
        }
    )
    assert delta.scores["depth"]["depth"].delta is None
    assert delta.caveats == []


def test_baselines_are_of_the_same_seed(results):
    """By hand: with depth's baselines swapped, both's depth gains are -20 % and +25 %."""
    swapped = [replace(one, seed=1 - one.seed) if one.run == "depth" else one for one in results]
    gains = [row.delta for row in compare(swapped).per_seed if row.task == "delta_m"]
    assert gains == pytest.approx([(25 - 20) / 2, (10 + 25) / 2])


def test_one_seed_has_no_deviation(results):
    delta = compare([one for one in results if one.seed == 0])
    assert known(delta.delta_m["both"]) == {"mean": pytest.approx(25.0), "n": 1}


@pytest.mark.parametrize(("ours", "theirs", "is_caveat"), [(2, 1, True), (1, 1, False), (None, 1, False)])
def test_other_numbers_of_cpu_threads_are_fair_and_said(results, ours, theirs, is_caveat):
    """None: a GPU, where they are no matter."""
    change(results, "both", cpu_threads=ours)
    change(results, "depth", cpu_threads=theirs)
    caveat = f"both against depth: cpu_threads differ, {ours} against {theirs}: sums round otherwise, as by seed"
    assert (caveat in compare(results).caveats) == is_caveat


# -- fairness ----------------------------------------------------------------------------------------------


def test_every_training_value_is_judged():
    """A new knob must be put in one of the lists; the backbone is compared on its own."""
    assert sorted(SAME_RECIPE + TUNED + ("backbone",)) == sorted(Training.model_fields)


@pytest.mark.parametrize("field", ["backbone", "dataset", "dataset_digest", "split"])
def test_another_experiment_is_refused(results, field):
    change(results, "depth", **{field: "other"})
    with pytest.raises(ComparisonError) as caught:
        compare(results)
    message = str(caught.value)
    assert f"{field}: {getattr(pick(results, 'both'), field)} in both-0, other in depth-0" in message
    assert "depth baseline" in message
    assert "allow_different" not in message, "no remedy but the same experiment"


@pytest.mark.parametrize("field", SAME_RECIPE)
def test_another_recipe_is_refused_unless_allowed(results, field):
    pick(results, "depth").training[field] = "other"
    with pytest.raises(ComparisonError, match=rf"{field}: .* in both-0, other in depth-0") as caught:
        compare(results)
    assert f"evaluation.allow_different: [{field}]" in str(caught.value)
    delta = compare(results, [field])
    assert delta.delta_m["both"].mean == pytest.approx(10.0)
    (caveat,) = delta.caveats
    assert caveat.startswith(f"both against depth: {field} differs")


def test_another_number_of_training_images_is_said(results):
    for seed in (0, 1):
        change(results, "depth", seed, training_samples=5, labelled={"train": {"depth": 5}})
        change(results, "both", seed, labelled={"train": {"semseg": 8, "depth": 5}})
    delta = compare(results)
    assert delta.delta_m["both"].mean == pytest.approx(10.0)
    (caveat,) = delta.caveats
    assert caveat == (
        "both against depth: trained on 8 images (5 of the training split have a label of depth) against 5, "
        "each seen once an epoch"
    )


@pytest.mark.parametrize("field", TUNED)
def test_tuned_values_may_differ(results, field):
    pick(results, "depth").training[field] = "other"
    assert compare(results).delta_m["both"].mean == pytest.approx(10.0)


def test_another_headline_metric_is_refused(results):
    other = {"depth": PrimaryMetric("abs_rel", False)}
    change(results, "depth", primary_metric=other, tasks={"depth": {"rmse": 0.8, "abs_rel": 0.1}})
    with pytest.raises(ComparisonError, match="depth metric: rmse in both-0, abs_rel in depth-0"):
        compare(results)


def test_the_fair_baseline_is_found_among_several(results):
    other = replace(pick(results, "depth"), run="depth-wide", backbone="wide")
    found = find_baseline(pick(results, "both"), "depth", [other, *results])
    assert found is not None and found.name == "depth-0"


def test_two_equal_baselines_are_refused(results):
    twin = replace(pick(results, "depth"), run="depth_again")
    with pytest.raises(ComparisonError, match="two depth baselines, depth-0 and depth_again-0"):
        compare([*results, twin])


def test_without_a_baseline_there_are_scores_and_a_caveat(results):
    delta = compare([one for one in results if one.run != "depth"])
    assert delta.delta_m == {}
    assert delta.scores["both"]["depth"].mean == pytest.approx(0.6)
    assert delta.scores["both"]["semseg"].delta == pytest.approx(17.5)
    assert delta.caveats == ["both: no single-task run for depth, so no multi-task performance"]


@pytest.mark.parametrize("value", [0.0, None])
def test_an_undefined_baseline_gives_no_gain_and_no_crash(results, value):
    pick(results, "semseg").tasks["semseg"]["mIoU"] = value
    delta = compare(results)
    assert "both" not in delta.delta_m, "a mean over the seeds that have one would be of a chosen few"
    assert "both: no multi-task performance of seed 0, so none of the run" in delta.caveats
    assert [row.delta for row in delta.per_seed if row.task == "delta_m"] == [pytest.approx(-5.0)]
    assert delta.scores["both"]["semseg"].delta is None
    assert len(delta.caveats) == 2
    assert "undefined" in format_table(delta) or value == 0.0


# -- files -------------------------------------------------------------------------------------------------


def test_only_runs_in_params_are_read(params, results, in_tmp):
    write([*results, replace(pick(results, "depth"), run="removed")])
    assert load_results(params) == results


def test_a_missing_file_names_the_stage(params, results, in_tmp):
    write(results[:-1])
    with pytest.raises(DataError, match=r"both-1.json is missing; run `dvc repro evaluate@both-1`"):
        load_results(params)


def test_what_a_run_costs_is_passed_on_and_must_be_there(params, results, in_tmp):
    costs = {"parameters": 1000, "macs": 2000, "activation_bytes": 4000}
    assert (
        asdict(compare(results).runs["both"])
        == {
            "architecture": "multi_task",
            "backbone": "net",
            "tuning": None,
        }
        | costs
    )
    write(results)
    file = paths.metrics_file("depth", 0)
    paths.write_json(file, {key: value for key, value in paths.read_json(file).items() if key not in costs})
    with pytest.raises(
        DataError, match=r"depth-0.json lacks parameters, macs, activation_bytes: .*`dvc repro evaluate@d"
    ):
        load_results(params)


def test_a_recipe_that_lacks_what_is_compared_is_refused(params, results, in_tmp):
    del pick(results, "depth").training["epochs"]
    write(results)
    with pytest.raises(ComparisonError, match=r"depth-0.json lacks training.epochs; delete it and run"):
        load_results(params)


def test_a_run_from_single_task_is_compared_and_said_to_have_learned_for_longer(results, in_tmp):
    raw = raw_params()
    raw["runs_from_single_task"] = {"both": raw["runs"].pop("both") | {"architecture": "cross_stitch"}}
    params = parse_params(raw)
    for seed in params.seeds:
        both = {"architecture": "cross_stitch", "starts_from": {"semseg": "semseg", "depth": "depth"}}
        change(results, "both", seed, **both)
    write(results)
    delta = compare(load_results(params))
    assert delta.delta_m["both"].mean == pytest.approx(10.0)
    assert delta.caveats == [
        "both: starts from the trained networks of semseg, depth, so it has learned for longer than these"
    ]
    paths.metrics_file("both", 1).unlink()
    with pytest.raises(DataError, match="run `dvc repro evaluate_from_single_task@both-1` first"):
        load_results(params)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", "\0", '{"checksum": 1}'])
def test_a_damaged_file_is_told(params, results, in_tmp, text):
    write(results)
    paths.metrics_file("depth", 1).write_text(text)
    with pytest.raises(DataError, match=r"depth-1.json is (of an older version or )?damaged.*dvc repro"):
        load_results(params)


@pytest.mark.parametrize(
    ("field", "value"),
    [("architecture", "multi_task"), ("backbone", "old"), ("seed", 7), ("run", "other"), ("tasks", {})],
)
def test_a_file_of_another_run_is_refused(params, results, in_tmp, field, value):
    write(results)
    replace(pick(results, "depth"), **{field: value}).write(paths.metrics_file("depth", 0))
    with pytest.raises(ComparisonError, match=f"depth-0.json is of {field} .*params.yaml says"):
        load_results(params)


def test_files_say_it_all(results, in_tmp):
    delta = compare(results)
    write_delta(delta)
    assert Comparison.read(paths.DELTA_JSON) == delta
    rows = list(csv.DictReader(io.StringIO(paths.DELTA_CSV.read_text())))
    found = {(row["run"], row["seed"], row["task"]): row for row in rows}
    assert len(found) == len(rows) == 10 + 2 * 5
    assert float(found["both", "0", "depth"]["delta"]) == pytest.approx(25)
    assert float(found["both", "1", "delta_m"]["delta"]) == pytest.approx(-5)
    assert float(found["both", "mean", "delta_m"]["delta"]) == pytest.approx(10)
    assert float(found["both", "std", "semseg"]["score"]) == pytest.approx(8**0.5)
    assert found["semseg", "0", "semseg"]["baseline"] == ""


def test_the_table_lines_up(results):
    lines = format_table(compare(results)).splitlines()
    assert lines[0].endswith("  Δm % ↑")
    assert "semseg mIoU ↑" in lines[0] and "depth rmse ↓" in lines[0]
    assert lines[2].startswith("single task") and "36.00 ±5.66" in lines[2] and "0.6500 ±0.2121" in lines[2]
    assert lines[3].startswith("both") and lines[3].endswith("+10.00 ±21.21")
    assert len(lines) == 4
    column = lines[0].index("depth rmse ↓") + len("depth rmse ↓")
    assert lines[2][:column].endswith("0.2121") and lines[3][:column].endswith("0.0000")


@pytest.mark.slow
def test_the_stage_from_files_to_table(results, in_tmp):
    (in_tmp / "params.yaml").write_text(yaml.safe_dump(raw_params(), sort_keys=False))
    command = [sys.executable, "-m", "stages.compare"]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    run = {"capture_output": True, "text": True, "env": environment, "encoding": "utf-8"}
    missing = subprocess.run(command, check=False, **run)
    assert missing.returncode == 2
    assert missing.stderr.startswith("reports/metrics/semseg-0.json is missing")
    assert "Traceback" not in missing.stderr
    write(results)
    missing = subprocess.run(command, check=False, **run)
    assert missing.returncode == 2
    assert missing.stderr.startswith("reports/statistics/semseg-0.parquet is missing; run `dvc repro`")
    results = [with_statistics(one, 12) for one in results]
    write(results)
    written = subprocess.run(command, check=True, **run)
    shown = subprocess.run([*command, "--show"], check=True, **run)
    assert written.stdout == shown.stdout == format_table(add_intervals(compare(results), results)) + "\n"
    assert shown.stdout.splitlines()[4].startswith("both: not distinguishable from its baselines at 95 %: Δm 10 (−")
