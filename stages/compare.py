"""Compare multi-task runs with their single-task baselines: python -m stages.compare [--show]."""

from __future__ import annotations

import argparse

from pipeline.comparison.baselines import compare, load_results
from pipeline.comparison.tables import format_table, write_delta
from pipeline.core import paths
from pipeline.params.schema import Params
from pipeline.results.comparison import Comparison
from stages._entry import imports, run_stage


def main(params: Params, show: bool = False) -> None:
    """Write delta.json and delta.csv and print the table; `show`: only print what was written last."""
    if show:
        print(format_table(Comparison.read(paths.DELTA_JSON)))
        return
    results = load_results(params)
    delta = compare(results, params.evaluation.allow_different)
    with imports():
        from pipeline.comparison.intervals import (
            add_intervals,
        )  # imports NumPy, which `--show` and refusals can do without

    delta = add_intervals(delta, results)
    write_delta(delta)
    print(format_table(delta))


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--show", action="store_true", help="only print the table that was written last")
    run_stage(main, parser=command)
