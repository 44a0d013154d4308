"""Worker processes: how many, and that they end with their parent, even one that was killed and could not stop them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from pipeline.core.errors import ParamsError

VARIABLE = "PIPELINE_WORKERS"
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Cores that this process may use: as the scheduler, a batch system's pinning or a container's quota say."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):  # no container, or one of another kind
        return own
    return own if quota == "max" else max(1, min(own, int(quota) // int(period)))


def worker_count() -> int:
    """How many worker processes or threads a stage may keep busy; never changes a result.

    PIPELINE_WORKERS decides where it is set: stages.parallel sets it, to a share of the cores. Raises ParamsError for
    one that is no number.
    """
    if own := os.environ.get(VARIABLE):
        if not own.isdecimal() or int(own) < 1:
            raise ParamsError(f"{VARIABLE}={own}: must be a number of processes, 1 or more; unset it for all cores")
        return int(own)
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # torchrun's


def end_with_parent(parent: int) -> None:
    """Initializer of a process pool: watch for the process `parent`, which made the pool, and end when it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
