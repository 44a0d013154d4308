"""What a trial is worth: from the scores of a tenth kept out of train, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn

from pipeline.core.errors import TrainingError
from pipeline.params.search import RELATIVE_GAIN
from pipeline.tasks import get_task
from pipeline.train.epoch_selection import Selection, mean_gain

Primary = dict[str, float]
"""{task: its primary metric}."""


def maximizes(objective: str) -> bool:
    """Whether more is better."""
    return objective == RELATIVE_GAIN or get_task(objective).higher_is_better


def value_of(objective: str, scores: Mapping[str, float], start: Mapping[str, float] | None) -> float:
    """The value of scores. start: those of the run as it stands, which a relative gain, in per cent, is against."""
    if objective != RELATIVE_GAIN:
        return scores[objective]
    assert start is not None
    return mean_gain(scores, start)


class TrialScores(Selection):
    """Takes the scores of each epoch in place of a choice of weights, which a trial has no use for.

    keeps_best: the run keeps its best epoch's weights (evaluation.select_on), so that one's scores are the trial's;
    else the last one's. watch(epoch, scores): called after each, and may raise to end the trial.
    """

    def __init__(self, tasks: tuple[str, ...], keeps_best: bool, watch: Callable[[int, Primary], None]):
        super().__init__(tasks)
        self._keeps_best, self._watch = keeps_best, watch
        self.by_epoch: dict[int, Primary] = {}
        self.scores: Primary | None = None

    def offer(self, epoch: int, scores: Mapping[str, Mapping[str, float]], network: nn.Module) -> bool:
        """Take the scores of an epoch. Raises TrainingError for one that is NaN, and what `watch` raises."""
        found = {task: float(scores[task][get_task(task).primary_metric]) for task in self._tasks}
        for task, value in found.items():
            if not math.isfinite(value):
                raise TrainingError(f"{task} {get_task(task).primary_metric} is {value} on the tenth kept out of train")
        better = not self._keeps_best or self.scores is None or mean_gain(found, self.scores) > 0
        if better:
            self.epoch, self.scores = epoch, found
        self.by_epoch[epoch] = found
        self._watch(epoch, found)
        return better

    def restore(self, network: nn.Module) -> None:
        """Leave the network as it is: nothing is made from its weights."""
