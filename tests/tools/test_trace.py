"""From each of a metrics file, a model and an MLflow run to the others, and what differs since."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from torch import nn

from pipeline.compute import distributed
from pipeline.core import paths
from pipeline.core.errors import DataError, TrackingError
from pipeline.core.integrity import file_sha256
from pipeline.networks.saved_weights import save_weights
from pipeline.params.load import load_params
from pipeline.results.run_record import RunRecord
from pipeline.tools.trace import trace
from pipeline.tracking import mlflow_run
from stages import trace as stage
from stages._entry import run_stage
from tests.support.result_files import run_record
from tests.support.traced import make_result, score, working_in

MODEL, METRICS = "models/pair-0", "reports/metrics/pair-0.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project, its run.json, and the store of runs, which all tests share: to make one takes seconds."""
    folder = tmp_path_factory.mktemp("made")
    with working_in(folder):
        yield folder, make_result()


@pytest.fixture
def record(made, tmp_path, monkeypatch):
    """run.json of a copy of the project, as the working folder."""
    ignored = shutil.ignore_patterns("mlflow.db*", "mlruns", ".runs")
    shutil.copytree(made[0], tmp_path, ignore=ignored, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for processes that it starts
    return made[1]


def traced(what):
    return trace(load_params(), what)


def edit_params(**sections):
    raw = yaml.safe_load(paths.PARAMS.read_text())
    for section, values in sections.items():
        raw[section].update(values)
    paths.PARAMS.write_text(yaml.safe_dump(raw))


@pytest.mark.parametrize("start", [METRICS, MODEL, "mlflow"])
@pytest.mark.slow
def test_each_leads_to_the_others(record, start):
    found = traced(record.get(start, start))
    assert (found.run, found.seed, found.metrics_file, found.model) == ("pair", 0, METRICS, MODEL)
    mlflow_run = {"id": record["mlflow"], "name": "pair-0", "experiment": "traced", "status": "FINISHED"}
    assert found.mlflow == mlflow_run | {"restored": False}
    assert found.recorded.items() >= {key: record[key] for key in ("git.commit", "training_seconds", "device")}.items()
    assert found.reproducible and not found.notes


@pytest.mark.slow
def test_several_processes_are_no_difference_but_a_note(record, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 4)
        patch.setenv("DVC_ROOT", str(Path.cwd()))  # else it would be in the store that all tests share
        assert make_result("depth")["processes"] == 4
        found = traced("models/depth-0")
    assert found.reproducible and "4 processes trained it: PIPELINE_LAUNCHER is to start as many" in found.notes


@pytest.mark.slow
def test_every_changed_input_is_listed_with_both_values(record):
    edit_params(training={"lr": 0.5, "augmentation": {"flip": 0.25}})
    with open("pipeline/tasks/losses.py", "a") as file:
        file.write("\n")
    paths.write_json(
        paths.PREPARED / "dataset.json", paths.read_json(paths.PREPARED / "dataset.json") | {"digest": "e"}
    )
    found = traced(MODEL)
    assert not found.reproducible and not found.mismatches
    assert (
        found.differences.pop("file pipeline/tasks/losses.py")[0] == record["inputs"]["file pipeline/tasks/losses.py"]
    )
    assert found.differences == {
        "data": ("d" * 64, "e"),
        "param training.augmentation.flip": ("0.5", "0.25"),
        "param training.lr": ("0.001", "0.5"),
    }


def remove_run():
    raw = yaml.safe_load(paths.PARAMS.read_text())
    del raw["runs"]["pair"]
    paths.PARAMS.write_text(yaml.safe_dump(raw))


def pack_other_data():
    packed = {"prepare": {"params": {"params.yaml": {"data": {"dataset": "rooms", "tasks": ["depth"]}}}}}
    with open("dvc.lock", "w") as file:
        yaml.safe_dump({"schema": "2.0", "stages": packed}, file)


def score_others():
    score(replace(RunRecord.read(paths.run_file("pair", 0)), weights_sha256="0" * 64))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (remove_run, "run pair is no longer in params.yaml"),
        (lambda: edit_params_seeds([1]), "seed 0 is no longer in params.yaml"),
        (lambda: paths.weights_file("pair", 0).write_bytes(b"other"), "is not the file that training wrote"),
        (lambda: paths.weights_file("pair", 0).unlink(), "weights.safetensors is missing"),
        (score_others, f"{METRICS} was made from other weights than those in {MODEL}"),
        (pack_other_data, "data/prepared was packed with other params"),
    ],
)
@pytest.mark.slow
def test_what_does_not_belong_together_is_told(record, change, told):
    change()
    for start in (MODEL, METRICS):
        found = traced(start)
        assert told in "\n".join(found.mismatches) and not found.reproducible and not found.differences


