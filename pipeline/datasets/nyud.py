"""NYUD-v2: 1449 frames of indoor video with depth, in the archive that MTI-Net and its successors use.

Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; the 40 classes
are those of Gupta, Arbelaez, Malik, CVPR 2013. Archives of the same name by other authors hold other normals and edges.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.sample import Sample
from pipeline.datasets.layout import Layout, read_sample, read_splits
from pipeline.datasets.spec import Dataset
from pipeline.params.schema import Data

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat"),
    *("clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box"),
    *("whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("otherstructure", "otherfurniture", "otherprop"),
)

# Nothing published says on which axes the archive's normals are. In the five frames at hand, whose normals somebody
# computed from depth, they are x right, y down, z away from the camera: normals recomputed from depth (focal length
# 519 px) agree with them to 3 degrees (median) after a half turn about x, and floors then point up. So that turn is
# made wherever normals point away from the camera; those that face it are taken as they are. Both ways x is right, all
# that a flip needs, and a half turn of labels and predictions alike moves no score: should the full archive have other
# axes, only pictures and augmentation by rotation, which the recipe for NYUD does without, would be wrong.
_LAYOUT = Layout(classes={"semseg": CLASSES}, ignore={"semseg": 0}, normals_axes=None)


def splits(raw: Path, params: Data) -> dict[str, list[str]]:
    """The ids that gt_sets lists. Raises DataError for a list that is missing, empty or names an id twice."""
    return read_splits(_LAYOUT, raw)


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One frame with the labels of `params.tasks`. Raises DataError naming the file that is missing or wrong."""
    return read_sample(_LAYOUT, raw, sample_id, params.tasks)


NYUD = Dataset(
    name="nyud",
    classes={"semseg": CLASSES},
    tasks=("semseg", "depth", "normals", "edge"),
    edge_max_dist=0.011,
    splits=splits,
    read=read,
    published={"train": 795, "val": 654},
)
