"""Small archives in exactly the NYUD_MT layout, made of `rooms` frames."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from pipeline.datasets.rooms.dataset import render_frame

TOP = "NYUD_MT"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def image(suffix: str, array: np.ndarray) -> bytes:
    """The file's bytes; colours in RGB."""
    return cv2.imencode(suffix, array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()


@cache
def nyud_files(train: int = 3, val: int = 2, size: tuple[int, int] = (32, 64)) -> dict[str, bytes]:
    """{path inside the archive: bytes}. Ids are 0000, 0001, ... for train, 1000, 1001, ... for val."""
    files: dict[str, bytes] = {}
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        ids = [f"{first + i:04d}" for i in range(count)]
        files[f"{TOP}/gt_sets/{split}.txt"] = "".join(f"{each}\n" for each in ids).encode()
        for i, name in enumerate(ids):
            sample, _ = render_frame(0, split, i, size)
            labels = sample.labels
            classes = np.where(labels["semseg"].valid, labels["semseg"].value + 1, 0).astype(np.uint8)
            depth = np.where(labels["depth"].valid, labels["depth"].value, 0).astype(np.float32)
            files[f"{TOP}/images/{name}.jpg"] = image(".jpg", sample.image)
            files[f"{TOP}/segmentation/{name}.png"] = image(".png", classes)
            files[f"{TOP}/depth/{name}.npy"] = npy(depth)
            files[f"{TOP}/normals/{name}.npy"] = npy(labels["normals"].value)
            files[f"{TOP}/edge/{name}.npy"] = npy(labels["edge"].value.astype(np.float32))
    return files


def write_tgz(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
