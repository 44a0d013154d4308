"""What the tests of a person's own data share: the folder, its dataset.yaml, and a PNG writer that is independent."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.core.errors import DataError
from pipeline.data.sample import Label
from pipeline.data.store import check_sample
from pipeline.datasets import folder
from pipeline.params.schema import Data
from tests.support.layout_files import photo, save, write_lists

RAW = Path("nowhere")


def make_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one training and one validation photograph, as data.folder names it: from the working folder."""
    monkeypatch.chdir(tmp_path)
    write_lists(Path("data/own"), train=["a"], val=["b"])
    for name in ("a", "b"):
        save(Path(f"data/own/images/{name}.jpg"), photo(), quality=100, subsampling=0)
    return Path("data/own")


def describe(own: Path, tasks: tuple[str, ...], **more: object) -> Data:
    """Write dataset.yaml; return params that ask for its tasks."""
    (own / "dataset.yaml").write_text(yaml.safe_dump({"name": "kitchens", "tasks": list(tasks), **more}))
    return Data(dataset="folder", tasks=tasks)


def label(own: Path, task: str, **more: object) -> Label:
    """The label of `task` in photograph a, once dataset.yaml is written."""
    params = describe(own, (task,), **more)
    sample = folder.read(RAW, "train", "a", params)
    check_sample(sample, (task,))
    return sample.labels[task]


def refused(own: Path, task: str, match: str, **more: object) -> None:
    """Reading the label of `task` in photograph a ends with one line that names its file."""
    with pytest.raises(DataError, match=match) as error:
        label(own, task, **more)
    assert "\n" not in str(error.value)


def png(bits: int, kind: int, values: np.ndarray, palette: list[tuple[int, int, int]] | None = None) -> bytes:
    """A PNG by the specification alone. kind: 0 grey, 2 RGB, 3 palette; values: (H, W) or (H, W, 3), as stored."""
    height, width = values.shape[:2]
    flat = values.reshape(height, -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    else:  # the leftmost pixel in the highest bits
        planes = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in planes]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + (chunk(b"PLTE", bytes(np.array(palette, np.uint8))) if palette else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def greys(*levels: int) -> list[tuple[int, int, int]]:
    """A palette of grey levels."""
    return [(level, level, level) for level in levels]
