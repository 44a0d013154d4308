"""The training loop: one network, any tasks, the published recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline import interruption
from pipeline.balancing import FixedWeights
from pipeline.datasets.augment import Augmenter
from pipeline.datasets.loading import Batch, TrainingBatches
from pipeline.datasets.resident import ResidentBatches
from pipeline.device import NORMALIZATIONS, Device
from pipeline.nets import Outputs
from pipeline.notices import warn
from pipeline.params import ResolvedRun, Training
from pipeline.resume import Checkpoints
from pipeline.selection import Selection
from pipeline.tasks import get_task
from pipeline.training_state import EpochRecord, LossWindow, Scores, TrainingState, task_of

_WINDOW = 20  # steps between two looks at the losses: each look makes the host wait for the device

Log = Callable[[dict[str, float], int], None]


def make_optimizer(network: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=recipe.momentum, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer](network.parameters(), **common)


def learning_rate(recipe: Training, epoch: int) -> float:
    """Rate of one epoch, counted from 0. poly: lr (1 - epoch / epochs)^power, constant within the epoch."""
    if recipe.schedule == "poly":
        return recipe.lr * (1 - epoch / recipe.epochs) ** recipe.power
    return recipe.lr


def task_losses(outputs: Outputs, batch: Batch, tasks: tuple[str, ...], deep_supervision: bool) -> dict[str, Tensor]:
    """Scalar losses: `loss/<task>` of each final prediction, `loss_auxiliary/<task>` summed over the auxiliary ones.

    Auxiliary predictions meet the same loss (MTI-Net, section 3.4, and the released recipe: the same losses and weights
    at each scale). A task that is only auxiliary has no final prediction, and is trained by its auxiliary ones even
    without deep supervision.
    """
    losses: dict[str, Tensor] = {}
    for task in tasks:
        loss, target, valid = get_task(task).loss, batch.value[task], batch.valid[task]
        if task in outputs.final:
            losses[f"loss/{task}"] = loss(outputs.final[task], target, valid)
        if deep_supervision or task not in outputs.final:
            scales = [scale[task] for scale in outputs.auxiliary if task in scale]
            if scales:
                each = [loss(scale, target, valid) for scale in scales]
                losses[f"loss_auxiliary/{task}"] = sum(each)
    return losses


def by_task(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Final and auxiliary losses of each task added up: what is balanced between tasks."""
    totals: dict[str, Tensor] = {}
    for name, loss in losses.items():
        task = task_of(name)
        totals[task] = totals[task] + loss if task in totals else loss
    return totals


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

    log(values, step) is told losses and learning rate once a window, and scores after each validation. `validate`
    scores the network as it stands; the last epoch is always validated, unless `validate_every` is null.
    The network ends with its last weights, or with those of the epoch that `selection` found best.

    With `checkpoints`, training goes on from the last one, and ends as it would have without the interruption. Told to
    end (pipeline/interruption.py), it finishes the step, writes a checkpoint and raises KeyboardInterrupt.
    """
    recipe = run.training
    optimizer = make_optimizer(network, recipe)
    state = TrainingState(network, optimizer, LossWindow(run.name, seed), device.torch_device, selection)
    if checkpoints:
        checkpoints.restore(state)
    with tqdm(
        total=recipe.epochs * len(batches), initial=state.step, desc=f"{run.name}-{seed}", unit="step", disable=None
    ) as progress:
        while state.epoch < recipe.epochs:
            rate = learning_rate(recipe, state.epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            state.begin_epoch(seed)
            with interruption.deferred():
                _train_epoch(state, batches, augmenter, run, device, log, checkpoints, progress)
            scores = None
            if _validates(recipe, state.epoch):
                scores = validate()
                prefix = "holdout" if selection else "val"
                log({f"{prefix}/{task}/{name}": v for task, of in scores.items() for name, v in of.items()}, state.step)
                if selection:
                    selection.offer(state.epoch + 1, scores, network)
            state.end_epoch(rate, scores)
            if checkpoints and (checkpoints.due or state.epoch == recipe.epochs):
                checkpoints.save(state)
    if selection:
        selection.restore(network)
    return state.history


def _train_epoch(
    state: TrainingState,
    batches: TrainingBatches,
    augmenter: Augmenter,
    run: ResolvedRun,
    device: Device,
    log: Log,
    checkpoints: Checkpoints | None,
    progress: tqdm,
) -> None:
    """The steps of the epoch at hand that are still to be done, and a checkpoint after the last."""
    recipe = run.training
    balance = FixedWeights(recipe.task_weights)
    normalization = NORMALIZATIONS[recipe.normalization]
    start = time.perf_counter() - state.seconds
    state.network.train()
    for batch in batches.epoch(state.epoch, state.batch):
        drawn = augmenter.draw(len(batch.image), state.rng)
        batch = augmenter(batch.to(device.torch_device), drawn)
        with device.autocast():
            outputs = state.network(device.image(batch.image, normalization))
            losses = task_losses(outputs, batch, run.all_tasks, recipe.deep_supervision)
            total = balance(by_task(losses))
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()
        state.optimizer.step()
        state.window.add(losses)
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
        if checkpoints and (last or checkpoints.due or interruption.requested()):
            checkpoints.save(state)
        if interruption.requested():
            warn(f"told to end: stopped after step {state.step}")
            return


def _validates(recipe: Training, epoch: int) -> bool:
    if recipe.validate_every is None:
        return False
    last = epoch + 1 == recipe.epochs
    return last or (recipe.validate_every > 0 and (epoch + 1) % recipe.validate_every == 0)
