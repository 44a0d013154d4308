"""The network that one entry of `runs` describes, for the dataset at hand."""

from __future__ import annotations

from torch import nn

from pipeline.core.errors import ParamsError
from pipeline.data.store import DatasetInfo
from pipeline.networks import registry
from pipeline.params.schema import ResolvedRun
from pipeline.params.types import RELEASED
from pipeline.tasks import get_task


def build_network(run: ResolvedRun, info: DatasetInfo, pretrained: bool | str = False) -> nn.Module:
    """Build the network of `run`; `pretrained` as in params (False when trained weights are loaded afterwards).

    Raises ParamsError when the prepared data lacks one of its tasks or its options do not fit.
    """
    absent = [task for task in run.all_tasks if task not in info.tasks]
    if absent:
        raise ParamsError(f"run {run.name} needs labels for {', '.join(absent)}; add them to data.tasks")

    def channels(tasks: tuple[str, ...]) -> dict[str, int]:
        return {task: info.channels(task, get_task(task).channels) for task in tasks}

    recipe = run.training
    momentum = recipe.batch_norm_momentum
    assert not isinstance(momentum, str) or momentum == RELEASED
    try:
        return registry.build(
            run.architecture,
            backbone=recipe.backbone,
            tasks=channels(run.tasks),
            auxiliary_tasks=channels(run.auxiliary_tasks),
            pretrained=pretrained,
            output_stride=recipe.output_stride,
            hrnet_upsampling=recipe.hrnet_upsampling,
            initialization=recipe.initialization,
            batch_norm_momentum=None if isinstance(momentum, str) else momentum,
            image_size=recipe.input_size,
            **run.options,
        )
    except ValueError as error:
        raise ParamsError(f"run {run.name}: {error}") from None
