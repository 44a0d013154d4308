"""The layout of MTAN's archives, which LibMTL and the balancing literature read: numbered arrays, all of one size.

    train/image/<i>.npy       (H, W, 3) floats in 0..1
    train/label/<i>.npy       or label_7: (H, W) class from 0, -1 is unlabelled; whole numbers of any type
    train/depth/<i>.npy       (H, W, 1) or (H, W) floats, 0 is missing: metres, or disparity in 0..1
    train/normal/<i>.npy      (H, W, 3) unit vectors, 0 is missing
    val/...                   the same; i counts from 0 in each split

Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, and the readers of its repository and
of LibMTL. Neither says how the arrays were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample
from pipeline.datasets import checks, files
from pipeline.datasets.files import Size
from pipeline.datasets.layout import Layout, read_normals

SPLITS = ("train", "val")
UNLABELLED = -1
# Which way the third axis points is written nowhere; the readers negate the first one in a flip, so that is x.
_NORMALS = Layout(classes={}, normals_axes=None)


@dataclass(frozen=True)
class Numbered:
    """What the arrays of a dataset do not say: their size and their classes.

    labels: the folder of the class maps; the first one that there is.
    """

    size: Size
    classes: tuple[str, ...]
    labels: tuple[str, ...] = ("label",)


def list_splits(raw: Path) -> dict[str, list[str]]:
    """Split -> ids, `<split>_<i>`: the two splits have the same numbers.

    Raises DataError, naming a file, unless the images of each split are numbered from 0 without a gap.
    """
    return {split: [f"{split}_{i}" for i in range(_count(raw / split / "image"))] for split in SPLITS}


def _count(folder: Path) -> int:
    names = {path.name for path in folder.glob("*.npy") if not path.name.startswith(".")}
    wanted = [f"{i}.npy" for i in range(len(names))]
    where = "/".join(folder.parts[-2:])
    if not names:
        raise DataError(f"{where} holds no npy file; it needs 0.npy, 1.npy and so on")
    if missing := [name for name in wanted if name not in names]:
        other = min(names - set(wanted))
        raise DataError(
            f"{where} holds {len(names)} npy files, which must be 0.npy to {wanted[-1]}: {missing[0]} is missing, "
            f"{other} is too many"
        )
    return len(names)


def read_numbered(layout: Numbered, raw: Path, split: str, sample_id: str, tasks: Iterable[str]) -> Sample:
    """One image with the labels of `tasks`; no other file is opened. Raises DataError naming the file."""
    name = f"{sample_id.removeprefix(f'{split}_')}.npy"
    image = _image(layout, raw / split / "image" / name)
    labels = {}
    for task in tasks:
        folder, read = _KINDS[task]
        labels[task] = read(layout, raw / split / (folder or _label_folder(layout, raw / split)) / name)
    return Sample(sample_id, image, labels)


def _label_folder(layout: Numbered, split: Path) -> str:
    return next((folder for folder in layout.labels if (split / folder).is_dir()), layout.labels[-1])


def _image(layout: Numbered, path: Path) -> np.ndarray:
    """(H, W, 3) uint8: each value rounded to the nearest of 256 levels, by at most 1/510.

    Values that round to no level are refused: they would be of another scale.
    """
    image = files.read_array(path)
    if image.dtype.kind != "f":
        raise DataError(f"{files.shown(path)} holds {image.dtype}, expected floating-point numbers from 0 to 1")
    _require_shape(image, path, (*layout.size, 3))
    levels = np.rint(image.astype(np.float64) * 255)
    if not ((levels >= 0) & (levels <= 255)).all():  # NaN is neither
        raise DataError(
            f"{files.shown(path)} holds values from {image.min():g} to {image.max():g}, expected 0 to 1: divide an "
            "image of 0..255 by 255"
        )
    return levels.astype(np.uint8)


def _classes(layout: Numbered, path: Path) -> Label:
    codes = files.read_array(path)
    _require_shape(codes, path, layout.size)
    if codes.dtype.kind == "f":
        whole = np.isfinite(codes) & (codes == np.rint(codes))
        if wrong := np.unique(codes[~whole])[:5].tolist():
            found = ", ".join(f"{value:g}" for value in wrong)
            raise DataError(f"{files.shown(path)} holds {found}, expected whole numbers, {UNLABELLED} for unlabelled")
    codes = codes.astype(np.int64)
    valid = codes != UNLABELLED
    checks.check_classes(codes, valid, len(layout.classes), path)
    return Label(np.where(valid, codes, 0).astype(np.uint8), valid)


def _depth(layout: Numbered, path: Path) -> Label:
    depth, valid = _floats(layout, path, "metres")
    checks.check_depth(depth, valid, path)
    return Label(depth, valid)


def _disparity(layout: Numbered, path: Path) -> Label:
    disparity, valid = _floats(layout, path, "disparity")
    if not ((disparity >= 0) & (disparity <= 1)).all():
        raise DataError(
            f"{files.shown(path)} holds values from {disparity.min():g} to {disparity.max():g}; this disparity is the "
            "official 16-bit code divided by 65535, in 0..1, 0 where it is missing: neither codes nor pixels nor metres"
        )
    return Label(disparity, valid)


def _floats(layout: Numbered, path: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 and where it is not 0."""
    value = files.read_array(path)
    if value.dtype.kind != "f":
        raise DataError(f"{files.shown(path)} holds {value.dtype}, expected {what} as floating-point numbers")
    if value.shape != layout.size:
        _require_shape(value, path, (*layout.size, 1))
    value = value.reshape(layout.size).astype(np.float32)
    return value, value != 0


def _normals(layout: Numbered, path: Path) -> Label:
    return read_normals(_NORMALS, "normals", path, layout.size)


def _require_shape(array: np.ndarray, path: Path, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise DataError(f"{files.shown(path)} holds an array of shape {array.shape}, in this dataset it is {shape}")


_KINDS: dict[str, tuple[str | None, Callable[[Numbered, Path], Label]]] = {
    "semseg": (None, _classes),
    "depth": ("depth", _depth),
    "disparity": ("depth", _disparity),
    "normals": ("normal", _normals),
}
