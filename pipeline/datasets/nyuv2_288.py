"""NYUv2 as the balancing literature has it: MTAN's arrays of 288x384, 13 classes, depth in metres, normals.

The frames and the split are those of `nyud`, but nothing else: there they are 480x640 with 40 classes, edges and other
normals, so no score of one compares with the other. The 13 classes are those of Couprie et al., ICLR 2013, in the order
of the label files that MTAN's README refers to; MTAN itself names none. Its normals are Eigen and Fergus's.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.sample import Sample
from pipeline.datasets.numbered import Numbered, list_splits, read_numbered
from pipeline.datasets.spec import Dataset
from pipeline.params.schema import Data

CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table"),
    *("television", "wall", "window"),
)

_LAYOUT = Numbered(size=(288, 384), classes=CLASSES)


def splits(raw: Path, params: Data) -> dict[str, list[str]]:
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
    splits=splits,
    read=read,
    published={"train": 795, "val": 654},
)
