"""Typed files of results: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import stages.compare
from pipeline.comparison.load_results import load_results
from pipeline.core import paths
from pipeline.core.errors import DataError, OtherVersionError
from pipeline.core.result_file import ResultFile
from pipeline.params.load import parse_params
from pipeline.results.comparison import Comparison, Score
from pipeline.results.run_metrics import RunMetrics
from pipeline.results.run_record import RunRecord
from stages._entry import run_stage
from tests.support.result_files import comparison, run_metrics, run_record

FILE = Path("some/where.json")
MADE = {RunRecord: run_record, RunMetrics: run_metrics, Comparison: comparison}
EVERY = pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)


def content_of(kind: type[ResultFile]) -> dict:
    MADE[kind]().write(FILE)
    return paths.read_json(FILE)


def refusal(kind: type[ResultFile], content: dict) -> str:
    paths.write_json(FILE, content)
    with pytest.raises(DataError) as caught:
        kind.read(FILE)
    says = str(caught.value)
    assert says.startswith(str(FILE)) and "`dvc repro" in says and "\n" not in says and len(says) < 500
    return says


# ---- round trip ----------------------------------------------------------------------------------------------


@EVERY
def test_what_is_written_is_read(in_tmp, kind):
    made = MADE[kind]()
    made.write(FILE)
    first = FILE.read_bytes()
    found = kind.read(FILE)
    assert found == made and type(found) is kind
    found.write(FILE)
    assert FILE.read_bytes() == first, "an integer stays one, and keys keep their order"


@EVERY
def test_the_version_comes_first_and_a_whole_number(in_tmp, kind):
    content = content_of(kind)
    assert next(iter(json.loads(FILE.read_text()))) == "version" and content["version"] == kind.version
    assert type(content["version"]) is int


def test_what_is_not_there_is_left_out_and_what_is_not_defined_is_null(in_tmp):
    content = content_of(Comparison)
    assert content["scores"]["both"]["semseg"] == {"metric": "mIoU", "higher_is_better": True}
    assert content["scores"]["both"]["depth"]["std"] is None
    keys = ("run", "seed", "task", "metric", "higher_is_better", "score", "baseline_run", "baseline")
    assert content["per_seed"][1] == dict(
        zip(keys, ("both", 0, "semseg", "mIoU", True, None, "semseg", None), strict=True)
    )
    assert content["per_seed"][2] == {"run": "both", "seed": 0, "task": "delta_m", "delta": 50.0}


# ---- other versions ------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    ("version", "says"),
    [(None, "no version"), (0, "version 0"), (99, "version 99"), ("1", "version '1'"), (True, "version True")],
)
def test_another_version_is_refused_in_a_line(in_tmp, kind, version, says):
    content = {key: value for key, value in content_of(kind).items() if key != "version"}
    content |= {} if version is None else {"version": version}
    paths.write_json(FILE, content)
    with pytest.raises(OtherVersionError) as caught:
        kind.read(FILE)
    remedy = "dvc repro compare" if kind is Comparison else "dvc repro"  # a run of either family may be meant
    assert str(caught.value) == (
        f"{FILE} is of {says}, this code reads version {kind.version}; run `{remedy}` to write it anew, "
        "or read a file from elsewhere with the code that wrote it"
    )


def older(path: Path, made: ResultFile) -> None:
    made.write(path)
    paths.write_json(path, {key: value for key, value in paths.read_json(path).items() if key != "version"})


def params() -> dict:
    recipe = {"backbone": "net", "input_size": [64, 64], "batch_size": 4, "epochs": 2, "lr": 1e-3}
    return {
        "data": {"dataset": "rooms", "tasks": ["depth"]},
        "training": recipe,
        "seeds": [0],
        "runs": {"depth": {"architecture": "single_task", "tasks": ["depth"]}},
    }


def test_the_table_of_an_older_version_is_refused_in_a_line(in_tmp, capsys):
    (in_tmp / "params.yaml").write_text(yaml.safe_dump(params()))
    older(paths.DELTA_JSON, comparison())
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda params: stages.compare.main(params, show=True), argv=[])
    says = capsys.readouterr()
    assert ended.value.code == 2 and says.out == "" and len(says.err.splitlines()) == 1
    assert says.err.startswith(
        "reports/delta.json is of no version, this code reads version 3; run `dvc repro compare`"
    )


def test_scores_of_an_older_version_name_the_stage_of_their_run(in_tmp):
    older(paths.metrics_file("depth", 0), run_metrics(run="depth"))
    with pytest.raises(
        OtherVersionError, match=r"depth-0.json is of no version, .*; run `dvc repro evaluate@depth-0` to"
    ):
        load_results(parse_params(params()))


# ---- wrong content -------------------------------------------------------------------------------------------


@EVERY
def test_each_key_is_needed(in_tmp, kind):
    content = content_of(kind)
    for key in content.keys() - {"version"}:
        says = refusal(kind, {name: value for name, value in content.items() if name != key})
        assert f"{FILE} lacks {key}: no stage of this version wrote that" in says


@EVERY
def test_no_other_key_is_known(in_tmp, kind):
    assert f"{FILE} has what is unknown: colour: no stage" in refusal(kind, content_of(kind) | {"colour": "green"})


@EVERY
@pytest.mark.parametrize("wrong", [3.5, True, "text", None, [[]], {"a": {"b": {"c": "d"}}}])
def test_each_value_has_its_type(in_tmp, kind, wrong):
    """Whatever is put in a key's place is read as it is, or refused in one line."""
    content = content_of(kind)
    for key in content.keys() - {"version"}:
        paths.write_json(FILE, content | {key: wrong})
        try:
            assert getattr(kind.read(FILE), key) == wrong and type(wrong) is type(content[key])
        except DataError:
            refusal(kind, content | {key: wrong})
        except AssertionError:
            assert (key, wrong) in {("cpu_threads", None)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": "4"}, "says samples = '4' (input should be a valid integer)"),
        ({"samples": 4.0}, "says samples = 4.0 (input should be a valid integer)"),
        ({"published_split": 0}, "says published_split = 0 (input should be a valid boolean)"),
        ({"tasks": {"depth": {"rmse": "low"}}}, "says tasks.depth.rmse = 'low' (input should be a valid number)"),
        ({"tasks": {"depth": {"rmse": True}}}, "says tasks.depth.rmse = True (input should be a valid number)"),
        ({"primary_metric": {"depth": {"metric": "rmse"}}}, "lacks primary_metric.depth.higher_is_better"),
        ({"primary_metric": {}}, "contradicts itself (value error, depth is scored without its primary metric)"),
        (
            {"tasks": {"depth": {"abs_rel": 0.1}}},
            "contradicts itself (value error, depth is scored without its primary",
        ),
        ({"protocol": {}}, "contradicts itself (value error, depth is scored, and neither protocol nor"),
        ({"seed": -1}, "seed is -1, expected a seed"),
    ],
)
def test_what_is_wrong_is_named(in_tmp, change, says):
    paths.write_json(FILE, content_of(RunMetrics) | change)
    with pytest.raises(DataError) as caught:
        RunMetrics.read(FILE)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_wrong_deep_in_a_comparison_is_named(in_tmp):
    content = content_of(Comparison)
    content["per_seed"][1]["score"] = "high"
    assert "says per_seed.1.score = 'high' (input should be" in refusal(Comparison, content)
    content = comparison()
    with pytest.raises(ValueError, match="not of the same runs"):
        replace(content, scores={})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(in_tmp, number):
    """Also where a checksum was made for it."""
    run_metrics(tasks={"depth": {"rmse": 123.25}}).write(FILE)
    FILE.write_text(FILE.read_text().replace("123.25", number))
    with pytest.raises(DataError, match="is damaged: it has changed since it was written"):
        RunMetrics.read(FILE)
    content = json.loads(FILE.read_text())
    del content["checksum"]
    FILE.write_text(json.dumps(content | {"checksum": [paths._checksum(content)]}))
    with pytest.raises(DataError, match=r"says tasks.depth.rmse = .*finite number.*`dvc repro`"):
        RunMetrics.read(FILE)


def test_a_score_that_is_not_finite_is_not_written(in_tmp):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_metrics(tasks={"depth": {"rmse": float("nan")}}).write(FILE)
    assert not FILE.exists() and Score("mIoU", True).mean is None
