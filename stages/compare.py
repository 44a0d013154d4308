"""Compare multi-task runs with their single-task baselines: python -m stages.compare [--show | --against RUN]."""

from __future__ import annotations

import argparse

from pipeline.comparison.baselines import compare
from pipeline.comparison.load_results import load_results
from pipeline.comparison.tables import format_table, write_delta, write_summary
from pipeline.comparison.tuning import add_tuning
from pipeline.core import paths
from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.params.schema import Params
from pipeline.results.comparison import DELTA_M, Comparison
from pipeline.results.run_metrics import RunMetrics
from stages._entry import imports, run_stage


def main(params: Params, show: bool = False, against: str | None = None) -> None:
    """Write the comparison, print its table, log Δm to MLflow.

    show: only print what was written last. against: only print how the runs' Δm differ from that of this run.
    """
    if show:
        print(format_table(Comparison.read(paths.DELTA_JSON)))
        return
    results = load_results(params)
    delta = add_tuning(compare(results, params.evaluation.allow_different), params)
    with imports():
        from pipeline.comparison.intervals import (
            add_intervals,
            gain_differences,
        )  # NumPy: `--show` and refusals do without

    if against is not None:
        print("\n".join([*gain_differences(delta, results, against), *(f"* {each}" for each in delta.caveats)]))
        return
    delta = add_intervals(delta, results)
    write_delta(delta)
    write_summary(delta)
    print(format_table(delta))
    _log(params, delta, results)


def _log(params: Params, delta: Comparison, results: list[RunMetrics]) -> None:
    """Log the comparison to MLflow."""
    with imports():
        from pipeline.tracking import comparison_run, conclusions, descriptions, pages
    has_picture = params.evaluation.panels > 0  # which `evaluate` logs under this name
    ids = conclusions.log_conclusions(
        delta,
        [
            conclusions.Compared(of.run, of.seed, of.weights_sha256, f"panels/{of.run}.png" if has_picture else None)
            for of in results
        ],
        params.experiment,
    )
    about = descriptions.describe_comparison(delta, format_table(delta))
    comparison_run.log_comparison(params.experiment, paths.DELTA_JSON, delta.delta_m, about, ids)
    scores = {f"{task}/{score.metric}" for of in delta.scores.values() for task, score in of.items()}
    try:
        pages.show_columns(params.experiment, [DELTA_M, *sorted(scores), "cost/training_seconds"])
    except TrackingError as error:
        warn(f"warning: MLflow's table of runs keeps its columns: {error}")


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__)
    one = command.add_mutually_exclusive_group()
    one.add_argument("--show", action="store_true", help="only print the table that was written last")
    one.add_argument("--against", metavar="RUN", help="only print how Δm of the others differs from that of RUN")
    run_stage(main, parser=command)
