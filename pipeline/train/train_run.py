"""One training run from prepared data to saved weights, recorded in MLflow: the work of the DVC stage `train`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pipeline.compute import distributed
from pipeline.compute.device import Device, choose_device
from pipeline.core import paths, provenance, run_folders
from pipeline.core.errors import DataError
from pipeline.data.store import DatasetInfo, Store, read_info
from pipeline.evaluation.dry_run import check_batch_norm
from pipeline.evaluation.panels import Panels
from pipeline.evaluation.scoring import score
from pipeline.loading.in_memory import training_batches
from pipeline.loading.loader import Shard
from pipeline.networks.cross_stitch import EncoderFusion
from pipeline.networks.from_params import build_network
from pipeline.networks.saved_weights import load_single_task_weights
from pipeline.params.load import load_params
from pipeline.params.schema import Params, ResolvedRun
from pipeline.tasks import get_task
from pipeline.tracking.mlflow_run import connect, training_run
from pipeline.tracking.queries import close_runs
from pipeline.tracking.run_log import EXECUTION
from pipeline.train import resume
from pipeline.train.augment import Augmenter, ValueGeometry
from pipeline.train.describe import describe, load_report
from pipeline.train.epoch_selection import Selection
from pipeline.train.loop import Log, TrainingLoop
from pipeline.train.outputs import Trained, execution_record, write_outs
from pipeline.train.pictures import MOST, Pictures
from pipeline.train.renamed import find_former, take_over
from pipeline.train.resume import Checkpoints
from pipeline.train.state import EpochRecord, Scores
from pipeline.train.training_inputs import start_of, training_inputs, training_key

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
    attempt, when the store is unreachable for long.

    Where torchrun started several processes, all call this and work together (pipeline/compute/distributed.py).
    """
    run, info = params.run(name), read_info()
    info.check_scored(params.evaluation.split)  # here too, or it would be reported after the training
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    job = TrainingJob(params, run, seed, info, device)
    _check_scored(run, job.stores[1])
    job.check_batch_norm()
    with distributed.joined(device.torch_device):
        former = find_former(params, seed, job.inputs)
        if former and distributed.is_main_process():
            print(f"{name}-{seed} is {former.name} by another name: its weights are taken over, nothing is trained")
            take_over(former, name, seed)
        elif former:
            return
        elif distributed.is_main_process():
            run_main_process(job)
        else:
            run_other_rank(job)


