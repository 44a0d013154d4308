"""`dvc repro` with independent stages side by side, each with its part of the machine; DVC runs and records each one.

One `dvc repro --single-item` runs at a time for each slot. DVC's own locks keep them apart: the repository's while it
looks and records, those on paths while a stage runs. What it finds unchanged, it skips. A kill leaves what a kill of
`dvc repro` leaves, and the next one, parallel or not, resumes from there.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import psutil

from pipeline.core import dvc_lock, paths
from pipeline.core.console import warn
from pipeline.core.errors import DataError, ParamsError, StageError
from pipeline.core.shutdown import STARTER
from pipeline.core.workers import VARIABLE as WORKERS
from pipeline.params.schema import Params
from pipeline.tools.launcher import VARIABLE as LAUNCHER
from pipeline.tools.parallel_progress import Efforts, Job, progress, run_of

_BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")  # what DVC says when another one holds the lock
_BUSY_TRIES = 20
_CHATTER = (
    "To track the changes with git, run:", "git add ", "To enable auto staging, run:", "dvc config core.autostage",
    "Use `dvc push`", "Updating lock file", "Generating lock file", "> python -m stages.",
)  # fmt: skip
_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
_LOOK_SECONDS = 0.1
_END_SECONDS = 12.0  # for stages to end in: longer than they may take (pipeline/core/shutdown.py)
GRACE_SECONDS = _END_SECONDS + 2.0

JOB_BYTES = 2_000_000_000  # of memory for one job on a CPU: the largest of the default peaks at 1.64 GB, and needs DVC


def repro(params: Params, slots: Sequence[Mapping[str, str]]) -> None:
    """Bring everything up to date, with as many stages at a time as there are slots.

    slots: the environment of each, such as its device (see `make_slots`). Raises StageError when a stage fails, after
    those beside it have ended, and where DVC ended well but could not keep what a stage made. One slot is a plain
    `dvc repro`, which stops at the first failure.
    """
    if LAUNCHER in os.environ and len(slots) > 1:
        raise ParamsError(
            f"{LAUNCHER} trains one network on several devices, and {len(slots)} jobs train several at once: "
            "unset it, or use `dvc repro`"
        )
    failure = None
    try:
        _all_stages(params, slots)
    except StageError as error:
        failure = error
    if lacking := dvc_lock.not_in_cache():
        before = f"{failure}\n" if failure else ""
        raise StageError(before + dvc_lock.lost_message(lacking))
    if failure:
        raise failure


def _all_stages(params: Params, slots: Sequence[Mapping[str, str]]) -> None:
    if len(slots) == 1:
        _dvc("repro", slot=slots[0])
        return
    _dvc("repro", "prepare", "selection", "adoption")
    _side_by_side(_jobs("", params.runs, params), slots, _efforts(params))
    if params.runs_from_single_task:
        keys = [f"single_task_weights@{key}" for key in _keys(params.runs_from_single_task, params)]
        _dvc("repro", *keys)
        _side_by_side(_jobs("_from_single_task", params.runs_from_single_task, params), slots, _efforts(params))
    _dvc("repro")


def default_jobs(params: Params, gpus: int, cores: int, free_bytes: int) -> int:
    """How many jobs at a time use this machine well: one for each GPU; else as many as cores and memory allow.

    Never more than there are trainings. One where PIPELINE_DEVICE names a GPU, or PIPELINE_LAUNCHER has several
    processes train one network.
    """
    device = os.environ.get("PIPELINE_DEVICE")
    if LAUNCHER in os.environ or device not in (None, "cpu"):
        return 1
    trainings = max(len(params.runs), len(params.runs_from_single_task)) * len(params.seeds)
    fitting = min(cores // _cpu_threads(params, cores), free_bytes // JOB_BYTES)
    return max(1, min(gpus if gpus and device is None else fitting, trainings))


def make_slots(params: Params, jobs: int, gpus: int, cores: int) -> list[dict[str, str]]:
    """What each of `jobs` slots adds to the environment: its GPU, several to one if need be, or its share of cores.

    What the environment says already is left alone. One slot adds nothing: its stages choose as with `dvc repro`.
    OMP_NUM_THREADS is `training.cpu_threads`, which torch takes anyhow, for what else may compute; where that is null,
    an equal share of the cores.
    """
    if jobs < 1:
        raise ParamsError(f"--jobs {jobs}: at least 1")
    if jobs == 1:
        return [{}]
    device = os.environ.get("PIPELINE_DEVICE")
    common = {} if WORKERS in os.environ else {WORKERS: str(max(1, cores // jobs))}
    if gpus and device is None:
        return [{"PIPELINE_DEVICE": f"cuda:{i % gpus}", **common} for i in range(jobs)]
    if device in (None, "cpu") and "OMP_NUM_THREADS" not in os.environ:
        common["OMP_NUM_THREADS"] = str(_cpu_threads(params, max(1, cores // jobs)))
    return [dict(common) for _ in range(jobs)]


def _cpu_threads(params: Params, machine: int) -> int:
    """The most threads that a run computes with on a CPU, where null stands for `machine`."""
    return max(params.run(name).training.cpu_threads or machine for name in params.all_runs)


def _keys(runs: Mapping[str, object], params: Params) -> Iterator[str]:
    yield from (f"{name}-{seed}" for seed in params.seeds for name in runs)


def _jobs(kind: str, runs: Mapping[str, object], params: Params) -> list[Job]:
    """Training and scoring of each run and seed, where DVC finds that one of them is to be done.

    The longest first, so that none of them runs alone at the end.
    """
    jobs = [(f"train{kind}@{key}", f"evaluate{kind}@{key}") for key in _keys(runs, params)]
    stages = [stage for job in jobs for stage in job]
    done = subprocess.run([*_DVC, "status", "--json", *stages], capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"dvc status failed:\n{done.stderr.strip()}")
    changed = json.loads(done.stdout)
    return [job for job in longest_first(jobs, params) if any(stage in changed for stage in job)]


def longest_first(jobs: Sequence[Job], params: Params) -> list[Job]:
    """Jobs by the arithmetic of their trainings, as earlier metrics files have it; those of other runs before them."""
    known = _efforts(params)
    return sorted(jobs, key=lambda job: known[run_of(job)] or math.inf, reverse=True)


def _efforts(params: Params) -> dict[str, int]:
    """The arithmetic of a training of each run, in no unit; 0 where nothing is known of it, 1 for an adopted one."""
    found = {}
    for name in params.all_runs:
        run = params.run(name)
        found[name] = 1 if run.adopted else max(_macs(name, seed) for seed in params.seeds) * run.training.epochs
    return found


def _macs(name: str, seed: int) -> int:
    """Multiply-accumulates of one image, by the metrics file that stands there, whatever it is of; 0 without one."""
    try:
        macs = paths.read_json(paths.metrics_file(name, seed)).get("macs")
    except DataError:
        return 0
    return macs if isinstance(macs, int) else 0


def _dvc(*arguments: str, slot: Mapping[str, str] = MappingProxyType({})) -> None:
    """One DVC command by itself, in this terminal."""
    code = _end_with_us(subprocess.Popen([*_DVC, *arguments], env=_environment(slot)))
    if code:
        raise StageError(f"`dvc {' '.join(arguments)}` failed, see above")


def _end_with_us(process: subprocess.Popen) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:
        _end([process])
        raise


def _environment(slot: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, STARTER: str(os.getpid()), **slot}


@dataclass
class _Running:
    """A job that a slot is at."""

    job: Job
    slot: Mapping[str, str]
    tries: int = 1
    said: list[str] = field(default_factory=list)

    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        command = [*_DVC, "repro", "--single-item", *self.job]
        self.process = subprocess.Popen(
            command, env=_environment(self.slot), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if not _is_chatter(line):
                print(f"[{self.job[0].partition('@')[2]}] {line}", end="", flush=True)

    def finish(self) -> int:
        """The exit code, once everything that was said is printed."""
        code = self.process.wait()
        self._reader.join(timeout=1)  # a stage that outlives its DVC for a moment holds the pipe open
        return code

    @property
    def seconds(self) -> float:
        """Since its first try."""
        return time.monotonic() - self.began

    def was_busy(self) -> bool:
        """Whether it failed only since another DVC held a lock, which passes."""
        return self.tries < _BUSY_TRIES and any(words in line for line in self.said for words in _BUSY)

    def again(self) -> _Running:
        time.sleep(1)
        return _Running(self.job, self.slot, self.tries + 1, began=self.began)


def _is_chatter(line: str) -> bool:
    """Whether DVC says it after every stage: advice that one reads once, and that it will record what it ran."""
    line = line.strip()
    return not line or line.startswith(_CHATTER) or (line.startswith("Stage '") and line.endswith("skipping"))


def _side_by_side(jobs: list[Job], slots: Sequence[Mapping[str, str]], efforts: Efforts) -> None:
    """Run all jobs, one in each slot at a time; raises StageError at the end for those that failed."""
    waiting, free = list(jobs), list(slots)
    running: list[_Running] = []
    done: dict[Job, float] = {}  # and the seconds that each took
    failed: list[Job] = []
    at_a_time = min(len(slots), len(jobs))
    if jobs:
        print(f"{len(jobs)} networks to train and score, {at_a_time} at a time", flush=True)
    try:
        while waiting or running:
            while waiting and free:
                running.append(_Running(waiting.pop(0), free.pop(0)))
            time.sleep(_LOOK_SECONDS)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                code = each.finish()
                if code and each.was_busy():
                    running.append(each.again())
                    continue
                free.append(each.slot)
                if code:
                    failed.append(each.job)
                else:
                    done[each.job] = each.seconds
                words = progress(done, failed, {of.job: of.seconds for of in running}, waiting, at_a_time, efforts)
                print(f"{each.job[0].partition('@')[2]} {'failed' if code else 'is done'}: {words}", flush=True)
    finally:
        _end([each.process for each in running])
    if failed:
        raise StageError(
            f"failed, see above: {', '.join(job[0] for job in failed)}. What succeeded beside them is recorded"
        )


def _end(processes: list[subprocess.Popen]) -> None:
    """End DVCs and wait for their stages, which notice that DVC is gone, to save what they have and end."""
    family = []
    for process in processes:
        if process.poll() is None:
            family += psutil.Process(process.pid).children(recursive=True)
            process.terminate()
    _, alive = psutil.wait_procs(family, _END_SECONDS)
    if alive:
        warn("some stages still finish a step and save it; they end by themselves within seconds")
