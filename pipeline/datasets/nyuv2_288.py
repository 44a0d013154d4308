"""NYUv2 as the balancing literature has it: MTAN's arrays of 288x384, 13 classes, depth in metres, normals.

The frames and the split are those of `nyud`, but nothing else: there they are 480x640 with 40 classes, edges and other
normals, so no score of one compares with the other. The 13 classes are those of Couprie et al., ICLR 2013, in the order
of the label files that MTAN's README refers to; MTAN itself names none. Its normals are Eigen and Fergus's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets.archive import Archive
from pipeline.datasets.numbered import Numbered, list_splits, read_numbered
from pipeline.datasets.sample import Sample
from pipeline.datasets.spec import Dataset
from pipeline.params import Data

CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table"),
    *("television", "wall", "window"),
)

_LAYOUT = Numbered(size=(288, 384), classes=CLASSES)


def splits(raw: Path, params: Data) -> dict[str, Sequence[str]]:
    """The numbered images of each split. Raises DataError where a number is missing."""
    return list_splits(raw)


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One frame with the labels of `params.tasks`. Raises DataError naming the file that is missing or wrong."""
    return read_numbered(_LAYOUT, raw, split, sample_id, params.tasks)


NYUV2_288 = Dataset(
    name="nyuv2_288",
    classes={"semseg": CLASSES},
    tasks=("semseg", "depth", "normals"),
    edge_max_dist=0.011,  # it has no edges
    archive=Archive(
        file_name="nyuv2.zip",
        sources=(),
        sha256=None,  # none was published
        size=None,
        marker=tuple(
            f"{split}/{kind}/0.npy" for split in ("train", "val") for kind in ("image", "label", "depth", "normal")
        ),
        aliases=("nyuv2",),
        kept_at="a Dropbox folder that the README of the repository lorenmt/mtan links to as `NYUv2`",
    ),
    splits=splits,
    read=read,
    published={"train": 795, "val": 654},
)
