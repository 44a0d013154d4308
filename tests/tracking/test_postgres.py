"""A server as a group runs it: PostgreSQL, MLflow, TLS and a password; stopped in the middle of a training."""

from __future__ import annotations

import time

import pytest

from tests.soak import RUN, Repro, Soak, mlflow_run
from tests.support.mlflow_server import Authority, Server, basic, fault_server
from tests.support.postgres import NEEDS_POSTGRES, running_postgres

USER, PASSWORD = "ada", "open sesame"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),  # two trainings and four starts of servers, on a machine that may be busy
    *NEEDS_POSTGRES,
]


@pytest.fixture
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def server(postgres, tmp_path):
    server = Server(tmp_path, postgres.uri)
    server.start()
    yield server
    server.kill()


def test_a_training_outlasts_its_server_and_its_database(postgres, server, tmp_path):
    authority = Authority(tmp_path)
    soak = Soak(tmp_path, epochs=10)
    project = soak.fresh()
    with fault_server(server.uri, tls=authority.context("127.0.0.1"), authorization=basic(USER, PASSWORD)) as front:
        project.store = server.uri
        project.variables = {
            "MLFLOW_TRACKING_URI": front.uri,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(authority.certificate),
        }
        repro = Repro(project)
        while not any("log-batch" in path for _, path in front.requests):
            assert repro.process.poll() is None, repro.output.read_text()
            time.sleep(0.1)
        repro.wait_for_a_checkpoint()
        server.kill()
        postgres.stop()
        repro.wait_for_a_checkpoint()
        assert not (project.root / "models" / RUN).exists(), "it was to be stopped in the middle of the training"
        postgres.start()
        server.start()
        assert repro.end(within=300) == 0, repro.output.read_text()
    told = repro.output.read_text()
    assert "Work continues" in told and "Traceback" not in told
    run, metrics = mlflow_run(project)
    assert run.info.status == "FINISHED"
    assert metrics == mlflow_run(soak.undisturbed)[1], "each point once, as in a training that nothing disturbed"
    assert not (project.root / "mlflow.db").exists()
