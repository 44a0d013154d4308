"""A run that was only given another name: DVC takes it for a new one, but its weights are there already."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pipeline.core import paths, provenance
from pipeline.core.errors import DataError
from pipeline.core.integrity import file_sha256
from pipeline.params.schema import Params
from pipeline.results.run_record import RunRecord


def find_former(params: Params, seed: int, inputs: provenance.Inputs) -> Path | None:
    """The folder of a network that was trained from just these inputs by a run that params.yaml no longer has.

    Only a whole one: run.json, and the weights and the history of epochs of which it holds the SHA-256.
    """
    for file in sorted(paths.MODELS.glob(f"*-{seed}/{paths.RUN_RECORD}")):
        try:
            record = RunRecord.read(file)
        except DataError:
            continue
        if record.input_fingerprint != inputs.fingerprint or record.run in params.all_runs:
            continue
        if all(path.is_file() and file_sha256(path) == sha256 for path, sha256 in _files(file.parent, record)):
            return file.parent
    return None


def _files(former: Path, record: RunRecord) -> tuple[tuple[Path, str], ...]:
    """What is taken over, and its SHA-256 as run.json has it."""
    history = paths.history_file(record.run, record.seed)
    return (former / paths.WEIGHTS, record.weights_sha256), (history, record.history_sha256)


def take_over(former: Path, run: str, seed: int) -> None:
    """Make what `train` leaves of `run` out of what it left under the former name."""
    record = RunRecord.read(former / paths.RUN_RECORD)
    paths.model_dir(run, seed).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(former / paths.WEIGHTS, paths.weights_file(run, seed))
    paths.history_file(run, seed).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(paths.history_file(record.run, seed), paths.history_file(run, seed))
    if not record.starts_from:
        paths.write_json(paths.digest_file(run, seed), {"sha256": record.weights_sha256})
    replace(record, run=run).write(paths.run_file(run, seed))
