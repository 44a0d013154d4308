"""Imports point down (CONTRIBUTING.md, Map): a walk over every import statement of the library and the stages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the ground up: a room imports from itself and from rooms above its line, and stages import from all.
ROOMS = (
    "core", "results", "compute", "params", "metrics", "tasks", "data", "networks", "balancing", "loading",
    "download", "datasets", "visual", "tracking", "evaluation", "train", "adopt", "search", "comparison", "report",
    "tools",
)  # fmt: skip

# Narrower than that.
MAY_IMPORT = {
    "pipeline.results": ("core",),
    "pipeline.compute": ("core.errors", "core.names"),
    "pipeline.metrics": ("core.errors", "core.workers"),
    "pipeline.metrics.delta": (),
    "pipeline.comparison.estimate": (),
    "pipeline.metrics.resampling": (),
    "pipeline.tasks": ("core.errors", "core.names", "compute", "metrics"),
    "pipeline.networks": ("core.errors", "core.names", "compute"),
    "pipeline.networks.from_params": ("core", "data", "networks", "params", "tasks"),
    "pipeline.networks.saved_weights": ("core",),
    "pipeline.balancing": ("core.errors", "core.names", "compute"),
    "pipeline.data": ("core", "tasks"),
    "pipeline.tracking": ("core", "results"),
    "pipeline.comparison.baselines": ("core", "results", "params", "metrics.delta"),
}

# Where other people's packages are limited to these; the standard library is always allowed.
THIRD_PARTY = {
    "pipeline.core": ("filelock", "psutil", "yaml"),
    "pipeline.core.errors": (),
    "pipeline.core.paths": (),
    "pipeline.core.result_file": ("pydantic",),
    "pipeline.results": (),
    "pipeline.compute": ("torch",),
    "pipeline.compute.sync_batch_norm": ("torch", "timm"),
    "pipeline.params": ("psutil", "pydantic", "ruamel", "yaml"),  # ruamel: DVC's reader
    "pipeline.metrics.delta": (),
    "pipeline.networks": ("torch", "timm"),
    "pipeline.networks.pretrained": ("torch", "timm", "safetensors", "numpy", "huggingface_hub"),  # others' files
    "pipeline.networks.saved_weights": ("torch", "safetensors"),
    "pipeline.balancing": ("torch", "torchjd", "numpy"),
    "pipeline.comparison": (),
    "pipeline.comparison.intervals": ("numpy",),
    "pipeline.evaluation.statistics": ("numpy", "pyarrow"),
    "pipeline.comparison.estimate": ("numpy", "scipy"),
    "pipeline.metrics.resampling": ("numpy",),
}

# Packages that only these modules may import, or none.
_WRITERS = ("comparison_run", "conclusions", "mlflow_run", "models", "opening", "run_log", "search_runs")
ONLY_IN = {
    "mlflow": tuple(f"pipeline.tracking.{name}" for name in _WRITERS),
    "optuna": ("pipeline.search",),
    "dvc": (),
}


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
    if top in ONLY_IN and not any(within(module, each) for each in ONLY_IN[top]):
        return f"only {ONLY_IN[top] or 'nobody'} may import {top}"
    if top == "stages" and not within(module, "stages"):
        return "nothing imports a stage"
    if module == "pipeline" and top == "pipeline":
        return None  # it offers what rooms hold, and imports it when somebody asks
    if top == "pipeline" and within(module, "pipeline"):
        room, other = module.split(".")[1], name.split(".")[1]
        if room not in ROOMS or other not in ROOMS:
            return f"{room if room not in ROOMS else other} is no room"
        if ROOMS.index(other) > ROOMS.index(room):
            return f"{room} may not import {other}, which is below it"
        part = part_of(module, MAY_IMPORT)
        if part and not any(within(name, each) for each in (part, *(f"pipeline.{one}" for one in MAY_IMPORT[part]))):
            return f"{part} may import only {', '.join(MAY_IMPORT[part]) or 'nothing'} of the library"
    elif top not in sys.stdlib_module_names and top not in ("stages", "__future__"):
        part = part_of(module, THIRD_PARTY)
        if part and top not in THIRD_PARTY[part]:
            return f"{part} may import only {', '.join(THIRD_PARTY[part]) or 'nothing'} from outside"
    return None


def test_no_import_breaks_the_rules():
    breaches, seen = [], 0
    for path in sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]):
        relative = path.relative_to(ROOT)
        is_package = path.name == "__init__.py"
        module = ".".join((relative.parent if is_package else relative.with_suffix("")).parts)
        for line, name in imported(path.read_text(encoding="utf-8"), module, is_package):
            seen += 1
            if problem := breach(module, name):
                breaches.append(f"{relative}:{line} imports {name}: {problem}")
    assert seen > 50, "the walk found hardly an import: it looks in the wrong place"
    assert not breaches, "\n".join(breaches)


def test_the_library_is_rooms_and_nothing_else():
    found = {path.name for path in (ROOT / "pipeline").iterdir() if path.name != "__pycache__"}
    assert found == {"__init__.py", *ROOMS}


def test_no_file_of_the_library_is_longer_than_one_reads_at_once():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "pipeline").rglob("*.py")}
    assert len(lengths) > 150
    assert not {str(path): length for path, length in lengths.items() if length > 300}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.networks.heads.aspp", "from pipeline.tasks import TASKS"),
        ("pipeline.networks.heads.aspp", "from pipeline import datasets"),
        ("pipeline.networks.heads.aspp", "from ...datasets.spec import Dataset"),
        ("pipeline.networks.heads.aspp", "import numpy"),
        ("pipeline.tasks.depth", "def late():\n    import pipeline.networks.blocks"),
        ("pipeline.datasets.rooms.mesh", "from pipeline.evaluation import scoring"),
        ("pipeline.metrics.depth", "from pipeline.tasks import TASKS"),
        ("pipeline.metrics.delta", "import numpy as np"),
        ("pipeline.params.schema", "import torch"),
        ("pipeline.core.paths", "from pipeline.params.load import load_params"),
        ("pipeline.train.loop", "from stages.train import main"),
        ("pipeline.train.loop", "import mlflow.pytorch"),
        ("pipeline.visual.paint", "from pipeline.paint import paint"),
        ("stages.report", "from mlflow import MlflowClient"),
        ("stages.report", "import dvc.api"),
        ("pipeline.train.loop", "import optuna"),
    ],
)
def test_a_breach_is_found(module: str, source: str):
    assert any(breach(module, name) for _, name in imported(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.networks.heads.aspp", "import math\nimport torch\nfrom ..blocks import Block"),
        ("pipeline.tasks.depth", "from pipeline.metrics.depth import DepthMetric"),
        ("pipeline.params.load", "from pipeline.core import names\nfrom pipeline.core.errors import ParamsError"),
        ("pipeline.tracking.mlflow_run", "import mlflow"),
        ("stages.train", "from stages._entry import run_stage\nfrom pipeline.train.loop import TrainingLoop"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str):
    assert not [name for _, name in imported(source, module) if breach(module, name)]


def test_checking_and_comparing_load_nothing_heavy():
    code = (
        "import sys, stages.check, stages.compare, stages.selection, stages.adoption, stages.single_task_weights;"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'pyarrow', 'mlflow', 'dvc', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
