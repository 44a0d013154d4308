"""Weights of ours under the names of Multi-Task-Learning-PyTorch: the way back, which nothing of the library knows."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_LAYERS = {("conv1", "0"): "conv1", ("conv1", "1"): "bn1", ("conv2", "0"): "conv2", ("conv2", "1"): "bn2",
           ("shortcut", "0"): "downsample.0", ("shortcut", "1"): "downsample.1"}  # fmt: skip
_HEAD = {"mix": "0", "norm": "1", "predict": "3"}
_GATES = {"squeeze": "0", "excite": "2"}


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
