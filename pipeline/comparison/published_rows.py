"""Published results, each with its source and with what keeps it from being compared: data alone.

Primary metrics only. The paper's own result tables could not be obtained, so no number of theirs is here.
"""

from __future__ import annotations

from pipeline.comparison import published_balancing as balancing
from pipeline.comparison.published_setting import Published, Setting

_JEONG = "Jeong & Yoon, CVPR 2024 (3 seeds)"
_MTI_NET = "MTI-Net repository"
_OLD_DEPTH = "RMSE averaged over images, ASTMT's data"
_ODSF = "edge: another implementation of odsF"


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
