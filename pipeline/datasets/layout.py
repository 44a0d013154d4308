"""The NYUD_MT layout: a folder for every kind of label, a file for every image. One description, one reader.

    images/<id>.jpg           the photograph; labels have its size (.jpeg and .png too)
    segmentation/<id>.png     semseg: class codes, grey or palette of at most 8 bits; or .npy, whole numbers
    human_parts/<id>.png      the same
    sal/<id>.png              0 and 1, or 0 and 255; or levels, salient above half of `sal_max`; or .npy
    depth/<id>.npy            metres, floating point, 0 is missing; or .png with 16 bits and a scale
    normals/<id>.npy          (H, W, 3) unit vectors, 0 is missing; or .png, RGB: n = 2 v / 255 - 1
    edge/<id>.npy             0 and 1; or .png: 0 and 1, or 0 and 255
    gt_sets/<split>.txt       ids, one a line

`nyud` describes NYUD-v2 in this layout, `folder` reads the description of a person's own data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample
from pipeline.datasets import checks, files
from pipeline.datasets.files import Size
from pipeline.datasets.find_file import find_file, find_or_refuse, missing
from pipeline.datasets.png_codes import read_either

LISTS = {"train": "gt_sets/train.txt", "val": "gt_sets/val.txt"}
AXES = ("x", "y", "z")  # right, up, towards the camera: those of Label

_PHOTOS = (".jpg", ".jpeg", ".png")
_HALF_TURN = ("x", "-y", "-z")  # about x: from x right, y down, z away to ours
_MISSING = 0.1  # a normal shorter than that is none
_AWAY = -0.3  # a mean z below that is no view: even a road seen by a camera that looks up a little is near 0
_TURNED = -0.5  # a z below that is turned away by 30 degrees more than any surface that the middle of a view shows,
_MOST_TURNED = 0.2  # and where a lens is wide its corners alone, less than this share, may hold it


@dataclass(frozen=True)
class Layout:
    """What a dataset in this layout does not say by itself.

    classes: class names in index order, of the tasks that have classes.
    ignore: the codes of pixels without a label, as stored, by task; in normals all three components hold the code.
        Where 0 is a code of semseg or human_parts, the classes are coded from 1, otherwise from 0. 0 is always missing
        in depth and normals.
    lists: split -> its list of ids.
    depth_scale: units of 16-bit depth a metre; None: no such files.
    max_depth: metres beyond which a reading is no label; None: beyond 100 m is refused.
    sal_max: the value of full saliency, more than half of which is salient; None: a mask, 0 and 1 or 0 and 255.
    png_codes: what PNGs of codes hold, by task: `stored` or `levels`; see `png_codes.read_either`.
    normals_axes: our x, y and z in terms of the stored ones; None: as stored where normals face the camera, as what is
        visible does, else turned by half about x.
    partial: what a missing label file is: True: a label without a valid pixel; False: an error that names the key of
        dataset.yaml that allows it; None, for data that is published whole: an error.
    """

    classes: dict[str, tuple[str, ...]]
    ignore: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=lambda: dict(LISTS))
    depth_scale: float | None = None
    normals_axes: tuple[str, ...] | None = AXES
    max_depth: float | None = None
    sal_max: int | None = None
    png_codes: dict[str, str] = field(default_factory=dict)
    partial: bool | None = None

    def ignored(self, task: str, stored: np.ndarray) -> np.ndarray:
        """Where the values of `task` are codes for no label; bool of the same shape."""
        return checks.is_code(stored, self.ignore.get(task, ()))


def read_splits(layout: Layout, folder: Path) -> dict[str, list[str]]:
    """Split -> ids, as listed. Raises DataError for a list that is missing, empty or names an id twice."""
    return {split: files.read_ids(folder / name) for split, name in layout.lists.items()}


def read_sample(layout: Layout, folder: Path, sample_id: str, tasks: Iterable[str]) -> Sample:
    """The photograph with the labels of `tasks`; no other file is opened.

    Raises DataError naming the file. Where the layout is partial, a label without a file has no valid pixel.
    """
    photo = files.read_photo(find_or_refuse(folder / "images", sample_id, _PHOTOS), only_upright=True)
    size = photo.shape[:2]
    labels = {}
    for task in tasks:
        kind = _KINDS[task]
        path = find_file(folder / kind.folder, sample_id, kind.suffixes)
        if path is None and not layout.partial:
            remedy = "; if not every image is labelled for it, say so in dataset.yaml with labels: partial"
            raise missing(folder / kind.folder, sample_id, kind.suffixes, "" if layout.partial is None else remedy)
        labels[task] = kind.read(layout, task, path, size) if path else _unlabelled(task, size)
    return Sample(sample_id, photo, labels)


def check_labelled(layout: Layout, folder: Path, ids: Iterable[str], tasks: Iterable[str]) -> None:
    """Raise DataError for a task of which none of `ids` has a label: its folder is misspelled or elsewhere."""
    ids = tuple(ids)
    for task in tasks if layout.partial else ():
        kind = _KINDS[task]
        if not any(find_file(folder / kind.folder, sample_id, kind.suffixes) for sample_id in ids):
            raise DataError(
                f"{task}: none of the {len(ids)} images has a label, as {folder / kind.folder}/<id>{kind.suffixes[0]} "
                f"({', '.join(kind.suffixes[1:])} would do as well); put its labels there, or take it out of data.tasks"
            )


def _unlabelled(task: str, size: Size) -> Label:
    """A label without a valid pixel. Normals as codes: the store makes vectors of them where others are vectors."""
    shape = (*size, 3) if task == "normals" else size
    return Label(np.zeros(shape, np.float32 if task == "depth" else np.uint8), np.zeros(size, bool))


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"


# -- one function a kind of label: (layout, task, path, size) -> Label ---------------------------------------


def _classes(layout: Layout, task: str, path: Path, size: Size) -> Label:
    first = 1 if 0 in np.atleast_1d(layout.ignore.get(task, ())) else 0

    def label(codes: np.ndarray) -> Label:
        valid = ~layout.ignored(task, codes)
        checks.check_classes(codes, valid, len(layout.classes[task]), path, first)
        return Label(np.where(valid, codes - codes.dtype.type(first), 0).astype(np.uint8), valid)

    if _is_png(path):
        return read_either(files.read_codes(path, size), path, task, layout.png_codes.get(task), label)
    return label(checks.whole_numbers(files.read_npy(path, size), path))


def _saliency(layout: Layout, task: str, path: Path, size: Size) -> Label:
    full = layout.sal_max

    def label(values: np.ndarray) -> Label:
        if full is None:
            return _mask(layout, task, path, values)
        valid = ~layout.ignored(task, values)
        if (wrong := values[valid & ((values > full) | (values < 0))]).size:
            raise DataError(f"{files.shown(path)} holds {wrong[0]:g}, expected 0 to {full}, which is sal_max")
        return Label((valid & (values * 2.0 > full)).astype(np.uint8), valid)

    if not _is_png(path):
        return label(checks.whole_numbers(files.read_npy(path, size), path))
    codes, meant = files.read_codes(path, size), layout.png_codes.get(task)
    if full == 255 and meant is None and codes.levels is not None:
        return label(codes.levels)  # what 0..255 says they are
    return read_either(codes, path, task, meant, label, mask=True)


def _edge(layout: Layout, task: str, path: Path, size: Size) -> Label:
    if not _is_png(path):
        return _mask(layout, task, path, files.read_npy(path, size))
    codes, meant = files.read_codes(path, size), layout.png_codes.get(task)
    return read_either(codes, path, task, meant, lambda values: _mask(layout, task, path, values), mask=True)


def _mask(layout: Layout, task: str, path: Path, values: np.ndarray) -> Label:
    """Two values, of which 0 is one; 1, or in a PNG 255, the other."""
    valid = ~layout.ignored(task, values)
    present = np.unique(values[valid & (values != 0)]).tolist()
    if present not in ([], [1], [255] if _is_png(path) else []):
        allowed = "0 and 1, or 0 and 255" if _is_png(path) else "0 and 1"
        levels = "; for levels set sal_max, the value of full saliency" if task == "sal" else ""
        raise DataError(
            f"{files.shown(path)} holds {', '.join(f'{v:g}' for v in present[:5])}, expected only {allowed}: name a "
            f"code for no label in ignore.{task} of dataset.yaml{levels}"
        )
    return Label((valid & (values != 0)).astype(np.uint8), valid)


def _depth(layout: Layout, task: str, path: Path, size: Size) -> Label:
    if _is_png(path):
        if layout.depth_scale is None:
            raise DataError(
                f"{files.shown(path)}: say in depth_scale how many of its units make a metre (1000: millimetres)"
            )
        units = files.read_png16(path, size)
        depth, valid = units / np.float32(layout.depth_scale), (units != 0) & ~layout.ignored(task, units)
        checks.check_depth_codes(units, checks.within_reach(depth, valid, layout.max_depth, path), path)
    else:
        depth = files.read_npy(path, size)
        valid = (depth != 0) & ~layout.ignored(task, depth)
    valid = checks.within_reach(depth, valid, layout.max_depth, path)
    checks.check_depth(depth, valid, path, layout.max_depth)
    if depth.dtype.kind != "f":
        raise DataError(f"{files.shown(path)} holds {depth.dtype}, expected metres as floating-point numbers")
    with np.errstate(over="ignore", under="ignore"):  # of codes alone: what is valid was checked
        return Label(depth.astype(np.float32), valid)


def read_normals(layout: Layout, task: str, path: Path, size: Size) -> Label:
    """8-bit codes stay such, as in `Label`; of those, black and middle grey mean missing."""
    coded = _is_png(path)
    stored = files.read_png(path, size, channels=3) if coded else files.read_npy(path, size, channels=3)
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite component is no normal
        vectors = stored * np.float32(2 / 255) - np.float32(1) if coded else stored.astype(np.float32)
        length = np.linalg.norm(vectors, axis=-1)
    valid = np.isfinite(length) & (length >= _MISSING)
    for code in np.atleast_1d(layout.ignore.get(task, ())):
        valid &= ~checks.is_code(stored, code).all(axis=-1)
    if coded:
        valid &= stored.any(axis=-1)
    checks.check_normals(vectors, valid, path)
    valid &= checks.has_direction(length)
    axes = _axes(layout, vectors, valid, path)
    if coded:
        return Label(_on_axes(stored, axes), valid)
    unit = vectors / np.where(valid, length, np.float32(1))[..., None]
    return Label(np.where(valid[..., None], _on_axes(unit, axes), np.float32(0)), valid)


def _axes(layout: Layout, vectors: np.ndarray, valid: np.ndarray, path: Path) -> tuple[str, ...]:
    """Our axes in terms of the stored ones, so that normals face the camera. Raises DataError if they do not."""
    axes = layout.normals_axes or AXES
    z = _on_axes(vectors, axes)[valid][:, 2]
    towards = float(z.mean()) if z.size else 1.0
    if layout.normals_axes is None:
        return _HALF_TURN if towards < 0 else AXES
    turned = float((z < _TURNED).mean()) if z.size else 0.0
    if towards < _AWAY or turned > _MOST_TURNED:
        raise DataError(
            f"{files.shown(path)} holds normals that point away from the camera ({100 * turned:.0f} % by more than 30 "
            f"degrees), where nothing can be seen: normals_axes is [{', '.join(axes)}]; for x right, y down, z away it "
            "is [x, -y, -z], and [z, y, x] where red and blue are swapped; axes of the world will not do"
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
    "semseg": _Kind("segmentation", (".png", ".npy"), _classes),
    "human_parts": _Kind("human_parts", (".png", ".npy"), _classes),
    "sal": _Kind("sal", (".png", ".npy"), _saliency),
    "depth": _Kind("depth", (".npy", ".png"), _depth),
    "normals": _Kind("normals", (".npy", ".png"), read_normals),
    "edge": _Kind("edge", (".npy", ".png"), _edge),
}
