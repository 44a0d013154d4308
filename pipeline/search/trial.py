"""Training one trial, scored on a tenth kept out of train: of the data it opens the train split alone."""

from __future__ import annotations

import gc
import os

import torch

from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.errors import DataError, ParamsError
from pipeline.core.provenance import Inputs
from pipeline.data.store import read_info
from pipeline.datasets.packing_inputs import packing_inputs
from pipeline.params.schema import Data, Params
from pipeline.search.objective import TrialScores
from pipeline.train.loop import Log
from pipeline.train.train_run import TrainingJob
from pipeline.train.training_inputs import training_inputs


def trial_inputs(params: Params, name: str) -> Inputs:
    """All that the result of a trial with these params depends on. Raises ParamsError, and DataError without data."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ParamsError("a trial trains in one process: start stages.search without torchrun, as often as you like")
    recipe = params.run(name).training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    return training_inputs(params, name, params.seeds[0], read_info(), device)


def check_packed(data: Data) -> None:
    """Raise DataError where data/prepared was packed with other params: the search does not ask DVC."""
    if not paths.PACKED_FROM.exists() or data.dataset == "folder":  # whose files would all be read
        return
    packed = Inputs.parse(paths.read_json(paths.PACKED_FROM, "inputs")["inputs"])
    changed = [name for name in packed.differences(packing_inputs(data)) if name.startswith("param ")]
    if changed:
        raise DataError(
            f"{paths.PREPARED} was packed with another value of {', '.join(changed).replace('param ', '')}: run "
            "`dvc repro prepare` first"
        )


def train_trial(params: Params, name: str, scores: TrialScores, log: Log) -> None:
    """Train run `name` of a trial's params from its start, with the first of `seeds`; scores: is offered each epoch's.

    Raises TrainingError where it diverges, ParamsError for a batch that batch norm can't be trained on, DataError for
    data that is not there or of which the tenth has no label of a task, and what `scores` raises.
    """
    try:
        _train(params, name, scores, log)
    finally:
        gc.collect()  # the next trial needs the memory
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _train(params: Params, name: str, scores: TrialScores, log: Log) -> None:
    run, info, seed = params.run(name), read_info(), params.seeds[0]
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    job = TrainingJob(params, run, seed, info, device)
    job.check_batch_norm()
    job.fit(job.network(), scores, None, log)