def edit_params_seeds(seeds):
    paths.PARAMS.write_text(yaml.safe_dump(yaml.safe_load(paths.PARAMS.read_text()) | {"seeds": seeds}))


@pytest.mark.slow
def test_without_the_model_mlflow_knows_what_it_was_made_from(record):
    shutil.rmtree(MODEL)
    edit_params(training={"lr": 0.5})
    for start in (METRICS, record["mlflow"]):
        found = traced(start)
        assert found.model is None and found.differences == {"param training.lr": ("0.001", "0.5")}
        assert found.recorded["git.commit"] == record["git.commit"]


@pytest.mark.slow
def test_a_result_restored_on_another_machine_leads_to_the_run_that_scored_it_there(record):
    torch.manual_seed(1)
    save_weights(nn.Linear(2, 2), paths.weights_file("pair", 0))
    digest = file_sha256(paths.weights_file("pair", 0))
    elsewhere = replace(RunRecord.read(paths.run_file("pair", 0)), weights_sha256=digest)
    elsewhere.write(paths.run_file("pair", 0))
    score(elsewhere)
    lacking = traced(MODEL)
    assert lacking.mlflow is None and lacking.reproducible and "has no run of these weights" in lacking.notes[0]
    with mlflow_run.continued_run(mlflow_run.connect("traced"), "pair", 0, digest) as log:
        pass
    for start in (MODEL, METRICS, log.id):
        found = traced(start)
        assert (found.mlflow["id"], found.mlflow["restored"], found.model) == (log.id, True, MODEL)
        assert found.reproducible and not found.notes


@pytest.mark.slow
def test_a_training_that_did_not_end_is_told(record):
    experiment = mlflow_run.connect("traced")
    with pytest.raises(KeyboardInterrupt), mlflow_run.training_run(experiment, "pair-0", "x", {}) as log:
        raise KeyboardInterrupt
    found = traced(log.id)
    assert found.mlflow["status"] == "KILLED" and "is unknown" in found.mismatches[0]
    assert found.notes == [f"{MODEL} is of another training than this MLflow run"]


@pytest.mark.parametrize("what", ["nonsense", "models/none-0", "f" * 32, "params.yaml"])
@pytest.mark.slow
def test_what_cannot_be_traced_is_told_with_what_can(record, what):
    with pytest.raises(DataError, match=r"allowed: a metrics file .*model's folder .*MLflow run"):
        traced(what)


@pytest.mark.slow
def test_a_run_of_other_programs_and_a_file_of_before(record):
    client = mlflow.MlflowClient()
    foreign = client.create_run(mlflow_run.connect("traced"), run_name="their-own")
    with pytest.raises(DataError, match=r"their-own. is none of this pipeline"):
        traced(foreign.info.run_id)
    paths.write_json(paths.metrics_file("pair", 0), {"run": "pair", "seed": 0})
    with pytest.raises(DataError, match=r"pair-0.json is of no version, this code reads version 2; run `dvc repro`"):
        traced(METRICS)
    shutil.rmtree(MODEL)
    tags = {"run": "pair", "seed": "0"}
    with mlflow_run.training_run(mlflow_run.connect("traced"), "pair-0", "old", tags) as log:
        run_record(run="pair").write(Path("old/run.json"))
        paths.write_json(Path("old/run.json"), paths.read_json(Path("old/run.json")) | {"version": 0})
        log.artifact(Path("old/run.json"))
    with pytest.raises(
        DataError, match=r"run.json of MLflow's run .* is of version 0, this code reads version 1; trace its"
    ):
        traced(log.id)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told(record, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(TrackingError, match="is unreachable"):
        traced(MODEL)


@pytest.mark.slow
def test_looking_makes_no_store(record, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert traced(MODEL).mlflow is None
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(("lr", "code"), [(1e-3, 0), (0.5, 1)])
@pytest.mark.slow
def test_the_command_says_it_in_words_in_json_and_by_its_exit_code(record, capsys, lr, code):
    edit_params(training={"lr": lr})

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            run_stage(stage.main, parser=stage.parser(), argv=arguments)
        return ended.value.code, capsys.readouterr().out

    (told, words), (same, text) = run(MODEL), run(MODEL, "--json")
    assert told == same == code
    assert ("param training.lr: 0.001 -> 0.5" in words) == bool(code) == ("reproducible:" not in words)
    content = json.loads(text)
    assert content["reproducible"] == (not code) and content["mlflow"]["id"] == record["mlflow"]
    assert run("nonsense")[0] == 2
