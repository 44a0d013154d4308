"""DVC stage `evaluate@<run>-<seed>`: score one trained network at the labels' resolution."""

from __future__ import annotations

from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params, name: str, seed: int) -> None:
    """Score a trained network."""
    with imports():
        from pipeline.evaluation.evaluate_run import (
            evaluate_run,  # imports torch: only once params are known to be right
        )

    evaluate_run(params, name, seed)


if __name__ == "__main__":
    run_stage(main, run_and_seed=True)
