"""A real MLflow store: what is written is found there, wherever the process runs, and a dead server is told first."""

import errno
import os
import re
import signal
import time

import cv2
import mlflow
import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from pipeline.core.errors import TrackingError
from pipeline.tracking import metric_queue, mlflow_run
from pipeline.tracking.queries import close_runs
from pipeline.visual.paint import write_png
from tests.support.mlflow_server import Server, free_port
from tests.support.mlflow_store import put_empty_store

pytestmark = pytest.mark.e2e

WEIGHTS = "a" * 64


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A project root that has no store yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def project(fresh):
    """A project root with a store of its own."""
    put_empty_store(fresh)
    return fresh


def find(run_id: str):
    return mlflow.MlflowClient().get_run(run_id)


def trained(training_id: str = "a", **options):
    """The run of a training of the project, open for writing."""
    tags = {"input_fingerprint": "f", "run": "depth", "seed": "0", "weights_sha256": WEIGHTS}
    return mlflow_run.training_run(mlflow_run.connect("rooms"), "depth-0", training_id, tags, **options)


def scored(weights_sha256: str = WEIGHTS):
    return mlflow_run.continued_run(mlflow_run.connect("rooms"), "depth", 0, weights_sha256)


def test_everything_of_a_run_is_in_the_store(fresh, tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"123")
    with trained() as log:
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
    assert (fresh / "mlflow.db").is_file()
    assert list((fresh / "mlruns").rglob("weights.bin"))


def test_evaluation_goes_on_writing_the_same_run(project):
    with trained() as log:
        log.metrics({"loss/depth": 1.0}, 1)
    with scored() as again:
        again.metrics({"depth/rmse": 0.5}, 10)
    assert again.id == log.id
    assert find(log.id).data.metrics.keys() >= {"loss/depth", "depth/rmse"}
    assert find(log.id).info.status == "FINISHED"


def test_a_run_lasts_as_long_as_it_was_worked_on_and_evaluation_does_not_move_its_end(project):
    with pytest.raises(KeyboardInterrupt), trained() as log:
        time.sleep(0.1)
        raise KeyboardInterrupt
    time.sleep(1.0)  # nothing runs
    with trained(worked=0.1):
        time.sleep(0.2)
    info = find(log.id).info
    assert 300 <= info.end_time - info.start_time < 1000
    time.sleep(0.1)
    with scored():
        pass
    assert find(log.id).info.end_time == info.end_time and find(log.id).info.status == "FINISHED"


def test_training_and_evaluation_data_are_both_linked(project):
    with trained() as log:
        log.dataset("rooms train", "f" * 64, "training")
    with scored() as again:
        again.dataset("rooms val", "f" * 64, "evaluation")
    linked = {each.dataset.name: each.tags[0].value for each in find(log.id).inputs.dataset_inputs}
    assert linked == {"rooms train": "training", "rooms val": "evaluation"}


def test_a_run_unknown_to_this_store_is_begun_anew_and_says_so(project):
    with scored() as log:
        log.metrics({"depth/rmse": 0.5}, 10)
    tags = find(log.id).data.tags
    assert (tags["restored"], tags["run"], tags["seed"], tags["weights_sha256"]) == ("true", "depth", "0", WEIGHTS)


def test_a_training_that_is_begun_again_goes_on_in_its_run(project):
    def begin(points, first, last):
        with trained(points=points) as log:
            log.params({"epochs": 5, "panels": 1 if first == 1 else 2})
            log.dataset("rooms", "f" * 64, "training")
            for step in range(first, last + 1):
                log.metrics({"loss/depth": 1 / step}, step)
            if last == 8:
                raise KeyboardInterrupt
        return log

    with pytest.raises(KeyboardInterrupt), trained() as first:
        raise KeyboardInterrupt  # before anything was logged
    with pytest.raises(KeyboardInterrupt):
        begin((), 1, 8)
    log = begin([metric_queue.Point("loss/depth", 1 / step, 0, step) for step in range(1, 6)], 6, 12)
    with trained("b") as other:
        pass
    assert first.id == log.id != other.id
    run = find(log.id)
    assert run.info.status == "FINISHED" and run.data.tags["input_fingerprint"] == "f"
    assert run.data.params == {"epochs": "5", "panels": "1"}, "params can't change, and need not be of the last attempt"
    assert len(run.inputs.dataset_inputs) == 1
    history = mlflow.MlflowClient().get_metric_history(log.id, "loss/depth")
    assert sorted(point.step for point in history) == list(range(1, 13))


