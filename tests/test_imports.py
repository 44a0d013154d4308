"""Imports point down (HOUSE.md): a walk over every import statement of the library and the stages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a part may import of the library, itself included. A part that is not listed may import all but stages.
MAY_IMPORT = {
    "pipeline.errors": (),
    "pipeline.names": (),
    "pipeline.paths": ("pipeline.errors", "pipeline.forms"),
    "pipeline.faults": ("pipeline.errors",),
    "pipeline.forms": ("pipeline.errors", "pipeline.names"),
    "pipeline.removal": ("pipeline.errors",),
    "pipeline.recorded": ("pipeline.errors",),
    "pipeline.loss_weights": (),
    "pipeline.params": (
        "pipeline.errors",
        "pipeline.loss_weights",
        "pipeline.names",
        "pipeline.params_limits",
        "pipeline.params_problems",
        "pipeline.params_rules",
        "pipeline.params_types",
    ),
    "pipeline.params_rules": ("pipeline.names", "pipeline.params", "pipeline.params_problems"),  # params: its types
    "pipeline.params_limits": ("pipeline.params", "pipeline.params_problems", "pipeline.paths"),  # params: its types
    "pipeline.params_types": ("pipeline.names",),
    "pipeline.timm_names": ("pipeline.names",),
    "pipeline.params_problems": ("pipeline.errors", "pipeline.names", "pipeline.params_types"),
    "pipeline.notices": (),
    "pipeline.interruption": ("pipeline.notices",),
    "pipeline.outbox": ("pipeline.errors", "pipeline.notices"),
    "pipeline.store_address": ("pipeline.paths",),
    "pipeline.database_faults": (),
    "pipeline.store_faults": (
        "pipeline.database_faults",
        "pipeline.errors",
        "pipeline.outbox",
        "pipeline.store_address",
    ),
    "pipeline.metrics": ("pipeline.errors", "pipeline.workers"),
    "pipeline.workers": ("pipeline.errors",),
    "pipeline.metrics.delta": (),
    "pipeline.distributed": (),
    "pipeline.sync_batch_norm": ("pipeline.errors", "pipeline.distributed"),
    "pipeline.launcher": ("pipeline.errors",),
    "pipeline.bilinear": (),
    "pipeline.losses": ("pipeline.bilinear", "pipeline.errors", "pipeline.distributed"),
    "pipeline.tasks": ("pipeline.losses", "pipeline.metrics", "pipeline.errors", "pipeline.names", "pipeline.paint"),
    "pipeline.paint": ("pipeline.paths", "pipeline.tasks"),  # the latter: its types
    "pipeline.nets": ("pipeline.bilinear", "pipeline.errors"),
    "pipeline.balancing": ("pipeline.errors", "pipeline.names"),
    "pipeline.datasets": (
        "pipeline.tasks",
        "pipeline.metrics",
        "pipeline.params",
        "pipeline.params_problems",  # a person's dataset.yaml is told what is wrong in the same way
        "pipeline.params_types",
        "pipeline.paths",
        "pipeline.errors",
        "pipeline.faults",
        "pipeline.forms",
        "pipeline.names",
        "pipeline.removal",
        "pipeline.unhashed",
        "pipeline.workers",
    ),
    "pipeline.unhashed": ("pipeline.errors",),
}

# Where other people's packages are limited to these; the standard library is always allowed.
THIRD_PARTY = {
    "pipeline.errors": (),
    "pipeline.names": (),
    "pipeline.paths": (),
    "pipeline.workers": (),
    "pipeline.notices": (),
    "pipeline.distributed": ("torch",),
    "pipeline.bilinear": ("torch",),
    "pipeline.launcher": (),
    "pipeline.interruption": ("psutil",),
    "pipeline.outbox": (),
    "pipeline.params": ("pydantic",),
    "pipeline.params_limits": ("psutil",),
    "pipeline.params_rules": (),
    "pipeline.params_types": ("pydantic",),
    "pipeline.timm_names": (),
    "pipeline.params_problems": ("pydantic", "ruamel", "yaml"),  # ruamel: DVC's reader
    "pipeline.metrics.delta": (),
    "pipeline.comparison": (),
    "pipeline.delta_tables": (),
    "pipeline.nets": ("torch", "timm", "safetensors"),  # the last: the format of timm's weights files
    "pipeline.nets.weights": ("torch", "timm", "safetensors", "numpy", "huggingface_hub"),  # others' files, timm's hub
}

# Packages that only these modules may import, or none.
ONLY_IN = {"mlflow": ("pipeline.store_open", "pipeline.tracking"), "dvc": ()}


def imported(source: str, module: str, is_package: bool = False) -> list[tuple[int, str]]:
    """(line, dotted name) of every import, those inside functions and under conditions included.

    `from a import b` counts as a.b: b may be a module.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def part_of(module: str, table: dict) -> str | None:
    """The most specific entry of the table that holds the module."""
    return max((part for part in table if within(module, part)), key=len, default=None)


