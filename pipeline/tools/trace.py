"""From a metrics file, a model or an MLflow run to the others, and whether the working tree would train it again.

What is compared are the inputs of training: its code as dvc.yaml lists it, params, the prepared data, versions, device.
Whether `evaluate` would score the same weights again is DVC's to say: `dvc status`.

A metrics file alone, as git brings it into a clone, says all of that too. Without data/prepared, what would be packed
is compared instead: code, params, versions and archive then and now.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.compute.device import choose_device
from pipeline.core import dvc_lock, forms, names, paths
from pipeline.core.errors import DataError
from pipeline.core.git import commit_with, committed_in, is_repository, is_shallow
from pipeline.core.integrity import file_sha256
from pipeline.core.provenance import ABSENT, Inputs, stage_folders
from pipeline.data.store import DatasetInfo, read_info
from pipeline.datasets import get_dataset
from pipeline.datasets.packing_inputs import packing_inputs
from pipeline.params.schema import Params
from pipeline.params.yaml_file import read_yaml
from pipeline.results.run_metrics import RunMetrics
from pipeline.results.run_record import RunRecord
from pipeline.tools.changed_sources import changed_archive
from pipeline.tracking.queries import TrackedRun, execution_record, find_result, find_run, run_record
from pipeline.train.training_inputs import training_inputs

ACCEPTED = (
    "a metrics file (reports/metrics/<run>-<seed>.json), a model's folder (models/<run>-<seed>) "
    "or the id of an MLflow run (32 hexadecimal digits)"
)
_EXECUTED = (
    "git.commit", "git.dirty", "dvc.stage", "dvc.experiment", "started", "seconds", "training_seconds", "resumed",
    "host",
)  # fmt: skip
_CODE = "file pipeline/"
_START = "param start."


@dataclass
class Trace:
    """One trained network, wherever it left something.

    metrics_file, model: paths, None where they are missing or belong to another training. mlflow: id, name, experiment,
    status and restored. recorded: hardware; from MLflow git commit, DVC stage and experiment, durations; of a metrics
    file `committed in`, the commit that brought it, and without a run in MLflow `code as in`, the commit that brought
    the code that trained. mismatches: what does not belong together. differences: inputs that are others now,
    {name: (recorded, now)}. notes: what else to know.
    """

    run: str
    seed: int
    metrics_file: str | None = None
    model: str | None = None
    mlflow: dict[str, str | bool] | None = None
    recorded: dict[str, Any] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    differences: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def reproducible(self) -> bool:
        """Whether all that is there belongs together, and training with the current inputs would make it again."""
        return not self.mismatches and not self.differences

    def as_object(self) -> dict[str, Any]:
        """All fields, for JSON."""
        differences = [{"input": name, "recorded": a, "now": b} for name, (a, b) in self.differences.items()]
        return asdict(self) | {"differences": differences, "reproducible": self.reproducible}


def trace(params: Params, what: str) -> Trace:
    """Follow `what`, one of ACCEPTED. Raises DataError for anything else, TrackingError without MLflow's store."""
    path = Path(what)
    if path.is_dir() and (path / "run.json").exists():
        return _of_model(params, path)
    if path.is_file() and path.suffix == ".json":
        return _of_metrics(params, path)
    if re.fullmatch("[0-9a-f]{32}", what):
        return _of_mlflow(params, what)
    raise DataError(f"can't trace {what!r}: there is no such result; allowed: {ACCEPTED}")


def _of_model(params: Params, folder: Path, scored: RunMetrics | None = None) -> Trace:
    record = RunRecord.read(folder / paths.RUN_RECORD)
    found = Trace(record.run, record.seed)
    _add_model(found, folder, record)
    _add_metrics(found, record)
    _add_mlflow(found, find_result(record.run, record.seed, record.weights_sha256))
    _compare(found, params, record, scored)
    return found


def _of_metrics(params: Params, path: Path) -> Trace:
    scored = RunMetrics.read(path)
    found = _of_scored(params, path, scored)
    _add_commits(found, path, scored.made_from.values)
    return found


