"""Trained networks on photographs in a browser: python -m stages.demo [RUN-SEED[,RUN-SEED...]] [--port 7860].

Serves a page on this machine until Ctrl-C: drop a photograph, and see all tasks of a network. RUN-SEED is as for
stages.predict; by default every run and seed of params.yaml that is trained. --host 0.0.0.0 lets other machines use it,
with no password.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.params.load import load_params
from stages._entry import imports, run_stage
from stages.predict import model_folders


def main(models: list[Path] | None, host: str, port: int) -> None:
    """Serve the page."""
    if models is None:
        params = load_params()
        folders = (paths.model_dir(name, seed) for name in params.all_runs for seed in params.seeds)
        models = [folder for folder in folders if (folder / paths.WEIGHTS).is_file()]
    if not models:
        raise DataError(f"no run of {paths.PARAMS} is trained yet: run `make repro` first")
    with imports():
        from pipeline.tools.demo import serve

    serve(models, host, port)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument(
        "models",
        type=model_folders,
        nargs="?",
        metavar="RUN-SEED",
        help="several between commas; default: all of params.yaml",
    )
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    command.add_argument("--port", type=int, default=7860, help="default: 7860")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser(), needs_params=False)
