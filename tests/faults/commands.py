"""Commands run by support/fork_server.py, with a fault in one of their processes, until all they started has ended."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from tests.support.project import ROOT

READ, OPEN, WRITE, SYNC, NAME = 1, 2, 4, 8, 16  # kinds of system calls, as inject.c has them
CHANGES = OPEN | WRITE | SYNC | NAME
KILL = -1
LIMIT_SECONDS = 90.0  # of one command: a whole project takes ten
GONE_SECONDS = 15.0  # that a stage may go on after its `dvc` was killed: it looks once a second, and saves what it has
HIDDEN = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE", "PIPELINE_LAUNCHER", "PIPELINE_ARCHIVES", "LD_PRELOAD")
SHARED = struct.Struct("ll496s")  # as inject.c has it


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th system call of `kinds` below the project.

    process: `dvc`, a stage as DVC names it, or the module of a command. action: KILL, an errno, or 0 to count alone.
    stays: every later call fails as well, as on a disk that is full.
    """

    process: str
    n: int = 0
    action: int = 0
    kinds: int = CHANGES
    stays: bool = False


@dataclass
class Done:
    """What became of a command. code: None where it did not end in time; negative for a signal.

    fired: the system calls that the fault struck, the first of which was `what`. calls: where it only counted, all of
    them, as "rename models/selection.json".
    """

    command: tuple[str, ...]
    code: int | None
    seconds: float
    output: str
    stages: dict[str, int] = field(default_factory=dict)
    fired: int = 0
    what: str = ""
    calls: tuple[str, ...] = ()


class Launcher:
    """The launcher's process; `folder` is for what passes between it and the harness."""

    def __init__(self, folder: Path):
        self.folder = folder
        library = build_library(folder)
        environment = clean_environment() | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        self._errors = (folder / "launcher.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self._answer()

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def run(
        self,
        folder: Path,
        *command: str,
        fault: Fault | None = None,
        environment: Mapping[str, str] = {},
        limit: float = LIMIT_SECONDS,
    ) -> Done:
        """Run `dvc ...` or `stages.NAME ...` in `folder`."""
        output, stages, shared = (self.folder / name for name in ("output", "stages", "shared"))
        trace = shared.with_name("shared.trace")
        for each in (output, trace):
            each.unlink(missing_ok=True)
        stages.write_text("")
        shared.write_bytes(bytes(SHARED.size))
        order = {
            "folder": str(folder),
            "command": command,
            "environment": own_environment(folder) | environment,
            "output": str(output),
            "stages": str(stages),
            "limit": limit,
            "fault": fault and {**vars(fault), "shared": str(shared)},
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._answer())
        ended = wait_for_the_end(answer["session"])
        _, fired, what = SHARED.unpack(shared.read_bytes())
        notes = map(json.loads, stages.read_text().splitlines())
        return Done(
            command,
            answer["code"] if ended else None,
            answer["seconds"],
            output.read_text(errors="replace"),
            {note["stage"]: note["code"] for note in notes},
            fired,
            what.rstrip(b"\0").decode(errors="replace"),
            tuple(trace.read_text(errors="replace").splitlines()) if trace.exists() else (),
        )

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the launcher ended:\n{(self.folder / 'launcher.log').read_text()}")
        return line


def build_library(folder: Path) -> Path:
    """inject.c, compiled. Raises RuntimeError where that can't be done, which `missing` tells beforehand."""
    library = folder / "inject.so"
    source = Path(__file__).with_name("inject.c")
    command = [*compiler(), "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return library


def compiler() -> list[str]:
    return [os.environ.get("CC") or "cc"]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in HIDDEN}


def own_environment(folder: Path) -> dict[str, str]:
    """What commands in `folder` are given. DVC's notes of files that it has hashed lie beside it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return clean_environment() | {
        "PATH": path,
        "PIPELINE_DEVICE": "cpu",
        "PIPELINE_WORKERS": "1",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "true",
        "DVC_SITE_CACHE_DIR": str(folder.with_name(f"{folder.name}.site")),
        "DVC_GLOBAL_CONFIG_DIR": str(folder.with_name("nobody")),
        "DVC_SYSTEM_CONFIG_DIR": str(folder.with_name("nobody")),
    }


def wait_for_the_end(session: int) -> bool:
    """Wait for every process of the session to end; False, and they are killed, where one stays too long."""
    deadline = time.monotonic() + GONE_SECONDS
    while processes := [each for each in psutil.pids() if session_of(each) == session]:
        if time.monotonic() > deadline:
            for each in processes:
                psutil.Process(each).kill()
            return False
        time.sleep(0.02)
    return True


def session_of(pid: int) -> int | None:
    """The session of a process that runs; None for one that has ended, reaped or not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, _, _, session = re.fullmatch(r"\d+ \(.*\) (\w) (\d+) (\d+) (\d+) .*", status, re.DOTALL).groups()
    return None if state in "ZX" else int(session)
