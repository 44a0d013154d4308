"""A whole profile, stage by stage in this process and in the graph's order; that DVC runs them so: test_pipeline.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import stages.compare
import stages.download
import stages.evaluate
import stages.prepare
import stages.report
import stages.train
from stages._entry import run_stage
from tests.support.blank_store import put_blank_store


def stage(module: ModuleType, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stage(module.main, run_and_seed=bool(arguments), argv=arguments)
    assert ended.value.code == 0, module.__name__


def run_profile(root: Path, folder: Path, params: dict[str, Any]) -> None:
    """Every stage in `folder`, which holds what `params` says of an archive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "PIPELINE_ARCHIVES"):
            patch.delenv(name, raising=False)
        patch.setenv("PIPELINE_DEVICE", "cpu")
        patch.setenv("PIPELINE_WORKERS", "1")  # each more is a process that imports everything, for a few samples
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        put_blank_store(folder)
        (folder / "dvc.yaml").write_text((root / "dvc.yaml").read_text())
        stage(stages.download)
        stage(stages.prepare)
        for of_one_run in (stages.train, stages.evaluate):
            for run in params["runs"]:
                stage(of_one_run, "--run", run, "--seed", "0")
        stage(stages.compare)
        stage(stages.report)
