"""Runs that tests record on a server, and what of them has arrived."""

from pipeline.tracking import mlflow_run

USER, PASSWORD = "ada", "open sesame"


def trained(experiment, **options):
    return mlflow_run.training_run(
        mlflow_run.connect(experiment), "depth-0", "a", {"input_fingerprint": "f"}, **options
    )


def runs(store, experiment):
    found = store.get_experiment_by_name(experiment)
    return store.search_runs([found.experiment_id])


def steps_of(store, run_id, name="loss/depth"):
    return sorted(point.step for point in store.get_metric_history(run_id, name))


def record_all(experiment, folder):
    """A training that uses every kind of request."""
    (folder / "weights.bin").write_bytes(b"1" * 100_000)
    with trained(experiment) as log:
        log.params({"a": 1})
        log.metrics({"loss/depth": 1.0}, 1)
        log.artifact(folder / "weights.bin", "checkpoint")
    return log.id


def check_all(store, run_id):
    assert store.get_run(run_id).info.status == "FINISHED" and steps_of(store, run_id) == [1]
    assert [item.path for item in store.list_artifacts(run_id, "checkpoint")] == ["checkpoint/weights.bin"]
