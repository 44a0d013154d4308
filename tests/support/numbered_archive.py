"""Small archives in exactly the layout of MTAN's NYUv2 and Cityscapes, as the readers of LibMTL open them."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from tests.support.nyud_archive import npy

SIZES = {"nyuv2_288": (288, 384), "cityscapes_128": (128, 256)}
CLASSES = {"nyuv2_288": 13, "cityscapes_128": 7}


def frame(dataset: str, seed: int) -> dict[str, np.ndarray]:
    """{folder: array}: bands of every class, and pixels without a label of each kind. float32 and float64 as found."""
    height, width = SIZES[dataset]
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    label = ((column // 16 + row // 32 + seed) % (CLASSES[dataset] + 1) - 1).astype(np.float64)  # -1 in turn
    shade = (label + 2) / (CLASSES[dataset] + 1)
    image = np.stack([shade, row / height, column / width], axis=-1) * 0.9 + rng.uniform(0, 0.1, (height, width, 1))
    near = 0.2 + 0.8 * row / height
    depth = near * 0.4 if dataset == "cityscapes_128" else 4 / near
    depth[: height // 8] = 0
    arrays = {"image": image.astype(np.float32), "label": label, "depth": depth[..., None].astype(np.float32)}
    if dataset == "nyuv2_288":
        normal = np.stack([np.sin(column / 40), 0.5 + 0 * row, 1.5 + 0 * row], axis=-1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        normal[:, : width // 8] = 0
        arrays["normal"] = normal.astype(np.float32)
    return arrays


@cache
def numbered_files(dataset: str, train: int = 4, val: int = 2) -> dict[str, bytes]:
    """{path inside the archive: bytes}."""
    files = {}
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for i in range(count):
            for folder, array in frame(dataset, first + i).items():
                files[f"set/{split}/{folder}/{i}.npy"] = npy(array)
    return files


def write_zip(files: dict[str, bytes], path: Path, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    """As Dropbox hands out a folder: a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())
    return path
