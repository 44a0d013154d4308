"""The released codes: which networks their names are of, and what a run must be for them to be ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from pipeline.adopt import atrc, invpt, mti_net, sca
from pipeline.adopt.checkpoint import Checkpoint
from pipeline.adopt.rules import Rules
from pipeline.core import names
from pipeline.core.errors import DataError, ParamsError
from pipeline.networks.backbones.backbone import Backbone
from pipeline.params.schema import ResolvedRun

# The order in which the released configurations have their tasks. Those of SCA and MTI-Net put them into it themselves;
# ATRC_ORDER is InvPT's too.
ORDER = ("semseg", "human_parts", "sal", "normals", "edge", "depth")
ATRC_ORDER = ("semseg", "depth", "human_parts", "sal", "normals", "edge")


@dataclass(frozen=True)
class Adopting:
    """A file that is to be a run's network: what the rules are made of. order: of the file's tasks."""

    file: Checkpoint
    run: ResolvedRun
    backbone: Backbone
    order: tuple[str, ...]
    what: str

    @property
    def channels(self) -> list[int]:
        """Of the backbone's maps, fine to coarse."""
        return self.backbone.channels

    @property
    def deeplab(self) -> bool:
        """Whether the file's heads are DeepLab's."""
        return any(".0.convs.0." in name for name in self.file.tensors)


@dataclass(frozen=True)
class Network:
    """A network of a released code.

    code: whose names. architecture: what it is called here; None: there is none. signature: a pattern of a name that
    only it has. rules: how it becomes ours; None where it can't, for the reason `refused`. tasks: a pattern of names
    whose first group are its tasks. order: the order in which its network has them. filled: a pattern as `tasks`, of
    names that stand in the network's own order, where that is not fixed. auxiliary: whether it can have tasks without
    a final prediction. options: what the released network is by our options, where that is not the default. vit:
    whether its backbone is a ViT.

    Names in general stand in no order to go by: until 2020 torch's ModuleDict sorted what it was made of, while
    channels are concatenated in the order of the configuration. One that was filled item by item never did.
    """

    code: str
    architecture: str | None
    signature: str
    rules: Callable[[Adopting], Rules] | None = None
    refused: str = ""
    tasks: str = ""
    order: tuple[str, ...] = ORDER
    filled: str = ""
    auxiliary: bool = False
    options: dict[str, str | bool | int | float] = field(default_factory=dict)
    vit: bool = False


def _sca(adopting: Adopting) -> Rules:
    tasks, coarsest = adopting.run.tasks, adopting.channels[-1]
    if tasks != adopting.order:
        raise DataError(
            f"{adopting.what}: FPMA's softmax goes over neighbouring channels, so the order of tasks matters: give the "
            f"run tasks: [{', '.join(adopting.order)}]"
        )
    if coarsest % len(tasks):
        raise DataError(
            f"{adopting.what}: with {len(tasks)} tasks its softmax over neighbouring channels crosses the halves of "
            f"the coarsest map ({coarsest} channels each), whose order is another here; numbers of tasks that divide "
            f"{coarsest} can be adopted"
        )
    return sca.sequential_attention(tasks, adopting.channels)


def _mti_net(adopting: Adopting) -> Rules:
    tasks = adopting.run.all_tasks
    if tasks != adopting.order and (odd := [c for c in adopting.channels[1:] if c % len(tasks)]):
        raise DataError(
            f"{adopting.what}: its softmax over neighbouring channels crosses the borders of tasks ({odd[0]} channels, "
            f"{len(tasks)} tasks), so their order matters: it is {', '.join(adopting.order)}, the run's "
            f"{', '.join(tasks)}"
        )
    return mti_net.mti_net(tasks, adopting.order, adopting.channels)


