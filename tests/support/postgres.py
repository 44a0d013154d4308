"""A PostgreSQL server for a test, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mlflow_server import free_port


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, which packages keep out of PATH."""
    found = shutil.which("initdb") or shutil.which("postgres")
    return Path(found).resolve().parent if found else None


NEEDS_POSTGRES = [
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


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own is closed to other users
    server = Postgres(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)