def test_runs_whose_process_was_killed_and_that_nobody_goes_on_with_are_closed(project):
    experiment = mlflow_run.connect("rooms")
    client = mlflow.MlflowClient()
    runs = {id: client.create_run(experiment, tags={"training_id": id}).info.run_id for id in ("dead", "at work")}
    close_runs({"dead"})
    assert {id: find(run).info.status for id, run in runs.items()} == {"dead": "KILLED", "at work": "RUNNING"}


def test_scores_that_were_logged_are_not_logged_again_unless_they_changed(project):
    """And are then those that the run shows, also of a run that has them at a step: MLflow goes by the highest."""
    with trained() as log:
        log.metrics({"sal/maxF": 0.5}, 10)
    for score in (0.5, 0.5, 0.4):
        with scored() as again:
            again.scores({"depth/rmse": score, "sal/maxF": score})
    for name in ("depth/rmse", "sal/maxF"):
        assert sorted(point.value for point in mlflow.MlflowClient().get_metric_history(log.id, name)) == [0.4, 0.5]
        assert find(log.id).data.metrics[name] == 0.4


def picture(folder, step, colour=0):
    path = folder / f"{step}.png"
    write_png(path, np.full((8, 12, 3), colour, np.uint8))
    return path


def pictures_of(log):
    """{(task, step): colour} of the pictures that MLflow's page shows with sliders."""
    client = mlflow.MlflowClient()
    found = [each.path for each in client.list_artifacts(log.id, "images") if each.path.endswith(".png")]
    split = {path: path.removeprefix("images/panels~").split("+") for path in found}
    paths = {(task, int(step)): path for path, (task, _, step, *_) in split.items()}
    assert len(paths) == len(found), "one of each task and step"
    return {key: int(cv2.imread(client.download_artifacts(log.id, path))[0, 0, 0]) for key, path in paths.items()}


def test_a_picture_that_is_gone_or_damaged_ends_no_training(project, tmp_path, capsys):
    whole = picture(tmp_path, 0).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    (tmp_path / "header.png").write_bytes(whole[:11] + b"\1" + whole[12:])  # Pillow's ValueError, of its length
    with trained() as log:
        log.picture(tmp_path / "header.png", "sal", 0)
        log.picture(tmp_path / "cut.png", "sal", 1)
        log.picture(tmp_path / "gone.png", "sal", 2)
        log.picture(picture(tmp_path, 3, 3), "sal", 3)
    assert pictures_of(log) == {("sal", 3): 3} and find(log.id).info.status == "FINISHED"
    said = capsys.readouterr().err
    assert all(f"{name}.png can't be read" in said for name in ("cut", "header", "gone"))


def test_a_store_that_refuses_pictures_has_everything_else(project, tmp_path, monkeypatch, capsys):
    def full(self, run_id, image, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_image", full)
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0.05)
    with trained() as log:
        log.picture(picture(tmp_path, 3, 3), "sal", 3)
        for step in range(4):
            log.metrics({"loss/sal": 1.0}, step)
            time.sleep(0.1)
    assert find(log.id).info.status == "FINISHED"
    assert len(mlflow.MlflowClient().get_metric_history(log.id, "loss/sal")) == 4
    assert re.search(r"MLflow lacks 3\.png: .*No space left on device", capsys.readouterr().err)


def test_pictures_come_by_step_and_once(project, tmp_path):
    with pytest.raises(KeyboardInterrupt), trained() as log:
        for step in (0, 50):
            log.picture(picture(tmp_path, step, step), "human_parts", step)
        log.picture(picture(tmp_path, 3, 3), "edge", 50)
        raise KeyboardInterrupt
    before = {("human_parts", 0): 0, ("human_parts", 50): 50, ("edge", 50): 3}
    assert pictures_of(log) == before and find(log.id).data.tags["mlflow.loggedImages"] == "True"
    with trained() as again:  # those of before lie there still
        for step in (0, 50, 100):
            again.picture(picture(tmp_path, step, step), "human_parts", step)
    assert again.id == log.id and pictures_of(log) == before | {("human_parts", 100): 100}


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_is_closed_and_keeps_what_was_measured(project, error, status):
    with pytest.raises(error), trained() as log:
        log.metrics({"loss/depth": 2.0}, 1)
        raise error
    assert find(log.id).info.status == status
    assert find(log.id).data.metrics["loss/depth"] == 2.0


def test_a_dead_server_is_told_with_its_address_and_the_remedy(monkeypatch, capsys):
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 1.0)
    refused = rf"{uri} is unreachable \(Connection refused\)"
    with pytest.raises(TrackingError, match=rf"{refused}, for 1 s.*Nothing was started; correct MLFLOW_TRACKING_URI"):
        mlflow_run.connect("rooms")
    assert re.search(rf"{refused}: tried again for 1 s", capsys.readouterr().err), "a person need not wait to know"


