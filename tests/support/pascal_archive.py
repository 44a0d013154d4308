"""Small archives in exactly the PASCAL_MT layout, made of `rooms` frames.

Every third image has its classes in semseg/pascal-context alone, every fourth is upright; rooms without people are
images without people. What is written is what `entries` hands out, so that a test can compare with it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from scipy import ndimage

from pipeline.datasets.rooms.dataset import render_frame
from pipeline.datasets.rooms.scene import CLASSES
from tests.support.nyud_archive import image, write_tgz

TOP = "PASCAL_MT"
YEARS = {"train": 2008, "val": 2010}  # ids are 2008_000000, 2008_000001, ... and 2010_000000, ...

# Classes of rooms -> (VOC class, id in LabelMap). Some ids are above 255, and some are equal modulo 256.
CODES = {
    **{
        "bed": (0, 18),
        "books": (0, 46),
        "ceiling": (0, 171),
        "chair": (9, 59),
        "floor": (0, 158),
        "furniture": (0, 459),
    },
    **{
        "objects": (5, 1),
        "picture": (0, 292),
        "sofa": (18, 355),
        "table": (11, 414),
        "tv": (20, 405),
        "wall": (0, 427),
    },
    **{"window": (0, 454), "person": (15, 284)},
}
UNKNOWN = (255, 0)  # where rooms knows no class
NAMES = {5: "bottle", 9: "chair", 11: "table", 15: "person", 18: "sofa", 20: "tvmonitor"}
OBJECTS = np.dtype([(name, object) for name in ("class", "class_ind", "mask", "parts")])
PART = np.dtype([(name, object) for name in ("part_name", "mask")])


@dataclass(frozen=True)
class Entry:
    """One image as the archive holds it.

    semseg: 0..20, 255 void; in_voc: which of its two folders it is in. parts: (H, W), the seven classes that anno's
    objects amount to; 0 alone where there are no people. anno: PASCAL-Part's struct. normals: (H, W, 3), sal: 8 bits.
    """

    id: str
    photo: np.ndarray
    semseg: np.ndarray
    in_voc: bool
    parts: np.ndarray
    anno: dict
    normals: np.ndarray
    sal: np.ndarray
    label_map: np.ndarray


@cache
def entries(train: int, val: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> dict[str, list[Entry]]:
    """The images of each split; (height, width) is turned round for every fourth."""
    return {
        split: [_entry(split, i, size if i % 4 != 3 else size[::-1], seed) for i in range(count)]
        for split, count in (("train", train), ("val", val))
    }


@cache
def pascal_files(train: int, val: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> dict[str, bytes]:
    """{path inside the archive: bytes}; always the same."""
    files = {}
    for split, images in entries(train, val, size, seed).items():
        files[f"{TOP}/ImageSets/Context/{split}.txt"] = "".join(f"{entry.id}\n" for entry in images).encode()
        for entry in images:
            files |= {f"{TOP}/{name}": content for name, content in entry_files(entry).items()}
    return files


def write_pascal(folder: Path, train: int, val: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> Path:
    """Write the dataset below `folder`; the folder that holds JPEGImages comes back."""
    for name, content in pascal_files(train, val, size, seed).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / TOP


def pascal_tgz(path: Path, train: int, val: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> Path:
    """Write the archive `path`."""
    return write_tgz(pascal_files(train, val, size, seed), path)


def entry_files(entry: Entry) -> dict[str, bytes]:
    """{path below the top folder: bytes} of one image."""
    semseg = f"semseg/VOC12/{entry.id}.png" if entry.in_voc else f"semseg/pascal-context/{entry.id}.png"
    return {
        f"JPEGImages/{entry.id}.jpg": image(".jpg", entry.photo),
        semseg: palette_png(entry.semseg) if entry.in_voc else image(".png", entry.semseg),
        f"human_parts/{entry.id}.mat": mat(anno=entry.anno),
        f"normals_distill/{entry.id}.png": image(".png", entry.normals),
        f"sal_distill/{entry.id}.png": image(".png", entry.sal),
        f"pascal-context/trainval/{entry.id}.mat": mat(LabelMap=entry.label_map),
    }


def mat(**variables: object) -> bytes:
    """A compressed MATLAB file, whose header does not tell the time."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]


