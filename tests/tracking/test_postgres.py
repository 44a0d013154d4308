"""A server as a group runs it: PostgreSQL, MLflow, TLS and a password; stopped in the middle of a training."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.soak import RUN, Repro, Soak, mlflow_run
from tests.support.mlflow_server import Authority, Server, basic, fault_server, free_port

USER, PASSWORD = "ada", "open sesame"


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, which packages keep out of PATH."""
    found = shutil.which("initdb") or shutil.which("postgres")
    return Path(found).resolve().parent if found else None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),  # two trainings and four starts of servers, on a machine that may be busy
    pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(not importlib.util.find_spec("psycopg"), reason="psycopg is not installed"),
]


class Postgres:
    """A PostgreSQL server on loopback, which its own user runs where the tests run as root."""

    def __init__(self, folder: Path):
        self.port, self.folder = free_port(), folder
        self._as = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "--username=mlflow", "--auth=trust", "--no-sync", "--pgdata", str(folder / "data"))
        self.uri = f"postgresql+psycopg://mlflow@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-o", options, "-l", f"{self.folder}/log")

    def stop(self) -> None:
        """Without a word to those who are connected, as in a crash."""
        self._run("pg_ctl", "stop", "-w", "-D", str(self.folder / "data"), "-m", "immediate")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(binaries() / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **self._as)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def postgres():
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own is closed to other users
    server = Postgres(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


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
