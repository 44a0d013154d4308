"""Published results, to set beside ours, each with its source and with what keeps it from being compared.

Primary metric metrics only. The paper's own result tables could not be obtained, so no number of theirs is here.

A recipe is a mapping of values of params' `training` section, augmentation key by key: how published networks were
trained. `Setting.recipe` knows it for each network; a run of ours, and a row of other authors, is comparable when it
was trained by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.comparison import published_balancing as balancing
from pipeline.core import names
from pipeline.data.store import DatasetInfo
from pipeline.params.schema import Evaluation, ResolvedRun

Recipe = Mapping[str, Any]

HRNET18 = "hrnet_w18_small_v2"
IMAGENET = "ms_in1k"  # Microsoft's hrnet_w18_small_model_v2.pth, which the released codes start from
DEFAULT_TAG = "gluon_in1k"  # what timm takes for a name without a tag

PROTOCOL = (
    "Scored as published, but for what follows. A class map is brought to the label's size by the pixel that its "
    "centre falls on; released codes take the one at its corner, half a pixel off. An image that shrinks is averaged "
    "over the area of each new pixel; released codes sample it (cubic, as ours where it grows). In training, pixels "
    "that a rotation or a zoom brings in from outside carry no label; in released code for PASCAL-Context they are "
    "class 0, no edge and not salient. Predictions are not rounded to 8 bits before they are scored. Scores are of the "
    "last weights. odsF comes from an implementation of our own, without MATLAB."
)

_JEONG = "Jeong & Yoon, CVPR 2024 (3 seeds)"
_MTI_NET = "MTI-Net repository"
_OLD_DEPTH = "RMSE averaged over images, ASTMT's data"
_ODSF = "edge: another implementation of odsF"


@dataclass(frozen=True)
class Published:
    """One published row. scores: primary metric by task. delta_m: against its own authors' baselines.

    architecture: what ours is called; None for a network that isn't here. auxiliary_tasks: trained, not scored.
    recipe: what is known to differ from the setting's; None: nobody says how it was trained.
    apart: what keeps even a network of the same recipe from being compared with it, and no training value expresses.
    but: what of a comparable row does not compare.
    """

    method: str
    architecture: str | None
    scores: dict[str, float]
    source: str
    delta_m: float | None = None
    auxiliary_tasks: tuple[str, ...] = ()
    backbone: str = "HRNet-18"
    recipe: Recipe | None = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    but: str = ""

    def verdict(self, setting: Setting) -> str:
        """Whether it has the setting that rows of a dataset must have in common, in words: yes, or no and why not."""
        if reasons := list(self.not_comparable_because(setting)):
            return f"no: {'; '.join(reasons)}"
        but = [self.but] if self.but else []
        but += ["how it was trained is not stated"] if self.recipe is None else []
        return ", but ".join(["yes", "; ".join(but)]) if but else "yes"

    def not_comparable_because(self, setting: Setting) -> Iterator[str]:
        """How its network and training differ from the published setting, a phrase each; none where they agree."""
        if self.backbone != (setting.network or "HRNet-18"):
            yield f"backbone {self.backbone} instead of HRNet-18"
        yield from self.apart
        if self.recipe:
            trained = frozenset((*self.scores, *self.auxiliary_tasks))
            yield from _differences(self.recipe, setting.recipe(self.architecture, trained))

    def is_of(self, run: ResolvedRun) -> bool:
        """Whether it is of the network of `run`, trained for the same tasks; a single task may be any of its own."""
        if self.architecture != run.architecture:
            return False
        if run.architecture == names.SINGLE_TASK:
            return run.tasks[0] in self.scores
        return set(self.scores) == set(run.tasks) and set(self.auxiliary_tasks) == set(run.auxiliary_tasks)


@dataclass(frozen=True)
class Setting:
    """What the rows of a dataset have in common, and ours must have to be compared with them.

    usual: the recipe of all networks but those of `special`, (architecture, tasks, what is different); tasks None: any.
    network: that of all rows, where it is none of ours, so that nothing compares.
    """

    usual: Recipe
    special: tuple[tuple[str, tuple[str, ...] | None, Recipe], ...]
    rows: tuple[Published, ...]
    network: str = ""

    def recipe(self, architecture: str | None, tasks: frozenset[str]) -> Recipe:
        """How networks of this architecture were trained for these tasks."""
        recipe = dict(self.usual)
        for name, only_for, different in self.special:
            if name == architecture and (only_for is None or set(only_for) == tasks):
                recipe |= different
        return recipe


_ADAM = {"optimizer": "adam", "lr": 1e-4, "batch_size": 8, "epochs": 100}
_COMMON = {
    **{"output_stride": 32, "weight_decay": 1e-4, "schedule": "poly", "power": 0.9, "normalization": "imagenet"},
    **{"deep_supervision": True, "accumulate": 1, "clip_norm": None},
    **{"hrnet_upsampling": "bilinear", "initialization": "released", "batch_norm_momentum": "released"},
}
_LIGHT = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}

# From the released configurations: MTI-Net's (with edges and normals as auxiliary tasks too), SCA's for its pair.
_NYUD_WEIGHTS = {"semseg": 1.0, "depth": 1.0, "normals": 10.0, "edge": 50.0}
_NYUD = {
    "input_size": (480, 640),
    **_COMMON,
    **_ADAM,
    "augmentation": {
        **{"flip": 0.5, "scale": (1.0, 1.2, 1.5), "scale_mode": "choice", "rotation": 0.0, "crop": "center"},
        **_LIGHT,
    },
    "task_weights": _NYUD_WEIGHTS,
}
_SCA_NYUD = {"batch_size": 10, "task_weights": _NYUD_WEIGHTS | {"semseg": 1.44, "depth": 1.15}}

# MTI-Net's (for three tasks: its configuration mti_net_small), SCA's for its pair.
_PASCAL = {
    "input_size": (512, 512),
    **_COMMON,
    **_ADAM,
    "augmentation": {
        **{"flip": 0.5, "scale": (0.75, 1.25), "scale_mode": "range", "rotation": 20.0, "crop": "center"},
        **_LIGHT,
    },
    "task_weights": {"semseg": 1.0, "human_parts": 2.0, "sal": 5.0, "normals": 10.0, "edge": 50.0},
}
_SGD = {"optimizer": "sgd", "lr": 1e-2, "momentum": 0.9, "epochs": 60}
_TRIO = ("semseg", "human_parts", "sal")
_PAIR = {"semseg": 1.1, "normals": 40.0}

# Authors of ATRC, and DeMT after them: 40,000 iterations of batch 8 are 400 epochs.
_ATRC = {
    **{"input_size": (425, 560), "optimizer": "sgd", "lr": 1e-2, "epochs": 400},
    "augmentation": {"scale": (0.5, 2.0), "scale_mode": "range", "crop": "random"},
}
_COLOUR = ("colours changed in training",)

SETTINGS = {
    "nyud": Setting(
        _NYUD,
        (("sequential_attention", None, _SCA_NYUD),),
        (
            Published(
                "single task",
                "single_task",
                {"semseg": 33.18, "depth": 0.667, "normals": 20.75},
                f"{_JEONG}, table 1",
                0.0,
                recipe=None,
            ),
            Published(
                "MTI-Net, edge auxiliary",
                "mti_net",
                {"semseg": 38.67, "depth": 0.594, "normals": 20.52},
                f"{_JEONG}, table 1",
                9.53,
                auxiliary_tasks=("edge",),
                recipe=None,
            ),
            Published(
                "multi-task baseline",
                "multi_task",
                {"semseg": 36.35, "depth": 0.6248, "normals": 21.02},
                "authors of ATRC (5 seeds)",
                recipe=_ATRC,
                apart=_COLOUR,
            ),
            Published(
                "DeMT",
                None,
                {"semseg": 39.18, "depth": 0.5922, "normals": 20.21},
                "DeMT repository",
                recipe=_ATRC,
                apart=_COLOUR,
            ),
            *(
                Published(
                    method, architecture, {"semseg": semseg, "depth": depth}, _MTI_NET, delta, apart=(_OLD_DEPTH,)
                )
                for method, architecture, semseg, depth, delta in (
                    ("single task", "single_task", 34.5, 0.610, 0.0),
                    ("multi-task baseline", "multi_task", 33.9, 0.610, -0.75),
                    ("PAD-Net", "pad_net", 35.4, 0.614, 1.13),
                    ("MTI-Net", "mti_net", 36.2, 0.563, 6.36),
                )
            ),
            Published("M2H", None, {"semseg": 61.54, "depth": 0.4196}, "M2H", backbone="DINOv2", recipe=None),
        ),
    ),
    "pascal_context": Setting(
        _PASCAL,
        (
            ("single_task", None, _SGD),
            ("mti_net", _TRIO, {"epochs": 80}),
            ("sequential_attention", None, {"batch_size": 16}),
            ("sequential_attention", tuple(_PAIR), {"task_weights": _PAIR}),
            ("sequential_attention", _TRIO, {"batch_size": 8, "epochs": 80}),
        ),
        (
            *(
                Published(
                    method,
                    architecture,
                    dict(zip(("semseg", "human_parts", "sal", "normals", "edge"), scores, strict=True)),
                    _MTI_NET,
                    delta,
                    but=_ODSF,
                )
                for method, architecture, scores, delta in (
                    ("single task", "single_task", (59.4, 60.3, 67.0, 14.6, 69.2), 0.0),
                    ("multi-task baseline", "multi_task", (55.4, 59.4, 65.4, 15.0, 71.6), -1.98),
                    ("MTI-Net", "mti_net", (62.8, 62.2, 67.4, 14.8, 73.0), 2.72),
                )
            ),
            *(
                Published(
                    method,
                    architecture,
                    dict(zip(("semseg", "human_parts", "sal", "normals"), scores, strict=True)),
                    _JEONG,
                    delta,
                    recipe=None,
                )
                for method, architecture, scores, delta in (
                    ("single task", "single_task", (60.30, 60.56, 67.05, 14.76), 0.0),
                    ("MTI-Net", "mti_net", (62.17, 61.15, 67.99, 14.70), 1.47),
                )
            ),
            Published(
                "PRISM", None, {"semseg": 84.34, "human_parts": 77.83}, "PRISM", backbone="ViT-L", recipe=None
            ),
        ),
    ),
    "nyuv2_288": Setting(
        {},
        (),
        tuple(
            Published(
                method,
                None,
                {"semseg": semseg, "normals": normals},
                balancing.SOURCE,
                backbone=balancing.NETWORK,
                recipe=None,
                apart=(balancing.CAVEAT, f"depth: no RMSE, absolute error {depth:.2f} m"),
            )
            for method, (semseg, depth, normals) in balancing.NYUV2.items()
        ),
        balancing.NETWORK,
    ),
    "cityscapes_128": Setting(
        {},
        (),
        tuple(
            Published(
                method,
                None,
                {"semseg": semseg, "disparity": disparity},
                balancing.SOURCE,
                backbone=balancing.NETWORK,
                recipe=None,
                apart=(balancing.CAVEAT, "zoom divides disparity"),
            )
            for method, (semseg, disparity) in balancing.CITYSCAPES.items()
        ),
        balancing.NETWORK,
    ),
}  # fmt: skip


def verdict(runs: Sequence[ResolvedRun], evaluation: Evaluation, info: DatasetInfo) -> str:
    """Whether these runs, a line of the report, compare with published rows: yes and with which, or no and why not."""
    setting = SETTINGS[info.dataset]
    reasons = dict.fromkeys(why for run in runs for why in not_comparable_because(run, evaluation, info))
    if reasons:
        return f"no: {'; '.join(reasons)}"
    comparable = [row for row in setting.rows if not list(row.not_comparable_because(setting))]
    same = [f"{row.method} of {row.source}" for row in comparable if any(row.is_of(run) for run in runs)]
    return f"yes: as {'; '.join(same)}" if same else "yes, but no such row is of this network and these tasks"


def not_comparable_because(run: ResolvedRun, evaluation: Evaluation, info: DatasetInfo) -> Iterator[str]:
    """What keeps a run, on this data, from being compared with published rows; nothing where it can be."""
    if not info.published:
        counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
        yield f"not the whole published dataset, but {counts} samples"
    if network := SETTINGS[info.dataset].network:
        yield f"{run.training.backbone}, where all rows have {network}"
        return
    yield from _other_start(run.training.backbone, run.training.pretrained)
    published = dict(SETTINGS[info.dataset].recipe(run.architecture, frozenset(run.all_tasks)))
    weights = published["task_weights"]
    published["task_weights"] = {task: weights[task] for task in run.loss_weights} if len(run.all_tasks) > 1 else {}
    yield from _differences(run.training.model_dump() | {"task_weights": run.loss_weights}, published)
    for option, value in run.options.items():
        released = names.ARCHITECTURE_OPTIONS[run.architecture][option][0]
        if value != released:
            yield f"{option} {_text(value)} instead of {_text(released)}"
    if evaluation.select_on:
        yield "a tenth of the training split was kept out to choose the epoch"


def _other_start(backbone: str, pretrained: bool | str) -> Iterator[str]:
    """What is not the published backbone with the published ImageNet weights."""
    model, _, tag = backbone.partition(".")
    if model != HRNET18:
        yield f"backbone {model} instead of {HRNET18}"
    if pretrained is False:
        yield "random initialisation instead of ImageNet weights"
    elif pretrained is not True:
        yield f"weights of a file ({pretrained}), whose origin is not known, instead of timm's {HRNET18}.{IMAGENET}"
    elif model == HRNET18 and tag != IMAGENET:
        named = tag or f"{DEFAULT_TAG}, which timm takes for a name without a tag,"
        yield f"ImageNet weights {named} instead of {IMAGENET}, with which the published networks began"


def _differences(ours: Recipe, published: Recipe, prefix: str = "") -> Iterator[str]:
    """Each value that both have and that is not the same."""
    for key, value in published.items():
        if key in ours and isinstance(value, Mapping):
            yield from _differences(ours[key], value, f"{prefix}{key}.")
        elif key in ours and ours[key] != value:
            yield f"{prefix}{key} {_text(ours[key])} instead of {_text(value)}"


def _text(value: object) -> str:
    """A value as params.yaml has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower().replace("none", "null")
