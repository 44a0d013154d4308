"""Δm and its sentence in a real MLflow store, beside the scores of the run."""

import mlflow
import pytest

from pipeline.core.errors import TrackingError
from pipeline.tracking import mlflow_run
from pipeline.tracking.conclusions import Compared, log_conclusions

pytestmark = pytest.mark.e2e

WEIGHTS, NOTE = "a" * 64, "mlflow.note.content"
WORSE = "pair: worse than its baselines by 2.0 % (95 % interval -3.1 to -0.9, 2 seeds, 96 images)"


@pytest.fixture
def run_id(tmp_path, monkeypatch):
    """A trained run in the store of a project."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tags = {"run": "pair", "seed": "0", "weights_sha256": WEIGHTS}
    with mlflow_run.training_run(mlflow_run.connect("rooms"), "pair-0", "a", tags) as log:
        pass
    return log.id


def test_a_run_shows_its_gain_and_what_it_means(run_id, capsys):
    client = mlflow.MlflowClient()
    for gain in (-2.0, -2.0, 1.5, -2.0):
        log_conclusions([Compared("pair", 0, WEIGHTS, gain, WORSE)])
        assert client.get_run(run_id).data.metrics == {"delta_m": gain}
    assert len(client.get_metric_history(run_id, "delta_m")) == 3, "the same value is not logged again"
    tags = client.get_run(run_id).data.tags
    assert tags["conclusion"] == tags[NOTE] == WORSE
    log_conclusions([Compared("pair", 0, WEIGHTS, -2.0, "pair: better")])
    assert client.get_run(run_id).data.tags[NOTE] == "pair: better"
    assert capsys.readouterr().err == ""


def test_a_description_of_the_user_s_own_stays(run_id):
    client = mlflow.MlflowClient()
    client.set_tag(run_id, NOTE, "for the paper")
    log_conclusions([Compared("pair", 0, WEIGHTS, -2.0, WORSE)])
    tags = client.get_run(run_id).data.tags
    assert (tags[NOTE], tags["conclusion"]) == ("for the paper", WORSE)


def test_a_run_of_other_weights_is_named_and_left_alone(run_id, capsys):
    log_conclusions([Compared("pair", 0, "b" * 64, -2.0, WORSE)])
    assert "no run of pair-0" in capsys.readouterr().err
    assert "delta_m" not in mlflow.MlflowClient().get_run(run_id).data.metrics


def test_without_a_store_there_is_nothing_to_write(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    log_conclusions([Compared("pair", 0, WEIGHTS, -2.0, WORSE)])
    assert not (tmp_path / "mlflow.db").exists()


def test_a_store_that_is_damaged_says_that_the_numbers_are_written(run_id, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(
        TrackingError, match=r"mlflow\.db.* reports/delta\.json is written: `dvc repro` brings it there"
    ):
        log_conclusions([Compared("pair", 0, WEIGHTS, -2.0, WORSE)])
