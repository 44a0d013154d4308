"""Published results, to set beside ours, each with its source and with what keeps it from being compared.

Headline metrics only. The paper's own result tables could not be obtained, so no number of theirs is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline import published_balancing as balancing
from pipeline.datasets.store import DatasetInfo
from pipeline.params import Evaluation, Training

HRNET18 = "hrnet_w18_small_v2"

_JEONG = "Jeong & Yoon, CVPR 2024, table 1 (3 seeds)"
_OLD_DEPTH = "RMSE averaged over images, ASTMT's data"
_ODSF = "edge: another implementation of odsF"


@dataclass(frozen=True)
class Published:
    """One published row. scores: headline metric by task. delta_m: against its own authors' baselines.

    apart: why even a run of ours with the published recipe does not compare with it; empty where it does.
    but: what of a comparable row does not compare.
    """

    method: str
    scores: dict[str, float]
    source: str
    delta_m: float | None = None
    backbone: str = "HRNet-18"
    apart: str = ""
    but: str = ""


@dataclass(frozen=True)
class Setting:
    """What the rows of a dataset have in common, and ours must have to be compared with them.

    network: that of all rows, where it is none of ours, so that nothing compares.
    """

    input_size: tuple[int, int]
    epochs: int
    rows: tuple[Published, ...] = field(default=())
    network: str = ""


SETTINGS = {
    "nyud": Setting(
        (480, 640),
        100,
        (
            Published("single task", {"semseg": 33.18, "depth": 0.667, "normals": 20.75}, _JEONG, 0.0),
            Published(
                "MTI-Net, edge auxiliary", {"semseg": 38.67, "depth": 0.594, "normals": 20.52}, _JEONG, delta_m=9.53
            ),
            Published(
                "multi-task baseline", {"semseg": 36.35, "depth": 0.6248, "normals": 21.02}, "authors of ATRC (5 seeds)"
            ),
            Published("DeMT", {"semseg": 39.18, "depth": 0.5922, "normals": 20.21}, "DeMT repository"),
            *(
                Published(method, {"semseg": semseg, "depth": depth}, "MTI-Net repository", delta, apart=_OLD_DEPTH)
                for method, semseg, depth, delta in (
                    ("single task", 34.5, 0.610, 0.0),
                    ("multi-task baseline", 33.9, 0.610, -0.75),
                    ("PAD-Net", 35.4, 0.614, 1.13),
                    ("MTI-Net", 36.2, 0.563, 6.36),
                )
            ),
            Published("M2H", {"semseg": 61.54, "depth": 0.4196}, "M2H", backbone="DINOv2", apart="backbone"),
        ),
    ),
    "pascal_context": Setting(
        (512, 512),
        60,
        (
            *(
                Published(
                    method,
                    dict(zip(("semseg", "human_parts", "sal", "normals", "edge"), scores, strict=True)),
                    "MTI-Net repository",
                    delta,
                    but=_ODSF,
                )
                for method, scores, delta in (
                    ("single task", (59.4, 60.3, 67.0, 14.6, 69.2), 0.0),
                    ("multi-task baseline", (55.4, 59.4, 65.4, 15.0, 71.6), -1.98),
                    ("MTI-Net", (62.8, 62.2, 67.4, 14.8, 73.0), 2.72),
                )
            ),
            Published(
                "single task",
                {"semseg": 60.30, "human_parts": 60.56, "sal": 67.05, "normals": 14.76},
                "Jeong & Yoon, CVPR 2024 (3 seeds)",
                0.0,
            ),
            Published(
                "MTI-Net",
                {"semseg": 62.17, "human_parts": 61.15, "sal": 67.99, "normals": 14.70},
                "Jeong & Yoon, CVPR 2024 (3 seeds)",
                1.47,
            ),
            Published(
                "PRISM", {"semseg": 84.34, "human_parts": 77.83}, "PRISM", backbone="ViT-L", apart="backbone"
            ),
        ),
    ),
    "nyuv2_288": Setting(
        (288, 384),
        200,
        tuple(
            Published(
                method,
                {"semseg": semseg, "normals": normals},
                balancing.SOURCE,
                backbone=balancing.NETWORK,
                apart=f"{balancing.CAVEAT}; depth: no RMSE, absolute error {depth:.2f} m",
            )
            for method, (semseg, depth, normals) in balancing.NYUV2.items()
        ),
        balancing.NETWORK,
    ),
    "cityscapes_128": Setting(
        (128, 256),
        200,
        tuple(
            Published(
                method,
                {"semseg": semseg, "disparity": disparity},
                balancing.SOURCE,
                backbone=balancing.NETWORK,
                apart=f"{balancing.CAVEAT}; zoom divides disparity",
            )
            for method, (semseg, disparity) in balancing.CITYSCAPES.items()
        ),
        balancing.NETWORK,
    ),
}  # fmt: skip


def obstacles(recipe: Training, evaluation: Evaluation, info: DatasetInfo) -> Iterator[str]:
    """What keeps a run with this recipe, on this data, from being compared with published rows."""
    setting = SETTINGS[info.dataset]
    if not info.published:
        counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
        yield f"not the whole published dataset, but {counts} samples"
    if setting.network:
        yield f"{recipe.backbone}, where all rows have {setting.network}"
        return
    if recipe.backbone != HRNET18:
        yield f"backbone {recipe.backbone} instead of {HRNET18}"
    if recipe.pretrained is False:
        yield "random initialisation instead of ImageNet weights"
    if recipe.input_size != setting.input_size:
        yield "input of {}x{} instead of {}x{}".format(*recipe.input_size, *setting.input_size)
    if recipe.epochs < setting.epochs:
        yield f"{recipe.epochs} epochs instead of {setting.epochs}"
    if evaluation.select_on:
        yield "a tenth of the training split was kept out to choose the epoch"
