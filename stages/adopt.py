"""Make a published checkpoint a run: python -m stages.adopt FILE --as RUN [--seed N] [--code CODE].

FILE is what the released code of SCA, MTI-Net (its baselines and PAD-Net too), ATRC or InvPT saved, or its state dict
as safetensors. RUN is in params.yaml already: its architecture, tasks, backbone and options say what the file should
be. Every tensor is accounted for; then runs.<RUN>.adopted is written into params.yaml, and `dvc repro` scores it as any
run. docs/adopt.md says what fits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core import paths
from pipeline.params.load import load_params
from pipeline.params.rules import missing_files
from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params, path: Path, run: str, seed: int | None = None, code: str | None = None) -> None:
    """Check the file as the network of the run, print the account of its tensors, and declare it in params.yaml."""
    with imports():
        from pipeline.adopt.declare import check, declare  # imports torch: once arguments are read

    chosen, adoption = check(params, path, run, seed, code)
    print("\n".join(adoption.lines()))
    if declare(run, chosen, adoption):
        lacking = [f"{each.path}: {each.text}" for each in missing_files(load_params())]
        then = f"Before `dvc repro`: {'; '.join(lacking)}" if lacking else "Now `dvc repro` scores and compares it"
        print(f"written to {paths.PARAMS}: runs.{run}.adopted.{chosen}. {then}")
    else:
        print(f"{paths.PARAMS} says so already: nothing was changed")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("path", type=Path, metavar="FILE", help="a checkpoint, or a state dict in safetensors")
    command.add_argument("--as", dest="run", required=True, metavar="RUN", help="a run's name in params.yaml")
    command.add_argument("--seed", type=int, help="whose network it is; the only one of seeds unless given")
    command.add_argument(
        "--code", choices=("sca", "mti_net", "atrc", "invpt"), help="whose names it has; found if left out"
    )
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser())
