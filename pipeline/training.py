"""The training loop: one network, any tasks, the published recipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.balancing import FixedWeights
from pipeline.datasets.augment import Augmenter
from pipeline.datasets.loading import Batch, TrainingBatches
from pipeline.datasets.resident import ResidentBatches
from pipeline.device import NORMALIZATIONS, Device
from pipeline.errors import TrainingError
from pipeline.nets import Outputs
from pipeline.params import ResolvedRun, Training
from pipeline.selection import Selection
from pipeline.tasks import get_task

_WINDOW = 20  # steps between two looks at the losses: each look makes the host wait for the device
_AUGMENT_STREAM = 1  # sets the augmentation's random stream apart from the sampler's

Log = Callable[[dict[str, float], int], None]
Scores = dict[str, dict[str, float]]


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
        task = _task_of(name)
        totals[task] = totals[task] + loss if task in totals else loss
    return totals


def _task_of(loss: str) -> str:
    return loss.partition("/")[2]


@dataclass
class LossWindow:
    """The losses of the last few steps, kept on the device until the window is full."""

    run: str
    seed: int
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)

    def add(self, losses: Mapping[str, Tensor]) -> None:
        self.names = tuple(losses)
        self.rows.append(torch.stack([loss.detach().float() for loss in losses.values()]))

    def drain(self, last_step: int) -> dict[str, float]:
        """Mean of each loss over the window, which is emptied. Raises TrainingError for one that is not finite."""
        rows = torch.stack(self.rows).cpu()
        self.rows.clear()
        finite = rows.isfinite()
        if not finite.all():
            row, column = (~finite).nonzero()[0].tolist()
            step = last_step - len(rows) + 1 + row
            raise TrainingError(
                f"the loss of {_task_of(self.names[column])} is {rows[row, column].item()} at step {step} of run "
                f"{self.run}, seed {self.seed}: training can't go on. "
                f"Lower the run's training.lr in params.yaml or check its labels."
            )
        return dict(zip(self.names, rows.double().mean(0).tolist(), strict=True))


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did: mean losses by name, rate, duration, and scores where the epoch was validated."""

    epoch: int
    learning_rate: float
    losses: dict[str, float]
    seconds: float
    scores: Scores | None


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
) -> list[EpochRecord]:
    """Train `network` in place by the recipe of `run` and return a record of each epoch.

    log(values, step) is told losses and learning rate once a window, and scores after each validation. `validate`
    scores the network as it stands; the last epoch is always validated, unless `validate_every` is null.
    The network ends with its last weights, or with those of the epoch that `selection` found best.
    """
    recipe = run.training
    optimizer = make_optimizer(network, recipe)
    balance = FixedWeights(recipe.task_weights)
    normalization = NORMALIZATIONS[recipe.normalization]
    window = LossWindow(run.name, seed)
    history: list[EpochRecord] = []
    step = 0
    with tqdm(total=recipe.epochs * len(batches), desc=f"{run.name}-{seed}", unit="step", disable=None) as progress:
        for epoch in range(recipe.epochs):
            start = time.perf_counter()
            rate = learning_rate(recipe, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rng = np.random.default_rng([seed, epoch, _AUGMENT_STREAM])
            network.train()
            sums: Counter[str] = Counter()
            for batch in batches.epoch(epoch):
                drawn = augmenter.draw(len(batch.image), rng)
                batch = augmenter(batch.to(device.torch_device), drawn)
                with device.autocast():
                    outputs = network(device.image(batch.image, normalization))
                    losses = task_losses(outputs, batch, run.all_tasks, recipe.deep_supervision)
                    total = balance(by_task(losses))
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                optimizer.step()
                window.add(losses)
                step += 1
                progress.update()
                if len(window.rows) == _WINDOW or step % len(batches) == 0:
                    length = len(window.rows)
                    means = window.drain(step)
                    sums.update({name: mean * length for name, mean in means.items()})
                    log(means | {"learning_rate": rate}, step)
                    progress.set_postfix({"loss": f"{sum(means.values()):.3f}"}, refresh=False)
            seconds = time.perf_counter() - start
            scores = validate() if _validates(recipe, epoch) else None
            if scores is not None:
                prefix = "holdout" if selection else "val"
                log({f"{prefix}/{task}/{name}": v for task, of in scores.items() for name, v in of.items()}, step)
                if selection:
                    selection.offer(epoch + 1, scores, network)
            means = {name: total / len(batches) for name, total in sums.items()}
            history.append(EpochRecord(epoch + 1, rate, means, seconds, scores))
    if selection:
        selection.restore(network)
    return history


def _validates(recipe: Training, epoch: int) -> bool:
    if recipe.validate_every is None:
        return False
    last = epoch + 1 == recipe.epochs
    return last or (recipe.validate_every > 0 and (epoch + 1) % recipe.validate_every == 0)
