"""The training loop: one network, any tasks, the published recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from pipeline.compute import distributed
from pipeline.compute.device import Device
from pipeline.core import shutdown
from pipeline.core.console import warn
from pipeline.evaluation.scoring import metric_values
from pipeline.loading.in_memory import ResidentBatches
from pipeline.loading.loader import TrainingBatches
from pipeline.params.schema import ResolvedRun, Training
from pipeline.train.augment import Augmenter
from pipeline.train.epoch_selection import Selection
from pipeline.train.progress import Progress
from pipeline.train.resume import Checkpoints
from pipeline.train.state import EpochRecord, LossWindow, Scores, TrainingState, is_loss
from pipeline.train.step import Step, make_step

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


@dataclass(frozen=True)
class TrainingLoop:
    """All that takes part in training `network` by the recipe of `run`.

    log(values, step) gets losses and learning rate once a window, and scores after each validation. `validate`
    scores the network as it stands; the last epoch is always validated, unless `validate_every` is null.
    validated: is called after each validation, with the steps so far.
    selection: what chooses the epoch whose weights the network ends with; without, it ends with its last.
    checkpoints: from which training resumes, and ends as it would have without the interruption.
    """

    network: nn.Module
    batches: ResidentBatches | TrainingBatches
    augmenter: Augmenter
    run: ResolvedRun
    seed: int
    device: Device
    log: Log
    validate: Callable[[], Scores]
    validated: Callable[[int], None] = lambda step: None
    selection: Selection | None = None
    checkpoints: Checkpoints | None = None

    def train(self) -> list[EpochRecord]:
        """Train the network in place and return a record of each epoch.

        Asked to end (pipeline/core/shutdown.py), it ends the step, writes a checkpoint and raises KeyboardInterrupt.
        """
        recipe, network, checkpoints = self.run.training, self.network, self.checkpoints
        step = make_step(network, self.run, self.device, self.seed)
        window, device = LossWindow(self.run.name, self.seed), self.device.torch_device
        state = TrainingState(network, step.optimizer, step.balancing, window, device, self.selection)
        distributed.separate_random_streams(self.seed)
        if checkpoints:
            checkpoints.restore(state)
        name, total = f"{self.run.name}-{self.seed}", recipe.epochs * len(self.batches)
        with Progress(name, total, state.step, distributed.is_main_process()) as progress:
            while state.epoch < recipe.epochs:
                rate = learning_rate(recipe, state.epoch)
                for group in step.optimizer.param_groups:
                    group["lr"] = rate
                state.begin_epoch(self.seed)
                with shutdown.deferred():
                    self._train_epoch(state, step, progress)
                scores = self._score(state) if _validates(recipe, state.epoch) else None
                state.end_epoch(rate, scores)
                if checkpoints and (state.epoch == recipe.epochs or any(distributed.any_of(checkpoints.due))):
                    checkpoints.save(state)
        if self.selection:
            self.selection.restore(network)
        return state.history

    def _train_epoch(self, state: TrainingState, step: Step, progress: Progress) -> None:
        """The steps of the epoch at hand that are still to be done, and a checkpoint after the last.

        Processes save and stop after the same step, as soon as one of them is to.
        """
        batches, checkpoints = self.batches, self.checkpoints
        own = batches.share.of(np.arange(batches.batch_size), batches.batch_size)
        start = time.perf_counter() - state.seconds
        state.network.train()
        for batch in batches.epoch(state.epoch, state.batch):
            drawn = self.augmenter.draw(batches.batch_size, state.rng).take(own)
            state.window.add(step(self.augmenter(batch.to(self.device.torch_device), drawn)))
            state.batch += 1
            state.step += 1
            progress.update()
            last = state.batch == len(batches)
            if len(state.window.rows) == _WINDOW or last:
                self._log_window(state, progress)
            state.seconds = time.perf_counter() - start
            due, stopping = distributed.any_of(bool(checkpoints and checkpoints.due), shutdown.requested())
            if checkpoints and (last or due or stopping):
                checkpoints.save(state)
            if stopping:
                distributed.barrier()  # torchrun ends the others as soon as one is gone: not before all is written
                shutdown.request()
                if distributed.is_main_process():
                    warn(f"asked to end: stopped after step {state.step}")
                return

    def _log_window(self, state: TrainingState, progress: Progress) -> None:
        """Empty the window of losses: into the log, and into the sums of the epoch."""
        length = len(state.window.rows)
        means = state.window.drain(state.step)
        losses = {name: mean for name, mean in means.items() if is_loss(name)}
        state.sums.update({name: mean * length for name, mean in losses.items()})
        self.log(means | {"learning_rate": state.optimizer.param_groups[0]["lr"]}, state.step)
        progress.show_loss(sum(losses.values()))

    def _score(self, state: TrainingState) -> Scores:
        """Score the network after an epoch, log that, and offer it to the selection."""
        scores = self.validate()
        prefix = "holdout" if self.selection else "val"
        self.log({f"{prefix}/{name}": value for name, value in metric_values(scores).items()}, state.step)
        self.validated(state.step)
        if self.selection:
            self.selection.offer(state.epoch + 1, scores, self.network)
        return scores


def _validates(recipe: Training, epoch: int) -> bool:
    if recipe.validate_every is None:
        return False
    last = epoch + 1 == recipe.epochs
    return last or (recipe.validate_every > 0 and (epoch + 1) % recipe.validate_every == 0)
