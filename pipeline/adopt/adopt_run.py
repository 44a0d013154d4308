"""One adopted run from its file to saved weights, recorded in MLflow: the work of `train` where nothing is trained."""

from __future__ import annotations

import time

from pipeline.adopt.checkpoint import read_checkpoint
from pipeline.adopt.network import Adoption, adopt
from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.data.store import read_info
from pipeline.networks.backbones.backbone import Backbone
from pipeline.params.load import load_params
from pipeline.params.schema import Params
from pipeline.tracking.mlflow_run import connect, training_run
from pipeline.tracking.run_log import EXECUTION
from pipeline.train import resume
from pipeline.train.describe import describe
from pipeline.train.outputs import Trained, execution_record, write_outs
from pipeline.train.training_inputs import training_inputs, training_key

ADOPTED = "adopted, trained elsewhere"
ACCOUNT = "adoption.json"  # the artifact that names every tensor


def adopt_run(params: Params, name: str, seed: int) -> None:
    """Write what training would: models/<run>-<seed>/ and its history, which is empty, from the run's file.

    Raises DataError for a file that is missing, another one than params say, or that doesn't fit, ParamsError for a run
    that is not what the file was trained as, TrackingError when MLflow's store can't be reached, TrainingError when an
    input was edited meanwhile.
    """
    run, info, declared = params.run(name), read_info(), params.run(name).adopted[seed]
    info.check_scored(params.evaluation.split)
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    inputs = training_inputs(params, name, seed, info, device)
    network, adoption = adopt(read_checkpoint(paths.given_file(declared.file), declared.sha256), run, info)
    print("\n".join(adoption.lines()), flush=True)
    assert isinstance(network.backbone, Backbone)
    network.backbone.load_report = ADOPTED
    experiment = connect(params.experiment)
    with resume.attempt(training_key(inputs, info, name)) as attempt:
        started = time.time() - attempt.seconds
        tags = {"input_fingerprint": inputs.fingerprint}
        with training_run(experiment, f"{name}-{seed}", attempt.training_id, tags) as log:
            describe(log, params, run, seed, info, network, device, inputs)
            weights = _weights(adoption)
            inputs.check_unchanged(training_inputs(load_params(), name, seed, read_info(), device))
            digest = write_outs(network, [], Trained(run, seed, info, inputs, device, {}, weights, 0))
            attempt.finish(f"{name}-{seed}", digest)
            log.tags({"weights": weights, "weights_sha256": digest, **_tags(adoption)})
            log.json(execution_record([], attempt, started), EXECUTION)
            log.json(adoption.as_object(), ACCOUNT)
            log.artifact(paths.weights_file(name, seed), "checkpoint")
            log.artifact(paths.history_file(name, seed))
            log.artifact(paths.run_file(name, seed))


def _weights(adoption: Adoption) -> str:
    """What run.json and the metrics file say of the weights; nothing of where the file lies."""
    epoch = "" if adoption.file.epoch is None else f", epoch {adoption.file.epoch}"
    return f"{ADOPTED}: names of {adoption.found.code}{epoch}, SHA-256 {adoption.file.sha256}"


def _tags(adoption: Adoption) -> dict[str, str]:
    account = adoption.account
    return {
        "adopted": "true",
        "adopted.code": adoption.found.code,
        "adopted.file": str(adoption.file.path),
        "adopted.sha256": adoption.file.sha256,
        "adopted.tensors": f"{account.used} used, {sum(map(len, account.unused.values()))} unused",
    }
