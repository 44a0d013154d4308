"""The NYUD_MT layout: a folder for every kind of label, a file for every image. One description, one reader.

    images/<id>.jpg           the photograph; labels have its size (.jpeg and .png too)
    segmentation/<id>.png     semseg: class codes, 8 bits, grey or palette
    human_parts/<id>.png      the same
    sal/<id>.png              0 and 1; or 0..255, where more than half is salient
    depth/<id>.npy            metres, floating point, 0 is missing; or .png with 16 bits and a scale
    normals/<id>.npy          (H, W, 3) unit vectors, 0 is missing; or .png, RGB: n = 2 v / 255 - 1
    edge/<id>.npy             0 and 1; or .png: 0 and 1, or 0 and 255
    gt_sets/<split>.txt       ids, one a line

`nyud` describes NYUD-v2 in this layout, `folder` reads the description of a person's own data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.datasets import files
from pipeline.datasets.files import Size
from pipeline.datasets.sample import Label, Sample
from pipeline.errors import DataError

LISTS = {"train": "gt_sets/train.txt", "val": "gt_sets/val.txt"}
AXES = ("x", "y", "z")  # right, up, towards the camera: those of Label

_PHOTOS = (".jpg", ".jpeg", ".png")
_HALF_TURN = ("x", "-y", "-z")  # about x: from x right, y down, z away to ours
_MISSING = 0.1  # a normal shorter than that is none
_AWAY = -0.3  # a mean z below that is no view: even a road seen by a camera that looks up a little is near 0


@dataclass(frozen=True)
class Layout:
    """What a dataset in this layout does not say by itself.

    classes: class names in index order, of the tasks that have classes.
    ignore: the code of pixels without a class; where it is 0 the classes are coded from 1, otherwise from 0. A task
        that is not in it has a class at every pixel.
    lists: split -> its list of ids.
    depth_scale: units of 16-bit depth a metre; None: no such files.
    normals_axes: our x, y and z in terms of the stored ones; None: as stored where normals face the camera, as what is
        visible does, else turned by half about x.
    """

    classes: dict[str, tuple[str, ...]]
    ignore: dict[str, int] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=lambda: dict(LISTS))
    depth_scale: float | None = None
    normals_axes: tuple[str, ...] | None = AXES


def read_splits(layout: Layout, folder: Path) -> dict[str, list[str]]:
    """Split -> ids, as listed. Raises DataError for a list that is missing, empty or names an id twice."""
    return {split: files.read_ids(folder / name) for split, name in layout.lists.items()}


def read_sample(layout: Layout, folder: Path, sample_id: str, tasks: Iterable[str]) -> Sample:
    """The photograph with the labels of `tasks`; no other file is opened. Raises DataError naming the file."""
    photo = files.read_photo(_find(folder / "images", sample_id, _PHOTOS), only_upright=True)
    labels = {}
    for task in tasks:
        kind = _KINDS[task]
        path = _find(folder / kind.folder, sample_id, kind.suffixes)
        labels[task] = kind.read(layout, task, path, photo.shape[:2])
    return Sample(sample_id, photo, labels)


def _find(folder: Path, sample_id: str, suffixes: tuple[str, ...]) -> Path:
    """The one file of that id. Suffixes are joined by hand: an id may hold dots."""
    candidates = [folder / f"{sample_id}{suffix}" for suffix in suffixes]
    found = [path for path in candidates if path.is_file()]
    if not found:
        others = f" ({', '.join(suffixes[1:])} would do as well)" if suffixes[1:] else ""
        raise DataError(f"{files.shown(candidates[0])} is missing{others}")
    if len(found) > 1:
        raise DataError(f"{folder.name} holds both {found[0].name} and {found[1].name}; keep one")
    return found[0]


# -- one function a kind of label: (layout, task, path, size) -> Label ---------------------------------------


def _classes(layout: Layout, task: str, path: Path, size: Size) -> Label:
    codes, ignore = files.read_png(path, size), layout.ignore.get(task)
    valid = np.ones(codes.shape, bool) if ignore is None else codes != ignore
    first = 1 if ignore == 0 else 0
    files.check_classes(codes, valid, len(layout.classes[task]), path, first)
    return Label(np.where(valid, codes - np.uint8(first), np.uint8(0)), valid)


def _saliency(layout: Layout, task: str, path: Path, size: Size) -> Label:
    level = files.read_png(path, size)
    salient = level > 127 if level.max() > 1 else level == 1
    return _everywhere(salient)


def _edge(layout: Layout, task: str, path: Path, size: Size) -> Label:
    png = path.suffix == ".png"
    value = files.read_png(path, size) if png else files.read_npy(path, size)
    on = 255 if png and value.max() > 1 else 1
    if wrong := np.unique(value[(value != 0) & (value != on)]).tolist():
        allowed = "0 and 1, or 0 and 255" if png else "0 and 1"
        raise DataError(f"{files.shown(path)} holds {', '.join(f'{v:g}' for v in wrong[:5])}, expected only {allowed}")
    return _everywhere(value == on)


def _everywhere(mask: np.ndarray) -> Label:
    return Label(mask.astype(np.uint8), np.ones(mask.shape, bool))


def _depth(layout: Layout, task: str, path: Path, size: Size) -> Label:
    if path.suffix == ".png":
        if layout.depth_scale is None:
            raise DataError(
                f"{files.shown(path)}: say in depth_scale how many of its units make a metre (1000: millimetres)"
            )
        depth = files.read_png16(path, size) / np.float32(layout.depth_scale)
    else:
        depth = files.read_npy(path, size)
    valid = depth != 0
    files.check_depth(depth, valid, path)
    if depth.dtype.kind != "f":
        raise DataError(f"{files.shown(path)} holds {depth.dtype}, expected metres as floating-point numbers")
    return Label(depth.astype(np.float32), valid)


def read_normals(layout: Layout, task: str, path: Path, size: Size) -> Label:
    """8-bit codes stay such, as in `Label`; of those, black and middle grey mean missing."""
    coded = path.suffix == ".png"
    stored = files.read_png(path, size, channels=3) if coded else files.read_npy(path, size, channels=3)
    vectors = stored * np.float32(2 / 255) - np.float32(1) if coded else stored.astype(np.float32)
    length = np.linalg.norm(vectors, axis=-1)
    valid = np.isfinite(length) & (length >= _MISSING)
    if coded:
        valid &= stored.any(axis=-1)
    files.check_normals(vectors, valid, path)
    axes = _axes(layout, vectors, valid, path)
    if coded:
        return Label(_on_axes(stored, axes), valid)
    unit = vectors / np.where(valid, length, np.float32(1))[..., None]
    return Label(np.where(valid[..., None], _on_axes(unit, axes), np.float32(0)), valid)


def _axes(layout: Layout, vectors: np.ndarray, valid: np.ndarray, path: Path) -> tuple[str, ...]:
    """Our axes in terms of the stored ones, so that normals face the camera. Raises DataError if they do not."""
    axes = layout.normals_axes or AXES
    towards = float(_on_axes(vectors, axes)[valid][:, 2].mean()) if valid.any() else 1.0
    if layout.normals_axes is None:
        return _HALF_TURN if towards < 0 else AXES
    if towards < _AWAY:
        raise DataError(
            f"{files.shown(path)} holds normals that point away from the camera, where nothing can be seen: "
            f"normals_axes is [{', '.join(axes)}]; for x right, y down, z away it is [x, -y, -z]"
        )
    return axes


def _on_axes(vectors: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
    """(H, W, 3) with the stored components in our order and with our signs. The opposite of code v is 255 - v."""
    turned = vectors[..., [AXES.index(axis[-1]) for axis in axes]]
    negative = np.array([axis.startswith("-") for axis in axes])
    return np.where(negative, 255 - turned if turned.dtype == np.uint8 else -turned, turned)


class _Kind(NamedTuple):
    folder: str
    suffixes: tuple[str, ...]
    read: Callable[[Layout, str, Path, Size], Label]


_KINDS = {
    "semseg": _Kind("segmentation", (".png",), _classes),
    "human_parts": _Kind("human_parts", (".png",), _classes),
    "sal": _Kind("sal", (".png",), _saliency),
    "depth": _Kind("depth", (".npy", ".png"), _depth),
    "normals": _Kind("normals", (".npy", ".png"), read_normals),
    "edge": _Kind("edge", (".npy", ".png"), _edge),
}
