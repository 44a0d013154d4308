"""Runs that were adopted, trained elsewhere, beside trained ones: what is compared, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.comparison.baselines import compare, find_baseline, recipe_differences
from pipeline.comparison.intervals import add_intervals
from pipeline.comparison.tables import format_table
from pipeline.core.errors import ComparisonError
from pipeline.core.provenance import Inputs
from pipeline.params.load import parse_params
from pipeline.results.run_metrics import RunMetrics
from tests.support.compared import change, pick, raw_params
from tests.support.result_files import with_statistics

ADOPTED = Inputs({"param cpu_threads": "1", "param adopted_sha256": f'"{"e" * 64}"'}).lines
OTHER_RECIPE = {"epochs": 60, "optimizer": "sgd", "batch_size": 8, "pretrained": True, "initialization": "he"}


def adopt(results: list[RunMetrics], run: str, **values: object) -> None:
    """Let a run be one that was trained elsewhere, by a recipe that params don't know."""
    for seed in (0, 1):
        recipe = pick(results, run, seed).training | OTHER_RECIPE
        weights = {"weights_sha256": f"{seed}" * 64} | values
        change(results, run, seed, training=recipe, inputs=ADOPTED, training_samples=0, **weights)


@pytest.mark.parametrize("run", ["both", "semseg"])
def test_a_recipe_that_is_not_known_refuses_nothing_and_is_said(results, run):
    expected = compare(results)
    adopt(results, run)
    delta = compare(results)
    assert delta.delta_m == expected.delta_m and delta.scores == expected.scores
    here, elsewhere = "trained here", "adopted, trained elsewhere"
    of_pairs = {
        "both": [f"both against {task}: {elsewhere} against {here}" for task in ("semseg", "depth")],
        "semseg": [f"both against semseg: {here} against {elsewhere}"],
    }
    expected_caveats = [f"{each}, so their recipes may differ in anything" for each in of_pairs[run]]
    assert delta.caveats == [f"{run}: {elsewhere}: its recipe isn't known here", *expected_caveats]
    assert f"* {delta.caveats[0]}" in format_table(delta)


def test_one_file_for_several_seeds_is_said(results, in_tmp):
    adopt(results, "both", weights_sha256="a" * 64)
    delta = compare(results)
    text = "one file stands for several seeds, so nothing is known of how its scores vary by seed"
    assert f"both: {text}" in delta.caveats
    delta = add_intervals(delta, [with_statistics(one) for one in results])
    assert delta.conclusions[0].endswith("; 1 network for 2 seeds: another training may give another sign")


def test_a_file_of_each_seed_is_a_network_of_each_seed(results, in_tmp):
    adopt(results, "both")
    kept = [with_statistics(one) for one in results]
    assert "network" not in add_intervals(compare(kept), kept).conclusions[0]


@pytest.mark.parametrize("key", ["output_stride", "hrnet_upsampling", "input_size", "normalization", "precision"])
def test_what_scoring_shows_must_be_the_same_of_adopted_runs_too(results, key):
    adopt(results, "both")
    change(results, "both", training=pick(results, "both").training | {key: "other"})
    with pytest.raises(ComparisonError, match=f"{key}: other in both-0"):
        compare(results)


def test_data_and_backbone_must_be_the_same_of_adopted_runs_too(results):
    adopt(results, "both", backbone="another")
    with pytest.raises(ComparisonError, match="backbone: another in both-0, net in semseg-0"):
        compare(results)


def test_a_run_prefers_baselines_of_its_own_kind(results):
    results += [replace(pick(results, "semseg", seed), run="theirs") for seed in (0, 1)]
    adopt(results, "theirs")
    found = [find_baseline(pick(results, "both"), "semseg", results)]
    adopt(results, "both")
    found.append(find_baseline(pick(results, "both"), "semseg", results))
    assert [each.run for each in found] == ["semseg", "theirs"]


@pytest.mark.parametrize("adopted", [False, True])
def test_a_baseline_of_the_other_kind_does_not_stand_in_for_one_that_is_refused(results, adopted):
    """Else what can't be compared would be, as soon as somebody adopts a run of the same task."""
    results += [replace(pick(results, "semseg", seed), run="theirs") for seed in (0, 1)]
    adopt(results, "theirs")
    key = "normalization"  # scoring shows it, so that it is known of adopted runs too
    if adopted:
        adopt(results, "both")
    refused = "theirs" if adopted else "semseg"
    for seed in (0, 1):
        change(results, refused, seed, training=pick(results, refused, seed).training | {key: "other"})
    with pytest.raises(ComparisonError, match=f"both-0 cannot be compared with its semseg baseline {refused}-0"):
        compare(results)


def test_a_baseline_that_can_not_be_told_refuses_no_other_run(results):
    """Two trained baselines of other recipes, each with a run of its own, and one adopted run that fits both."""
    for name in ("semseg", "depth", "both"):
        results += [replace(pick(results, name, seed), run=f"{name}_long") for seed in (0, 1)]
        for seed in (0, 1):
            long = pick(results, f"{name}_long", seed).training | {"epochs": 60}
            change(results, f"{name}_long", seed, training=long)
    results += [replace(pick(results, "both", seed), run="published") for seed in (0, 1)]
    adopt(results, "published")
    delta = compare(results)
    assert delta.delta_m.keys() == {"both", "both_long"}
    text = "which of semseg and semseg_long is its semseg baseline can't be known, so no multi-task performance"
    assert f"published: {text}" in delta.caveats


def test_check_expects_nothing_of_a_recipe_that_is_not_known():
    raw = raw_params()
    raw["runs"]["both"]["training"] |= {"epochs": 60, "optimizer": "sgd"}
    ours, baseline = (parse_params(raw).run(run) for run in ("both", "semseg"))
    assert recipe_differences(ours, baseline) == ["epochs 60 against 2", "optimizer sgd against adam"]
    raw["runs"]["both"]["adopted"] = {"0": {"file": "a.pth", "sha256": "0" * 64}}
    assert recipe_differences(parse_params(raw).run("both"), baseline) == []