@dataclass(frozen=True)
class TrainingJob:
    """What a training is made of, the same in every process that takes part in it."""

    params: Params
    run: ResolvedRun
    seed: int
    info: DatasetInfo
    device: Device

    @cached_property
    def start(self) -> dict[str, dict[str, str]]:
        """{task: {run, sha256}}: the trained networks that the run starts from; empty where it starts afresh."""
        return start_of(self.run, self.seed)

    @cached_property
    def stores(self) -> tuple[Store, Store]:
        """What is trained on, and what is scored meanwhile."""
        return _stores(self.run, self.params.evaluation.select_on is not None)

    @cached_property
    def inputs(self) -> provenance.Inputs:
        """All that decides the result, as it was at the start."""
        return training_inputs(self.params, self.run.name, self.seed, self.info, self.device, distributed.world_size())

    def check_unchanged(self) -> None:
        """Raise TrainingError when an input was edited since the start: DVC would record the edit as what was used."""
        name, count = self.run.name, distributed.world_size()
        self.inputs.check_unchanged(training_inputs(load_params(), name, self.seed, read_info(), self.device, count))

    def check_batch_norm(self) -> None:
        """Raise ParamsError where batch norm would get a single value from a part of a batch."""
        batch = min(self.run.training.batch_size, len(self.stores[0]))
        check_batch_norm(self.run, self.info, max(1, batch // self.run.training.accumulate))

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
        """What keeps the best epoch's weights, where params ask for that."""
        return Selection(self.run.tasks) if self.params.evaluation.select_on else None

    def fit(
        self,
        network: torch.nn.Module,
        selection: Selection | None,
        checkpoints: Checkpoints | None,
        log: Log,
        on_batches: Callable[[str], None] = lambda description: None,
        on_panels: Callable[[str, np.ndarray, int], None] | None = None,
    ) -> list[EpochRecord]:
        """Train the network, from the last checkpoint on where it has any.

        on_batches: gets a description of where batches come from. on_panels: in the main process, gets a task, a
        picture of its labels and predictions, (H, W, 3) uint8, and the steps so far: before the first and after each
        validation. All processes have one, or none.
        """
        run, recipe, device = self.run, self.run.training, self.device
        train_store, val_store = self.stores
        share = Shard(distributed.rank(), distributed.world_size(), recipe.accumulate)
        batches = training_batches(
            train_store, recipe.input_size, recipe.batch_size, self.seed, device.torch_device, share
        )
        on_batches(batches.description)
        count = min(self.params.evaluation.panels, MOST) if on_panels else 0
        panels = Panels(val_store.ids, count, run.tasks, self.info)

        def validate() -> Scores:
            size = self.params.evaluation.batch_size
            return score(network, val_store, run.tasks, self.info, recipe, size, device, panels.keep)

        def show(step: int) -> None:
            for task in run.tasks if distributed.is_main_process() else ():
                if on_panels and (painted := panels.painted([task])) is not None:
                    on_panels(task, painted, step)
            panels.clear()

        def validated(step: int) -> None:
            panels.gather()
            show(step)

        if distributed.is_main_process() and not (checkpoints and checkpoints.exist):
            panels.predict(network, val_store, recipe, device)  # the others did not say yet what they resume from
            show(0)
        loop = TrainingLoop(
            network,
            batches,
            make_augmenter(run),
            run,
            self.seed,
            device,
            log,
            validate,
            validated,
            selection,
            checkpoints,
        )
        return loop.train()


def run_main_process(job: TrainingJob) -> None:
    """Train in the main process, which also logs to MLflow and writes the outs."""
    params, run, seed, device, inputs = job.params, job.run, job.seed, job.device, job.inputs
    experiment = connect(params.experiment)
    with resume.attempt(training_key(inputs, job.info, run.name)) as attempt:
        distributed.barrier()  # the others may read the last checkpoint now
        close_runs({training_id for training_id in run_folders.inactive().values() if training_id is not None})
        started = time.time() - attempt.seconds
        tags = {"input_fingerprint": inputs.fingerprint}
        name, before = f"{run.name}-{seed}", attempt.seconds
        with training_run(experiment, name, attempt.training_id, tags, attempt.points, before) as log:
            network, selection = job.network(), job.selection()
            if report := load_report(network):
                print(f"{run.training.backbone}: {report}")
            describe(log, params, run, seed, job.info, network, device, inputs)
            checkpoints = Checkpoints(attempt, params.checkpoint_minutes, lambda: (log.points, time.time() - started))
            pictures = Pictures(attempt.folder, log.picture)
            history = job.fit(
                network,
                selection,
                checkpoints,
                log.metrics,
                lambda description: log.tags({"batches": description}),
                pictures.add,
            )
            job.check_unchanged()
            weights = f"epoch {selection.epoch}, best on a tenth of train kept out" if selection else "last epoch"
            trained = Trained(run, seed, job.info, inputs, device, job.start, weights, len(job.stores[0]))
            execution = execution_record(history, attempt, started)
            digest = write_outs(network, history, trained)
            attempt.finish(name, digest)
            log.tags({"weights": weights, "weights_sha256": digest})  # by which `evaluate` finds this run
            log.metrics({f"cost/{key}": execution[key] for key in ("training_seconds", "peak_memory_mb")}, 0)
            log.json(execution, EXECUTION)
            log.artifact(paths.weights_file(run.name, seed), "checkpoint")
            log.artifact(paths.history_file(run.name, seed))
            log.artifact(paths.run_file(run.name, seed))
            job.check_unchanged()  # the store may have taken its time


def run_other_rank(job: TrainingJob) -> None:
    """Train in any other process: it computes its shard and writes nothing."""
    distributed.barrier()
    attempt = resume.follow(training_key(job.inputs, job.info, job.run.name))
    checkpoints = Checkpoints(attempt, job.params.checkpoint_minutes, lambda: ((), 0.0))
    job.fit(job.network(), job.selection(), checkpoints, _nowhere, on_panels=_nowhere)


def _nowhere(*logged: object) -> None:
    """Where other processes log to."""


def make_augmenter(run: ResolvedRun) -> Augmenter:
    """The augmentation that params ask for, with the value rules of the run's tasks."""
    chosen = run.training.augmentation
    rules = {task: get_task(task) for task in run.all_tasks}
    values = {name: ValueGeometry(task.on_flip, task.on_rotate, task.on_zoom) for name, task in rules.items()}
    return Augmenter(**chosen.model_dump(), values=values)


def _stores(run: ResolvedRun, selects: bool) -> tuple[Store, Store]:
    """What is trained on, and what is scored meanwhile: the val split, to be watched, or a tenth kept out of train.

    Images without a valid pixel for any of the run's tasks are left out: human parts alone are trained on images with
    people, since PASCAL-Context has no label where nobody is (the published rule). Where a dataset does say that
    nobody is there, a label of nothing but background, the image stays, though scoring skips it.

    Raises DataError where a task has no label in what is trained on, or a scored one in the tenth.
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
    train_store, val_store = train_split.select(np.flatnonzero(~kept_out)), train_split.select(np.flatnonzero(kept_out))
    for part, what, tasks in ((val_store, "kept out", run.tasks), (train_store, "left to train on", run.all_tasks)):
        if lacking := [task for task in _unlabelled(part) if task in tasks]:
            raise DataError(
                f"run {run.name}: evaluation.select_on keeps every {HOLDOUT_EVERY}th of {len(train_split)} samples out "
                f"of training, and none of the {len(part)} {what} has a label of {', '.join(lacking)}; set it to null"
            )
    return train_store, val_store


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
