"""CSAM: attention across scales within one task (Kim et al., ICIP 2022, arXiv:2209.02518)."""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.networks.blocks import ConvNorm, stand_for_calls
from pipeline.networks.sca.attention import CrossAttention


class CrossScaleAttention(nn.Module):
    """Every scale's map gathers from the coarser ones; the coarsest attends to nothing.

    channels: C_k of the K scales, fine to coarse.
    attention: "shared", one CAM per target scale for all n sources as in the released code, where only the
        projection to C_k differs; or "per_source". The released code computes the shared query n times from the same
        map, so the running statistics of its batch norms move n times; here it is computed once, and they move as far.
    forward: K maps (B, C_k, H_k, W_k) -> for each scale [F^k, CAM(F^k <- F^j) for j > k], all of F^k's shape.

    The paper concatenates F^k anew with each gathered map: `repeats` says so without copying, and
    `out_channels` are the channels of the maps; one list per scale, as `MultiScaleHead` takes them.
    """

    def __init__(self, channels: Sequence[int], attention: str = "shared"):
        super().__init__()
        scales = range(len(channels))
        project = [[ConvNorm(channels[j], channels[k], act=False) for j in scales if j > k] for k in scales[:-1]]
        cams = [
            [CrossAttention(channels[k]) for _ in range(1 if attention == "shared" else len(projections))]
            for k, projections in enumerate(project)
        ]
        self.project = nn.ModuleList(nn.ModuleList(projections) for projections in project)
        self.attention = nn.ModuleList(nn.ModuleList(attentions) for attentions in cams)
        for attentions, projections in zip(cams, project, strict=True):
            if attention == "shared":
                stand_for_calls(attentions[0].query, len(projections))
        sources = [len(channels) - 1 - k for k in scales]
        self.out_channels = [[c] * (1 + n) for c, n in zip(channels, sources, strict=True)]
        self.repeats = [[max(1, n)] + [1] * n for n in sources]

    def forward(self, maps: Sequence[Tensor]) -> list[list[Tensor]]:
        gathered = [[target, *self._gather(k, target, maps[k + 1 :])] for k, target in enumerate(maps[:-1])]
        return [*gathered, [maps[-1]]]

    def _gather(self, k: int, target: Tensor, coarser: Sequence[Tensor]) -> list[Tensor]:
        projections, cams = self.project[k], self.attention[k]
        assert isinstance(projections, nn.ModuleList) and isinstance(cams, nn.ModuleList)
        sources = [project(x) for project, x in zip(projections, coarser, strict=True)]
        if len(cams) < len(sources):  # shared: the query is the same for every source
            cam = cams[0]
            assert isinstance(cam, CrossAttention)
            query = cam.query(target)
            return [cam.attend(query, source) for source in sources]
        return [cam(target, source) for cam, source in zip(cams, sources, strict=True)]
