"""Bring everything up to date with several stages side by side: python -m stages.parallel [--jobs N].

Does what `dvc repro` does. Independent trainings and evaluations run N at a time: on the CUDA devices in turn, several
on one if N is more than there are, or on equal shares of the cores. Without N: one for each CUDA device; where there is
none, as many as `training.cpu_threads` and free memory allow. Ctrl-C or a kill ends them all; each resumes later from
its last checkpoint.
"""

from __future__ import annotations

import argparse

from pipeline.params.schema import Params
from pipeline.tools.parallel import GRACE_SECONDS
from stages._entry import run_stage


def main(params: Params, jobs: int | None) -> None:
    """Run what changed, several stages side by side. jobs: how many; as many as fit unless given."""
    import psutil
    import torch

    from pipeline.core import dvc_lock
    from pipeline.core.workers import cores
    from pipeline.tools.changed_sources import refuse_unseen
    from pipeline.tools.parallel import default_jobs, make_slots, repro

    dvc_lock.stages()  # a dvc.lock that a kill left damaged is named before DVC stumbles over it
    refuse_unseen(params)
    gpus, available = torch.cuda.device_count(), psutil.virtual_memory().available
    if jobs is None:
        jobs = default_jobs(params, gpus, cores(), available)
    repro(params, make_slots(params, jobs, gpus, cores()))


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--jobs", type=int, help="how many at a time; default: what the machine can do")
    run_stage(main, parser=command, grace_seconds=GRACE_SECONDS)
