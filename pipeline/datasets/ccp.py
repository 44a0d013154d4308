"""CCP, clothing co-parsing: 1004 street photographs with the outline of every garment.

Yang, Luo, Lin: Clothing Co-Parsing by Joint Image Segmentation and Labeling, CVPR 2014. The photographs
belong to their authors. Inside the archive: `photos/<id>.jpg`; `annotations/pixel-level/<id>.mat`
(`groundtruth`, (H, W) uint8, 0..58); `label_list.mat` (`label_list`, the 59 names in index order).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample
from pipeline.datasets.files import read_mat, read_photo
from pipeline.datasets.spec import Dataset
from pipeline.params.schema import Data

SAMPLES = 1004  # photographs with pixel-level labels
VAL_EVERY = 5  # there is no official split: every 5th id is held out

_LABELS = "annotations/pixel-level"

# The 8 classes of human_parts in index order, each with all of the CCP labels that belong to it. Judged by
# name; where that can mean two things, by the photos: a jumper is a sweater there, a bodysuit a jumpsuit.
PART_LABELS: dict[str, tuple[str, ...]] = {
    "background": ("null",),
    "hair": ("hair",),
    "skin": ("skin",),
    "upper clothes": (
        *("blazer", "blouse", "bra", "cape", "cardigan", "coat", "hoodie", "intimate", "jacket", "jumper"),
        *("shirt", "sweater", "sweatshirt", "t-shirt", "top", "vest"),
    ),
    "lower clothes": ("jeans", "leggings", "panties", "pants", "shorts", "skirt", "stockings", "tights"),
    "full body": ("bodysuit", "dress", "romper", "suit", "swimwear"),
    "footwear": (
        *("boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers", "socks"),
        "wedges",
    ),
    "accessories": (
        *("accessories", "bag", "belt", "bracelet", "earrings", "glasses", "gloves", "hat", "necklace"),
        *("purse", "ring", "scarf", "sunglasses", "tie", "wallet", "watch"),
    ),
}
PARTS = tuple(PART_LABELS)
_PART_OF = {label: index for index, part in enumerate(PARTS) for label in PART_LABELS[part]}


def splits(raw: Path, params: Data) -> dict[str, Sequence[str]]:
    """Ids of train and val. Raises DataError unless all labelled photographs are there."""
    ids = sorted(path.stem for path in (raw / _LABELS).glob("*.mat"))
    if len(ids) != SAMPLES:
        raise DataError(f"ccp: {len(ids)} label files in {_LABELS} instead of {SAMPLES}: run `dvc repro -f download`")
    val = ids[VAL_EVERY - 1 :: VAL_EVERY]
    held_out = set(val)
    return {"train": [sample_id for sample_id in ids if sample_id not in held_out], "val": val}


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One photograph with its human_parts, sal and edge labels; every pixel is valid. Raises DataError."""
    labels = _label_map(raw / _LABELS / f"{sample_id}.mat")
    part_of = _part_table(raw / "label_list.mat")
    if labels.max() >= len(part_of):
        last = len(part_of) - 1
        raise DataError(f"ccp: {sample_id} holds label {labels.max()}, but label_list.mat names 0 to {last}")
    valid = np.ones(labels.shape, dtype=bool)
    values = {
        "human_parts": part_of[labels],
        "sal": (labels != 0).astype(np.uint8),
        "edge": label_boundaries(labels),
    }
    photo = read_photo(raw / "photos" / f"{sample_id}.jpg")
    return Sample(sample_id, photo, {task: Label(value, valid) for task, value in values.items()})


def label_boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) class map -> (H, W) uint8: 1 where a pixel differs from its right or its lower neighbour.

    The boundary is one pixel thick and lies on the upper or left side of each change.
    """
    edge = np.zeros(labels.shape, dtype=np.uint8)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def part_table(names: Sequence[str]) -> np.ndarray:
    """Names in CCP's index order -> (len(names),) uint8 indices into PARTS; DataError for an unknown name."""
    unknown = sorted(set(names) - set(_PART_OF))
    if unknown:
        raise DataError(f"ccp: label_list.mat names {', '.join(unknown)}, which no human part is assigned to")
    if names[0] != "null":
        raise DataError(f"ccp: label 0 of label_list.mat is {names[0]!r} instead of 'null'")
    return np.array([_PART_OF[name] for name in names], dtype=np.uint8)


@lru_cache(maxsize=1)
def _part_table(path: Path) -> np.ndarray:
    return part_table([str(name.item()) for name in read_mat(path, "label_list").ravel()])


def _label_map(path: Path) -> np.ndarray:
    labels = read_mat(path, "groundtruth")
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"ccp: {path.name} holds {labels.dtype} {labels.shape} instead of uint8 (H, W)")
    return labels


CCP = Dataset(
    name="ccp",
    classes={"human_parts": PARTS},
    tasks=("human_parts", "sal", "edge"),
    edge_max_dist=0.0075,
    splits=splits,
    read=read,
)
