"""What the released networks compute of their own tensors, in their own order of channels; written from what was read.

Evaluation only. The backbone is this project's, whose names are the same. Window attention is the plain form's.
Shapes: B batch, C channels, H, W; maps of four scales, fine to coarse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.sca import PlainWindowSelfAttention, upsample

Maps = Mapping[str, Tensor]
Predicted = dict[str, Tensor]
"""By task: raw predictions at the finest scale."""


class Weights:
    """Tensors by name, and the layers that are made of them."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), padding=padding, dilation=dilation)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.tensors[f"{name}.{part}"] for part in parts)
        return F.batch_norm(x, mean, var, weight, bias)

    def conv_norm(self, conv: str, norm: str, x: Tensor, dilation: int = 1) -> Tensor:
        return self.norm(norm, self.conv(conv, x, dilation))

    def residual(self, name: str, x: Tensor, layers: int = 2) -> Tensor:
        y = x
        for i in range(1, layers + 1):
            y = self.conv_norm(f"{name}.conv{i}", f"{name}.bn{i}", y)
            y = y.relu() if i < layers else y
        if f"{name}.downsample.0.weight" in self.tensors:
            x = self.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x)
        return (y + x).relu()

    def residuals(self, name: str, x: Tensor, layers: int = 2) -> Tensor:
        return self.residual(f"{name}.1", self.residual(f"{name}.0", x, layers), layers)

    def cam(self, name: str, target: Tensor, source: Tensor) -> Tensor:
        def project(part: str, x: Tensor) -> Tensor:
            x = self.conv_norm(f"{name}.{part}.0.conv", f"{name}.{part}.0.bn", x).relu()
            return F.softplus(self.conv_norm(f"{name}.{part}.1.conv", f"{name}.{part}.1.bn", x)).flatten(2)

        query, key = project("query_project", target), project("key_project", source)
        value = self.conv_norm(f"{name}.value_project.conv", f"{name}.value_project.bn", source).relu().flatten(2)
        scores = query.transpose(1, 2) @ key  # (B, pixels of target, pixels of source)
        found = value @ (scores / scores.sum(2, keepdim=True)).transpose(1, 2)
        return found.unflatten(2, target.shape[2:])

    def excite(self, name: str, x: Tensor) -> Tensor:
        gate = self.linear(f"{name}.squeeze.2", self.linear(f"{name}.squeeze.0", x.mean((2, 3))).relu())
        return x * gate.sigmoid()[:, :, None, None]

    def window_attention(self, name: str, x: Tensor, heads: int, depth: int) -> Tensor:
        plain = PlainWindowSelfAttention(x.shape[1], heads, depth).to(x.dtype).eval()
        of = {"embed": "patch_embed.proj", "norm_in": "patch_embed.norm", "norm_out": "norm0"}
        for i in range(depth):
            block = f"layers.0.blocks.{i}"
            of |= {f"blocks.{i}.norm": f"{block}.norm1", f"blocks.{i}.attention": f"{block}.attn"}

        def theirs(own: str) -> str:
            part = max((each for each in of if own.startswith(f"{each}.")), key=len)
            return f"{name}.{of[part]}{own.removeprefix(part)}"

        plain.load_state_dict({own: self.tensors[theirs(own)] for own in plain.state_dict()})
        return plain(x)

    def head(self, name: str, maps: Sequence[Tensor]) -> Tensor:
        x = torch.cat([upsample(each, maps[0].shape[-2:]) for each in maps], 1)
        x = self.conv_norm(f"{name}.last_layer.0", f"{name}.last_layer.1", x).relu()
        return self.conv(f"{name}.last_layer.3", x)

    def deeplab_head(self, name: str, x: Tensor) -> Tensor:
        found = [
            self.conv_norm(f"{name}.0.convs.{i}.0", f"{name}.0.convs.{i}.1", x, rate).relu()
            for i, rate in enumerate((1, 12, 24, 36))
        ]
        mean = self.conv_norm(f"{name}.0.convs.4.1", f"{name}.0.convs.4.2", x.mean((2, 3), keepdim=True)).relu()
        x = torch.cat([*found, mean.expand_as(found[0])], 1)
        x = self.conv_norm(f"{name}.0.project.0", f"{name}.0.project.1", x).relu()
        return self.conv(f"{name}.4", self.conv_norm(f"{name}.1", f"{name}.2", x).relu())

    def masked(self, x: Tensor, logits: Tensor, tasks: int) -> Tensor:
        """A softmax over every so many neighbouring channels."""
        groups = logits.unflatten(1, (x.shape[1] // tasks, tasks)).softmax(2)
        return x * groups.flatten(1, 2)

    def features(self, k: int, task: str, x: Tensor, propagated: Maps) -> Tensor:
        if propagated:
            x = torch.cat([x, upsample(propagated[task], x.shape[-2:])], 1)
        return self.residuals(f"scale_{k}.refinement.{task}", x)


def sca(w: Weights, tasks: Sequence[str], maps: Sequence[Tensor]) -> Predicted:
    """Predictions at the finest scale from the backbone's maps."""
    maps = [torch.cat([w.window_attention(f"swTransform{k + 1}", x, 6, 2), x], 1) for k, x in enumerate(maps)]
    distilled: dict[int, dict[str, Tensor]] = {}
    propagated: dict[str, Tensor] = {}
    for k in (3, 2, 1, 0):
        found = {task: w.features(k, task, maps[k], propagated) for task in tasks}
        place = f"distillation_scale_{k}"
        distilled[k] = {}
        for task in tasks:
            pairs = [
                torch.cat([found[task], w.cam(f"{place}.cross_attention.{task}.{a}", found[task], found[a])], 1)
                for a in tasks
                if a != task
            ]
            together = torch.cat(pairs[::-1], 1)  # the last of the others comes first
            distilled[k][task] = found[task] + w.residual(f"{place}.dimensionality_reduction", together)
        if k > 0:
            together = torch.cat(list(distilled[k].values()), 1)
            logits = w.window_attention(f"fpm_scale_{k}.swtf", together, 4, 1)
            shared = w.masked(together, logits, len(tasks))
            shared = w.residual(f"fpm_scale_{k}.dimensionality_reduction", shared)
            propagated = {t: w.excite(f"fpm_scale_{k}.se.{t}", shared) + distilled[k][t] for t in tasks}
    return {task: _sca_head(w, f"heads.{task}", [distilled[k][task] for k in range(4)]) for task in tasks}


def _sca_head(w: Weights, name: str, maps: Sequence[Tensor]) -> Tensor:
    read = []
    for k, target in enumerate(maps):
        for j in range(k + 1, 4):
            source = w.conv_norm(f"{name}.upsample{j}{k}.0", f"{name}.upsample{j}{k}.1", maps[j])
            read += [target, w.cam(f"{name}.cross_scale_attention{k}", target, source)]
    return w.head(name, [*read, maps[3]])


def mti_net(w: Weights, tasks: Sequence[str], everything: Sequence[str], maps: Sequence[Tensor]) -> Predicted:
    """everything: all tasks in the code's order."""
    found: dict[int, dict[str, Tensor]] = {}
    propagated: dict[str, Tensor] = {}
    for k in (3, 2, 1, 0):
        found[k] = {task: w.features(k, task, maps[k], propagated) for task in everything}
        if k > 0:
            together = torch.cat(list(found[k].values()), 1)
            name = f"fpm_scale_{k}.non_linear"
            logits = w.conv(f"{name}.2", w.residuals(name, together))
            shared = w.masked(together, logits, len(everything))
            shared = w.residual(f"fpm_scale_{k}.dimensionality_reduction", shared)
            propagated = {t: w.excite(f"fpm_scale_{k}.se.{t}", shared) + found[k][t] for t in everything}
    distilled = [_distilled(w, f"distillation_scale_{k}", tasks, found[k]) for k in range(4)]
    return {task: w.head(f"heads.{task}", [scale[task] for scale in distilled]) for task in tasks}


def _distilled(w: Weights, place: str, tasks: Sequence[str], features: Maps) -> dict[str, Tensor]:
    out = {}
    for task in tasks:
        out[task] = features[task]
        for source in features:
            if source != task:
                pair = f"{place}.self_attention.{task}.{source}"
                gate = w.conv(f"{pair}.attention.0", features[source]).sigmoid()
                out[task] = out[task] + gate * w.conv(f"{pair}.conv", features[source])
    return out


def pad_net(w: Weights, tasks: Sequence[str], everything: Sequence[str], maps: Sequence[Tensor]) -> Predicted:
    x = torch.cat([upsample(each, maps[0].shape[-2:]) for each in maps], 1)
    x = w.conv_norm("backbone.1.last_layer.0", "backbone.1.last_layer.1", x).relu()
    features = {t: w.residuals(f"initial_task_prediction_heads.layers.{t}", x, 3) for t in everything}
    distilled = _distilled(w, "multi_modal_distillation", tasks, features)
    return {t: w.conv(f"heads.{t}.2", w.residuals(f"heads.{t}", distilled[t], 3)) for t in tasks}


def baseline(w: Weights, tasks: Sequence[str], maps: Sequence[Tensor]) -> Predicted:
    places = {task: "decoder" if len(tasks) == 1 else f"decoders.{task}" for task in tasks}
    if any(".0.convs." in name for name in w.tensors):
        return {task: w.deeplab_head(place, maps[-1]) for task, place in places.items()}
    return {task: w.head(place, maps) for task, place in places.items()}


def atrc(w: Weights, tasks: Sequence[str], maps: Sequence[Tensor]) -> Predicted:
    """tasks: in the code's order. Saliency's two logits are left as they are."""
    part = "head.atrc_module"
    x = torch.cat([upsample(each, maps[0].shape[-2:]) for each in maps], 1)
    own = {t: w.conv_norm(f"head.bottleneck.{t}.conv", f"head.bottleneck.{t}.bn", x).relu() for t in tasks}
    out = {}
    for t in tasks:
        contexts = torch.cat([w.cam(f"{part}.cp_blocks.{t}.{s}", own[t], own[s]) for s in tasks], 1)
        joined = w.conv_norm(f"{part}.out_proj.{t}.conv", f"{part}.out_proj.{t}.bn", contexts)
        y = torch.cat([own[t], joined], 1)
        y = w.conv_norm(f"{part}.bottleneck.{t}.0.conv", f"{part}.bottleneck.{t}.0.bn", y).relu()
        out[t] = w.conv(f"head.final_logits.{t}", y)
    return out
