"""One network per task: the baseline of every multi-task comparison."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.heads.kinds import HEADS, make_head
from pipeline.networks.outputs import Outputs


class SingleTask(nn.Module):
    """Backbone and one HRNet-style head: image (B, 3, H, W) -> Outputs. ValueError unless given one task."""

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
        if len(tasks) != 1 or auxiliary_tasks:
            raise ValueError(
                f"single_task learns exactly one task and no auxiliary ones, got tasks {list(tasks)}, "
                f"auxiliary {list(auxiliary_tasks)}. Use multi_task or sequential_attention for several."
            )
        ((self.task, channels),) = tasks.items()
        self.backbone = backbone
        self.head = make_head(head, backbone, channels)

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        return Outputs({self.task: resize(self.head([[x] for x in maps]), image.shape[-2:])})
