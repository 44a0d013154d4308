"""Weights of ours under the names, and in the layout, of the released codes: the way back, which the library lacks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_LAYERS = {("conv1", "0"): "conv1", ("conv1", "1"): "bn1", ("conv2", "0"): "conv2", ("conv2", "1"): "bn2",
           ("shortcut", "0"): "downsample.0", ("shortcut", "1"): "downsample.1"}  # fmt: skip
_HEAD = {"mix": "0", "norm": "1", "predict": "3"}
_GATES = {"squeeze": "0", "excite": "2"}
_CONV = {"0": "conv", "1": "bn"}
_BOTTLENECK = {("0", "0"): "conv1", ("0", "1"): "bn1", ("1", "0"): "conv2", ("1", "1"): "bn2",
               ("2", "0"): "conv3", ("2", "1"): "bn3"}  # fmt: skip


def mti_net_names(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an `mti_net`, `single_task` or `multi_task` here as the released code saves it.

    For tasks in that code's order, in which nothing but names and the layout of two kinds of layers differ.
    """
    found: dict[str, Tensor] = {}
    for name, value in own.items():
        match name.split("."):
            case ["backbone", "net", *rest]:
                found[".".join(["backbone", *rest])] = value
            case ["features", k, task, "blocks", i, layer, j, tail]:
                found[f"scale_{k}.refinement.{task}.{i}.{_LAYERS[layer, j]}.{tail}"] = value
            case ["features", k, task, "predict", tail]:
                found[f"scale_{k}.decoders.{task}.{tail}"] = value
            case ["propagate", k, "attention", "2", tail]:
                found[f"fpm_scale_{int(k) + 1}.non_linear.2.{tail}"] = value
            case ["propagate", k, "attention", i, layer, j, tail]:
                found[f"fpm_scale_{int(k) + 1}.non_linear.{i}.{_LAYERS[layer, j]}.{tail}"] = value
            case ["propagate", k, "reduce", layer, j, tail]:
                found[f"fpm_scale_{int(k) + 1}.dimensionality_reduction.{_LAYERS[layer, j]}.{tail}"] = value
            case ["propagate", k, "excite", task, gate, tail]:
                flat = value.flatten(1) if value.dim() == 4 else value
                found[f"fpm_scale_{int(k) + 1}.se.{task}.squeeze.{_GATES[gate]}.{tail}"] = flat
            case ["distil", k, "messages", task, source, "weight"]:
                gate, message = value.chunk(2)
                place = f"distillation_scale_{k}.self_attention.{task}.{source}"
                found |= {f"{place}.attention.0.weight": gate.clone(), f"{place}.conv.weight": message.clone()}
            case ["heads", task, layer, tail]:
                place = "heads" if any(each.startswith("features.") for each in own) else "decoders"
                found[f"{place}.{task}.last_layer.{_HEAD[layer]}.{tail}"] = value
            case ["head", layer, tail]:
                found[f"decoder.last_layer.{_HEAD[layer]}.{tail}"] = value
            case _:
                raise AssertionError(name)
    return found