def breach(module: str, name: str) -> str | None:
    """What is wrong with `module` importing `name`, or None."""
    top = name.partition(".")[0]
    if top in ONLY_IN and module not in ONLY_IN[top]:
        return f"only {ONLY_IN[top] or 'nobody'} may import {top}"
    if top == "stages" and not within(module, "stages"):
        return "nothing imports a stage"
    if top == "pipeline":
        part = part_of(module, MAY_IMPORT)
        if part and not any(within(name, allowed) for allowed in (part, *MAY_IMPORT[part])):
            return f"{part} may import only {', '.join(MAY_IMPORT[part]) or 'nothing'} of the library"
    elif top not in sys.stdlib_module_names and top not in ("stages", "__future__"):
        part = part_of(module, THIRD_PARTY)
        if part and top not in THIRD_PARTY[part]:
            return f"{part} may import only {', '.join(THIRD_PARTY[part]) or 'nothing'} from outside"
    return None


def test_no_import_breaks_the_rules():
    told, seen = [], 0
    for path in sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]):
        relative = path.relative_to(ROOT)
        is_package = path.name == "__init__.py"
        module = ".".join((relative.parent if is_package else relative.with_suffix("")).parts)
        for line, name in imported(path.read_text(encoding="utf-8"), module, is_package):
            seen += 1
            if problem := breach(module, name):
                told.append(f"{relative}:{line} imports {name}: {problem}")
    assert seen > 50, "the walk found hardly an import: it looks in the wrong place"
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.nets.heads", "from pipeline.tasks import TASKS"),
        ("pipeline.nets.heads", "from pipeline import datasets"),
        ("pipeline.nets.heads", "from ..datasets.spec import Dataset"),
        ("pipeline.nets.heads", "import numpy"),
        ("pipeline.tasks.depth", "def late():\n    import pipeline.nets.heads"),
        ("pipeline.datasets.rooms", "from pipeline.nets import build"),
        ("pipeline.metrics.depth", "from pipeline.tasks import TASKS"),
        ("pipeline.metrics.delta", "import numpy as np"),
        ("pipeline.params", "import torch"),
        ("pipeline.paths", "from pipeline.params import load_params"),
        ("pipeline.training", "from stages.train import main"),
        ("pipeline.training", "import mlflow.pytorch"),
        ("stages.report", "from mlflow import MlflowClient"),
        ("stages.report", "import dvc.api"),
    ],
)
def test_a_breach_is_found(module: str, source: str):
    assert any(breach(module, name) for _, name in imported(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "pipeline.nets.heads",
            "import math\nimport torch\nfrom timm import create_model\nfrom .blocks import Block",
        ),
        ("pipeline.tasks.depth", "from pipeline.metrics.depth import DepthMetric"),
        ("pipeline.params", "from pipeline import names\nfrom pipeline.errors import ParamsError"),
        ("pipeline.tracking", "import mlflow"),
        ("stages.train", "from stages._entry import run_stage\nfrom pipeline.training import train"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str):
    assert not [name for _, name in imported(source, module) if breach(module, name)]


def test_checking_and_comparing_load_nothing_heavy():
    code = (
        "import sys, stages.check, stages.compare, stages.selection, stages.single_task_weights;"
        "print(sorted({'torch', 'numpy', 'pandas', 'mlflow', 'dvc', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
