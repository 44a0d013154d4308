"""Arrays of one type, one after the other in a file, with a checksum (CRC-32) of each.

CRC-32, in zlib's fast form, finds any change of up to 32 bits in a row, and of others all but one in 4e9.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import REPAIR, DataError
from pipeline.data.sample import decode_normals, is_coded

_CHECKSUM = np.dtype(">u4")


class FlatFileWriter:
    """Appends one kind of array to a flat file. `close` returns what FlatFile needs to read it, ready for JSON."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self.dtype: str | None = None
        self.shapes: list[list[int]] = []
        self._checksums: list[int] = []

    def add(self, array: np.ndarray, packed: bool = False) -> None:
        """Append an array. packed: as bits. Normals of both codings in one file are all stored as vectors."""
        dtype = "bits" if packed else array.dtype.str
        if self.dtype not in (None, dtype) and array.ndim == 3:  # normals of both codings: all become vectors
            if is_coded(array):
                array = decode_normals(array)
            else:
                self._decode()
            dtype = array.dtype.str
        if self.dtype not in (None, dtype):
            raise DataError(f"{self._file.name}: arrays of {dtype} and of {self.dtype} in one split")
        self.dtype = dtype
        self.shapes.append(list(array.shape))
        self._write(np.packbits(array) if packed else array)

    def _write(self, array: np.ndarray) -> None:
        content = array.tobytes()
        self._checksums.append(zlib.crc32(content))
        self._file.write(content)

    def _decode(self) -> None:
        """Replace the 8-bit normals that are in the file by vectors."""
        self._file.close()
        path = Path(self._file.name)
        coded = path.rename(path.with_suffix(".coded"))
        self._file = path.open("wb")
        self._checksums.clear()
        with coded.open("rb") as file:
            for shape in self.shapes:
                codes = np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
                self._write(decode_normals(codes))
        coded.unlink()
        self.dtype = np.dtype(np.float32).str

    def close(self) -> dict:
        """End the file, on disk; returns what the index says of it: dtype, shapes, crc32."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        crc32 = np.array(self._checksums, _CHECKSUM).tobytes().hex()  # one text: numbers would fill most of the index
        return {"dtype": self.dtype, "shapes": self.shapes, "crc32": crc32}


class FlatFile:
    """One memory-mapped flat file, where each of its arrays begins, and which of them were found whole."""

    def __init__(self, path: Path, ids: Sequence[str], dtype: str, shapes: list[list[int]], crc32: str):
        self.path, self._ids = path, ids
        self._packed = dtype == "bits"
        self._dtype = np.dtype(np.uint8 if self._packed else dtype)
        self._shapes = [tuple(shape) for shape in shapes]
        counts = np.array([int(np.prod(shape)) for shape in self._shapes], dtype=np.int64)
        sizes = (counts + 7) // 8 if self._packed else counts
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._checksums = np.frombuffer(bytes.fromhex(crc32), _CHECKSUM)
        self._checked = np.zeros(len(self._shapes), bool)
        expected = int(self._starts[-1]) * self._dtype.itemsize
        found = f"holds {path.stat().st_size} bytes" if path.exists() else "is missing"
        if found != f"holds {expected} bytes":
            raise DataError(f"{path} is damaged: it {found} where its index says {expected} bytes; {REPAIR}")
        self._data = np.memmap(path, dtype=self._dtype, mode="r")

    def __getitem__(self, i: int) -> np.ndarray:
        if not self._checked[i]:
            if not self.is_whole(i):
                raise DataError(f"{self.path} is damaged: sample {self._ids[i]} is not what was packed; {REPAIR}")
            self._checked[i] = True
        shape, flat = self._shapes[i], self._flat(i)
        if self._packed:
            return np.unpackbits(flat, count=int(np.prod(shape))).view(np.bool_).reshape(shape)
        return np.asarray(flat).reshape(shape)

    def is_whole(self, i: int) -> bool:
        """Whether array `i` has the checksum that it was packed with."""
        return zlib.crc32(self._flat(i).data) == self._checksums[i]

    def _flat(self, i: int) -> np.ndarray:
        return self._data[self._starts[i] : self._starts[i + 1]]
