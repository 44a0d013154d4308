"""A real MLflow store: what is written is found there, wherever the process runs, and a dead server is told first."""

import socket

import mlflow
import pytest

from pipeline import tracking
from pipeline.errors import TrackingError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project root with a store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    yield tmp_path
    mlflow.end_run()


def find(run_id: str):
    return mlflow.MlflowClient().get_run(run_id)


def test_everything_of_a_run_is_in_the_store(project, tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"123")
    with tracking.new_run("rooms", "depth-0") as log:
        log.params({f"training.p{i}": i for i in range(150)})  # more than MLflow takes at once
        log.tags({"seed": "0"})
        log.dataset("rooms", "f" * 64, "training")
        for step in range(1, 1301):  # more metrics than MLflow takes at once
            log.metrics({"loss/depth": 1 / step}, step)
        log.artifact(weights, "checkpoint")
    run = find(log.id)
    assert run.info.status == "FINISHED" and run.info.run_name == "depth-0"
    assert len(run.data.params) == 150 and run.data.tags["seed"] == "0"
    history = mlflow.MlflowClient().get_metric_history(log.id, "loss/depth")
    assert [metric.step for metric in history] == list(range(1, 1301))
    assert [metric.value for metric in history] == [1 / step for step in range(1, 1301)]
    assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 36
    assert (project / "mlflow.db").is_file()
    assert list((project / "mlruns").rglob("weights.bin"))


def test_evaluation_goes_on_writing_the_same_run(project):
    with tracking.new_run("rooms", "depth-0") as log:
        log.metrics({"loss/depth": 1.0}, 1)
    with tracking.continued_run("rooms", log.id, "depth-0") as again:
        again.metrics({"depth/rmse": 0.5}, 10)
    assert again.id == log.id
    assert find(log.id).data.metrics.keys() >= {"loss/depth", "depth/rmse"}
    assert find(log.id).info.status == "FINISHED"


def test_a_run_unknown_to_this_store_is_begun_anew_and_says_so(project):
    with tracking.continued_run("rooms", "0" * 32, "depth-0") as log:
        log.metrics({"depth/rmse": 0.5}, 10)
    assert find(log.id).data.tags["restored_from"] == "0" * 32


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_is_closed_and_keeps_what_was_measured(project, error, status):
    with pytest.raises(error), tracking.new_run("rooms", "depth-0") as log:
        log.metrics({"loss/depth": 2.0}, 1)
        raise error
    assert find(log.id).info.status == status
    assert find(log.id).data.metrics["loss/depth"] == 2.0


def test_a_dead_server_is_told_with_its_address_and_the_remedy(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=rf"{uri} can't be reached.*MLFLOW_TRACKING_URI.*Nothing was started"):
        tracking.connect("rooms")


def test_a_deleted_experiment_is_told(project):
    experiment = tracking.connect("rooms")
    mlflow.delete_experiment(experiment)
    with pytest.raises(TrackingError, match="was deleted; restore it"):
        tracking.connect("rooms")


def test_curves_appear_while_the_run_goes_on(project, monkeypatch):
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0)
    with tracking.new_run("rooms", "depth-0") as log:
        log.metrics({"loss/depth": 2.0}, 1)
        assert find(log.id).data.metrics["loss/depth"] == 2.0
