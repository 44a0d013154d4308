"""What a comparison writes into a real MLflow store: beside the scores of each run, and as a run of its own."""

import math
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from pipeline.core.errors import TrackingError
from pipeline.core.paths import atomic
from pipeline.results.comparison import Comparison, Gain, Interval, Row, RunFacts, Score
from pipeline.tracking import mlflow_run
from pipeline.tracking.comparison_run import keep_report, log_comparison
from pipeline.tracking.conclusions import Compared, log_conclusions
from pipeline.tracking.descriptions import describe_comparison
from tests.support.mlflow_store import put_empty_store

pytestmark = pytest.mark.e2e

WEIGHTS, NOTE, PARENT = "a" * 64, "mlflow.note.content", "mlflow.parentRunId"
WORSE = "pair: worse than its baselines by 2.0 % (95 % interval -3.1 to -0.9, 2 seeds, 96 images)"
INTERVAL = Interval(-3.1, -0.9, 0.5, 0.5, 0.5, 2, 96, 1000)
PAIR = Compared("pair", 0, WEIGHTS, "panels/pair.png")


def comparison(gain: float = -2.0, sentence: str = WORSE) -> Comparison:
    """Of `pair` with its baseline `alone`, two seeds each."""
    rows = [Row("alone", seed, "depth", "rmse", False, 0.5 + seed / 100) for seed in (0, 1)]
    for seed in (0, 1):
        rows.append(Row("pair", seed, "depth", "rmse", False, 0.51, "alone", 0.5 + seed / 100, gain))
        rows.append(Row("pair", seed, "delta_m", delta=gain))
    alone, pair = RunFacts("single_task", "hrnet_w18", 1_000_000, 10**9, 1), RunFacts("multi_task", "x", 1, 1, 1)
    scores = {
        "alone": {"depth": Score("rmse", False, 0.505, 0.007, 2)},
        "pair": {"depth": Score("rmse", False, 0.51, 0.0, 2, "alone", 0.505, gain)},
    }
    gains = {"pair": Gain(gain, 0.1, 2, INTERVAL, "worse")}
    return Comparison(gains, scores, {"alone": alone, "pair": pair}, rows, [sentence], [])


