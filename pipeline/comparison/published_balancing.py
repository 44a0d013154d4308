"""Rows of the balancing literature, on MTAN's NYUv2 and Cityscapes: data alone, shown by published_rows.py.

As printed, mean of three seeds, in tables 2 and 3 of Zhou, Liu, Zhao, Gong, "Injecting Imbalance Sensitivity for
Multi-Task Learning" (IMGrad), which repeats the rows of Nash-MTL (ICML 2022) and FAMO (NeurIPS 2023) in their setting:
MTAN's SegNet, 200 epochs of Adam at 1e-4, halved after 100. The released code of those two trains with batches of 2
(NYUv2) and 8 (Cityscapes), zoom and flip, averages errors of depth and normals over batches, and looks at the
validation split after each epoch; MTAN's protocol is the mean of the last ten. In Cityscapes a zoom divides the
disparity by its factor there, as if it were depth; here it multiplies.
Their Δm is a mean over all nine, or four, metrics and lower where better: another quantity than ours, so left out.
LibMTL's own tables, in figures, could not be read: no number of theirs is here.
"""

from __future__ import annotations

NETWORK = "MTAN's SegNet"
SOURCE = "IMGrad paper, tables 2 and 3 (3 seeds)"
CAVEAT = "another network; epochs on the val split averaged"

# method -> semseg mIoU %, absolute error of depth in metres, mean error of normals in degrees
NYUV2: dict[str, tuple[float, float, float]] = {
    "single task": (38.30, 0.68, 25.01),
    "equal weights": (39.29, 0.55, 28.15),
    "RLW": (37.17, 0.58, 28.27),
    "DWA": (39.11, 0.55, 27.61),
    "MGDA": (30.47, 0.61, 24.88),
    "GradDrop": (39.39, 0.55, 27.48),
    "PCGrad": (38.06, 0.56, 27.41),
    "CAGrad": (39.79, 0.55, 26.31),
    "IMTL": (39.35, 0.54, 26.02),
    "Nash-MTL": (40.13, 0.53, 25.26),
    "MoCo": (40.30, 0.56, 26.67),
    "FAMO": (38.88, 0.55, 25.06),
    "IMGrad": (40.20, 0.52, 25.15),
}

# method -> semseg mIoU %, absolute error of disparity ("depth" there)
CITYSCAPES: dict[str, tuple[float, float]] = {
    "single task": (74.01, 0.0125),
    "equal weights": (75.18, 0.0155),
    "RLW": (74.57, 0.0158),
    "DWA": (75.24, 0.0160),
    "MGDA": (68.84, 0.0309),
    "GradDrop": (75.27, 0.0157),
    "PCGrad": (75.13, 0.0154),
    "CAGrad": (75.16, 0.0141),
    "IMTL": (75.33, 0.0135),
    "Nash-MTL": (75.41, 0.0129),
    "MoCo": (75.42, 0.0149),
    "FAMO": (74.54, 0.0145),
    "IMGrad": (75.13, 0.0128),
}
