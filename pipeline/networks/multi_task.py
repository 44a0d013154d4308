"""Shared backbone, one head per task: the plain multi-task baseline."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.heads.kinds import HEADS, make_head
from pipeline.networks.outputs import Outputs


class MultiTask(nn.Module):
    """Image (B, 3, H, W) -> Outputs. Auxiliary tasks have heads like the others; only their place differs."""

    OPTIONS: ClassVar[dict[str, tuple]] = {"head": HEADS}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        head: str = "multi_scale",
    ):
        super().__init__()
        self.backbone = backbone
        self.tasks, self.auxiliary_tasks = tuple(tasks), tuple(auxiliary_tasks)
        self.heads = nn.ModuleDict(
            {task: make_head(head, backbone, n) for task, n in {**tasks, **auxiliary_tasks}.items()}
        )

    def forward(self, image: Tensor) -> Outputs:
        scales = [[x] for x in self.backbone(image)]
        raw = {task: head(scales) for task, head in self.heads.items()}
        final = {task: resize(raw[task], image.shape[-2:]) for task in self.tasks}
        auxiliary = {task: raw[task] for task in self.auxiliary_tasks}
        return Outputs(final, [auxiliary] if auxiliary else [])
