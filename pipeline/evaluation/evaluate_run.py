"""Score one trained network and keep what the report shows: the work of the DVC stage `evaluate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pipeline.compute.device import NORMALIZATIONS, Device, choose_device
from pipeline.core import dvc_lock, paths, provenance, removal, run_folders
from pipeline.core.console import warn
from pipeline.core.integrity import file_sha256
from pipeline.data.sample import Sample
from pipeline.data.store import DatasetInfo, Store, read_info
from pipeline.evaluation.attention import middle_of, with_sample
from pipeline.evaluation.confusion import write_confusion
from pipeline.evaluation.cost import measure
from pipeline.evaluation.cross_attention import attention_at, has_cross_attention
from pipeline.evaluation.examples import chosen_of, predictions_of_chosen
from pipeline.evaluation.panels import Panels
from pipeline.evaluation.predictions import predictions_file, write_predictions
from pipeline.evaluation.scoring import Scorer, finite_or_none, metric_values, score_with
from pipeline.evaluation.statistics import SplitStatistics
from pipeline.loading.loader import image_tensor, resize_image
from pipeline.networks.from_params import build_network
from pipeline.networks.saved_weights import load_weights
from pipeline.params.load import load_params
from pipeline.params.schema import Params, ResolvedRun, Training
from pipeline.results.run_metrics import PrimaryMetric, RunMetrics
from pipeline.results.run_record import RunRecord
from pipeline.tasks import get_task
from pipeline.tracking.mlflow_run import connect, continued_run
from pipeline.visual.paint import write_png

_PROTOCOL = (
    "The image is resized to the input size, aspect not kept (area average along a side that shrinks, cubic where it "
    "grows); the decoded prediction is resized to its label (class maps by the pixel that a centre falls on, others "
    "bilinearly, in float32) and compared with the untouched label. In training, pixels that a rotation or a zoom "
    "brought in from outside carried no label."
)


def evaluate_run(params: Params, name: str, seed: int) -> None:
    """Score run `name` with `seed` on the split that `evaluation.split` names.

    Writes reports/metrics/<run>-<seed>.json, what each image adds to the primary scores beside it under
    reports/statistics/ and, under reports/panels/<run>-<seed>/, confusion matrices, predictions and a picture of
    `evaluation.panels` samples and, unless that is 0, predictions of those that were chosen by their scores
    (pipeline/evaluation/examples.py) and, of a network with cross attention, what the middle pixel of the first sample
    gathered (pipeline/evaluation/attention.py); adds scores and picture to the MLflow run that training began.
    Raises TrainingError when an input was edited meanwhile, DataError where the dataset has no such split.
    """
    run, info, split = params.run(name), read_info(), params.evaluation.split
    info.check_scored(split)
    experiment = connect(params.experiment)  # an unreachable server is reported before an hour of scoring
    inputs = _inputs(params, name, seed, info)
    trained = RunRecord.read(paths.run_file(name, seed), run.stage("train", seed))
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    network = device.network(build_network(run, info))
    load_weights(network, paths.weights_file(name, seed), trained.weights_sha256, paths.run_file(name, seed))
    _forget_checkpoint(paths.model_dir(name, seed), trained.weights_sha256, run.stage("train", seed))

    store = Store(paths.PREPARED / split, run.tasks)
    panels = Panels(store.ids, params.evaluation.panels, run.tasks, info)
    scorer = Scorer(run.tasks, info, device.torch_device, params.evaluation.edge_nms)
    score_with(scorer, network, store, run.tasks, run.training, params.evaluation.batch_size, device, panels.keep)
    cost, scores = asdict(measure(network, run.training.input_size)), scorer.compute()
    primary = {task: get_task(task) for task in run.tasks}
    values = finite_or_none(scores)
    statistics = SplitStatistics(store.ids, scorer.statistics, scorer.formulas)
    statistics.check_scores({task: values[task][of.primary_metric] for task, of in primary.items()})
    examples = chosen_of(statistics) if panels.ids else {}
    chosen = predictions_of_chosen(network, store, examples, recipe, params.evaluation.batch_size, device)
    arrays = {f"{id_}/{task}": prediction for id_, task, prediction in chosen}
    if panels.kept and has_cross_attention(network):
        arrays |= attention_of(network, panels.kept[0][0], recipe, device)
    inputs.check_unchanged(_inputs(load_params(), name, seed, read_info()))
    picture = _write_panels(run, seed, panels, arrays)
    write_confusion(name, seed, scorer.confusions)
    statistics.write(paths.statistics_file(name, seed))
    metrics = RunMetrics(
        run=name,
        seed=seed,
        architecture=run.architecture,
        backbone=run.training.backbone,
        dataset=info.dataset,
        dataset_digest=info.digest,
        split=split,
        samples=len(store),
        labelled={
            "train": Store(paths.PREPARED / "train", run.all_tasks).label_counts(),
            split: store.label_counts(),
        },
        skipped={split: len(ids) for split, ids in info.skipped.items()},
        published_split=info.published,
        protocol={"all": _PROTOCOL, **scorer.protocol},
        training=run.training.model_dump(mode="json") | {"task_weights": run.loss_weights},
        **cost,
        **origin(trained),
        primary_metric={task: PrimaryMetric(of.primary_metric, of.higher_is_better) for task, of in primary.items()},
        tasks=values,
        predictions_sha256=file_sha256(predictions_file(name, seed)),
        statistics_sha256=file_sha256(paths.statistics_file(name, seed)),
    )
    metrics.write(paths.metrics_file(name, seed))
    with continued_run(experiment, name, seed, trained.weights_sha256) as log:
        prefix = "" if split == "val" else f"{split}/"  # a run may be scored on both
        named = {f"{prefix}{name}": value for name, value in metric_values(metrics.tasks).items()}
        log.params(cost)
        log.tags({"scored_split": split})
        log.scores({name: value for name, value in named.items() if value is not None})
        log.dataset(f"{info.dataset} {split}", info.digest, "evaluation")
        log.artifact(paths.metrics_file(name, seed))
        if picture is not None:
            log.artifact(picture, "panels")
        inputs.check_unchanged(_inputs(load_params(), name, seed, read_info()))  # the store may have taken its time


def _forget_checkpoint(folder: Path, weights_sha256: str, stage: str) -> None:
    """Remove what would let a training resume, once DVC has what it made; keep it where DVC has not."""
    cached = dvc_lock.is_cached(folder)
    if cached:
        run_folders.delete_finished(folder.name, weights_sha256)
    elif cached is False:
        warn(
            f"warning: DVC's cache lacks {folder}, so the training's checkpoint is kept. If DVC printed `failed to "
            f"transfer`, as on a full disk: free some space, then run `dvc commit {stage}`"
        )


def origin(trained: RunRecord) -> dict[str, Any]:
    """What a metrics file keeps of run.json, for where the file comes alone, as into a clone: see tools/trace.py."""
    kept = (
        "training_samples",
        "weights",
        "input_fingerprint",
        "weights_sha256",
        "device",
        "processes",
        "history_sha256",
    )
    return {key: getattr(trained, key) for key in kept} | {
        "starts_from": {task: source.run for task, source in trained.starts_from.items()},
        "cpu_threads": json.loads(trained.inputs["param cpu_threads"]),
        "inputs": trained.made_from.lines,
    }


def _inputs(params: Params, name: str, seed: int, info: DatasetInfo) -> provenance.Inputs:
    """What decides the scores, as DVC will record it when the stage ends."""
    scoring = params.evaluation.model_dump(include={"batch_size", "edge_nms", "panels", "split"})
    values = params.run(name).model_dump() | {"evaluation": scoring}
    return provenance.collect_inputs("evaluate", values, info.digest, [paths.weights_file(name, seed)])


def attention_of(network: nn.Module, sample: Sample, recipe: Training, device: Device) -> dict[str, np.ndarray]:
    """What the middle pixel of a sample gathered in a network in evaluation mode, named as `with_sample` says."""
    image = image_tensor(resize_image(sample.image, recipe.input_size))[None]
    normalised = device.image(image, NORMALIZATIONS[recipe.normalization])
    return with_sample(attention_at(network, normalised, middle_of(sample.image)), sample.id)


def _write_panels(run: ResolvedRun, seed: int, panels: Panels, more: dict[str, np.ndarray]) -> Path | None:
    """The predictions for the report, the arrays of `more` among them, and one picture of the panels for MLflow."""
    folder = paths.panel_dir(run.name, seed)
    removal.remove(folder, paths.PANELS)
    folder.mkdir(parents=True)
    write_predictions(run.name, seed, more | panels.arrays)
    if (painted := panels.painted()) is None:
        return None
    picture = folder / f"{run.name}.png"
    write_png(picture, painted)
    return picture
