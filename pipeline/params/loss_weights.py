"""The weights by which losses are added up: a file of its own, so that training depends on it and not on all params."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def loss_weights(tasks: Sequence[str], task_weights: Mapping[str, float]) -> dict[str, float]:
    """{task: weight of its loss} of a network for `tasks`. One alone has weight 1, whatever `task_weights` says.

    The weights of a multi-task recipe balance losses against each other; a single task has none to balance, and with
    SGD its weight would be a factor of the learning rate. The published single-task recipes have none.
    """
    if len(tasks) == 1:
        return dict.fromkeys(tasks, 1.0)
    return {task: task_weights[task] for task in tasks}
