"""Commands run as forks of one process that has imported everything: see fork_server.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 300.0  # of one command


def run(folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Run `dvc ...` or `stages.NAME ...` in `folder`: its exit code, None where it took too long, and its output.

    Its code is that of the project under test, not of a copy in `folder`.
    """
    server = _server()
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        order = {"folder": str(folder), "command": list(command), "environment": dict(environment)}
        order |= {"output": output.name, "limit": LIMIT_SECONDS}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the server of forks has ended"
        return json.loads(answer)["code"], output.read()


@cache
def _server() -> subprocess.Popen:
    """One for this process; it ends when its input is closed, so with this process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fork_server"],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout.readline() == "ready\n"
    return server
