"""One training run from prepared data to saved weights, recorded in MLflow: the work of the DVC stage `train`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pipeline.compute import distributed
from pipeline.compute.device import Device, choose_device
from pipeline.core import forms, git, paths, provenance, run_folders
from pipeline.core.errors import DataError
from pipeline.data.store import DatasetInfo, Store, read_info
from pipeline.evaluation.dry_run import check_batch_norm
from pipeline.evaluation.scoring import score
from pipeline.loading.in_memory import training_batches
from pipeline.loading.loader import Share
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.cross_stitch import EncoderFusion
from pipeline.networks.from_params import build_network
from pipeline.networks.pretrained import LoadReport
from pipeline.networks.saved_weights import load_single_task_weights
from pipeline.params.load import load_params
from pipeline.params.schema import Params, ResolvedRun
from pipeline.tasks import get_task
from pipeline.tracking.mlflow_run import EXECUTION, RunLog, connect, training_run
from pipeline.tracking.queries import close_runs
from pipeline.train import resume
from pipeline.train.augment import Augmenter, ValueGeometry
from pipeline.train.epoch_selection import Selection
from pipeline.train.loop import Log, train
from pipeline.train.outputs import execution_record, training_record, write_outs
from pipeline.train.renamed import find_former, take_over
from pipeline.train.resume import Checkpoints
from pipeline.train.state import EpochRecord

HOLDOUT_EVERY = 10  # with evaluation.select_on, every 10th training sample is kept out of training


def train_run(params: Params, name: str, seed: int) -> None:
    """Train run `name` with `seed`; writes models/<run>-<seed>/ and reports/history/<run>-<seed>.csv.

    A run of `runs` also leaves models/digests/<run>-<seed>.json, for those of `runs_from_single_task`.
    Goes on where an earlier attempt at the same was killed, if there was one, in the same MLflow run; trains nothing
    where a run was only renamed.
    Raises, before anything is computed, DataError for tasks without a label to learn from or to score, and where there
    is no split that evaluation.split names, ParamsError where batch norm would get a single value, and TrackingError
    when MLflow's store can't be reached. Later TrainingError for a loss that is not finite, when an input was edited
    meanwhile and while another process is at the same; TrackingError at the end, with everything kept for the next
    attempt, when the store is away for long.

    Where torchrun started several processes, all call this and work together (pipeline/compute/distributed.py).
    """
    run, info = params.run(name), read_info()
    info.check_scored(params.evaluation.split)  # here too, or it would be told after the training
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    teacher = _Teacher(params, run, seed, info, device)
    train_store, watched = teacher.stores
    _check_scored(run, watched)
    check_batch_norm(run, info, max(1, min(recipe.batch_size, len(train_store)) // recipe.accumulate))
    with distributed.joined(device.torch_device):
        former = find_former(params, seed, teacher.inputs)
        if former and distributed.is_first():
            print(f"{name}-{seed} is {former.name} by another name: its weights are taken over, nothing is trained")
            take_over(former, name, seed)
        elif former:
            return
        elif distributed.is_first():
            _lead(teacher)
        else:
            _follow(teacher)


@dataclass(frozen=True)
class _Teacher:
    """What a training is made of, the same in every process that takes part in it."""

    params: Params
    run: ResolvedRun
    seed: int
    info: DatasetInfo
    device: Device

    @cached_property
    def start(self) -> dict[str, dict[str, str]]:
        return _start(self.run, self.seed)

    @cached_property
    def stores(self) -> tuple[Store, Store]:
        return _stores(self.run, self.params.evaluation.select_on is not None)

    @cached_property
    def inputs(self) -> provenance.Inputs:
        return training_inputs(self.params, self.run.name, self.seed, self.info, self.device, distributed.count())

    def check_unchanged(self) -> None:
        """Raise TrainingError when an input was edited since the start: DVC would record the edit as what was used."""
        name, count = self.run.name, distributed.count()
        self.inputs.check_unchanged(training_inputs(load_params(), name, self.seed, read_info(), self.device, count))

    def network(self) -> torch.nn.Module:
        """The network as it starts."""
        torch.manual_seed(self.seed)
        pretrained = False if self.start else self.run.training.pretrained
        network = self.device.network(build_network(self.run, self.info, pretrained))
        if self.start:
            assert isinstance(network, EncoderFusion)
            load_single_task_weights(network, self.start, self.seed, paths.start_file(self.run.name, self.seed))
        return network

    def selection(self) -> Selection | None:
        return Selection(self.run.tasks) if self.params.evaluation.select_on else None

    def teach(
        self,
        network: torch.nn.Module,
        selection: Selection | None,
        checkpoints: Checkpoints,
        log: Log,
        tell_batches: Callable[[str], None],
    ) -> list[EpochRecord]:
        """Train the network, from the last checkpoint on."""
        run, recipe, device = self.run, self.run.training, self.device
        taught, watched = self.stores
        share = Share(distributed.rank(), distributed.count(), recipe.accumulate)
        batches = training_batches(taught, recipe.input_size, recipe.batch_size, self.seed, device.torch_device, share)
        tell_batches(batches.description)
        return train(
            network,
            batches,
            make_augmenter(run),
            run,
            self.seed,
            device,
            log,
            lambda: score(network, watched, run.tasks, self.info, recipe, self.params.evaluation.batch_size, device),
            selection,
            checkpoints,
        )


def _lead(teacher: _Teacher) -> None:
    """The part of the first process: it also keeps the books and writes what there is to write."""
    params, run, seed, device, inputs = teacher.params, teacher.run, teacher.seed, teacher.device, teacher.inputs
    experiment = connect(params.experiment)
    with resume.attempt(training_key(inputs, teacher.info, run.name)) as attempt:
        distributed.wait_for_all()  # the others may read the last checkpoint now
        close_runs({training_id for training_id in run_folders.inactive().values() if training_id is not None})
        started = time.time() - attempt.seconds
        tags = {"input_fingerprint": inputs.fingerprint}
        name, before = f"{run.name}-{seed}", attempt.seconds
        with training_run(experiment, name, attempt.training_id, tags, attempt.points, before) as log:
            network, selection = teacher.network(), teacher.selection()
            if report := _load_report(network):
                print(f"{run.training.backbone}: {report}")
            _describe(log, params, run, seed, teacher.info, network, device, inputs)
            checkpoints = Checkpoints(attempt, params.checkpoint_minutes, lambda: (log.points, time.time() - started))
            history = teacher.teach(
                network, selection, checkpoints, log.metrics, lambda told: log.tags({"batches": told})
            )
            teacher.check_unchanged()
            weights = f"epoch {selection.epoch}, best on a tenth of train kept out" if selection else "last epoch"
            record = training_record(run, seed, teacher.info, inputs, history, device)
            record |= {"weights": weights, "starts_from": teacher.start, "training_samples": len(teacher.stores[0])}
            execution = execution_record(history, attempt, started)
            digest = write_outs(network, history, record)
            attempt.finish(name, digest)
            log.tags({"weights": weights, "weights_sha256": digest})  # by which `evaluate` finds this run
            costs = {f"cost/{key}": execution[key] for key in ("training_seconds", "peak_memory_mb")}
            log.metrics(costs, run.training.epochs)
            log.json(execution, EXECUTION)
            log.artifact(paths.weights_file(run.name, seed), "checkpoint")
            log.artifact(paths.history_file(run.name, seed))
            log.artifact(paths.run_file(run.name, seed))
            teacher.check_unchanged()  # the store may have taken its time


def _follow(teacher: _Teacher) -> None:
    """The part of every other process: its share of the work, and not a word about it."""
    distributed.wait_for_all()
    attempt = resume.follow(training_key(teacher.inputs, teacher.info, teacher.run.name))
    checkpoints = Checkpoints(attempt, teacher.params.checkpoint_minutes, lambda: ((), 0.0))
    teacher.teach(teacher.network(), teacher.selection(), checkpoints, lambda values, step: None, lambda told: None)


def training_inputs(
    params: Params,
    name: str,
    seed: int,
    info: DatasetInfo,
    device: Device,
    processes: int = 1,
    start: dict[str, dict[str, str]] | None = None,
) -> provenance.Inputs:
    """All that decides the result, and the hardware and precision, which a training is not to change on its way.

    start: the trained networks that the run starts from, where they are known otherwise than from their file.
    """
    run = params.run(name)
    start = _start(run, seed) if start is None else start
    values = run.model_dump(exclude={"name": True, "training": {"cpu_threads"}})  # no weight depends on a name
    values |= {"seed": seed, "select_on": params.evaluation.select_on, "start": start}
    values |= {"device": device.torch_device.type, "dtype": str(device.dtype)}
    values["cpu_threads"] = device.cpu_threads  # those in force, which null leaves to the machine
    values["processes"] = processes
    pretrained = run.training.pretrained
    files = [Path(pretrained)] if isinstance(pretrained, str) else []
    inputs = provenance.collect_inputs("train", values, info.digest, files)
    return provenance.Inputs(inputs.values | provenance.selection_inputs(params.evaluation.select_on))


def training_key(inputs: provenance.Inputs, info: DatasetInfo, run: str) -> str:
    """Names what is kept of a training: its inputs, the code that scores it on the way, and the run.

    The run, so that two of them which differ by name alone may train side by side.
    """
    scoring = provenance.collect_inputs("evaluate", {}, info.digest)
    return provenance.Inputs(inputs.values | scoring.values | {"run": run}).fingerprint


def _start(run: ResolvedRun, seed: int) -> dict[str, dict[str, str]]:
    """{task: {run, sha256}}: the trained networks that the run starts from; empty where it starts afresh."""
    if not run.from_single_task:
        return {}
    file = paths.start_file(run.name, seed)
    return forms.check_start(file, paths.read_json(file))


def make_augmenter(run: ResolvedRun) -> Augmenter:
    """The augmentation that params ask for, with the value rules of the run's tasks."""
    chosen = run.training.augmentation
    rules = {task: get_task(task) for task in run.all_tasks}
    values = {name: ValueGeometry(task.on_flip, task.on_rotate, task.on_zoom) for name, task in rules.items()}
    return Augmenter(**chosen.model_dump(), values=values)


