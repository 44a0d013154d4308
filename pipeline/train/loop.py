"""The training loop: one network, any tasks, the published recipe."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from torch import nn
from tqdm import tqdm

from pipeline.compute import distributed
from pipeline.compute.device import Device
from pipeline.core import shutdown
from pipeline.core.console import warn
from pipeline.loading.in_memory import ResidentBatches
from pipeline.loading.loader import TrainingBatches
from pipeline.params.schema import ResolvedRun, Training
from pipeline.train.augment import Augmenter
from pipeline.train.epoch_selection import Selection
from pipeline.train.resume import Checkpoints
from pipeline.train.state import EpochRecord, LossWindow, Scores, TrainingState
from pipeline.train.step import Step, make_optimizer

_WINDOW = 20  # steps between two looks at the losses: each look makes the host wait for the device

Log = Callable[[dict[str, float], int], None]


def learning_rate(recipe: Training, epoch: int) -> float:
    """Rate of one epoch, counted from 0, constant within it.

    poly: lr (1 - epoch / epochs)^power. step: lr step_factor^n after n times step_epochs epochs.
    """
    if recipe.schedule == "poly":
        return recipe.lr * (1 - epoch / recipe.epochs) ** recipe.power
    if recipe.schedule == "step":
        return recipe.lr * recipe.step_factor ** (epoch // recipe.step_epochs)
    return recipe.lr


def train(
    network: nn.Module,
    batches: ResidentBatches | TrainingBatches,
    augmenter: Augmenter,
    run: ResolvedRun,
    seed: int,
    device: Device,
    log: Log,
    validate: Callable[[], Scores],
    selection: Selection | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[EpochRecord]:
    """Train `network` in place by the recipe of `run` and return a record of each epoch.

    log(values, step) gets losses and learning rate once a window, and scores after each validation. `validate`
    scores the network as it stands; the last epoch is always validated, unless `validate_every` is null.
    The network ends with its last weights, or with those of the epoch that `selection` found best.

    With `checkpoints`, training resumes from the last one, and ends as it would have without the interruption. Told to
    end (pipeline/core/shutdown.py), it finishes the step, writes a checkpoint and raises KeyboardInterrupt.
    """
    recipe = run.training
    optimizer = make_optimizer(network, recipe, device)
    step = Step(network, optimizer, run, device)
    state = TrainingState(network, optimizer, LossWindow(run.name, seed), device.torch_device, selection)
    distributed.separate_random_streams(seed)
    if checkpoints:
        checkpoints.restore(state)
    with tqdm(
        total=recipe.epochs * len(batches),
        initial=state.step,
        desc=f"{run.name}-{seed}",
        unit="step",
        disable=None if distributed.is_main_process() else True,  # None: where nobody looks at a terminal
    ) as progress:
        while state.epoch < recipe.epochs:
            rate = learning_rate(recipe, state.epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            state.begin_epoch(seed)
            with shutdown.deferred():
                _train_epoch(state, step, batches, augmenter, device, log, checkpoints, progress)
            scores = None
            if _validates(recipe, state.epoch):
                scores = validate()
                prefix = "holdout" if selection else "val"
                log({f"{prefix}/{task}/{name}": v for task, of in scores.items() for name, v in of.items()}, state.step)
                if selection:
                    selection.offer(state.epoch + 1, scores, network)
            state.end_epoch(rate, scores)
            if checkpoints and (state.epoch == recipe.epochs or any(distributed.any_of(checkpoints.due))):
                checkpoints.save(state)
    if selection:
        selection.restore(network)
    return state.history


def _train_epoch(
    state: TrainingState,
    step: Step,
    batches: ResidentBatches | TrainingBatches,
    augmenter: Augmenter,
    device: Device,
    log: Log,
    checkpoints: Checkpoints | None,
    progress: tqdm,
) -> None:
    """The steps of the epoch at hand that are still to be done, and a checkpoint after the last.

    Processes save and stop after the same step, as soon as one of them is to.
    """
    own = batches.share.of(np.arange(batches.batch_size), batches.batch_size)
    start = time.perf_counter() - state.seconds
    state.network.train()
    for batch in batches.epoch(state.epoch, state.batch):
        drawn = augmenter.draw(batches.batch_size, state.rng).take(own)
        state.window.add(step(augmenter(batch.to(device.torch_device), drawn)))
        state.batch += 1
        state.step += 1
        progress.update()
        last = state.batch == len(batches)
        if len(state.window.rows) == _WINDOW or last:
            length = len(state.window.rows)
            means = state.window.drain(state.step)
            state.sums.update({name: mean * length for name, mean in means.items()})
            log(means | {"learning_rate": state.optimizer.param_groups[0]["lr"]}, state.step)
            progress.set_postfix({"loss": f"{sum(means.values()):.3f}"}, refresh=False)
        state.seconds = time.perf_counter() - start
        due, told = distributed.any_of(bool(checkpoints and checkpoints.due), shutdown.requested())
        if checkpoints and (last or due or told):
            checkpoints.save(state)
        if told:
            distributed.barrier()  # torchrun ends the others as soon as one is gone: not before all is written
            shutdown.request()
            if distributed.is_main_process():
                warn(f"asked to end: stopped after step {state.step}")
            return


def _validates(recipe: Training, epoch: int) -> bool:
    if recipe.validate_every is None:
        return False
    last = epoch + 1 == recipe.epochs
    return last or (recipe.validate_every > 0 and (epoch + 1) % recipe.validate_every == 0)
