"""The command that starts a stage in several processes: from the environment, since params never name hardware."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from pipeline.core.errors import ParamsError

VARIABLE = "PIPELINE_LAUNCHER"
_LAUNCHED = "PIPELINE_LAUNCHED"  # set for what the launcher starts


def relaunch(module: str, arguments: Sequence[str]) -> None:
    """Become `$PIPELINE_LAUNCHER -m module arguments`; returns where that is not set, or has been done.

    It is the same process, so that whoever waits for it or ends it does so to the launcher. Raises ParamsError for a
    command that can't be started, and for one that does not say to its processes, as torchrun does, that they are
    several: each would train all of it.
    """
    command = shlex.split(os.environ.get(VARIABLE, ""))
    if not command or "WORLD_SIZE" in os.environ:
        return
    if _LAUNCHED in os.environ:
        raise ParamsError(
            f"{VARIABLE}: {command[0]} does not tell WORLD_SIZE and RANK to what it starts; let it start torchrun, "
            "as in `torchrun --nproc-per-node=4` or `srun torchrun --nnodes=2 --nproc-per-node=4 ...`"
        )
    os.environ[_LAUNCHED] = "1"
    sys.stdout.flush()
    try:
        os.execvp(command[0], [*command, "-m", module, *arguments])
    except OSError as error:
        raise ParamsError(
            f"{VARIABLE}: {command[0]} can't be started ({error.strerror}); give a command such as "
            "`torchrun --nproc-per-node=4`, or unset it to train in one process"
        ) from None