def _atrc(adopting: Adopting) -> Rules:
    tasks = adopting.run.all_tasks
    atrc.check_contexts(adopting.file.tensors, tasks, adopting.what)
    return atrc.atrc(tasks, adopting.order, sum(adopting.channels) // 4)


def _invpt(adopting: Adopting) -> Rules:
    run = adopting.run
    return invpt.invpt(run.tasks, adopting.order, invpt.width_of(run), invpt.notes(adopting.file, run))


_LAST_STAGE = (
    "it predicts by a DeepLab head from the last stage of a dilated ResNet, {name} here by HRNet's head from the maps "
    "of all stages, so no weights of the one fit the other"
)
_FCN = (
    "its head is one 3x3 convolution to a quarter of the channels (FCNHead), multi_task and single_task here have "
    "HRNet's or DeepLab's, so no weights of the one fit the other"
)
NETWORKS = (
    Network("sca", "sequential_attention", r"swTransform1\..+", _sca,
            tasks=r"distillation_scale_0\.cross_attention\.(\w+)\..+"),
    Network("mti_net", "mti_net", r"scale_0\.refinement\..+", _mti_net,
            tasks=r"scale_0\.refinement\.(\w+)\..+", auxiliary=True),
    Network("mti_net", "pad_net", r"initial_task_prediction_heads\..+", lambda adopting: mti_net.pad_net(),
            tasks=r"initial_task_prediction_heads\.conv_out\.(\w+)\..+", auxiliary=True),
    Network("mti_net", "cross_stitch", r"cross_stitch\..+", refused=_LAST_STAGE.format(name="cross_stitch")),
    Network("mti_net", "nddr_cnn", r"nddr\..+", refused=_LAST_STAGE.format(name="nddr_cnn")),
    Network("mti_net", "mtan", r"attention_1\..+", refused=_LAST_STAGE.format(name="mtan")),
    Network("mti_net", "multi_task", r"decoders\..+", lambda adopting: mti_net.multi_task(adopting.deeplab),
            tasks=r"decoders\.(\w+)\..+"),
    Network("mti_net", "single_task", r"decoder\..+",
            lambda adopting: mti_net.single_task(adopting.run.tasks[0], adopting.deeplab)),
    Network("atrc", "atrc", r"head\.atrc_module\..+", _atrc,
            tasks=r"head\.bottleneck\.(\w+)\..+", order=ATRC_ORDER, filled=r"head\.atrc_module\.cp_blocks\.(\w+)\..+"),
    Network("atrc", None, r"head\.final_logits\..+", refused=_FCN),
    Network("invpt", "invpt", r"multi_task_decoder\.invpt\..+", _invpt, tasks=r"heads\.(\w+)\.linear_pred\..+",
            order=ATRC_ORDER, filled=invpt.TASKS, options={"vit_maps": "depths"}, vit=True),
)  # fmt: skip
CODES = tuple(dict.fromkeys(network.code for network in NETWORKS))

# What of a run's network leaves no trace in its weights and was always so in the released codes; options that matter in
# training alone are free.
RELEASED_TRAINING = {"hrnet_upsampling": "bilinear", "normalization": "imagenet"}
FREE_OPTIONS = {"att_drop_path", "dropout", "own_share"}
SHOWN_OPTIONS = {"head", "width"}  # by the names and shapes of the file
# Of timm's names: others, resnetblur18 for one, have the same tensors and compute something else.
BACKBONES = re.compile(r"resnet\d+|hrnet_w\d+(_small(_v2)?)?")
# Neither heads nor the depths that are taken leave a trace in a ViT's weights, and InvPT's code has ViT-L alone.
VITS = re.compile(r"vit_large_patch16_(224|384)")


def find_network(file: Checkpoint, code: str | None = None) -> Network:
    """The network that the file's names are of, among those of `code`. Raises DataError where they are of none."""
    for network in NETWORKS:
        if code in (None, network.code) and _has(file.tensors, network.signature):
            return network
    wanted = code or f"any of the codes {', '.join(CODES)}"
    shown = ", ".join(list(file.tensors)[:3]) or "none"
    raise DataError(f"{file.path}: its names ({shown}, ...) are not those of {wanted}; docs/adopt.md says what fits")


def rules_for(file: Checkpoint, network: Network, run: ResolvedRun, own: nn.Module) -> Rules:
    """The rules that make the file's network the run's. own: the run's network.

    Raises ParamsError for a run that describes another network, DataError for a file that none of ours can hold.
    """
    what = f"{file.path} as run {run.name}"
    if network.rules is None:
        raise DataError(f"{what}: {network.refused}")
    if run.architecture != network.architecture:
        raise ParamsError(
            f"{what}: its names are those of {network.architecture} in the code of {network.code}, the run's "
            f"architecture is {run.architecture}; set it to {network.architecture}"
        )
    order = _order(file, network, run)
    if problems := [*_task_problems(network, run, order), *_problems(file, network, run)]:
        raise ParamsError(f"{what}: {'; '.join(problems)}")
    maps = own.backbone
    assert isinstance(maps, Backbone)
    rules = network.rules(Adopting(file, run, maps, order, what))
    return replace(rules, notes=(*rules.notes, *_order_notes(file, network, order)))


def _has(tensors: Iterable[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in tensors)


def _order(file: Checkpoint, network: Network, run: ResolvedRun) -> tuple[str, ...]:
    """The tasks of the file in the order of its network."""
    if not network.tasks:
        return run.all_tasks
    order = _named(file, network.filled) if network.filled and file.ordered else network.order
    return tuple(sorted(_named(file, network.tasks), key=lambda task: (*order, task).index(task)))


def _order_notes(file: Checkpoint, network: Network, order: tuple[str, ...]) -> Iterator[str]:
    """Names in another order than the released code and old torch leave: in a code that somebody changed, perhaps."""
    named = _named(file, network.tasks) if network.tasks else order
    if file.ordered and named not in (order, tuple(sorted(order))):
        yield (
            f"its names go {', '.join(named)}, and its channels are taken in the released order, {', '.join(order)}: a "
            "code that was changed may have them otherwise, and then the scores are far too low"
        )


def _named(file: Checkpoint, pattern: str) -> tuple[str, ...]:
    """The tasks that a pattern of names finds, as they stand in the file."""
    matches = (re.fullmatch(pattern, name) for name in file.tensors)
    return tuple(dict.fromkeys(match[1] for match in matches if match))


def _task_problems(network: Network, run: ResolvedRun, order: Sequence[str]) -> Iterator[str]:
    if set(order) != set(run.all_tasks):
        yield f"its tasks are {', '.join(order)}, the run's {', '.join(run.all_tasks)}; give the run those"
    if run.auxiliary_tasks and not network.auxiliary:
        yield "there are no auxiliary tasks in the released network; make them tasks"


def _problems(file: Checkpoint, network: Network, run: ResolvedRun) -> Iterator[str]:
    """Values by which the same weights would be another function than in the released code."""
    recipe = run.training
    for key, released in RELEASED_TRAINING.items():
        if getattr(recipe, key) != released:
            yield f"training.{key} is {getattr(recipe, key)}, {released} in the released code; set it so"
    allowed, named = (
        (VITS, "the released code has vit_large_patch16_384")
        if network.vit
        else (BACKBONES, "the released codes have resnet<depth>, hrnet_w<width> and its _small and _small_v2")
    )
    if not allowed.fullmatch(recipe.backbone.partition(".")[0]):
        yield (
            f"training.backbone is {recipe.backbone}; {named}, and another one may compute something else of the same "
            "tensors; set it so"
        )
    for option, choices in names.ARCHITECTURE_OPTIONS[run.architecture].items():
        value, theirs = run.options.get(option, choices[0]), network.options.get(option, choices[0])
        if option not in FREE_OPTIONS | SHOWN_OPTIONS and value != theirs:
            yield f"options.{option} is {_text(value)}, {_text(theirs)} in the released code; set it so"
    if network.vit:
        yield from invpt.problems(file, run)
    deeplab = any(".0.convs.0." in name for name in file.tensors)
    if "head" in names.ARCHITECTURE_OPTIONS[run.architecture]:
        head, stride = ("aspp", 8) if deeplab else ("multi_scale", 32)
        if run.options.get("head", "multi_scale") != head:
            yield f"its head is DeepLab's or HRNet's as options.head: {head} says; set it so"
        if recipe.output_stride != stride:
            yield f"training.output_stride is {recipe.output_stride}, {stride} with such a head; set it so"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
