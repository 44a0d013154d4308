"""What kills, edits and moves leave behind, and how each is fixed.

Only what stages wrote is ever removed, of results only what DVC has recorded. Runs of other machines are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch

from pipeline.compute.device import Device
from pipeline.core import dvc_lock, paths, provenance, removal, run_folders
from pipeline.core.errors import DataError, OtherVersionError, TrackingError
from pipeline.data.store import read_info
from pipeline.params.schema import Params
from pipeline.results.run_metrics import RunMetrics
from pipeline.results.run_record import RunRecord
from pipeline.tools import dvc_orphans
from pipeline.tools.verification import damaged_object, verify
from pipeline.tracking import queries
from pipeline.tracking.address import database
from pipeline.tracking.database_faults import users
from pipeline.tracking.relocate import Row, moved_rows, rewrite
from pipeline.train.training_inputs import training_inputs, training_key

# What stages leave for each run and seed: folders with the files in them, and files.
_FOLDERS = {
    paths.MODELS: ("run.json", "weights.safetensors"),
    paths.PANELS: ("confusion.json", "predictions.*", "*.png"),
}
_FILES = {
    paths.DIGESTS: ".json", paths.STARTS: ".json", paths.METRICS: ".json", paths.HISTORY: ".csv",
    paths.STATISTICS: ".parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What is wrong, what to do about it, and the function that does it; None where that is a person's to decide."""

    what: str
    remedy: str
    fix: Callable[[], object] | None = None


def examine(params: Params, verified: bool = False) -> Iterator[Finding]:
    """All that is found in this project; `verified`: bytes that changed too, which is to read all data and results.

    Raises DataError for a damaged file that is needed to look; TrackingError, last, where MLflow's store can't be used.
    """
    yield from damaged() if verified else emptied()
    yield from uncached()
    yield from half_written()
    yield from stops_dvc()
    unusable = None
    try:
        yield from ended_runs()
    except TrackingError as error:  # raised in the end: the rest can be looked into without MLflow
        unusable = error
    yield from leftovers(params)
    yield from orphaned_states(params)
    if unusable:
        raise unusable
    yield from moved_artifacts()


def damaged() -> Iterator[Finding]:
    """Files whose bytes are no longer those that were written."""
    for each in verify():
        links = "".join(f" (and {path}, a link to it)" for path in each.links)
        yield Finding(f"{each.path}{links} {each.what}", each.remedy, each.remove if each.removable else None)


def uncached() -> Iterator[Finding]:
    """Results that dvc.lock names and DVC's cache lacks. Raises DataError for a damaged dvc.lock."""
    dvc_lock.outs()
    if lacking := dvc_lock.not_in_cache():
        yield Finding(f"DVC could not copy {', '.join(lacking)} into its cache", dvc_lock.lost_message(lacking))


def half_written() -> Iterator[Finding]:
    """Temporary files that a killed write left, of a stage or of DVC. DVC and git pass over them."""
    folders = (paths.PREPARED.parent, paths.MODELS, paths.REPORTS)
    for path in dvc_orphans.temporaries(folders):
        yield Finding(f"{path} is what a killed `dvc` left", "remove it", partial(_remove, path))
    for folder in folders:
        for path in sorted(folder.rglob(f".*{paths.PARTIAL}")):
            if paths.is_abandoned(path):
                yield Finding(f"{path} is what a killed write left", "remove it", partial(_remove, path))


def stops_dvc() -> Iterator[Finding]:
    """What a kill of DVC left, over which every later one fails."""
    for each in dvc_orphans.leftovers():
        yield Finding(f"{each.path} is {each.what}, and `dvc repro` fails over it", "remove it", each.remove)


def emptied() -> Iterator[Finding]:
    """Files of DVC's cache that hold nothing, which `damaged` finds too."""
    for path in dvc_orphans.empty_objects():
        damage = damaged_object(path, "is empty, and DVC takes it for whole")
        yield Finding(f"{path} {damage.what}", damage.remedy, damage.remove)


def ended_runs() -> Iterator[Finding]:
    """Runs that MLflow calls RUNNING, whose process was killed on this machine."""
    inactive = set(run_folders.inactive().values())
    for run in queries.running():
        gone = provenance.is_gone(run.tags)
        if gone is None and "host" not in run.tags:  # begun before runs named their process: their lock tells
            gone = run.tags.get("training_id", "") in inactive
        if gone:
            what = f"MLflow run {run.id} ({run.experiment}: {run.name}) is RUNNING, but its process is gone"
            yield Finding(what, "mark it KILLED (`dvc repro` still resumes it)", partial(queries.end, run))


def leftovers(params: Params) -> Iterator[Finding]:
    """Results of runs and seeds that params.yaml no longer has."""
    kept, known = _names(params, params.all_runs), dvc_lock.outs()
    kept_in = {paths.DIGESTS: _names(params, params.runs), paths.STARTS: _names(params, params.runs_from_single_task)}
    for folder in (*_FOLDERS, *_FILES):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if _is_result(path) and path.name.removesuffix(_FILES.get(folder, "")) not in kept_in.get(folder, kept):
                yield _leftover(path, known)


