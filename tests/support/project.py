"""A whole project in a folder of its own, for tests that run the real stages by the real DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.core import paths
from tests.support import forked

ROOT = Path(__file__).parents[2]
ALONE = {"PIPELINE_WORKERS": "1"}  # a variable: each worker more imports everything anew, for the few frames of a test
PARTS = ("pipeline", "stages", "dvc.yaml", ".dvcignore", ".gitignore")


class Project:
    """A copy of this project in a folder of its own.

    launcher: the command that starts its trainings, if any. device: where they run; by default where the same bits
    come twice without being asked for. variables: more of the environment of all that it runs. store: the address at
    which a test finds its runs, if not in `mlflow.db`. forks: whether `dvc` and stages are forks of a process that has
    imported everything, which saves most of their time; then an edit of this copy's code is seen by DVC and not run.
    processes: the stages, such as `stages.train`, that DVC starts as processes of their own nevertheless.
    """

    launcher = ""
    device = "cpu"
    store = ""
    variables: Mapping[str, str] = MappingProxyType({})
    forks = True
    processes: tuple[str, ...] = ()

    def __init__(self, root: Path, params: dict[str, Any]):
        self.root = root
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, root / part)  # with what Python has compiled of it
            else:
                shutil.copy(ROOT / part, root / part)
        (root / "data" / "own").mkdir(parents=True)
        shutil.copy(ROOT / "data" / "own" / "README.md", root / "data" / "own")
        (root / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        self.git("init")
        self.git("config", "user.name", "test")
        self.git("config", "user.email", "test@example.org")
        self.git("add", ".")
        self.git("commit", "-m", "Start")

    def copy(self, root: Path) -> Project:
        """This project, as it is, in another folder."""
        shutil.copytree(self.root, root)
        other = Project.__new__(Project)
        other.root, other.launcher, other.device = root, self.launcher, self.device
        return other

    def git(self, *arguments: str) -> str:
        return self._run("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self._run(sys.executable, "-m", "dvc", *arguments)

    def stage(self, name: str, *arguments: str) -> str:
        return self._run(sys.executable, "-m", f"stages.{name}", *arguments)

    def fails(self, name: str, *arguments: str, code: int = 2) -> str:
        """What a stage or command says that ends with `code`."""
        found, output = self.ends(name, *arguments)
        assert found == code and "Traceback" not in output, output
        return output

    @property
    def environment(self) -> dict[str, str]:
        hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "PIPELINE_DEVICE", "PIPELINE_LAUNCHER")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment["PIPELINE_DEVICE"] = self.device
        if self.launcher:
            environment["PIPELINE_LAUNCHER"] = self.launcher
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return environment | self.variables

    def ends(self, name: str, *arguments: str) -> tuple[int | None, str]:
        """The exit code of a stage or command, and what it says."""
        return self.run_any(sys.executable, "-m", f"stages.{name}", *arguments)

    def _run(self, *command: str) -> str:
        code, output = self.run_any(*command)
        assert code == 0, f"{command} failed ({code}):\n{output}"
        return output

    def run_any(self, *command: str) -> tuple[int | None, str]:
        """The exit code, and the output: that on stdout first where it is a process of its own."""
        if self.forks and not self.launcher and command[:2] == (sys.executable, "-m"):
            return forked.run(self.root, command[2:], self.environment, self.processes)
        done = subprocess.run(command, cwd=self.root, env=self.environment, text=True, capture_output=True)
        return done.returncode, done.stdout + done.stderr

    def json(self, name: str) -> dict:
        return paths.read_json(self.root / name)