@pytest.fixture
def server(fresh, monkeypatch):
    server = Server(fresh)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.kill()


def test_a_server_that_is_killed_and_started_again_lacks_nothing(server, tmp_path, monkeypatch, capsys):
    """Away in the middle of a training, which does not notice, and at its end, so that the next attempt delivers."""
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0.05)
    monkeypatch.setattr(metric_queue, "_LONGEST_PAUSE", 0.1)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"123")

    def steps(log, first, last):
        for step in range(first, last + 1):
            log.metrics({"loss/depth": 1 / step, "learning_rate": 0.1}, step)
            time.sleep(0.005)

    expected = pytest.raises(
        TrackingError, match=r"is unreachable .*for 1 s. Nothing that was computed is lost.*`dvc repro`"
    )
    with expected, trained() as log:
        steps(log, 1, 50)
        server.kill()
        steps(log, 51, 150)
        server.start()
        steps(log, 151, 200)
        log.artifact(weights, "checkpoint")
        server.kill()
        steps(log, 201, 250)
        monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 1.0)
    assert "Work continues" in capsys.readouterr().err
    server.start()
    with trained(points=log.points) as again:
        steps(again, 251, 300)
    assert again.id == log.id and find(log.id).info.status == "FINISHED"
    client = mlflow.MlflowClient()
    for name in ("loss/depth", "learning_rate"):
        assert sorted(point.step for point in client.get_metric_history(log.id, name)) == list(range(1, 301))
    assert [item.path for item in client.list_artifacts(log.id, "checkpoint")] == ["checkpoint/weights.bin"]


def test_a_deleted_experiment_is_told(project):
    experiment = mlflow_run.connect("rooms")
    mlflow.delete_experiment(experiment)
    with pytest.raises(TrackingError, match=r"was deleted; set another name .* or restore it .* too"):
        mlflow_run.connect("rooms")


def test_curves_appear_while_the_run_goes_on(project, monkeypatch):
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0)
    with trained() as log:
        log.metrics({"loss/depth": 2.0}, 1)
        for _ in range(100):
            if found := find(log.id).data.metrics:
                break
            time.sleep(0.1)
        assert found["loss/depth"] == 2.0


def test_a_run_of_another_store_gets_one_of_its_own_once(project):
    with trained():
        pass
    with scored("f" * 64) as log:
        first = log.id
    with scored("f" * 64) as log:
        assert log.id == first
    assert find(first).data.tags["restored"] == "true"


def test_of_two_trainings_to_the_same_weights_the_newer_is_scored(project):
    for training in ("a", "b"):
        with trained(training) as log:
            pass
    with scored() as again:
        assert again.id == log.id


def test_a_result_is_scored_in_its_run_whatever_the_experiment_is_called_by_then(project):
    with trained() as log:
        pass
    with mlflow_run.continued_run(mlflow_run.connect("renamed"), "depth", 0, WEIGHTS) as again:
        assert again.id == log.id


def test_two_processes_may_make_an_experiment_at_once(project, monkeypatch):
    first = mlflow_run.connect("rooms")
    real, answers = mlflow.get_experiment_by_name, [None]
    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda name: answers.pop() if answers else real(name))
    assert mlflow_run.connect("rooms") == first


def test_two_processes_may_link_a_dataset_at_once(project):
    """MLflow looks whether it knows the dataset and then adds it; here the other run does so in between."""
    between = []

    def other_first(session, *_):
        if not between and any(type(each).__name__ == "SqlDataset" for each in session.new):
            between.append(True)
            with trained("b") as other:
                other.dataset("rooms", "f" * 64, "training")

    with trained("a") as log:
        event.listen(Session, "before_flush", other_first)
        try:
            log.dataset("rooms", "f" * 64, "training")
        finally:
            event.remove(Session, "before_flush", other_first)
    assert between and len(find(log.id).inputs.dataset_inputs) == 1


def test_a_kill_while_the_database_is_made_leaves_none(fresh, monkeypatch):
    """MLflow makes it in many steps, and can't go on after half of them."""
    child = os.fork()
    if not child:
        monkeypatch.setattr("mlflow.store.db.utils._upgrade_db", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        mlflow_run.connect("rooms")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (fresh / "mlflow.db").exists() and (fresh / "mlflow.db.new").exists()
    assert mlflow.get_experiment(mlflow_run.connect("rooms")).name == "rooms"
    assert [path.name for path in fresh.glob("mlflow.db*")] == ["mlflow.db"]


def test_a_database_that_is_none_is_told(fresh):
    (fresh / "mlflow.db").write_bytes(b"half made" * 1000)
    with pytest.raises(TrackingError, match=r"mlflow\.db is damaged \(.*not a database\).*Keep the database"):
        mlflow_run.connect("rooms")
