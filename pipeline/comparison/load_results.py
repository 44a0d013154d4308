"""The metrics files that are compared: those of params, each of the run that params describe."""

from __future__ import annotations

from pipeline.comparison.baselines import SAME_RECIPE
from pipeline.core import paths
from pipeline.core.errors import ComparisonError
from pipeline.params.schema import Params
from pipeline.results.run_metrics import RunMetrics


def load_results(params: Params) -> list[RunMetrics]:
    """The metrics file of every (run, seed) in params, in that order.

    Raises DataError when one is missing, damaged or of another version, ComparisonError when it is of another run than
    params describes.
    """
    return [_load(params, run, seed) for run in params.all_runs for seed in params.seeds]


def _load(params: Params, run: str, seed: int) -> RunMetrics:
    path, declared = paths.metrics_file(run, seed), params.run(run)
    stage = declared.stage("evaluate", seed)
    result = RunMetrics.read(path, stage)
    if lacks := [f"training.{key}" for key in SAME_RECIPE if key not in result.training]:
        raise ComparisonError(f"{path} lacks {', '.join(lacks)}; delete it and run `dvc repro {stage}`")
    for key, got, want in (
        ("run", result.run, run),
        ("seed", result.seed, seed),
        ("architecture", result.architecture, declared.architecture),
        ("backbone", result.backbone, declared.training.backbone),
        ("split", result.split, params.evaluation.split),
        ("tasks", list(result.tasks), list(declared.tasks)),
    ):
        if got != want:
            raise ComparisonError(f"{path} is of {key} {got}, params.yaml says {want}; run `dvc repro {stage}`")
    return result
