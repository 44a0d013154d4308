"""What the tests of the NYUD_MT layout share: frames of known values, written as that layout has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)


def photo() -> np.ndarray:
    """(H, W, 3) uint8: smooth, so that JPEG keeps it nearly."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows * 8, columns * 6, 90 + rows + columns], axis=-1).astype(np.uint8)


def codes(count: int = 40) -> np.ndarray:
    """(H, W) uint8: every code from 0 to `count`, in turn."""
    return (np.arange(SIZE[0] * SIZE[1]) % (count + 1)).reshape(SIZE).astype(np.uint8)


def depth() -> np.ndarray:
    """(H, W) float32 metres, with a hole."""
    value = np.linspace(0.7, 9.9, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    value[3:9, 5:12] = 0
    return value


def normals() -> np.ndarray:
    """(H, W, 3) float32 unit vectors on our axes, all facing the camera, with a hole."""
    vectors = np.random.default_rng(5).uniform(-1, 1, (*SIZE, 3)) + [0, 0, 1.5]
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[10:14, 2:9] = 0
    return vectors.astype(np.float32)


def edge() -> np.ndarray:
    """(H, W) float32, 0 or 1, as the archive has it."""
    value = np.zeros(SIZE, np.float32)
    value[::5] = 1
    return value


def save(path: Path, value: np.ndarray | bytes, **options: object) -> Path:
    """Write an array in the format that the ending names; or bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif path.suffix == ".npy":
        np.save(path, value)
    else:
        Image.fromarray(value).save(path, **options)
    return path


def save_palette(path: Path, value: np.ndarray) -> Path:
    """A PNG of indices; its colours, all different from the indices, must not matter."""
    image = Image.fromarray(value)
    image.putpalette([255 - i // 3 for i in range(768)])
    assert image.mode == "P"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def write_frame(folder: Path, name: str) -> None:
    """A whole frame of NYUD_MT, normals on the axes x right, y down, z away."""
    save(folder / f"images/{name}.jpg", photo(), quality=100, subsampling=0)
    save(folder / f"segmentation/{name}.png", codes())
    save(folder / f"depth/{name}.npy", depth())
    save(folder / f"normals/{name}.npy", normals() * np.float32([1, -1, -1]))
    save(folder / f"edge/{name}.npy", edge())


def write_lists(folder: Path, **splits: list[str]) -> None:
    for split, ids in splits.items():
        save(folder / f"gt_sets/{split}.txt", "".join(f"{name}\n" for name in ids).encode())


def cut(path: Path, share: float = 0.6) -> None:
    """Lose the end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
