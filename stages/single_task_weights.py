"""DVC stage `single_task_weights@<run>-<seed>`: the trained single-task networks that a run starts from."""

from __future__ import annotations

from pipeline.params.single_task_weights import write_start
from stages._entry import run_stage

if __name__ == "__main__":
    run_stage(write_start, run_and_seed=True)
