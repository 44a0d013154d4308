"""Cityscapes as the balancing literature has it: MTAN's arrays of 128x256, 7 classes and disparity.

Cordts et al., CVPR 2016. The classes are the dataset's own categories without void, in its order.
What the literature calls depth here is not: the authors of the arrays say that it is the official disparity (issues 15
and 25 of lorenmt/mtan), and users of it found values from 0 to 0.4922: what the official 16-bit code, at most 32257,
gives when divided by 65535. It has no metres, and near is large: the task is `disparity`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.sample import Sample
from pipeline.datasets.numbered import Numbered, list_splits, read_numbered
from pipeline.datasets.spec import Dataset
from pipeline.params.schema import Data

CLASSES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")

# The archive has class maps of 2, 7 and 19 classes. LibMTL reads `label`, CAGrad and its successors `label_7`.
_LAYOUT = Numbered(size=(128, 256), classes=CLASSES, labels=("label_7", "label"))


def splits(raw: Path, params: Data) -> dict[str, list[str]]:
    """The numbered images of each split. Raises DataError where a number is missing."""
    return list_splits(raw)


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One frame with the labels of `params.tasks`. Raises DataError naming the file that is missing or wrong."""
    return read_numbered(_LAYOUT, raw, split, sample_id, params.tasks)


CITYSCAPES_128 = Dataset(
    name="cityscapes_128",
    classes={"semseg": CLASSES},
    tasks=("semseg", "disparity"),
    edge_max_dist=0.0075,  # it has no edges
    splits=splits,
    read=read,
    published={"train": 2975, "val": 500},
)