@pytest.fixture
def run_ids(tmp_path, monkeypatch) -> dict[str, str]:
    """The trained runs in the store of a project."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    put_empty_store(tmp_path)
    experiment, ids = mlflow_run.connect("rooms"), {}
    for name, weights in (("pair", WEIGHTS), ("alone", "b" * 64)):
        tags = {"run": name, "seed": "0", "weights_sha256": weights}
        with mlflow_run.training_run(experiment, f"{name}-0", name, tags) as log:
            ids[name] = log.id
    return ids


@pytest.fixture
def delta_json(tmp_path) -> Path:
    """As `compare` wrote it."""
    comparison().write(file := tmp_path / "delta.json")
    return file


def test_a_run_shows_its_gain_and_what_it_means(run_ids, capsys):
    client, id_ = mlflow.MlflowClient(), run_ids["pair"]
    for gain in (-2.0, -2.0, 1.5, -2.0):
        assert log_conclusions(comparison(gain), [PAIR], "rooms") == [id_]
        assert client.get_run(id_).data.metrics == {"delta_m": gain}
    assert len(client.get_metric_history(id_, "delta_m")) == 3, "the same value is not logged again"
    tags = client.get_run(id_).data.tags
    assert tags["conclusion"] == WORSE
    lines = tags[NOTE].splitlines()
    assert f"**{WORSE.replace('(', chr(92) + '(').replace(')', chr(92) + ')')}**" in lines
    assert "| depth rmse ↓ | 0.5100 | 0.5100 ± 0.0000 | 0.5000 | -2.00 |" in lines
    assert "| **Δm %** | **-2.00** | **-2.00** (-3.1 to -0.9) | | |" in lines
    assert f"(get-artifact?path=panels%2Fpair.png&run_uuid={id_})" in tags[NOTE]
    log_conclusions(comparison(sentence="pair: better"), [PAIR], "rooms")
    assert "**pair: better**" in client.get_run(id_).data.tags[NOTE]
    assert capsys.readouterr().err == ""


def test_a_baseline_says_whose_it_is_and_has_no_gain(run_ids):
    log_conclusions(comparison(), [Compared("alone", 0, "b" * 64)], "rooms")
    data = mlflow.MlflowClient().get_run(run_ids["alone"]).data
    assert "delta_m" not in data.metrics and "conclusion" not in data.tags
    assert "A baseline of pair." in data.tags[NOTE] and "1.00 M parameters, 1.00 GMAC" in data.tags[NOTE]
    assert "| depth rmse ↓ | 0.5000 | 0.5050 ± 0.0070 |  |  |" in data.tags[NOTE] and "Δm %" not in data.tags[NOTE]
    assert "![" not in data.tags[NOTE], "it has no picture"


def test_a_description_of_the_user_s_own_stays(run_ids):
    client = mlflow.MlflowClient()
    log_conclusions(comparison(), [PAIR], "rooms")
    client.set_tag(run_ids["pair"], NOTE, "for the paper")
    log_conclusions(comparison(sentence="pair: better"), [PAIR], "rooms")
    tags = client.get_run(run_ids["pair"]).data.tags
    assert (tags[NOTE], tags["conclusion"]) == ("for the paper", "pair: better")


def test_the_sentence_that_an_earlier_version_wrote_as_description_is_replaced(run_ids):
    client = mlflow.MlflowClient()
    for name in (NOTE, "conclusion"):
        client.set_tag(run_ids["pair"], name, WORSE)
    log_conclusions(comparison(), [PAIR], "rooms")
    assert "| depth rmse ↓ |" in client.get_run(run_ids["pair"]).data.tags[NOTE]


def test_a_run_of_other_weights_is_named_and_left_alone(run_ids, capsys):
    assert log_conclusions(comparison(), [replace(PAIR, weights_sha256="c" * 64)], "rooms") == []
    assert "no run of pair-0" in capsys.readouterr().err
    assert "delta_m" not in mlflow.MlflowClient().get_run(run_ids["pair"]).data.metrics


def test_a_gain_that_no_longer_holds_is_taken_back(run_ids):
    """As where a baseline was taken away, or where not all seeds have one: `compare` then gives no Δm of the run."""
    client, id_ = mlflow.MlflowClient(), run_ids["pair"]
    log_conclusions(comparison(), [PAIR], "rooms")
    for _ in range(2):
        log_conclusions(replace(comparison(), delta_m={}, conclusions=[]), [PAIR], "rooms")
        data = client.get_run(id_).data
        assert math.isnan(data.metrics["delta_m"]) and "conclusion" not in data.tags
        assert "worse" not in data.tags[NOTE] and "| depth rmse ↓ |" in data.tags[NOTE]
    assert len(client.get_metric_history(id_, "delta_m")) == 2
    log_conclusions(comparison(), [PAIR], "rooms")
    assert client.get_run(id_).data.metrics["delta_m"] == -2.0


def test_of_two_experiments_with_the_same_weights_it_is_the_own(run_ids):
    other, tags = mlflow_run.connect("other"), {"run": "pair", "seed": "0", "weights_sha256": WEIGHTS}
    with mlflow_run.training_run(other, "pair-0", "later", tags) as log:
        pass
    assert log_conclusions(comparison(), [PAIR], "rooms") == [run_ids["pair"]]
    assert log_conclusions(comparison(), [PAIR], "other") == [log.id]
    assert log_conclusions(comparison(), [PAIR], "new") == [log.id], "else the newest"


def test_a_comparison_is_one_run_above_those_it_compares(run_ids, delta_json, tmp_path, capsys):
    client, ids = mlflow.MlflowClient(), list(run_ids.values())
    first = log_comparison("rooms", delta_json, comparison().delta_m, "about", ids)
    assert log_comparison("rooms", delta_json, comparison().delta_m, "about", ids) == first
    run = client.get_run(first)
    assert (run.info.run_name, run.info.status) == ("comparison", "FINISHED")
    assert run.data.metrics == {"delta_m/pair": -2.0, "delta_m_low/pair": -3.1, "delta_m_high/pair": -0.9}
    assert len(client.get_metric_history(first, "delta_m/pair")) == 1 and run.data.tags[NOTE] == "about"
    assert [client.get_run(id_).data.tags[PARENT] for id_ in ids] == [first, first]
    assert run.data.tags["compared_runs"] == ",".join(ids)
    with atomic(report := tmp_path / "report.html") as file:
        file.write("<p>")
    keep_report("rooms", delta_json, [report])
    assert {item.path for item in client.list_artifacts(first)} == {"delta.json", "report.html"}

    comparison(-2.5).write(delta_json)
    keep_report("rooms", delta_json, [report])  # of a comparison that the store does not have
    assert "it has no comparison of" in capsys.readouterr().err
    second = log_comparison("rooms", delta_json, comparison(-2.5).delta_m, "about", [run_ids["pair"]])
    assert second != first and [client.get_run(id_).data.tags[PARENT] for id_ in ids] == [second, first]
    assert client.get_run(first).data.tags["compared_runs"] == ",".join(ids), "still all of them"
    assert {item.path for item in client.list_artifacts(second)} == {"delta.json"}


def test_a_kill_leaves_a_comparison_that_the_next_completes(run_ids, delta_json, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*arguments, **more):
        raise Killed

    def interrupt(*arguments, **more):
        raise KeyboardInterrupt

    client, gains, ids = mlflow.MlflowClient(), comparison().delta_m, list(run_ids.values())
    for name in ("log_batch", "log_artifact", "set_tag", "set_terminated"):
        with monkeypatch.context() as broken:
            broken.setattr(mlflow.MlflowClient, name, kill)
            with pytest.raises(Killed):
                log_comparison("rooms", delta_json, gains, "about", ids)
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "log_artifact", interrupt)
        with pytest.raises(KeyboardInterrupt):
            log_comparison("rooms", delta_json, gains, "about", ids)
    (left,) = client.search_runs([client.get_experiment_by_name("rooms").experiment_id], "tags.comparison_sha256 != ''")
    assert left.info.status == "KILLED"
    id_ = log_comparison("rooms", delta_json, gains, "about", ids)
    experiment = client.get_experiment_by_name("rooms").experiment_id
    assert len(client.search_runs([experiment], "tags.mlflow.runName = 'comparison'")) == 1
    run = client.get_run(id_)
    assert run.info.status == "FINISHED" and run.data.metrics["delta_m/pair"] == -2.0 and run.data.tags[NOTE] == "about"
    assert [item.path for item in client.list_artifacts(id_)] == ["delta.json"]
    assert [client.get_run(each).data.tags[PARENT] for each in ids] == [id_, id_]


def test_runs_of_another_experiment_keep_their_place(run_ids, delta_json):
    mlflow_run.connect("other")
    assert log_comparison("other", delta_json, {}, "about", run_ids.values()) is not None
    assert PARENT not in mlflow.MlflowClient().get_run(run_ids["pair"]).data.tags


def test_the_page_of_a_comparison_has_the_terminal_s_table_the_sentences_and_costs():
    delta = replace(comparison(), conclusions=["pair: better, by *much*"], caveats=["one split"])
    page = describe_comparison(delta, "\n".join(["the | table *", *delta.conclusions, "* one split"]))
    assert page.startswith("Δm of pair.")
    assert "```\nthe | table *\n```\n\n- pair: better, by \\*much\\*\n- one split\n\n| run | network |" in page
    facts = delta.runs["pair"]
    assert (
        f"| pair | multi\\_task, {facts.backbone.replace('_', chr(92) + '_')} | {facts.parameters / 1e6:.2f} |" in page
    )
    long = describe_comparison(delta, "\n".join(f"line {i}: {'x' * 90}" for i in range(100)))
    assert len(long) < 4500 and "line 0: x" in long and "line 99" not in long
    assert "\n... the rest is in the artifact delta.json\n```\n" in long, "MLflow would cut the fence off"
    assert "\n- pair: better, by \\*much\\*\n" in long and "| run | network |" in long, "they come first"
    many = replace(delta, conclusions=[f"pair{i}: {'y' * 90}" for i in range(100)])
    full = describe_comparison(many, "\n".join(f"line {i}: {'x' * 90}" for i in range(100)))
    assert len(full) < 4500 and "\n- pair0: y" in full and "\n- more in the artifact report.html" in full
    assert full.endswith("\n\nWhat each run costs is in the artifact report.html.") and "line 5: x" in full


def test_without_a_store_there_is_nothing_to_write(tmp_path, delta_json, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert log_conclusions(comparison(), [PAIR], "rooms") == []
    assert log_comparison("rooms", delta_json, {}, "about", []) is None
    keep_report("rooms", delta_json, [delta_json])
    assert not (tmp_path / "mlflow.db").exists()


def test_a_store_that_is_damaged_says_that_the_numbers_are_written(run_ids, delta_json, tmp_path, capsys):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    said = r"mlflow\.db.*delta\.json is written: `dvc repro` brings it there"
    with pytest.raises(TrackingError, match=said):
        log_conclusions(comparison(), [PAIR], "rooms")
    with pytest.raises(TrackingError, match=said):
        log_comparison("rooms", delta_json, {}, "about", [])
    keep_report("rooms", delta_json, [delta_json])
    warned = capsys.readouterr().err
    assert "warning: MLflow does not get the report: " in warned and "mlflow.db" in warned
