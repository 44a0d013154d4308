"""The names and shapes of the tensors that the released codes save, as tables: facts that were read off those codes.

SCA_MTL at 8214866; Multi-Task-Learning-PyTorch at ed3d9ac; atrc at 76d8055, whose attention and head of all tasks' maps
were read in a repository that contains them (yangyangxu0/DeMT at 575d11f). No line of theirs is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

W18 = {"widths": (18, 36, 72, 144), "modules": (1, 3, 2), "blocks": 2, "first": (64, 2), "stem": 64}
"""hrnet_w18_small_v2: widths of branches, modules of stages 2 to 4, blocks of a branch, layer1, channels of conv1."""


class Names(dict[str, tuple[int, ...]]):
    """{name: shape} of what a code's network saves, in its order."""

    def conv(self, name: str, given: int, made: int, kernel: int = 1, bias: bool = False) -> None:
        self[f"{name}.weight"] = (made, given, kernel, kernel)
        if bias:
            self[f"{name}.bias"] = (made,)

    def linear(self, name: str, given: int, made: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = (made, given), (made,)

    def layer_norm(self, name: str, width: int) -> None:
        self[f"{name}.weight"] = self[f"{name}.bias"] = (width,)

    def norm(self, name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{part}"] = (width,)
        self[f"{name}.num_batches_tracked"] = ()

    def basic(self, name: str, given: int, made: int) -> None:
        self.conv(f"{name}.conv1", given, made, 3)
        self.norm(f"{name}.bn1", made)
        self.conv(f"{name}.conv2", made, made, 3)
        self.norm(f"{name}.bn2", made)
        if given != made:
            self.conv(f"{name}.downsample.0", given, made)
            self.norm(f"{name}.downsample.1", made)

    def bottleneck(self, name: str, given: int, made: int) -> None:
        inside = made // 4
        for i, (a, b, kernel) in enumerate(((given, inside, 1), (inside, inside, 3), (inside, made, 1)), 1):
            self.conv(f"{name}.conv{i}", a, b, kernel)
            self.norm(f"{name}.bn{i}", b)
        if given != made:
            self.conv(f"{name}.downsample.0", given, made)
            self.norm(f"{name}.downsample.1", made)

    def conv_bn(self, name: str, given: int, made: int, kernel: int = 1) -> None:
        self.conv(f"{name}.conv", given, made, kernel)
        self.norm(f"{name}.bn", made)

    def cam(self, name: str, given: int, made: int) -> None:
        for part in ("query_project", "key_project"):
            self.conv_bn(f"{name}.{part}.0", given, made)
            self.conv_bn(f"{name}.{part}.1", made, made)
        self.conv_bn(f"{name}.value_project", given, made)

    def excitation(self, name: str, width: int) -> None:
        self.linear(f"{name}.squeeze.0", width, width // 16)
        self.linear(f"{name}.squeeze.2", width // 16, width)

    def swin(self, name: str, width: int, heads: int, depth: int) -> None:
        self.conv(f"{name}.patch_embed.proj", width, width, bias=True)
        self.layer_norm(f"{name}.patch_embed.norm", width)
        for i in range(depth):
            block = f"{name}.layers.0.blocks.{i}"
            self.layer_norm(f"{block}.norm1", width)
            self[f"{block}.attn.relative_position_bias_table"] = (13 * 13, heads)
            self[f"{block}.attn.relative_position_index"] = (49, 49)
            self.linear(f"{block}.attn.qkv", width, 3 * width)
            self.linear(f"{block}.attn.proj", width, width)
            self.layer_norm(f"{block}.norm2", width)
        self.layer_norm(f"{name}.norm0", width)

    def hrnet_head(self, name: str, width: int, made: int) -> None:
        self.conv(f"{name}.last_layer.0", width, width, bias=True)
        self.norm(f"{name}.last_layer.1", width)
        self.conv(f"{name}.last_layer.3", width, made, bias=True)

    def hrnet(self, name: str, config: Mapping[str, Sequence[int] | int]) -> None:
        """Microsoft's HRNet without its classifier."""
        widths, (planes, count) = config["widths"], config["first"]
        self.conv(f"{name}.conv1", 3, config["stem"], 3)
        self.norm(f"{name}.bn1", config["stem"])
        self.conv(f"{name}.conv2", config["stem"], 64, 3)
        self.norm(f"{name}.bn2", 64)
        before = [64]
        for i in range(count):
            self.bottleneck(f"{name}.layer1.{i}", before[0], 4 * planes)
            before = [4 * planes]
        for stage, modules in enumerate(config["modules"], 2):
            now = list(widths[:stage])
            for i, width in enumerate(now):
                place = f"{name}.transition{stage - 1}.{i}"
                if i >= len(before):  # a new branch, of half the resolution of the one before
                    self.conv(f"{place}.0.0", before[-1], width, 3)
                    self.norm(f"{place}.0.1", width)
                elif before[i] != width:
                    self.conv(f"{place}.0", before[i], width, 3)
                    self.norm(f"{place}.1", width)
            for module in range(modules):
                self.exchange(f"{name}.stage{stage}.{module}", now, config["blocks"])
            before = now

    def exchange(self, name: str, widths: Sequence[int], blocks: int) -> None:
        for branch, width in enumerate(widths):
            for block in range(blocks):
                self.basic(f"{name}.branches.{branch}.{block}", width, width)
        for i, to in enumerate(widths):
            for j, of in enumerate(widths):
                place = f"{name}.fuse_layers.{i}.{j}"
                if j > i:
                    self.conv(f"{place}.0", of, to)
                    self.norm(f"{place}.1", to)
                for step in range(i - j):
                    made = to if step == i - j - 1 else of
                    self.conv(f"{place}.{step}.0", of, made, 3)
                    self.norm(f"{place}.{step}.1", made)

    def resnet18(self, name: str) -> None:
        self.conv(f"{name}.conv1", 3, 64, 7)
        self.norm(f"{name}.bn1", 64)
        before = 64
        for layer, width in enumerate((64, 128, 256, 512), 1):
            for block in range(2):
                self.basic(f"{name}.layer{layer}.{block}", before, width)
                before = width

    def deeplab_head(self, name: str, width: int, made: int) -> None:
        for i, kernel in enumerate((1, 3, 3, 3)):
            self.conv(f"{name}.0.convs.{i}.0", width, 256, kernel)
            self.norm(f"{name}.0.convs.{i}.1", 256)
        self.conv(f"{name}.0.convs.4.1", width, 256)
        self.norm(f"{name}.0.convs.4.2", 256)
        self.conv(f"{name}.0.project.0", 5 * 256, 256)
        self.norm(f"{name}.0.project.1", 256)
        self.conv(f"{name}.1", 256, 256, 3)
        self.norm(f"{name}.2", 256)
        self.conv(f"{name}.4", 256, made, bias=True)


Tasks = Mapping[str, int]


def sca(tasks: Tasks, config: Mapping = W18) -> Names:
    names, base = Names(), list(config["widths"])
    names.hrnet("backbone", config)
    for k, c in enumerate(base, 1):
        names.swin(f"swTransform{k}", c, 6, 2)
    widths = [2 * c for c in base]
    for k in (3, 2, 1):
        names.swin(f"fpm_scale_{k}.swtf", len(tasks) * widths[k], 4, 1)
        names.basic(f"fpm_scale_{k}.dimensionality_reduction", len(tasks) * widths[k], widths[k])
        for task in tasks:
            names.excitation(f"fpm_scale_{k}.se.{task}", widths[k])
    _features(names, tasks, widths)
    for k, c in enumerate(widths):
        place = f"distillation_scale_{k}"
        names.basic(f"{place}.dimensionality_reduction", 2 * c * (len(tasks) - 1), c)
        for target in tasks:
            for source in tasks:
                if source != target:
                    names.cam(f"{place}.cross_attention.{target}.{source}", c, c)
    for task, made in tasks.items():
        names.hrnet_head(f"heads.{task}", sum(c * max(1, 2 * (3 - k)) for k, c in enumerate(widths)), made)
        for k in (2, 1, 0):
            names.cam(f"heads.{task}.cross_scale_attention{k}", widths[k], widths[k])
            for j in range(k + 1, 4):
                names.conv(f"heads.{task}.upsample{j}{k}.0", widths[j], widths[k])
                names.norm(f"heads.{task}.upsample{j}{k}.1", widths[k])
    return names


def _features(names: Names, tasks: Tasks, widths: Sequence[int]) -> None:
    for k, c in enumerate(widths):
        given = c + (widths[k + 1] if k < 3 else 0)
        for task in tasks:
            names.basic(f"scale_{k}.refinement.{task}.0", given, c)
            names.basic(f"scale_{k}.refinement.{task}.1", c, c)
        for task, made in tasks.items():
            names.conv(f"scale_{k}.decoders.{task}", c, made, bias=True)


def _distillation(names: Names, place: str, tasks: Sequence[str], everything: Sequence[str], c: int) -> None:
    for target in tasks:
        for source in everything:
            if source != target:
                names.conv(f"{place}.self_attention.{target}.{source}.attention.0", c, c, 3)
                names.conv(f"{place}.self_attention.{target}.{source}.conv", c, c, 3)


def mti_net(tasks: Sequence[str], everything: Tasks, config: Mapping = W18) -> Names:
    """everything: main and auxiliary tasks in the code's order, {task: channels}."""
    names, widths = Names(), list(config["widths"])
    names.hrnet("backbone", config)
    for k in (3, 2, 1):
        c, shared = widths[k], len(everything) * widths[k]
        names.basic(f"fpm_scale_{k}.non_linear.0", shared, shared // 4)
        names.basic(f"fpm_scale_{k}.non_linear.1", shared // 4, shared // 4)
        names.conv(f"fpm_scale_{k}.non_linear.2", shared // 4, shared, bias=True)
        names.basic(f"fpm_scale_{k}.dimensionality_reduction", shared, c)
        for task in everything:
            names.excitation(f"fpm_scale_{k}.se.{task}", c)
    _features(names, everything, widths)
    for k, c in enumerate(widths):
        _distillation(names, f"distillation_scale_{k}", tasks, list(everything), c)
    for task in tasks:
        names.hrnet_head(f"heads.{task}", sum(widths), everything[task])
    return names


def pad_net(tasks: Sequence[str], everything: Tasks, config: Mapping = W18) -> Names:
    names, width = Names(), sum(config["widths"])
    names.hrnet("backbone.0", config)
    names.conv("backbone.1.last_layer.0", width, width, bias=True)
    names.norm("backbone.1.last_layer.1", width)
    for task in everything:
        names.bottleneck(f"initial_task_prediction_heads.layers.{task}.0", width, 256)
        names.bottleneck(f"initial_task_prediction_heads.layers.{task}.1", 256, 256)
    for task, made in everything.items():
        names.conv(f"initial_task_prediction_heads.conv_out.{task}", 256, made, bias=True)
    _distillation(names, "multi_modal_distillation", tasks, list(everything), 256)
    for task in tasks:
        names.bottleneck(f"heads.{task}.0", 256, 256)
        names.bottleneck(f"heads.{task}.1", 256, 256)
        names.conv(f"heads.{task}.2", 256, everything[task], bias=True)
    return names


def baseline(tasks: Tasks, config: Mapping | None = W18) -> Names:
    """The multi-task baseline, of one task the single-task one. config: None for a dilated ResNet-18 with DeepLab."""
    names = Names()
    names.resnet18("backbone") if config is None else names.hrnet("backbone", config)
    for task, made in tasks.items():
        place = "decoder" if len(tasks) == 1 else f"decoders.{task}"
        if config is None:
            names.deeplab_head(place, 512, made)
        else:
            names.hrnet_head(place, sum(config["widths"]), made)
    return names


def atrc(tasks: Tasks, config: Mapping = W18) -> Names:
    """tasks: {task: channels} in the code's order; saliency has two."""
    names, width = Names(), sum(config["widths"])
    c = width // 4
    names.hrnet("backbone", config)
    for task in tasks:
        names.conv_bn(f"head.bottleneck.{task}", width, c, 3)
    for target in tasks:
        for source in tasks:
            names.cam(f"head.atrc_module.cp_blocks.{target}.{source}", c, c // 2)
    for task in tasks:
        names.conv_bn(f"head.atrc_module.out_proj.{task}", len(tasks) * (c // 2), c)
    for task in tasks:
        names.conv_bn(f"head.atrc_module.bottleneck.{task}.0", 2 * c, c)
    for task, made in tasks.items():
        names.conv(f"head.final_logits.{task}", c, made, bias=True)
    return names


def parameters(names: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers that are learned: no statistics, no counters, no indices."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    return sum(torch.Size(shape).numel() for name, shape in names.items() if not name.endswith(buffers))


def random_state(names: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights as after some training: nothing is at its start, and maps keep their size from layer to layer."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in names.items():
        kind = name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            state[name] = torch.tensor(7)
        elif kind == "relative_position_index":
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif kind == "running_var" or (kind == "weight" and len(shape) == 1):
            state[name] = torch.rand(shape, generator=draw) + 0.5
        else:
            scale = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 and kind == "weight" else 0.3
            state[name] = torch.randn(shape, generator=draw) * scale
    return state
