"""Cross-stitch networks: one encoder per task, whose features are linearly mixed after every stage.

Misra, Shrivastava, Gupta, Hebert, "Cross-stitch Networks for Multi-task Learning", CVPR 2016, arXiv:1604.03539.
Shapes: B batch, C channels, H, W; T tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.backbones.stages import split
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.outputs import Outputs


def initial_shares(count: int, own: float = 0.9) -> Tensor:
    """(T, T), row: receiving task, column: giving task; every row sums to one.

    own: the share of a task's own features; the other tasks have the rest in equal parts.
    """
    return torch.full((count, count), (1 - own) / (count - 1)).fill_diagonal_(own)


class CrossStitchUnit(nn.Module):
    """x_t' = sum over tasks s of alpha[t, s] * x_s: {task: (B, C, H, W)} -> the same.

    alpha is (T, T, C), or (T, T, 1) with stitch="layer". It starts at `own_share` for the task itself and
    (1 - own_share) / (T - 1) for each other one, and is free: nothing keeps it positive or its rows at a sum of one.
    """

    def __init__(self, channels: int, tasks: Sequence[str], stitch: str = "channel", own_share: float = 0.9):
        super().__init__()
        self.tasks = tuple(tasks)
        width = channels if stitch == "channel" else 1
        self.alpha = nn.Parameter(initial_shares(len(self.tasks), own_share)[:, :, None].repeat(1, 1, width))

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sources = [maps[task] for task in self.tasks]
        # In the features' own type: under autocast, float32 would widen them.
        alpha = self.alpha.to(sources[0].dtype)[..., None, None]
        mixed = {}
        for task, shares in zip(self.tasks, alpha, strict=True):
            first, *others = [share * x for share, x in zip(shares, sources, strict=True)]
            mixed[task] = sum(others, start=first)
        return mixed


class EncoderFusion(nn.Module):
    """One copy of the backbone and one head per task; `unit` mixes the tasks' maps after every stage.

    Image (B, 3, H, W) -> Outputs. A stage's mixed maps are what the next stage and the head see. Where a stage has
    several maps (HRNet, one per resolution), each is mixed for itself.

    name: of the architecture, for messages. unit: (channels, tasks) -> module {task: map} -> {task: map}.
    after_stem: mix after the stem too, where the backbone has one apart from its first stage (see `Stages`).
    Raises ValueError for fewer than two tasks and for a backbone that cannot be run stage by stage.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        unit: Callable[[int, Sequence[str]], nn.Module],
        after_stem: bool = False,
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        if len(everything) < 2:
            raise ValueError(
                f"{name} fuses the encoders of several tasks and needs at least 2 (main and auxiliary), "
                f"got {list(everything)}. Use single_task for one."
            )
        self.tasks, self.auxiliary_tasks = tuple(tasks), tuple(auxiliary_tasks)
        self.stages = split(backbone)
        self.backbones = nn.ModuleDict({task: copy.deepcopy(backbone) for task in everything})
        stem = self.stages.after_stem if after_stem else None
        stem_channels = stem.channels if stem else ()
        self.fuse_stem = nn.ModuleList(unit(channels, tuple(everything)) for channels in stem_channels)
        self.fuse = nn.ModuleList(
            nn.ModuleList(unit(channels, tuple(everything)) for channels in maps.channels)
            for maps in self.stages.outputs
        )
        self.heads = nn.ModuleDict(
            {t: MultiScaleHead([[c] for c in backbone.channels], n) for t, n in everything.items()}
        )

    @property
    def backbone(self) -> Backbone:
        """The first task's copy: what is known of its pretrained weights holds for all."""
        return self._encoders()[self.tasks[0]]

    def _encoders(self) -> dict[str, Backbone]:
        return {task: cast(Backbone, net) for task, net in self.backbones.items()}

    def forward(self, image: Tensor) -> Outputs:
        start = self.stages.start(image)
        encoders = self._encoders()
        maps = {task: self.stages.stem(net, start) for task, net in encoders.items()}
        if self.fuse_stem:
            maps = _mix(self.fuse_stem, maps)
        levels = {task: [own] if self.fuse_stem else [] for task, own in maps.items()}
        for stage, units in enumerate(self.fuse):
            maps = {task: self.stages.run(net, stage, maps[task]) for task, net in encoders.items()}
            maps = _mix(cast(nn.ModuleList, units), maps)
            for task, own in maps.items():
                levels[task].append(own)
        raw = {task: head([[x] for x in self.pyramid(task, levels[task])]) for task, head in self.heads.items()}
        final = {task: resize(raw[task], image.shape[-2:]) for task in self.tasks}
        auxiliary = {task: raw[task] for task in self.auxiliary_tasks}
        return Outputs(final, [auxiliary] if auxiliary else [])

    def pyramid(self, task: str, levels: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The mixed maps of the stem, if it is mixed, and of each stage -> those that the head gets, fine to coarse."""
        return self.stages.pyramid(levels[-len(self.fuse) :])

    def load_single_task(self, task: str, state_dict: Mapping[str, Tensor]) -> None:
        """Give a task's encoder and head the weights of a trained `SingleTask` network; nothing else changes.

        state_dict: that network's whole state, for the same backbone and number of output channels.
        Raises ValueError for an unknown task and for a state that does not fit; then nothing has been loaded.
        """
        if task not in self.backbones:
            raise ValueError(f"This network has no task {task!r} to load; it has {', '.join(self.backbones)}.")
        part = nn.ModuleDict({"backbone": self.backbones[task], "head": self.heads[task]})
        own = part.state_dict()
        problems = [f"{name} is missing" for name in own if name not in state_dict]
        problems += [f"{name} is unknown" for name in state_dict if name not in own]
        problems += [
            f"{name} is {tuple(state_dict[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in state_dict and state_dict[name].shape != tensor.shape
        ]
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise ValueError(
                f"The weights for task {task!r} do not fit: {'; '.join(problems[:3])}{more}. "
                "Needed is a single_task network of the same task, backbone and number of output channels."
            )
        part.load_state_dict(state_dict)
        self._encoders()[task].load_report = "a trained single-task network"


def _mix(units: Iterable[nn.Module], maps: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
    """{task: its maps}, through the unit of each map."""
    mixed = [unit({task: own[i] for task, own in maps.items()}) for i, unit in enumerate(units)]
    return {task: [each[task] for each in mixed] for task in maps}


class CrossStitch(EncoderFusion):
    """Image (B, 3, H, W) -> Outputs. Every task, main or auxiliary, has an encoder and a head.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks take part like the others;
    only the place of their prediction differs.

    Option stitch, for what one alpha stands: "channel", as the paper's networks have it, or "layer" for all of them.
    Option own_share: alpha's start for the task's own features; the other tasks have the rest in equal parts. The
    paper has two tasks, and the networks published on NYUD 0.9; those on PASCAL, with five, 0.8, so 0.05 for each other
    task.

    The paper stitches AlexNets, after pooling and fully connected layers; here the units follow the four stages. It
    starts from trained single-task networks (`load_single_task`; otherwise all encoders start as the same copy), and
    gives alpha 100 to 1000 times the learning rate of the rest.

    Raises ValueError for fewer than two tasks and for a backbone that cannot be run stage by stage.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {"stitch": ("channel", "layer"), "own_share": (0.9, 0.8)}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        stitch: str = "channel",
        own_share: float = 0.9,
    ):
        super().__init__(
            "cross_stitch",
            backbone,
            tasks,
            auxiliary_tasks,
            lambda c, everything: CrossStitchUnit(c, everything, stitch, own_share),
        )
