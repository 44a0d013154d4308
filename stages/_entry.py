"""What every stage does first and last: check params, and tell a person's mistake without a traceback."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.params import load_params


def _interrupt(*_: object) -> NoReturn:
    """A stage that is told to end closes its MLflow run, as after Ctrl-C."""
    raise KeyboardInterrupt


def run_stage(
    main: Callable[..., None],
    *,
    run_and_seed: bool = False,
    parser: argparse.ArgumentParser | None = None,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Check params.yaml, call `main(params, **arguments)` and exit: 0, or 2 after a PipelineError's message.

    run_and_seed: the stage works on one run; `--run` and `--seed` become the arguments `name` and `seed`.
    parser: further arguments; one called `file` is read instead of params.yaml.
    Any other exception is our own bug and keeps its traceback.
    """
    parser = parser or argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    if run_and_seed:
        parser.add_argument("--run", required=True, dest="name", help="a run's name in params.yaml")
        parser.add_argument("--seed", required=True, type=int)
    arguments = vars(parser.parse_args(argv))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main(load_params(arguments.get("file", paths.PARAMS)), **arguments)
    except PipelineError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output has had enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
