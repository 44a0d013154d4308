"""Which trained single-task networks a run starts from: the work of the DVC stage `single_task_weights`."""

from __future__ import annotations

from pipeline.core import names, paths
from pipeline.core.errors import ParamsError
from pipeline.params.rules import single_task_sources
from pipeline.params.schema import Params


def write_start(params: Params, name: str, seed: int) -> None:
    """Write models/start/<run>-<seed>.json: {task: {run, sha256}}, networks trained with the same seed.

    Raises ParamsError for a run that starts afresh, DataError where a network has not been trained yet.
    """
    if name not in params.runs_from_single_task:
        raise ParamsError(f"runs_from_single_task: {names.unknown('run', name, params.runs_from_single_task)}")
    sources = single_task_sources(params, name)
    digests = {run: paths.read_json(paths.digest_file(run, seed), "sha256")["sha256"] for run in sources.values()}
    start = {task: {"run": run, "sha256": digests[run]} for task, run in sources.items()}
    paths.write_json(paths.start_file(name, seed), start)