def _leftover(path: Path, known: Collection[str]) -> Finding:
    what = f"{path} is of a run or seed that is no longer in {paths.PARAMS}"
    if others := _others(path):
        return Finding(what, f"keep what no stage wrote ({', '.join(others)}) elsewhere, then remove it")
    if str(path) not in known:
        return Finding(what, "remove it if nobody needs it: dvc.lock does not name it, so DVC may not have a copy")
    copy = "git has it, if committed" if path.parent == paths.METRICS else "DVC's cache has it, unless `dvc gc` was run"
    return Finding(what, f"remove it ({copy})", partial(_remove, path))


def _names(params: Params, runs: Collection[str]) -> set[str]:
    return {f"{run}-{seed}" for run in runs for seed in params.seeds}


def _is_result(path: Path) -> bool:
    """Whether a stage may have written this, by its name and by what is in it."""
    if path.parent in _FOLDERS:
        return bool(re.fullmatch(r".+-\d+", path.name)) and (path / _FOLDERS[path.parent][0]).is_file()
    return path.suffix == _FILES[path.parent] and bool(re.fullmatch(r"[^.].*-\d+", path.stem))


def _others(path: Path) -> list[str]:
    """What lies in a folder of results without being one."""
    if not path.is_dir():
        return []
    return sorted(each.name for each in path.iterdir() if not any(map(each.match, _FOLDERS[path.parent])))


def _remove(path: Path) -> None:
    try:
        removal.remove(path, path.parent)
    except OSError as error:
        raise DataError(f"{path} can't be removed: {error}") from None


def orphaned_states(params: Params) -> Iterator[Finding]:
    """Checkpoints of killed trainings that nobody is going to take up again."""
    inactive = run_folders.inactive()
    if not inactive:
        return
    try:
        processes = {run_folders.processes(key) for key in inactive}
        current = _training_keys(params, processes, {run_folders.cpu_threads(key) for key in inactive})
    except DataError as error:
        yield Finding(f"which checkpoints in {paths.training_folder('')} are still needed is unknown", str(error))
        return
    for key in inactive:
        folder = paths.training_folder(key)
        if key not in current:
            what = f"{folder} is of a training that the current params, code and data do not ask for"
            remedy = "remove it (an experiment or branch that asks for it would begin from nothing)"
        elif _is_scored(*current[key], key):
            what, remedy = f"{folder} is of {'{}-{}'.format(*current[key])}, which is trained and scored", "remove it"
        else:
            continue
        yield Finding(what, remedy, partial(run_folders.delete, key))


def _training_keys(params: Params, counts: set[int], threads: set[int]) -> dict[str, tuple[str, int]]:
    """{key: (run, seed)} of all that params.yaml asks for, as far as it can be begun, by so many processes.

    On any device: a project's trainings may run on machines that have others than this one. threads: how many a CPU may
    compute with where `cpu_threads` is null.
    """
    info, keys = read_info(), {}
    for name in params.all_runs:
        run = params.run(name)
        for seed in params.seeds:
            if not run.from_single_task or paths.start_file(name, seed).exists():
                own = run.training.cpu_threads
                kinds = [("cuda", None), *(("cpu", count) for count in ([own] if own else threads))]
                for (kind, used), dtype, processes in product(kinds, (torch.float32, torch.bfloat16), counts):
                    device = Device(torch.device(kind), dtype, run.training.channels_last, cpu_threads=used)
                    inputs = training_inputs(params, name, seed, info, device, processes)
                    keys[training_key(inputs, info, name)] = (name, seed)
    return keys


def _is_scored(run: str, seed: int, key: str) -> bool:
    """Whether this very training ended and its weights were scored, so that DVC has recorded it."""
    trained, scored = paths.run_file(run, seed), paths.metrics_file(run, seed)
    if not (trained.exists() and scored.exists()):
        return False
    try:
        digest, scored_digest = RunRecord.read(trained).weights_sha256, RunMetrics.read(scored).weights_sha256
    except OtherVersionError:  # `dvc repro` makes them again, so who knows what it has recorded
        return False
    return run_folders.is_finished(key, f"{run}-{seed}", digest) and scored_digest == digest


def moved_artifacts() -> Iterator[Finding]:
    """Paths in MLflow's local database that lead to where this project was before it was moved or copied."""
    file = database()
    if file is None or not file.exists():
        return
    for old, rows in moved_rows(file, paths.project_root()).items():
        runs = [row for row in rows if row.table == "runs"]
        if any(row.new.exists() for row in runs):
            yield _moved(file, old, rows, runs)


def _moved(file: Path, old: Path, rows: list[Row], runs: list[Row]) -> Finding:
    what = f"{file} looks for the artifacts of {len(runs)} runs in {old}, where this project no longer is"
    left = sum(row.old.exists() and not row.new.exists() for row in runs)
    if left:
        return Finding(what, f"copy those of {left} runs, which are there alone, to {paths.project_root() / 'mlruns'}")
    if others := users(file):
        return Finding(what, f"end `make ui` and whatever else uses it first (process {', '.join(map(str, others))})")
    remedy = f"write the current paths into it, after a copy to {file.name}.bak (nothing of MLflow may run meanwhile)"
    return Finding(what, remedy, partial(rewrite, file, rows))
