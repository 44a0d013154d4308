"""Networks: a backbone and one of the listed architectures. Torch and timm only.

Adding an architecture = one file with a class `Name(backbone, tasks, auxiliary_tasks, **options)` that lists
its options in `OPTIONS` {option: allowed values, default first}, and one line in ARCHITECTURES.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from pipeline.core.names import nearest
from pipeline.networks.atrc import ATRC
from pipeline.networks.backbones.backbone import UPSAMPLINGS, Backbone
from pipeline.networks.backbones.plain_vit import VIT_MAPS
from pipeline.networks.blocks import INITIALIZATIONS, init_weights, set_momentum
from pipeline.networks.cross_stitch import CrossStitch
from pipeline.networks.invpt.network import InvPT
from pipeline.networks.mtan import MTAN
from pipeline.networks.mti_net import MTINet
from pipeline.networks.multi_task import MultiTask
from pipeline.networks.nddr_cnn import NddrCnn
from pipeline.networks.outputs import Outputs
from pipeline.networks.pad_net import PADNet
from pipeline.networks.sca.network import SequentialAttention
from pipeline.networks.single_task import SingleTask

__all__ = ["ARCHITECTURES", "Backbone", "Outputs", "build"]


class Architecture(Protocol):
    """The class of a network, as `build` uses it."""

    OPTIONS: dict[str, tuple]

    # Any: every class has options of its own, which `build` compares with OPTIONS.
    def __call__(self, *args: Any, **options: Any) -> nn.Module: ...


ARCHITECTURES: dict[str, Architecture] = {
    "single_task": SingleTask,
    "multi_task": MultiTask,
    "sequential_attention": SequentialAttention,
    "mti_net": MTINet,
    "pad_net": PADNet,
    "cross_stitch": CrossStitch,
    "nddr_cnn": NddrCnn,
    "mtan": MTAN,
    "atrc": ATRC,
    "invpt": InvPT,
}


def build(
    architecture: str,
    *,
    backbone: str,
    tasks: Mapping[str, int],
    auxiliary_tasks: Mapping[str, int] | None = None,
    pretrained: bool | str = False,
    output_stride: int = 32,
    hrnet_upsampling: str = UPSAMPLINGS[0],
    initialization: str = INITIALIZATIONS[0],
    batch_norm_momentum: float | None = None,
    image_size: Sequence[int] | None = None,
    **options: bool | int | float | str,
) -> nn.Module:
    """The network, initialised from torch's global random state; `forward(image (B, 3, H, W)) -> Outputs`.

    tasks, auxiliary_tasks: {task: output channels}; auxiliary tasks are trained but have no final prediction.
    backbone, pretrained, output_stride, hrnet_upsampling, image_size: see `Backbone`, which gets the option `vit_maps`
    too. initialization: see `init_weights`. batch_norm_momentum: of every batch norm; None for those of the released
    networks: 0.01 in HRNet and in CTAM's reduction, 0.05 in NDDR, torch's 0.1 elsewhere. options: the architecture's
    own, see its class.
    Raises ValueError for an unknown name or value and for a set of tasks that the architecture cannot take,
    TrainingError for pretrained weights that cannot be fetched or do not fit.
    """
    auxiliary_tasks = dict(auxiliary_tasks or {})
    _check_one_of("architecture", architecture, tuple(ARCHITECTURES))
    _check_one_of("initialization", initialization, INITIALIZATIONS)
    kind = ARCHITECTURES[architecture]
    for option, value in options.items():
        _check_one_of(f"option of {architecture}", option, tuple(kind.OPTIONS))
        _check_one_of(option, value, kind.OPTIONS[option])
    if not tasks:
        raise ValueError(f"{architecture} needs at least one task to predict, got none.")
    if both := set(tasks) & set(auxiliary_tasks):
        raise ValueError(f"Tasks {sorted(both)} are both main and auxiliary; a task is one or the other.")
    vit_maps = str(options.get("vit_maps", VIT_MAPS[0]))
    maps = Backbone(backbone, pretrained, output_stride, hrnet_upsampling, vit_maps, image_size)
    network = kind(maps, dict(tasks), auxiliary_tasks, **options)
    init_weights(network, initialization)
    if batch_norm_momentum is not None:
        set_momentum(network, batch_norm_momentum)
    return network


def _check_one_of(what: str, value: object, allowed: tuple) -> None:
    if value in allowed:
        return
    near = nearest(value, allowed)
    hint = f" Did you mean {near}?" if near else ""
    known = ", ".join(str(a) for a in allowed) or "none"
    raise ValueError(f"Unknown {what}: {value!r}.{hint} Allowed: {known}.")