def _of_scored(params: Params, path: Path, scored: RunMetrics) -> Trace:
    folder = paths.model_dir(scored.run, scored.seed)
    file = folder / paths.RUN_RECORD
    record = RunRecord.read(file) if file.exists() else None
    if record and _same_training(scored, record):
        found = _of_model(params, folder, scored)
        found.metrics_file = str(path)
        return found
    found = Trace(scored.run, scored.seed, str(path))
    if record:
        found.mismatches.append(f"{path} was made from other weights than those in {folder}")
    else:
        found.notes.append(f"{folder} is missing: `dvc pull` or `dvc repro` brings it")
    _add_mlflow(found, find_result(found.run, found.seed, scored.weights_sha256))
    _compare(found, params, scored, scored)
    return found


def _of_mlflow(params: Params, run_id: str) -> Trace:
    tracked = find_run(run_id)
    if tracked is None:
        raise DataError(f"MLflow's store has no run {run_id}; allowed: {ACCEPTED}")
    found = _named(tracked)
    folder = paths.model_dir(found.run, found.seed)
    if (folder / paths.RUN_RECORD).exists():
        if RunRecord.read(folder / paths.RUN_RECORD).weights_sha256 == tracked.tags.get("weights_sha256"):
            model = _of_model(params, folder)
            _add_mlflow(model, tracked)  # of several that gave the same weights, the one that was asked for
            return model
        found.notes.append(f"{folder} is of another training than this MLflow run")
    _add_mlflow(found, tracked)
    record = run_record(tracked)
    if record is None:
        found.mismatches.append("what it was made from is unknown: its model is not here, and MLflow has no run.json")
    else:
        _compare(found, params, record, None)
    return found


def _named(tracked: TrackedRun) -> Trace:
    """Run and seed by the tags of training, else by the name that tracking gave to a restored run."""
    name, _, seed = tracked.name.rpartition("-")
    name, seed = tracked.tags.get("run", name), tracked.tags.get("seed", seed)
    if not (names.is_run_name(name) and re.fullmatch("[0-9]{1,10}", seed)):
        raise DataError(f"the MLflow run {tracked.id} ({tracked.name}) is none of this pipeline; allowed: {ACCEPTED}")
    return Trace(name, int(seed))


def _same_training(scored: RunMetrics, record: RunRecord) -> bool:
    ours, theirs = ((each.input_fingerprint, each.weights_sha256) for each in (scored, record))
    return ours == theirs


def _add_model(found: Trace, folder: Path, record: RunRecord) -> None:
    found.model = str(folder)
    weights = folder / paths.weights_file(found.run, found.seed).name
    if not weights.exists():
        found.mismatches.append(f"{weights} is missing: `dvc checkout` or `dvc repro` brings it")
    elif file_sha256(weights) != record.weights_sha256:
        found.mismatches.append(f"{weights} is not the file that training wrote (SHA-256 differs from run.json)")


def _add_metrics(found: Trace, record: RunRecord) -> None:
    path = paths.metrics_file(found.run, found.seed)
    if not path.exists():
        found.notes.append(f"{path} is missing: not scored yet, `dvc repro` does it")
    elif _same_training(RunMetrics.read(path), record):
        found.metrics_file = str(path)
    else:
        found.mismatches.append(f"{path} was made from other weights than those in {found.model}; run `dvc repro`")


def _add_mlflow(found: Trace, tracked: TrackedRun | None) -> None:
    if tracked is None:
        found.notes.append("MLflow's store has no run of these weights, so when and where it was trained is unknown")
        return
    found.mlflow = {key: getattr(tracked, key) for key in ("id", "name", "experiment", "status", "restored")}
    execution = execution_record(tracked)
    found.recorded |= {key: execution[key] for key in _EXECUTED if key in execution}


def _add_commits(found: Trace, path: Path, inputs: dict[str, str]) -> None:
    """The commit that brought the metrics file and, of a result that was not made here, the one of the code."""
    commit = committed_in(path)
    if commit:
        found.recorded = {"committed in": commit} | found.recorded
    if found.mlflow or found.model:
        return
    if not is_repository():
        found.notes.append("this project is not in git, so the commit of its code is unknown")
        return
    if commit is None:
        found.notes.append(f"{path} is not in git as it is here")
    code = {
        name.removeprefix("file "): digest
        for name, digest in inputs.items()
        if name.startswith(_CODE) and digest != ABSENT
    }
    if trained := commit_with(code, stage_folders("train")):
        found.recorded = {"code as in": trained} | found.recorded
    elif is_shallow():
        found.notes.append(
            "this clone lacks the history in which the code that trained may be: `git fetch --unshallow`"
        )
    else:
        found.notes.append(
            "no commit of this history has the code that trained: it was edited, or is of another branch"
        )


