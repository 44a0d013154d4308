#!/usr/bin/env bash
# mlflow 3.17.2 with its own SQLite store: two runs that log the same dataset at the same moment, as trainings side by side
# do at their start. log_inputs looks whether the store has the dataset and then adds it; where another process added it in
# between, the call fails with a UNIQUE constraint, and is not tried again. (By hand here: the other run logs its input when
# the first is about to write.) The same call again succeeds.
#
# Seen:
#   first call:  UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest
#   second call: 1 dataset linked
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
env/bin/uv pip install --quiet --python env/bin/python mlflow==3.17.2
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
env/bin/python - 2> /dev/null <<'P'
import re

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from sqlalchemy import event
from sqlalchemy.orm import Session

first, second = MlflowClient("sqlite:///mlflow.db"), MlflowClient("sqlite:///mlflow.db")
experiment = first.create_experiment("side by side")
own, other = (client.create_run(experiment).info.run_id for client in (first, second))
link = DatasetInput(Dataset("rooms", "f" * 36, "local", "data"), [InputTag("mlflow.data.context", "training")])
done = []

def other_first(session, *_):
    if not done and any(type(each).__name__ == "SqlDataset" for each in session.new):
        done.append(True)
        second.log_inputs(other, [link])

event.listen(Session, "before_flush", other_first)
try:
    first.log_inputs(own, [link])
    seen = "no error"
except MlflowException as error:
    seen = re.search(r"UNIQUE constraint failed: [\w., ]+", str(error))[0]
print("first call: ", seen)
first.log_inputs(own, [link])
linked = len(first.get_run(own).inputs.dataset_inputs)
print("second call:", linked, "dataset linked")
assert seen.startswith("UNIQUE constraint failed: datasets.") and linked == 1, "the behaviour has changed"
P
