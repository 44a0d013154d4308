"""The bench that cases are tried on: projects as they were before each stage, and what comes of them undisturbed."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.commands import CHANGES, Done, Fault, Launcher
from tests.faults.example import EXAMPLE_OF, EXPERIMENT, Example
from tests.faults.outcome import outcome


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves, and the system calls of one of its processes."""

    outcome: dict[str, Any]
    calls: tuple[str, ...]
    seconds: float


class Bench:
    """Snapshots below `folder`, made when they are first asked for, and copies of them to try a fault on."""

    def __init__(self, folder: Path, launcher: Launcher):
        self.folder, self.launcher = folder, launcher
        self._snapshots: dict[tuple[str, str], Path] = {}
        self._undisturbed: dict[tuple[object, ...], Undisturbed] = {}
        self._example_of: dict[Path, str] = {}
        self._copies = 0
        self._ends = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def at_end(self, call: Callable[[], None]) -> None:
        """Call it when the bench is left."""
        self._ends.callback(call)

    def before(self, stage: str) -> Path:
        """The example of `stage` as it is before that stage; `done`: when all are done."""
        example = EXAMPLE_OF.get(stage, EXAMPLE_OF["train@semseg-0"])
        if (example.name, stage) not in self._snapshots:
            self._make(example)
        return self._snapshots[example.name, stage]

    def finished(self, folder: Path) -> dict[str, Any]:
        """What is left where all stages of the example that `folder` is a copy of are done."""
        return outcome(self._snapshots[self._example_of[folder], "done"])

    def _make(self, example: Example) -> None:
        folder = self.folder / example.name
        example.make(folder)
        if example.has_store:
            self.expect(folder, "tests.support.make_store", EXPERIMENT)
        for stage in (*example.stages, "done"):
            snapshot = self.folder / f"{example.name} before {stage}"
            copy(folder, snapshot)
            self._snapshots[example.name, stage] = snapshot
            if stage != "done":
                self.expect(folder, "dvc", "repro", stage)

    def expect(self, folder: Path, *command: str, fault: Fault | None = None) -> Done:
        """Run a command that must succeed."""
        done = self.launcher.run(folder, *command, fault=fault)
        if done.code != 0:
            raise RuntimeError(f"{' '.join(command)} failed without a fault ({done.code}):\n{done.output}")
        return done

    def copy(self, snapshot: Path) -> Path:
        """A copy to spoil; `remove` it afterwards."""
        self._copies += 1
        folder = copy(snapshot, self.folder / f"copy-{self._copies}")
        move_store(folder, self.folder / snapshot.name.partition(" ")[0])
        self._example_of[folder] = snapshot.name.partition(" ")[0]
        return folder

    def remove(self, folder: Path) -> None:
        for each in (folder, folder.with_name(f"{folder.name}.site")):
            subprocess.run(["chmod", "-R", "u+rwX", str(each)], capture_output=True)  # what a case took away
            shutil.rmtree(each, ignore_errors=True)

    def undisturbed(
        self,
        stage: str,
        command: tuple[str, ...],
        process: str = "",
        kinds: int = CHANGES,
        prepared: Callable[[Path], None] = lambda folder: None,
    ) -> Undisturbed:
        """What `command` makes of the project before `stage`, and the calls of `kinds` that `process` makes in it.

        prepared: what is done to the project beforehand.
        """
        key = stage, command, prepared, process, kinds
        if not process:  # whichever was watched: what it leaves is the same
            key = next((each for each in self._undisturbed if each[:3] == key[:3]), key)
        if key not in self._undisturbed:
            folder = self.copy(self.before(stage))
            prepared(folder)
            done = self.expect(folder, *command, fault=Fault(process, kinds=kinds))
            self._undisturbed[key] = Undisturbed(outcome(folder), done.calls, done.seconds)
            self.remove(folder)
        return self._undisturbed[key]


@cache
def repro(stage: str) -> tuple[str, ...]:
    """The command that runs a stage and what is needed for all that it leaves to be seen."""
    return "dvc", "repro", EXAMPLE_OF[stage].until.get(stage, stage)


def move_store(folder: Path, before: Path) -> None:
    """Let MLflow's store in `folder` look for its files there, and not where it was `before`."""
    database = folder / "mlflow.db"
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as store, store:
        for column, table in (("artifact_location", "experiments"), ("artifact_uri", "runs")):
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            store.execute(change, (f"{before.as_uri()}/", f"{folder.as_uri()}/"))


def copy(source: Path, target: Path) -> Path:
    """With hard links within it, as DVC makes them, and times."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    return target
