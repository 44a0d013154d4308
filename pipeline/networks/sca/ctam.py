"""CTAM: attention across tasks at one scale (Kim et al., ICIP 2022, arXiv:2209.02518)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.networks.blocks import ResidualBlock
from pipeline.networks.sca.attention import CrossAttention

REDUCTION_MOMENTUM = 0.01  # of the reduction's batch norms, as in the released code, which takes HRNet's block for it


class CrossTaskAttention(nn.Module):
    """Each target's map gathers from all other tasks': F_t + reduce([F_t ; CAM(F_t <- F_a)] over a != t).

    {task: (B, C, H, W)} of all `tasks` -> {target: (B, C, H, W)}. Each ordered pair has a CAM of its own.
    targets: the tasks whose result is wanted.
    reduction: "shared", one block for all targets as in the released code, or "per_task" as the figure reads.
    """

    def __init__(self, channels: int, tasks: Sequence[str], targets: Sequence[str], reduction: str = "shared"):
        super().__init__()
        self.targets = tuple(targets)
        self.attention = nn.ModuleDict(
            {t: nn.ModuleDict({a: CrossAttention(channels) for a in tasks if a != t}) for t in targets}
        )
        names = ("shared",) if reduction == "shared" else self.targets
        width = 2 * channels * (len(tasks) - 1)
        self.reduce = nn.ModuleDict({name: ResidualBlock(width, channels, REDUCTION_MOMENTUM) for name in names})
        self.out_channels = channels

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: self._distil(task, features) for task in self.targets}

    def _distil(self, task: str, features: Mapping[str, Tensor]) -> Tensor:
        own = features[task]
        cams, reduce = self.attention[task], self.reduce["shared" if "shared" in self.reduce else task]
        assert isinstance(cams, nn.ModuleDict) and isinstance(reduce, ResidualBlock)
        answers = [cam(own, features[a]) for a, cam in cams.items()]
        x = torch.cat([own, *answers], 1)
        return own + (reduce(x) if len(answers) == 1 else reduce.with_merged_weight(x, self._fold))

    def _fold(self, weight: Tensor) -> Tensor:
        """Columns for [F_t, CAM, F_t, CAM, ..] -> for [F_t, CAM, CAM, ..]: copies of F_t meet the sum of theirs."""
        columns = weight.unflatten(1, (-1, 2, self.out_channels))
        return torch.cat([columns[:, :, 0].sum(1), columns[:, :, 1].flatten(1, 2)], 1)
