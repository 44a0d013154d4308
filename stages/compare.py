"""Compare multi-task runs with their single-task baselines: python -m stages.compare [--show | --against RUN]."""

from __future__ import annotations

import argparse

from pipeline.comparison.baselines import DELTA_M, compare
from pipeline.comparison.load_results import load_results
from pipeline.comparison.tables import format_table, write_delta, write_summary
from pipeline.comparison.tuning import add_tuning
from pipeline.core import paths
from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.params.schema import Params
from pipeline.results.comparison import Comparison
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
    with imports():
        from pipeline.tracking import conclusions, pages
    sentences = dict(zip(delta.delta_m, delta.conclusions, strict=True))
    gains = {(row.run, row.seed): row.delta for row in delta.per_seed if row.task == DELTA_M}
    conclusions.log_conclusions(
        conclusions.Compared(result.run, result.seed, result.weights_sha256, gain, sentences[result.run])
        for result in results
        if (gain := gains.get((result.run, result.seed))) is not None and result.run in sentences
    )
    scores = {f"{task}/{score.metric}" for of in delta.scores.values() for task, score in of.items()}
    try:
        pages.show_columns(params.experiment, [conclusions.DELTA_M, *sorted(scores), "cost/training_seconds"])
    except TrackingError as error:
        warn(f"warning: MLflow's table of runs keeps its columns: {error}")


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__)
    one = command.add_mutually_exclusive_group()
    one.add_argument("--show", action="store_true", help="only print the table that was written last")
    one.add_argument("--against", metavar="RUN", help="only print how Δm of the others differs from that of RUN")
    run_stage(main, parser=command)
