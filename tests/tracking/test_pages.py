"""The page of runs in a real store, served by `stages.ui` and opened in a real browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline.core.errors import ParamsError
from pipeline.tools.mlflow_ui import serve
from pipeline.tracking import mlflow_run
from pipeline.tracking.comparison_run import log_comparison
from pipeline.tracking.pages import runs_page, show_columns
from tests.support.browser import dump_dom
from tests.support.mlflow_server import free_port
from tests.support.mlflow_store import put_empty_store

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BASE = "http://127.0.0.1:5000"


@pytest.fixture
def experiment_id(tmp_path, monkeypatch):
    """Of `rooms` in the store of a project, with two runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    put_empty_store(tmp_path)
    id_ = mlflow_run.connect("rooms")
    for seed in (0, 1):
        with mlflow_run.training_run(id_, f"pair-{seed}", f"{seed}", {"run": "pair", "seed": f"{seed}"}) as log:
            mlflow.MlflowClient().log_metric(log.id, "delta_m", 1.25 + seed)
    return id_


def test_the_page_is_that_of_training_runs_with_the_columns_that_were_asked_for(experiment_id):
    page = f"{BASE}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=TABLE"
    assert runs_page(f"{BASE}/", "rooms") == page
    for columns in (["delta_m", "semseg/mIoU"], ["delta_m"]):
        show_columns("rooms", columns)
        assert runs_page(BASE, "rooms") == f"{page}&viewStateShareKey=runs"
        (state,) = mlflow.MlflowClient().get_experiment(experiment_id).tags.values()
        assert [f"metrics.`{name}`" in state for name in ("delta_m", "semseg/mIoU")] == [True, len(columns) == 2]


def test_an_experiment_that_is_not_there_yet_has_no_page(experiment_id, tmp_path):
    show_columns("other", ["delta_m"])
    assert runs_page(BASE, "other") == BASE
    (tmp_path / "mlflow.db").unlink()
    show_columns("rooms", ["delta_m"])
    assert runs_page(BASE, "rooms") == BASE and not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_the_address_that_the_command_prints_shows_the_runs_in_a_browser(experiment_id, tmp_path):
    client = mlflow.MlflowClient()
    runs = [run.info.run_id for run in client.search_runs([experiment_id])]
    for seconds, run in enumerate(runs, start=1):
        client.log_metric(run, "cost/training_seconds", seconds)
    (tmp_path / "delta.json").write_text("{}")
    log_comparison("rooms", tmp_path / "delta.json", {}, "about", runs)
    show_columns("rooms", ["delta_m", "cost/training_seconds"])
    port = free_port()
    command = [sys.executable, "-m", "stages.ui", "--port", str(port)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as ui:
        try:
            page = next(found[1] for line in ui.stdout if (found := re.search(r"the runs of rooms: (\S+)", line)))
            shown = dump_dom(page, tmp_path, 30_000)
        finally:
            os.killpg(ui.pid, signal.SIGINT)
        said = ui.stderr.read()  # its end: that of MLflow's processes, too
        assert ui.wait() == 0 and "Traceback" not in said, said
    texts = re.findall(r">([\w./-]+)<", shown)
    assert {"comparison", "pair-0", "pair-1", "delta_m", "1.25", "2.25"} <= set(texts), "no run is folded"
    assert texts.index("pair-1") < texts.index("pair-0"), "the best is first"
    headers = {
        name: int(index)
        for tag in re.findall(r'<div[^>]*role="columnheader"[^>]*>', shown)
        for name in re.findall(r'col-id="metrics\.`([\w/]+)`"', tag)
        for index in re.findall(r'aria-colindex="(\d+)"', tag)
    }
    assert headers["delta_m"] < headers["cost/training_seconds"], "columns in the order that was asked for"


def test_a_port_in_use_is_named_so_that_nobody_looks_at_another_project(experiment_id):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ParamsError, match=f"port {port} can't be used .*choose another, `make ui PORT=5001`"):
            serve("rooms", port)


def test_a_deleted_experiment_is_left_alone(experiment_id):
    mlflow.MlflowClient().delete_experiment(experiment_id)
    show_columns("rooms", ["delta_m"])
    assert runs_page(BASE, "rooms") == BASE


def test_a_server_of_others_is_named_not_started(monkeypatch, tmp_path, experiment_id):
    """What MLFLOW_TRACKING_URI names has a page of its own; here nothing listens there, and one line says so."""
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.ui"], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and environment["MLFLOW_TRACKING_URI"] in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
