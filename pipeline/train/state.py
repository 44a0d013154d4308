"""Everything that training changes as it goes: what must be kept to resume exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.balancing.base import Balancing
from pipeline.compute import distributed
from pipeline.core.errors import TrainingError
from pipeline.train.epoch_selection import Selection

_AUGMENT_STREAM = 1  # sets the augmentation's random stream apart from the sampler's

Scores = dict[str, dict[str, float]]


def task_of(loss: str) -> str:
    """The task in the name of a loss: semseg in `loss/semseg` and in `loss_auxiliary/semseg`."""
    return loss.partition("/")[2]


def is_loss(name: str) -> bool:
    """Whether it is one of the losses that a step gives, and not what its balancing has to say."""
    return name.startswith("loss")


@dataclass
class LossWindow:
    """What the last few steps gave, losses and balancing, of all processes, on the device until the window is full."""

    run: str
    seed: int
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add a step's losses and what its balancing has to say, scalars by name, summed over all processes."""
        self.names = tuple(losses)
        self.rows.append(distributed.all_reduce_sum(torch.stack(list(losses.values()))))

    def drain(self, last_step: int) -> dict[str, float]:
        """Mean of each value over the window, which is emptied. Raises TrainingError for one that is not finite."""
        rows = torch.stack(self.rows).cpu()
        self.rows.clear()
        finite = rows.isfinite()
        if not finite.all():
            row, column = (~finite).nonzero()[0].tolist()
            step, name = last_step - len(rows) + 1 + row, self.names[column]
            what = f"the loss of {task_of(name)}" if is_loss(name) else name
            raise TrainingError(
                f"{what} is {rows[row, column].item()} at step {step} of run "
                f"{self.run}, seed {self.seed}: training can't continue. "
                "Lower the run's training.lr in params.yaml or check its labels."
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


@dataclass
class TrainingState:
    """Where a training is. It changes at the end of a step and of an epoch, and is whole in between.

    epoch: epochs done, and scored where that was due. batch: steps done of the epoch at hand; the order of its samples
    follows from (seed, epoch), so this is the sampler's position. step: steps done in all. seconds, sums and rng are of
    the epoch at hand: its duration, its sums of losses, and the generator that augmentation draws from.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    balancing: Balancing
    window: LossWindow
    device: torch.device
    selection: Selection | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: Counter[str] = field(default_factory=Counter)
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    history: list[EpochRecord] = field(default_factory=list)

    def begin_epoch(self, seed: int) -> None:
        """Set out on the epoch at hand, unless it was begun before."""
        if self.batch == 0:
            self.rng = np.random.default_rng([seed, self.epoch, _AUGMENT_STREAM])

    def end_epoch(self, learning_rate: float, scores: Scores | None) -> None:
        """Record the epoch that ends, with its mean losses, and begin the next one."""
        means = {name: total / self.batch for name, total in self.sums.items()}
        self.balancing.end_epoch()
        self.epoch += 1
        self.history.append(EpochRecord(self.epoch, learning_rate, means, self.seconds, scores))
        self.batch, self.seconds = 0, 0.0
        self.sums.clear()

    def state_dict(self) -> dict[str, Any]:
        """All of it as tensors and plain values, random streams of torch included; tensors are shared, not copied.

        Processes ask for it together: of their states, only the streams differ.
        """
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "balancing": self.balancing.state_dict(),
            "selection": self.selection.state_dict() if self.selection else None,
            "window": {"names": self.window.names, "rows": self.window.rows},
            "torch_rng": distributed.all_gather({"cpu": torch.get_rng_state(), "cuda": cuda}),
            "augmentation_rng": self.rng.bit_generator.state,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "seconds": self.seconds,
            "sums": dict(self.sums),
            "history": [asdict(record) for record in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave in a training of the same inputs."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.balancing.load_state_dict(state["balancing"])
        if self.selection:
            self.selection.load_state_dict(state["selection"])
        self.window.names = tuple(state["window"]["names"])
        self.window.rows = [row.to(self.device) for row in state["window"]["rows"]]
        rng = state["torch_rng"][distributed.rank()]
        torch.set_rng_state(rng["cpu"])
        if rng["cuda"] is not None:
            torch.cuda.set_rng_state(rng["cuda"], self.device)
        self.rng.bit_generator.state = state["augmentation_rng"]
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.seconds, self.sums = state["seconds"], Counter(state["sums"])
        self.history = [EpochRecord(**record) for record in state["history"]]
