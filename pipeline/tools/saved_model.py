"""What a model's folder says of itself: run.json beside the weights describes the network, so params.yaml need not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.data.store import DatasetInfo
from pipeline.params.schema import ResolvedRun
from pipeline.results.run_record import RunRecord

_PARAM = "param "  # before the name of a param among the inputs of run.json (pipeline/core/provenance.py)


@dataclass(frozen=True)
class SavedModel:
    """A trained network's folder: the run that was trained, the file of its weights, and what its channels mean.

    sha256: of the weights, as run.json has it; `load_weights` compares.
    """

    run: ResolvedRun
    weights: Path
    sha256: str
    info: DatasetInfo


def read_saved_model(folder: Path) -> SavedModel:
    """Read the folder, models/<run>-<seed> or a copy of it under any name.

    Raises DataError for a folder without weights or without run.json, and for a run.json that is damaged, of another
    version, or of a network that can't be built.
    """
    weights, file = folder / paths.WEIGHTS, folder / paths.RUN_RECORD
    if not weights.is_file():
        raise DataError(
            f"no weights in {weights}; run `dvc repro` (or `dvc pull`) to get them{_present(folder.parent)}"
        )
    if not file.is_file():
        raise DataError(f"{file} is missing: it describes the network; copy it from where the weights are from")
    record = RunRecord.read(file)
    dataset = record.dataset
    try:
        run = ResolvedRun.model_validate({"name": record.run, "options": {}} | _run_tree(record.inputs))
        info = DatasetInfo(
            dataset=dataset.name,
            tasks=run.all_tasks,
            classes={task: tuple(names) for task, names in dataset.classes.items()},
            edge_max_dist=dataset.edge_max_dist,
            splits={},
            digest="",
        )
    except (ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0] or type(error).__name__
        raise DataError(f"{file} does not describe a network that this version can build ({reason})") from None
    return SavedModel(run, weights, record.weights_sha256, info)


def _run_tree(inputs: dict[str, str]) -> dict[str, Any]:
    """The values of `ResolvedRun` among a training's inputs, which are JSON under dotted names."""
    tree: dict[str, Any] = {}
    for name, text in inputs.items():
        if not name.startswith(_PARAM):
            continue
        *sections, key = name.removeprefix(_PARAM).split(".")
        if (sections or [key])[0] not in ResolvedRun.model_fields:
            continue  # seed, device, ...: of the training, not of the network
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = json.loads(text)
    return tree


def _present(folder: Path) -> str:
    """The models that there are, for whoever named another."""
    found = sorted(path.parent.name for path in folder.glob(f"*/{paths.WEIGHTS}"))
    return f"; {folder} holds {', '.join(found[:10])}{', ...' if len(found) > 10 else ''}" if found else ""
