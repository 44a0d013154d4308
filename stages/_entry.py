"""What every stage does first and last: check params, and tell a person's mistake without a traceback.

A stage is a process of some seconds, so what is lost at its start and end counts: `imports` and `_leave` save a third.
A thread that has nothing to compute soon sleeps: spinning for long, as OpenMP has it do by itself, it keeps a core from
whoever else has work, which slows both down many times (benchmarks/busy.py).
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from pipeline.core import machine_faults, paths, shutdown
from pipeline.core.console import warn
from pipeline.core.errors import PipelineError
from pipeline.params.load import load_params

SPINS = "3000"  # turns of an idle thread before it sleeps; GNU's OpenMP, which torch has on Linux, takes 300,000


def run_stage(
    main: Callable[..., int | None],
    *,
    run_and_seed: bool = False,
    needs_params: bool = True,
    parser: argparse.ArgumentParser | None = None,
    argv: Sequence[str] | None = None,
    grace_seconds: float = shutdown.GRACE_SECONDS,
) -> NoReturn:
    """Check params.yaml, call `main(params, **arguments)` and exit: 0 or what it returns; 2 after a PipelineError.

    2 too, and one line, where the machine lacks space, memory, open files or permission (core/machine_faults.py).

    run_and_seed: the stage works on one run; `--run` and `--seed` become the arguments `name` and `seed`.
    needs_params: whether there is to be a params.yaml, which `main` then gets as its first argument.
    parser: further arguments; one called `file` is read instead of params.yaml.
    A stage that is asked to end, or whose DVC is gone, exits with 130 (pipeline/core/shutdown.py).
    Any other exception is our own bug and keeps its traceback.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # OpenMP reads it once, as torch is imported
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    exit_code: list[int] = []
    own_process = main.__module__ == "__main__"
    if own_process:
        atexit.register(_leave, exit_code)  # what is registered first is called last
    parser = parser or argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    if run_and_seed:
        # torchrun takes --run for short for its own --run-path, even behind the module's name: hence the second form.
        parser.add_argument("--run", "--run-name", required=True, dest="name", help="a run's name in params.yaml")
        parser.add_argument("--seed", required=True, type=int)
    arguments = vars(parser.parse_args(argv))
    try:
        with shutdown.graceful_shutdown(grace_seconds):
            params = [load_params(arguments.get("file", paths.PARAMS))] if needs_params else []
            code = main(*params, **arguments) or 0
            sys.stdout.flush()
    except PipelineError as error:
        warn(str(error))
        code = 2
    except BrokenPipeError:  # whoever read the output has had enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        warn("interrupted")
        code = shutdown.EXIT_CODE
    except Exception as error:
        if (message := machine_faults.explain(error)) is None:
            raise
        warn(message)
        code = 2
    exit_code.append(code)
    if own_process and code == shutdown.EXIT_CODE:
        _leave(exit_code)  # pools of processes would first work off what waits; they end with this one instead
    sys.exit(code)


@contextmanager
def imports() -> Iterator[None]:
    """Around the imports of a stage: Python does not look for garbage meanwhile, of which they make none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _leave(exit_code: list[int]) -> None:
    """The last thing at exit, after threads and pools have ended: nothing needs the modules taken apart one by one.

    After an exception that `run_stage` does not know, all goes its usual way.
    """
    if exit_code:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a disk that is full, of whoever reads this
                stream.flush()
        os._exit(exit_code[0])