def palette_png(codes: np.ndarray) -> bytes:
    """A PNG whose pixels are indices into VOC's palette: bits 0, 3, 6, ... of an index are red, highest first."""
    index = np.arange(256)[:, None] >> np.arange(3)
    colours = sum((index >> 3 * bit & 1) << 7 - bit for bit in range(8))
    picture = Image.fromarray(codes)
    picture.putpalette(colours.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def structs(dtype: np.dtype, *rows: tuple) -> np.ndarray:
    """A 1xN struct array; without rows MATLAB's []."""
    if not rows:
        return np.zeros((0, 0))
    array = np.empty((1, len(rows)), dtype)
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def _entry(split: str, index: int, size: tuple[int, int], seed: int) -> Entry:
    frame, _ = render_frame(seed, split, index, size)
    labels = {task: np.where(label.valid.T, label.value.T, 0).T for task, label in frame.labels.items()}
    codes = np.array([CODES[name] for name in CLASSES] + [UNKNOWN])
    semseg, ids = np.moveaxis(codes[np.where(frame.labels["semseg"].valid, labels["semseg"], -1)], -1, 0)
    rows, columns = np.indices(size)
    name = f"{YEARS[split]}_{index:06d}"
    return Entry(
        id=name,
        photo=frame.image,
        semseg=_outlined(semseg).astype(np.uint8),
        in_voc=index % 3 != 1,
        parts=labels["human_parts"],
        anno={"imname": name, "objects": _objects(semseg, labels["human_parts"])},
        normals=np.round((labels["normals"] * (1, -1, 1) + 1) * 127.5).astype(np.uint8),
        sal=(labels["sal"] * 128 + (7 * rows + 13 * columns) % 128).astype(np.uint8),  # 127 and 128 among them
        label_map=ids.astype(np.uint16),
    )


def _outlined(semseg: np.ndarray) -> np.ndarray:
    """VOC's objects have an outline that is void."""
    change = ndimage.grey_dilation(semseg, footprint=[[0, 1, 0], [1, 1, 1], [0, 1, 0]]) != semseg
    return np.where(change, 255, semseg)


def _objects(semseg: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """PASCAL-Part's objects: one for each class but person, one for each connected body; at least one, as there."""
    rows = []
    for code in sorted(set(np.unique(semseg).tolist()) & set(NAMES) - {15}) or [5]:
        mask = semseg == code
        screen = structs(PART, ("screen", np.uint8(mask))) if code == 20 else structs(PART)
        rows.append((NAMES[code], np.uint8(code), np.uint8(mask), screen))
    bodies, count = ndimage.label(parts > 0, np.ones((3, 3)))
    for number in range(1, count + 1):
        body = np.where(bodies == number, parts, 0)
        rows.append(("person", np.uint8(15), np.uint8(body > 0), _person(body)))
    return structs(OBJECTS, *rows)


def _person(body: np.ndarray) -> np.ndarray:
    """The parts of one body: big ones first, beneath those that lie on them, limbs halved into left and right."""
    left = np.arange(body.shape[1]) % 2 == 0
    masks = [
        ("head", body == 1),
        ("hair", (body == 1) & (np.arange(len(body)) % 3 == 0)[:, None]),
        ("torso", (body == 2) | (body == 3) | (body == 5)),
        ("neck", (body == 2) & left),
        *((side + part, (body == index) & half)
          for index, part in ((3, "uarm"), (4, "larm"), (4, "hand"), (5, "uleg"), (6, "lleg"), (6, "foot"))
          for side, half in (("l", left), ("r", ~left))),
    ]  # fmt: skip
    return structs(PART, *((name, np.uint8(mask)) for name, mask in masks if mask.any()))