def _stores(run: ResolvedRun, selects: bool) -> tuple[Store, Store]:
    """What teaches, and what is scored meanwhile: the val split, only to be watched, or a tenth kept out of train.

    Images without a valid pixel for any of the run's tasks are left out: human parts alone are trained on images with
    people, since PASCAL-Context has no label where nobody is (the published rule). Where a dataset does say that
    nobody is there, a label of nothing but background, the image stays, though scoring skips it.

    Raises DataError where a task has no label in what teaches, or a scored one in the tenth.
    """
    train_split = Store(paths.PREPARED / "train", run.all_tasks).labelled()
    if lacking := _unlabelled(train_split):
        raise DataError(
            f"run {run.name}: no training sample has a valid pixel for {', '.join(lacking)}; raise data.limit if that "
            "cuts them off, or take the task out of the run"
        )
    if not selects:
        return train_split, Store(paths.PREPARED / "val", run.tasks)
    kept_out = np.arange(len(train_split)) % HOLDOUT_EVERY == HOLDOUT_EVERY - 1
    if not kept_out.any():
        raise DataError(
            f"run {run.name}: evaluation.select_on needs {HOLDOUT_EVERY} training samples or more, "
            f"got {len(train_split)}; set it to null"
        )
    taught, watched = train_split.select(np.flatnonzero(~kept_out)), train_split.select(np.flatnonzero(kept_out))
    for part, what, tasks in ((watched, "kept out", run.tasks), (taught, "left to train on", run.all_tasks)):
        if lacking := [task for task in _unlabelled(part) if task in tasks]:
            raise DataError(
                f"run {run.name}: evaluation.select_on keeps every {HOLDOUT_EVERY}th of {len(train_split)} samples out "
                f"of training, and none of the {len(part)} {what} has a label of {', '.join(lacking)}; set it to null"
            )
    return taught, watched


