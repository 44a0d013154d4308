"""PASCAL-Context for multi-task learning: photographs of PASCAL VOC 2010 with labels from several sources.

`LabelMap`: Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014.
Bodies, PASCAL-Part: Chen et al., Detect What You Can, CVPR 2014. The selection, with normals and saliency as networks
saw them: Maninis, Radosavovic, Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR 2019. In the archive:

    JPEGImages/<id>.jpg                 the photograph; labels have its size
    ImageSets/Context/<split>.txt       ids, one a line
    semseg/VOC12/<id>.png               0..20, 255 void, with a palette; where there is none,
    semseg/pascal-context/<id>.png      the same, from PASCAL-Context
    human_parts/<id>.mat                struct `anno`: objects with class_ind and parts, parts with part_name and mask
    sal_distill/<id>.png                0..255, salient above one half
    normals_distill/<id>.png            RGB, n = 2 v / 255 - 1
    pascal-context/trainval/<id>.mat    `LabelMap`, ids up to 459: where normals count, and the edges
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample
from pipeline.datasets.checks import check_classes
from pipeline.datasets.files import Size, read_ids, read_mat, read_photo, read_png, shown
from pipeline.datasets.spec import Dataset
from pipeline.params.schema import Data

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOID = 255
PERSON = CLASSES.index("person")

# The classes of human_parts in index order, each with the parts of PASCAL-Part that belong to it.
PART_NAMES: dict[str, tuple[str, ...]] = {
    "background": (),
    "head": ("hair", "head", "lear", "rear", "leye", "reye", "lebrow", "rebrow", "mouth", "nose"),
    "torso": ("neck", "torso"),
    "upper arm": ("luarm", "ruarm"),
    "lower arm": ("llarm", "rlarm", "lhand", "rhand"),
    "upper leg": ("luleg", "ruleg"),
    "lower leg": ("llleg", "rlleg", "lfoot", "rfoot"),
}
PARTS = tuple(PART_NAMES)
_PART_OF = {name: index for index, part in enumerate(PARTS) for name in PART_NAMES[part]}

LAST_ID = 459
# Ids of `LabelMap` whose normals count: classes that occur indoors, where the network behind normals_distill learnt.
_IDS = (
    "3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51 53 55 56 59 61 62 65 66 68 69 72 73 78 "
    "83 84 85 87 88 95 96 101 104 105 107 111 113 115 122 124 135 141 142 143 146 150 154 157 158 159 165 172 174 181 "
    "183 184 191 193 195 197 199 202 213 215 216 219 220 223 225 228 230 232 233 238 239 242 243 246 250 251 252 255 "
    "260 261 263 269 272 273 275 281 283 284 285 286 287 288 290 291 292 293 295 304 307 309 310 314 315 319 323 329 "
    "330 331 336 342 345 349 350 351 352 355 357 368 370 371 374 379 380 383 384 397 401 403 405 407 408 411 412 413 "
    "414 417 419 421 423 427 429 430 432 440 441 442 443 444 446 454 457"
)
NORMALS_IDS = tuple(int(number) for number in _IDS.split())
_HAS_NORMALS = np.isin(np.arange(LAST_ID + 1), NORMALS_IDS)
_SHORTEST = 0.1  # a normal shorter than that says nothing about a direction


def splits(raw: Path, params: Data) -> dict[str, Sequence[str]]:
    """The ids that ImageSets/Context lists. Raises DataError for a list that is missing, empty or names an id twice."""
    return {split: read_ids(raw / "ImageSets" / "Context" / f"{split}.txt") for split in ("train", "val")}


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One photograph with the labels of `params.tasks`; no other file is opened, none is written.

    Raises DataError naming the file that is missing or wrong.
    """
    photo = read_photo(raw / "JPEGImages" / f"{sample_id}.jpg")
    files = _Files(raw, sample_id, photo.shape[:2])
    return Sample(sample_id, photo, {task: _LABELS[task](files) for task in params.tasks})


@dataclass(frozen=True)
class _Files:
    """Where one image's labels lie, and their size."""

    raw: Path
    id: str
    size: Size

    def path(self, folder: str, suffix: str) -> Path:
        return self.raw / folder / f"{self.id}{suffix}"

    @cached_property
    def label_map(self) -> np.ndarray:
        """`LabelMap`, (H, W) int32 in 0..459; read once for the two tasks that need it."""
        path = self.path("pascal-context/trainval", ".mat")
        labels = read_mat(path, "LabelMap")
        _require_size(labels, self.size, path, "its LabelMap")
        if labels.dtype.kind not in "uif" or not np.isin(labels, np.arange(LAST_ID + 1)).all():
            raise DataError(f"{shown(path)} holds a LabelMap that is not made of class ids, 0 to {LAST_ID}")
        return labels.astype(np.int32)


# -- one function a task: files -> Label ---------------------------------------------------------------------