def pad_net_names(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `pad_net` as Multi-Task-Learning-PyTorch saves it."""
    found: dict[str, Tensor] = {}
    initial = "initial_task_prediction_heads"
    for name, value in own.items():
        match name.split("."):
            case ["backbone", "net", *rest]:
                found[".".join(["backbone.0", *rest])] = value
            case ["aggregate", layer, tail]:
                found[f"backbone.1.last_layer.{_HEAD[layer]}.{tail}"] = value
            case ["initial" | "decode" as part, task, "blocks", i, *rest, tail]:
                layer = f"downsample.{rest[1]}" if rest[0] == "shortcut" else _BOTTLENECK[rest[1], rest[2]]
                place = f"{initial}.layers.{task}" if part == "initial" else f"heads.{task}"
                found[f"{place}.{i}.{layer}.{tail}"] = value
            case ["initial", task, "predict", tail]:
                found[f"{initial}.conv_out.{task}.{tail}"] = value
            case ["decode", task, "predict", tail]:
                found[f"heads.{task}.2.{tail}"] = value
            case ["distil", "messages", task, source, "weight"]:
                place = f"multi_modal_distillation.self_attention.{task}.{source}"
                found[f"{place}.attention.0.weight"], found[f"{place}.conv.weight"] = value.chunk(2)
            case _:
                raise AssertionError(name)
    return found


def atrc_names(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an `atrc` as its code saves it, in the run's order of tasks."""
    found: dict[str, Tensor] = {}
    for name, value in own.items():
        match name.split("."):
            case ["backbone", "net", *rest]:
                found[".".join(["backbone", *rest])] = value
            case ["features", task, layer, tail]:
                found[f"head.bottleneck.{task}.{_CONV[layer]}.{tail}"] = value
            case ["refine", task, "pooling", source, "value", layer, tail]:
                place = f"head.atrc_module.cp_blocks.{task}.{source}"
                found[f"{place}.value_project.{_CONV[layer]}.{tail}"] = value
            case ["refine", task, "pooling", source, part, i, layer, tail]:
                place = f"head.atrc_module.cp_blocks.{task}.{source}"
                found[f"{place}.{part}_project.{i}.{_CONV[layer]}.{tail}"] = value
            case ["refine", task, "project", layer, tail]:
                found[f"head.atrc_module.out_proj.{task}.{_CONV[layer]}.{tail}"] = value
            case ["refine", task, "fuse", layer, tail]:
                found[f"head.atrc_module.bottleneck.{task}.0.{_CONV[layer]}.{tail}"] = value
            case ["heads", task, tail]:
                found[f"head.final_logits.{task}.{tail}"] = value
            case _:
                raise AssertionError(name)
    return found


def sca_names(own: Mapping[str, Tensor], tasks: int) -> dict[str, Tensor]:
    """The state of a `sequential_attention` of so many tasks as SCA_MTL saves it, what it never uses included."""
    found: dict[str, Tensor] = {}
    for name, value in own.items():
        match name.split("."):
            case ["backbone", "net", *rest]:
                found[".".join(["backbone", *rest])] = value
            case ["att", k, *rest]:
                found |= _swin(f"swTransform{int(k) + 1}", rest, value, lambda x, dim: x)
            case ["features", k, task, "blocks", i, layer, j, tail]:
                found[f"scale_{k}.refinement.{task}.{i}.{_LAYERS[layer, j]}.{tail}"] = _feature(k, i, layer, value)
            case ["features", k, task, "predict", tail]:
                found[f"scale_{k}.decoders.{task}.{tail}"] = _columns(value, 1) if k == "3" else value
            case ["ctam", k, "attention", task, source, *rest]:
                place = f"distillation_scale_{k}.cross_attention.{task}.{source}"
                found |= _cam(place, rest, value, k == "3")
            case ["ctam", k, "reduce", "shared", layer, j, tail]:
                place = f"distillation_scale_{k}.dimensionality_reduction.{_LAYERS[layer, j]}.{tail}"
                found[place] = _reduction(layer, value, tasks, k == "3")
            case ["fpma", k, "attention", *rest]:
                each = _of_each(tasks) if k == "2" else lambda x, dim: x
                found |= _swin(f"fpm_scale_{int(k) + 1}.swtf", rest, value, each)
            case ["fpma", k, "reduce", layer, j, tail]:
                if k == "2" and value.dim() > 1 and layer != "conv2":
                    value = _of_each(tasks)(value, 1)
                if k == "2" and layer != "conv1":
                    value = _columns(value, 0)
                found[f"fpm_scale_{int(k) + 1}.dimensionality_reduction.{_LAYERS[layer, j]}.{tail}"] = value
            case ["fpma", k, "excite", task, gate, tail]:
                value = value.flatten(1) if value.dim() == 4 else value
                value = _columns(value, 1 if gate == "squeeze" else 0) if k == "2" else value
                found[f"fpm_scale_{int(k) + 1}.se.{task}.squeeze.{_GATES[gate]}.{tail}"] = value
            case ["csam", task, "project", k, i, layer, tail]:
                j = int(k) + int(i) + 1
                value = _columns(value, 1) if j == 3 and layer == "0" else value
                found[f"heads.{task}.upsample{j}{k}.{layer}.{tail}"] = value
            case ["csam", task, "attention", k, "0", *rest]:
                found |= _cam(f"heads.{task}.cross_scale_attention{k}", rest, value, False)
            case ["heads", task, layer, tail]:
                value = _mixed(value) if (layer, tail) == ("mix", "weight") else value
                found[f"heads.{task}.last_layer.{_HEAD[layer]}.{tail}"] = value
            case _:
                raise AssertionError(name)
    return found


def _columns(x: Tensor, dim: int) -> Tensor:
    """The halves of [backbone, ATT] in the other order, where there are channels."""
    return torch.cat(x.chunk(2, dim)[::-1], dim) if x.dim() > dim else x


def _of_each(tasks: int):
    """The same for the maps of all tasks, one after the other."""

    def swap(x: Tensor, dim: int) -> Tensor:
        return torch.cat([_columns(part, dim) for part in x.chunk(tasks, dim)], dim) if x.dim() > dim else x

    return swap


def _feature(k: str, i: str, layer: str, value: Tensor) -> Tensor:
    if k == "3":
        return _columns(value, 1 if layer == "conv1" else 0)
    if i == "1" or layer == "conv2" or value.dim() < 2:
        return value
    width = value.shape[0]
    own, propagated = value.split([width, value.shape[1] - width], 1)
    return torch.cat([_columns(own, 1), _columns(propagated, 1) if k == "2" else propagated], 1)


def _reduction(layer: str, value: Tensor, tasks: int, coarsest: bool) -> Tensor:
    if value.dim() > 1 and layer != "conv2":
        pairs = [pair.chunk(2, 1) for pair in value.chunk(tasks - 1, 1)]
        value = torch.cat(
            [torch.cat([_columns(own, 1) if coarsest else own, answer], 1) for own, answer in reversed(pairs)], 1
        )
    return _columns(value, 0) if coarsest and layer != "conv1" else value


def _cam(place: str, rest: list[str], value: Tensor, coarsest: bool) -> dict[str, Tensor]:
    match rest:
        case ["value", layer, tail]:
            name, reads = f"value_project.{_CONV[layer]}.{tail}", layer == "0"
        case [part, i, layer, tail]:
            name, reads = f"{part}_project.{i}.{_CONV[layer]}.{tail}", (i, layer) == ("0", "0")
        case _:
            raise AssertionError(rest)
    return {f"{place}.{name}": _columns(value, 1) if coarsest and reads else value}


def _swin(place: str, rest: list[str], value: Tensor, swap) -> dict[str, Tensor]:
    match rest:
        case ["embed", tail]:
            return {f"{place}.patch_embed.proj.{tail}": swap(swap(value, 0), 1)}
        case ["norm_in" | "norm_out" as layer, tail]:
            name = "patch_embed.norm" if layer == "norm_in" else "norm0"
            return {f"{place}.{name}.{tail}": swap(value, 0)}
        case ["blocks", i, "norm", tail]:
            block = f"{place}.layers.0.blocks.{i}"
            return {f"{block}.norm1.{tail}": swap(value, 0), f"{block}.norm2.{tail}": torch.ones_like(value)}
        case ["blocks", i, "attention", "relative_position_bias_table" as table]:
            block = f"{place}.layers.0.blocks.{i}.attn"
            return {
                f"{block}.{table}": value,
                f"{block}.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
            }
        case ["blocks", i, "attention", "qkv", tail]:
            return {f"{place}.layers.0.blocks.{i}.attn.qkv.{tail}": swap(value, 1)}
        case ["blocks", i, "attention", "proj", tail]:
            return {f"{place}.layers.0.blocks.{i}.attn.proj.{tail}": swap(value, 0)}
        case _:
            raise AssertionError(rest)


def _mixed(value: Tensor) -> Tensor:
    """A head's columns: [target] * n and n attended maps here; n pairs there. Widths double from scale to scale."""
    unit = value.shape[1] // 30  # 3 + 3, 2 * (2 + 2), 4 * (1 + 1) and 8 of it
    parts, start = [], 0
    for width, count in ((unit, 3), (2 * unit, 2), (4 * unit, 1)):
        scale = value[:, start : start + 2 * count * width].split(width, 1)
        parts += [each for pair in zip(scale[:count], scale[count:], strict=True) for each in pair]
        start += 2 * count * width
    return torch.cat([*parts, _columns(value[:, start:], 1)], 1)
