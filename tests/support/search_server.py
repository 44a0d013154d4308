"""A process that has imported what a search needs, and forks one at each order: to be killed while it works.

Reads orders as JSON, a line each: {"folder", "arguments", "environment", "output"} starts a search and prints the
number of its process, {"wait": number} prints its exit code, once it has ended.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.fork_server import enter, import_everything, leave, stage

ROOT = Path(__file__).parents[2]


class ForkedSearch:
    """A `python -m stages.search` that is under way."""

    def __init__(self, folder: Path, *arguments: str):
        hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"PIPELINE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        order = {"folder": str(folder), "arguments": arguments, "environment": environment}
        self.pid = _ask({**order, "output": str(folder / "search.log")})
        self.code: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def is_over(self) -> bool:
        status = Path(f"/proc/{self.pid}/stat")
        return self.code is not None or not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        if self.code is None:
            self.code = _ask({"wait": self.pid})
        return self.code


def _ask(order: dict) -> int:
    server = _server()
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@cache
def _server() -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.search_server"],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout.readline() == "ready\n"
    return server


def serve() -> None:
    import_everything()
    for name in ("pipeline.search.run", "pipeline.search.summary", "stages.search"):
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            os.setsid()
            enter(order)
            leave(lambda: stage("stages.search", order["arguments"]))  # noqa: B023
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
