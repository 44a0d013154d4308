"""DVC stage `train@<run>-<seed>`: train one network of params.yaml."""

from __future__ import annotations

from pipeline.core.errors import ParamsError
from pipeline.params.schema import Params
from pipeline.tools import launcher
from stages._entry import imports, run_stage


def main(params: Params, name: str, seed: int) -> None:
    """Train one run with one seed, in as many processes as params say; an adopted one is mapped, in this one."""
    if name in params.runs and params.runs[name].adopted:
        _adopt(params, name, seed)
        return
    launcher.relaunch("stages.train", ["--run-name", name, "--seed", str(seed)])
    with imports():
        from pipeline.train.train_run import train_run  # imports torch: only once params are known to be right

    train_run(params, name, seed)


def _adopt(params: Params, name: str, seed: int) -> None:
    with imports():
        from pipeline.adopt.adopt_run import adopt_run

    if seed not in params.runs[name].adopted:
        raise ParamsError(f"run {name}: adopted has no file for seed {seed}; `python -m stages.adopt` gives it one")
    adopt_run(params, name, seed)


if __name__ == "__main__":
    run_stage(main, run_and_seed=True)