def _unlabelled(store: Store) -> list[str]:
    """The tasks of which no sample has a label."""
    return [task for task, count in store.label_counts().items() if not count]


def _check_scored(run: ResolvedRun, store: Store) -> None:
    """Raise DataError for a task that could not be scored for want of a single labelled pixel."""
    if lacking := [task for task in _unlabelled(store) if task in run.tasks]:
        raise DataError(
            f"run {run.name}: no validation sample has a valid pixel for {', '.join(lacking)}; look at its labels (a "
            "code that is ignored everywhere, say), or take it out of the run's tasks"
        )


def _load_report(network: torch.nn.Module) -> LoadReport | str | None:
    assert isinstance(network.backbone, Backbone)
    return network.backbone.load_report


def _describe(
    log: RunLog,
    params: Params,
    run: ResolvedRun,
    seed: int,
    info: DatasetInfo,
    network: torch.nn.Module,
    device: Device,
    inputs: provenance.Inputs,
) -> None:
    """Tell MLflow, at the start, what this run is."""
    log.params(params.flat(run.name) | {"run": run.name, "seed": seed})
    log.tags(
        {
            "run": run.name,
            "seed": str(seed),
            "architecture": run.architecture,
            "tasks": ",".join(run.tasks),
            "input_fingerprint": inputs.fingerprint,
            "device": device.description,
            "processes": str(distributed.count()),
            "precision": str(device.dtype).removeprefix("torch."),
            "tf32": str(device.tf32).lower(),
            "cuda_graph": str(device.captures(run.training.cuda_graph)).lower(),
            "compiled": str(run.training.compile).lower(),
            "fused_optimizer": str(device.has_fused_optimizers).lower(),
            "pretrained": str(_load_report(network) or "none: random initialisation"),
            **{f"version.{package}": number for package, number in provenance.environment().items()},
            **git.git_state(),
            **provenance.dvc_tags(),
        }
    )
    log.dataset(f"{info.dataset} train", info.digest, "training")
