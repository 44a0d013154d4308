"""Shared by all tests: quiet, no telemetry, and a GPU marker that skips where there is none."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

from stages._entry import SPINS

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once: before the first product on a GPU
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as in stages: two workers share the cores, and so do trainings
os.environ["PIPELINE_DEVICE"] = "cpu"  # tests mean it, and compare bits: those of a GPU say so
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # else every worker would compute on every core
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

ROOT = Path(__file__).parents[1]


# Files that take a minute or more: begun first, so that no core works alone at the end.
LONG = (
    "test_tutorial.py",
    "test_pipeline.py",
    "test_parallel.py",
    "test_soak.py",
    "test_fast_sca.py",
    "test_threads.py",
    "test_machine_faults.py",
    "test_bit_rot.py",
    "test_pascal_profile.py",
    "test_adopted_run.py",
    "test_fault_harness.py",
    "test_access.py",
    "test_failures.py",
    "test_plain_networks.py",
    "test_conformance.py",
    "test_kill_prepare.py",
    "test_balancing_profiles.py",
    "test_trace.py",
    "test_kill_search.py",
    "test_search.py",
    "test_mlflow_run.py",
    "test_reruns.py",
    "test_learning.py",
    "test_clone.py",
    "test_database_faults.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: to look through it for garbage again and again takes a tenth of the time


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working folder: the pipeline's paths are relative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        torch = sys.modules.get("torch") or pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setenv("PIPELINE_DEVICE", "cuda")
