#!/usr/bin/env bash
# mlflow 3.17.2, SQLite store: a run that was linked with a data set as "training" and is then linked with the same data
# set as "evaluation" keeps the first link only. The second call returns without a word. And a run that is taken up again
# by mlflow.start_run(run_id=...) is RUNNING with the end time of its killed attempt, so pages show a duration that ended
# before the work did; when it ends, the duration counts the time in which nothing ran.
#
# Seen:
#   contexts asked for:       training, evaluation
#   contexts in the store:    training
#   taken up again:           status RUNNING, end time of the first attempt: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
env/bin/uv pip install --quiet --python env/bin/python mlflow==3.17.2
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
env/bin/python - 2>/dev/null <<'P'
import mlflow
import numpy as np

mlflow.set_tracking_uri("sqlite:///store.db")
data = mlflow.data.from_numpy(np.zeros((2, 2)), name="rooms")
with mlflow.start_run() as run:
    for context in ("training", "evaluation"):
        mlflow.log_input(data, context=context)
client, name = mlflow.MlflowClient(), run.info.run_id
first = client.get_run(name)
found = [tag.value for each in first.inputs.dataset_inputs for tag in each.tags]
with mlflow.start_run(run_id=name):
    again = client.get_run(name).info
print("contexts asked for:       training, evaluation")
print("contexts in the store:   ", ", ".join(found))
same = again.end_time == first.info.end_time is not None
print(f"taken up again:           status {again.status}, end time of the first attempt: {same}")
assert found == ["training"] and again.status == "RUNNING" and same, "the behaviour has changed"
P
