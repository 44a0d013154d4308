"""A run that was only given another name: DVC takes it for a new one, but its weights are there already."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import paths, provenance
from pipeline.checkpoint import weights_digest
from pipeline.params import Params


def find_former(params: Params, seed: int, inputs: provenance.Inputs) -> Path | None:
    """The folder of a network that was trained from just these inputs by a run that params.yaml no longer has.

    Only a whole one: weights of which run.json holds the SHA-256, and the history of their epochs.
    """
    for file in sorted(paths.MODELS.glob(f"*-{seed}/{paths.RUN_RECORD}")):
        record = paths.read_json(file)
        if record.get("input_fingerprint") != inputs.fingerprint or record["run"] in params.all_runs:
            continue
        weights, history = file.with_name(paths.WEIGHTS), paths.history_file(record["run"], seed)
        if weights.is_file() and history.is_file() and weights_digest(weights) == record["weights_sha256"]:
            return file.parent
    return None


def take_over(former: Path, run: str, seed: int, key: str) -> None:
    """Make what `train` leaves of `run` out of what it left under the former name. key: as in run.json."""
    record = paths.read_json(former / paths.RUN_RECORD)
    paths.model_dir(run, seed).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(former / paths.WEIGHTS, paths.weights_file(run, seed))
    paths.history_file(run, seed).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(paths.history_file(record["run"], seed), paths.history_file(run, seed))
    if not record["starts_from"]:
        paths.write_json(paths.digest_file(run, seed), {"sha256": record["weights_sha256"]})
    paths.write_json(paths.run_file(run, seed), record | {"run": run, "training_key": key})
