"""Commands run as forks of one process that has imported everything: see fork_server.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 300.0  # of one command


def run(
    folder: Path, command: Sequence[str], environment: Mapping[str, str], processes: Sequence[str] = ()
) -> tuple[int | None, str]:
    """Run `dvc ...` or `stages.NAME ...` in `folder`: its exit code, None where it took too long, and its output.

    Its code is that of the project under test, not of a copy in `folder`. processes: the stages, such as
    `stages.train`, that DVC is to start as processes of their own.
    """
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        order = _order(folder, command, environment, Path(output.name)) | {"processes": list(processes)}
        return _ask(order | {"limit": LIMIT_SECONDS})["code"], output.read()


def imports(module: str) -> bool:
    """Whether a process has imported a module that has imported all stages, and scored no edges."""
    return _ask({"imports": module})["imports"]


class Process:
    """A command, or `mlflow server ...`, that is under way, the first process of a session.

    As far as tests use it, a `subprocess.Popen`.
    """

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str], output: Path):
        """output: the file that it adds its output to."""
        self.pid: int = _ask(_order(folder, command, environment, output))["session"]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"started": self.pid})["code"]
        return self.returncode

    def wait(self) -> int:
        """Its exit code, negative for a signal, once it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _order(folder: Path, command: Sequence[str], environment: Mapping[str, str], output: Path) -> dict[str, Any]:
    own = {"command": list(command), "environment": dict(environment)}
    return own | {"folder": str(folder), "output": str(output)}


def _ask(order: dict[str, Any]) -> dict[str, Any]:
    server = _server()
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the server of forks has ended"
    return json.loads(answer)


@cache
def _server() -> subprocess.Popen:
    """One for this process; it ends when its input is closed, so with this process.

    Its output has no buffer: a thread of a process that forks may hold the lock of one.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.support.fork_server"],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout.readline() == "ready\n"
    return server
