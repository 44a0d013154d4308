"""A tracking server that fails from the n-th request of a training on: the next run, at the latest, ends identical.

A real `mlflow server`, and before it one that answers wrongly, late or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

from tests.faults.bench import Bench, repro
from tests.faults.commands import Done
from tests.faults.example import EXPERIMENT
from tests.faults.kills import again
from tests.faults.outcome import mlflow_state, outcome
from tests.faults.verdict import FAULT, IDENTICAL, REFUSED, Case, Verdict, differences, message, not_clear
from tests.support.mlflow_server import Fault, FaultServer, Server

STAGE = "train@semseg-0"
FOREVER = 1_000_000
LIMIT_SECONDS = 240.0  # a stage waits for a minute while a server is unreachable, and DVC runs two
# {name: what happens, to how many requests from the n-th on}
FAULTS: dict[str, tuple[str | int, int]] = {
    "500": (500, 3),
    "429": (429, 3),
    "hang": ("hang", 1),
    "lost": ("lost", 1),
    "reset": ("reset", 3),
    "gone": ("reset", FOREVER),
    "503": (503, 3),
    "refuses": (403, FOREVER),
}
_names = count()


class Front(FaultServer):
    """Has its fault from the n-th request on."""

    first = FOREVER

    def fault(self, method: str, path: str) -> Fault | None:
        return super().fault(method, path) if len(self.requests) >= self.first else None


def cases(bench: Bench, number: int, chance: random.Random) -> Iterator[Case]:
    """`number` faults, each kind in turn, at any request."""
    _, requests = undisturbed(bench)
    for i in range(number):
        yield case(f"server {list(FAULTS)[i % len(FAULTS)]} {chance.randint(1, requests)}")


def case(name: str) -> Case:
    """The case of an id, `server FAULT N`."""
    _, fault, n = name.split()
    return Case(name, partial(attempt, fault, int(n)))


def attempt(name: str, n: int, bench: Bench) -> Verdict:
    """Train and score with the fault, then once more without it."""
    expected, _ = undisturbed(bench)
    trial = Trial(bench)
    try:
        kind, times = FAULTS[name]
        trial.front.first, trial.front.faults = n, [Fault(kind, times=times)]
        done = trial.run()
        reached = trial.front.requests[n - 1 : n]
        where = " ".join(reached[0]) if reached else ""
        trial.front.faults = []
        if not reached:
            return Verdict(FAULT, "", f"the request was not reached: {message(done)}", done.output)
        if done.code != 0 and (problem := not_clear(done)):
            return Verdict(FAULT, where, problem, done.output)
        after = trial.run()
        output = done.output + after.output
        if after.code != 0:
            return Verdict(FAULT, where, f"the next run fails: {message(after)}", output)
        if found := differences(expected, trial.outcome()):
            return Verdict(FAULT, where, "; ".join(found[:4]), output)
        return Verdict(REFUSED if done.code else IDENTICAL, where, message(done) if done.code else "", output)
    finally:
        trial.close()


@cache
def undisturbed(bench: Bench) -> tuple[dict[str, Any], int]:
    """What a training through the server leaves, and how many requests it makes."""
    trial = Trial(bench)
    try:
        done = trial.run()
        if done.code != 0:
            raise RuntimeError(f"a training through the server failed without a fault:\n{done.output}")
        return trial.outcome(), len(trial.front.requests)
    finally:
        trial.close()


@cache
def server_of(bench: Bench) -> Server:
    """The bench's server, which ends with it."""
    folder = bench.folder / "server"
    folder.mkdir()
    server = Server(folder)
    server.start()
    bench.at_end(server.kill)
    return server


class Trial:
    """A project whose runs go to the server, to an experiment of their own."""

    def __init__(self, bench: Bench):
        self.bench, self.server = bench, server_of(bench)
        self.front = Front(self.server.uri)
        self.folder = bench.copy(bench.before(STAGE))
        self.experiment = f"{EXPERIMENT}-{next(_names)}"
        params = self.folder / "params.yaml"
        params.write_text(params.read_text().replace(f"experiment: {EXPERIMENT}\n", f"experiment: {self.experiment}\n"))

    def run(self) -> Done:
        environment = {"MLFLOW_TRACKING_URI": self.front.uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
        return again(self.bench, self.folder, repro(STAGE), environment=environment, limit=LIMIT_SECONDS)

    def outcome(self) -> dict[str, Any]:
        """What lies in the folder, but for params.yaml, and what the server has."""
        found = outcome(self.folder) | {"file params.yaml": None}
        database = Path(self.server.folder) / "served.db"
        return found | {f"MLflow {name}": value for name, value in mlflow_state(database, self.experiment).items()}

    def close(self) -> None:
        self.front.close()
        self.bench.remove(self.folder)