def _compare(found: Trace, params: Params, record: RunRecord | RunMetrics, scored: RunMetrics | None) -> None:
    """What the same training would be made from now, against what it was.

    scored: of a metrics file, which lets data that is not here be compared by what it was packed from.
    Raises DataError where there is neither.
    """
    found.recorded |= {"device": record.device, "processes": record.processes}
    if record.made_from.adopted:
        found.notes.append(f"its weights were {record.weights}: what trained them is not known here")
    if found.run not in params.all_runs:
        found.mismatches.append(f"run {found.run} is no longer in {paths.PARAMS}")
        return
    if found.seed not in params.seeds:
        found.mismatches.append(f"seed {found.seed} is no longer in {paths.PARAMS}: seeds")
    recipe = params.run(found.run).training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    processes = record.processes  # how many there would be now, is said when they are started
    if processes > 1:
        found.notes.append(f"{processes} processes trained it: PIPELINE_LAUNCHER is to start as many")
    trained = record.made_from
    packed = scored is None or (paths.PREPARED / "dataset.json").exists()
    info = read_info() if packed else DatasetInfo("", (), {}, 0.0, {}, trained.values["data"])
    start = _recorded_start(found, params, trained)
    now = training_inputs(params, found.run, found.seed, info, device, processes, start)
    found.differences = trained.differences(now)
    if not packed:
        _compare_packing(found, params, trained.values["data"])
    elif _data_is_stale():
        found.mismatches.append(f"{paths.PREPARED} was packed with other params: data; run `dvc repro prepare`")
    found.mismatches += changed_archive(params)


def _recorded_start(found: Trace, params: Params, trained: Inputs) -> dict[str, dict[str, str]] | None:
    """{task: {run, sha256}} that a run was started from, where the file that names them now is not here; else None."""
    if not params.run(found.run).from_single_task or paths.start_file(found.run, found.seed).exists():
        return None
    start: dict[str, dict[str, str]] = {}
    for name, value in trained.values.items():
        if name.startswith(_START):
            task, _, key = name.removeprefix(_START).partition(".")
            start.setdefault(task, {})[key] = json.loads(value)
    forms.check_start("the inputs that were recorded", start)
    for source in start.values():
        path = paths.metrics_file(source["run"], found.seed)
        if not path.exists() or RunMetrics.read(path).weights_sha256 != source["sha256"]:
            found.mismatches.append(f"it started from other weights of {source['run']} than those that {path} is of")
    origins = ", ".join(str(paths.metrics_file(source["run"], found.seed)) for source in start.values())
    found.notes.append(f"it started from trained networks: trace theirs too ({origins})")
    return start


def _compare_packing(found: Trace, params: Params, digest: str) -> None:
    """What would be packed here now, against what the data of a training was packed from. digest: of that data."""
    packing = paths.read_json(paths.PACKED_FROM, "data", "inputs")
    if packing["data"] != [digest]:
        found.differences["data"] = (digest, *packing["data"])
    packed_from = Inputs.parse(packing["inputs"])
    now = packing_inputs(params.data)
    here = {name: value for name, value in now.values.items() if value != ABSENT}
    absent = now.values.keys() - here.keys()
    if "archive" in absent and params.data.archive is None:
        archive = get_dataset(params.data.dataset).archive
        if archive is not None and archive.sha256 is not None:  # then `download` takes no other
            here["archive"] = archive.sha256
            absent.remove("archive")
    known = {name: value for name, value in packed_from.values.items() if name not in absent}
    for name, pair in Inputs(known).differences(Inputs(here)).items():
        if found.differences.get(name) != pair:
            found.differences[f"data: {name}"] = pair
    found.notes += [f"{name} is not here, so it was not compared: {packed_from.values.get(name)}" for name in absent]
    found.notes.append(
        f"{paths.PREPARED} is missing: code, params and versions that pack it were compared, not its bytes "
        "(`dvc pull` or `dvc repro prepare` brings it)"
    )


def _data_is_stale() -> bool:
    """Whether `data` of params.yaml is other than when DVC last ran `prepare`: its digest is then out of date."""
    packed = dvc_lock.stages().get("prepare", {}).get("params", {}).get(str(paths.PARAMS), {})
    return "data" in packed and packed["data"] != read_yaml(paths.PARAMS)["data"]