def _semseg(files: _Files) -> Label:
    candidates = [files.path(folder, ".png") for folder in ("semseg/VOC12", "semseg/pascal-context")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(f"neither semseg/VOC12 nor semseg/pascal-context holds {files.id}.png")
    codes = read_png(path, files.size)
    valid = codes != VOID
    check_classes(codes, valid, len(CLASSES), path)
    return Label(np.where(valid, codes, np.uint8(0)), valid)


def _sal(files: _Files) -> Label:
    return _everywhere(read_png(files.path("sal_distill", ".png"), files.size) > 127)


def _normals(files: _Files) -> Label:
    """The stored codes with y turned up, as `Label` has it.

    Nothing published says on which axes they are. The released augmentation turns them as vectors of x right and y
    down, so that is taken for what they are: rotation here then does to the stored vectors what it does there. No score
    depends on it, nor does a flip.
    """
    codes = read_png(files.path("normals_distill", ".png"), files.size, channels=3).copy()
    x, y, z = np.moveaxis(2 * codes.astype(np.int32) - 255, -1, 0)
    codes[..., 1] = 255 - codes[..., 1]
    return Label(codes, _HAS_NORMALS[files.label_map] & (x * x + y * y + z * z >= (255 * _SHORTEST) ** 2))


def _edge(files: _Files) -> Label:
    """The thinned pixels where the Laplacian of `LabelMap` (4 neighbours, mirrored at the border) is not zero.

    Taken literally, as the field does: where ids differ by amounts that cancel, such as 1, 2, 3 in a row, it has a gap.
    """
    from pipeline.metrics.thinning import thin  # here: it imports Numba, which no other label needs

    return _everywhere(thin(cv2.Laplacian(files.label_map.astype(np.float64), cv2.CV_64F, ksize=1) != 0))


def _everywhere(mask: np.ndarray) -> Label:
    return Label(mask.astype(np.uint8), np.ones(mask.shape, bool))


def _human_parts(files: _Files) -> Label:
    """Parts of all people, painted in the file's order, later ones over earlier ones.

    Without a person no pixel is valid. People whose parts nobody marked count as none: to call them background would be
    wrong, and the field leaves images with only such people out. Beside others they are background, as in the field.
    """
    path = files.path("human_parts", ".mat")
    label, peopled = np.zeros(files.size, np.uint8), False
    for name, mask in _parts_of_people(path):
        if not isinstance(name, str) or name not in _PART_OF:
            raise DataError(f"{shown(path)} names {name!r} as a person's part, expected one of {', '.join(_PART_OF)}")
        _require_size(mask, files.size, path, f"the mask of {name}")
        label[mask != 0] = _PART_OF[name]
        peopled = True
    return Label(label, np.full(files.size, peopled))


def _parts_of_people(path: Path) -> Iterator[tuple[float | str, np.ndarray]]:
    """part_name and mask of every part of every person in a file of PASCAL-Part, in its order."""
    anno = read_mat(path, "anno")
    if anno.size != 1:
        raise DataError(f"{shown(path)} holds an anno of shape {anno.shape}, expected one struct")
    [root] = _structs(anno, "anno", path)
    for each in _structs(_field(root, "objects", path), "objects", path):
        if _scalar(each, "class_ind", path) == PERSON:
            for part in _structs(_field(each, "parts", path), "parts", path):
                yield _scalar(part, "part_name", path), _field(part, "mask", path)


# -- MATLAB structs, as scipy.io.loadmat gives them: record arrays of any shape, whose fields are arrays -----


def _structs(array: np.ndarray, what: str, path: Path) -> list[np.void]:
    """The elements of a struct array, be it 1x1, 1xN or Nx1; MATLAB's empty [] has none."""
    if array.size and not array.dtype.names:
        raise DataError(f"{shown(path)} holds {what} that is not a struct: expected anno.objects.parts of PASCAL-Part")
    return list(array.ravel()) if array.size else []


def _field(struct: np.void, name: str, path: Path) -> np.ndarray:
    names = struct.dtype.names or ()
    if name not in names:
        raise DataError(f"{shown(path)} holds a struct with {', '.join(names)} but without {name}")
    return struct[name]


def _scalar(struct: np.void, name: str, path: Path) -> float | str:
    value = _field(struct, name, path)
    if value.size != 1 or value.dtype.kind == "O":
        raise DataError(f"{shown(path)} holds a {name} of {value.dtype} {value.shape}, expected one value")
    return value.item()


def _require_size(array: np.ndarray, size: Size, path: Path, what: str) -> None:
    if array.shape != size:
        found = "x".join(map(str, array.shape))
        raise DataError(f"{shown(path)}: {what} is {found}, the photograph {size[0]}x{size[1]}")


_LABELS: dict[str, Callable[[_Files], Label]] = {
    "semseg": _semseg,
    "human_parts": _human_parts,
    "sal": _sal,
    "normals": _normals,
    "edge": _edge,
}

PASCAL_CONTEXT = Dataset(
    name="pascal_context",
    classes={"semseg": CLASSES, "human_parts": PARTS},
    tasks=tuple(_LABELS),
    edge_max_dist=0.0075,
    splits=splits,
    read=read,
    published={"train": 4998, "val": 5105},
)
