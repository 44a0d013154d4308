"""What a result was made from: a fingerprint of every input, taken before the work and checked after it.

DVC records dependencies when a stage *ends*; an edit during a long training would be recorded as if it had been used.
The stage's own list in dvc.yaml is the one home of what it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.core import paths
from pipeline.core.errors import TrainingError

ADOPTED = "param adopted_sha256"
"""The input that only a network has which was adopted, not trained: the SHA-256 of its file, as JSON."""

_VERSIONS = ("torch", "timm", "numpy", "opencv-python-headless")  # the last resizes images
ABSENT = "absent"
_SAME_START_SECONDS = 2.0  # psutil derives it from the boot time, which moves when the clock is set


@dataclass(frozen=True)
class Inputs:
    """Everything a training run depends on, by name: code files and params by content, data by digest, versions."""

    values: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all names and values, whatever their order."""
        text = json.dumps(self.values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def adopted(self) -> bool:
        """Whether they are of a network that was trained elsewhere, by a released code."""
        return ADOPTED in self.values

    @property
    def lines(self) -> list[str]:
        """`name=value` of each, in a list: `dvc metrics` shows what is in mappings and skips lists."""
        return [f"{name}={value}" for name, value in self.values.items()]

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Inputs:
        """What `lines` gave; no name holds an equals sign."""
        return cls({name: value for name, _, value in (line.partition("=") for line in lines)})

    def differences(self, now: Inputs) -> dict[str, tuple[str | None, str | None]]:
        """{name: (value here, value in `now`)} of all that is not the same, sorted; None where one lacks it."""
        names = sorted(self.values.keys() | now.values.keys())
        pairs = {name: (self.values.get(name), now.values.get(name)) for name in names}
        return {name: (before, after) for name, (before, after) in pairs.items() if before != after}

    def check_unchanged(self, now: Inputs) -> None:
        """Raise TrainingError with the list of what was edited since these inputs were taken."""
        changed = self.differences(now)
        if changed:
            raise TrainingError(
                "inputs changed while the stage was running, so its result belongs to neither state:\n  "
                + "\n  ".join(changed)
                + "\nundo the edit, or run `dvc repro` again for a result of the new state"
            )


def collect_inputs(
    stage: str,
    params: dict[str, Any],
    data_digest: str,
    files: Iterable[Path] = (),
    packages: Iterable[str] = _VERSIONS,
) -> Inputs:
    """Inputs of a DVC stage: the code that dvc.yaml lists for it, `params` as typed, the data's digest, versions.

    files: others that it reads. packages: those whose versions count.
    """
    values = {f"file {path}": _sha256(path) for path in (*stage_code(stage), *files)}
    values |= {f"param {name}": json.dumps(value) for name, value in _leaves(params)}
    values |= {f"version {name}": version(name) for name in packages}
    values["data"] = data_digest
    return Inputs(values)


def selection_inputs(select_on: str | None) -> dict[str, str]:
    """{name: value} of what chooses the weights of an epoch, beyond the code of training; {} where nothing does.

    select_on: evaluation.select_on. The code is that of the stage `selection` in dvc.yaml: the metrics and the scoring.
    """
    if select_on is None:
        return {}
    code = {f"file {path}": _sha256(path) for path in stage_code("selection")}
    return {"param select_on": json.dumps(select_on), **code}


def adoption_inputs(sha256: str) -> dict[str, str]:
    """{name: value} of what an adopted network is made from, beyond what a training is: its file, and the code that
    maps names, which the stage `adoption` in dvc.yaml depends on."""
    return {ADOPTED: json.dumps(sha256), **_adoption_files()}


def adoption_code() -> str:
    """SHA-256 of the code that maps the names of checkpoints."""
    return Inputs(_adoption_files()).fingerprint


def _adoption_files() -> dict[str, str]:
    return {f"file {path}": _sha256(path) for path in stage_code("adoption")}


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested mappings, so that a difference names one param."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def stage_folders(stage: str, dvc_yaml: Path = paths.GRAPH) -> list[str]:
    """The folders of code among the dependencies of a stage in dvc.yaml."""
    definition = yaml.safe_load(dvc_yaml.read_text())["stages"][stage]
    return [name for name in definition.get("deps", ()) if name.startswith("pipeline/") and Path(name).is_dir()]


def stage_code(stage: str, dvc_yaml: Path = paths.GRAPH) -> list[Path]:
    """The Python files among the dependencies of a stage in dvc.yaml, folders walked, sorted."""
    definition = yaml.safe_load(dvc_yaml.read_text())["stages"][stage]
    files: set[Path] = set()
    for name in definition.get("deps", ()):
        path = Path(name)
        if path.suffix == ".py":
            files.add(path)
        elif path.is_dir():
            files |= set(path.rglob("*.py"))
    return sorted(files)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ABSENT


def dvc_tags() -> dict[str, str]:
    """The stage and the experiment on whose behalf DVC runs this process; empty outside DVC."""
    return {
        f"dvc.{key}": os.environ[name]
        for key, name in (("stage", "DVC_STAGE"), ("experiment", "DVC_EXP_NAME"))
        if os.environ.get(name)
    }


def this_process() -> dict[str, str]:
    """The process that writes a run: `is_gone` tells from these tags, later, whether it still does."""
    process = psutil.Process()
    return {"host": platform.node(), "pid": str(process.pid), "pid.started": str(process.create_time())}


def is_gone(tags: Mapping[str, str]) -> bool | None:
    """Whether the process of `this_process`'s tags has ended. None for one of another machine, or without tags."""
    if tags.get("host") != platform.node():
        return None
    try:
        began = psutil.Process(int(tags["pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(began - float(tags["pid.started"])) > _SAME_START_SECONDS  # the number may be another's by now


def environment() -> dict[str, str]:
    """{name: version} of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}}
