"""What a MATLAB file declares, against what it holds: SciPy takes the memory that a header asks for first.

Format: MAT-File Level 5, MathWorks, "MAT-File Format": a header of 128 bytes, then elements with a tag of type and
size; an element of type 15 is another one, compressed by zlib. A matrix begins with its flags and its dimensions.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import BinaryIO

MAX_BYTES = 1 << 30  # of one variable, decompressed; labels of a photograph have some million
_HEADER, _BLOCK = 128, 1 << 16
_MATRIX, _COMPRESSED, _INT32, _UINT32 = 14, 15, 5, 6
_SPARSE = 5  # a class of matrix that holds fewer numbers than its dimensions say


class MatRefused(ValueError):
    """It declares more than it holds, or than is allowed."""


def check_sizes(file: BinaryIO, length: int) -> None:
    """Raise MatRefused for a file of level 5 whose elements are larger than the file, or than MAX_BYTES.

    Leaves `file`, of `length` bytes, at its beginning. Files of other levels are left to their reader.
    """
    head = file.read(_HEADER)
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    at = _HEADER
    while order and length - at >= 8:
        kind, size = struct.unpack(f"{order}II", file.read(8))
        at += 8
        if size > length - at:
            raise MatRefused(f"its header says {size:,} bytes more, it holds {length - at:,}")
        if kind == _COMPRESSED:
            _check_compressed(file, size, order)
        elif kind == _MATRIX:
            _check_matrix(file.read(min(size, _BLOCK)), size, order)
        at += size
        file.seek(at)
    file.seek(0)


def _check_compressed(file: BinaryIO, size: int, order: str) -> None:
    """Decompress it once, in pieces, and compare what comes with what its tag says."""
    stream, first, total = zlib.decompressobj(), b"", 0
    while size or stream.unconsumed_tail:
        waiting = stream.unconsumed_tail
        if not waiting:
            waiting = file.read(min(size, _BLOCK))
            size -= len(waiting)
        try:
            piece = stream.decompress(waiting, _BLOCK)
        except zlib.error as error:
            raise MatRefused(str(error)) from None
        first += piece[: _BLOCK - len(first)]
        total += len(piece)
        if total > MAX_BYTES:
            raise MatRefused(f"a variable of more than {MAX_BYTES:,} bytes")
        if stream.eof or not waiting:
            break
    if len(first) < 8:
        raise MatRefused("a variable without a header")
    kind, declared = struct.unpack(f"{order}II", first[:8])
    if declared > total - 8:
        raise MatRefused(f"its header says {declared:,} bytes, it holds {total - 8:,}")
    if kind == _MATRIX:
        _check_matrix(first[8:], declared, order)


def _check_matrix(content: bytes, size: int, order: str) -> None:
    """content: the beginning of a matrix of `size` bytes. Its elements need at least a byte each."""
    if len(content) < 24:
        return  # an empty one
    kind, flags_size, flags = struct.unpack(f"{order}III", content[:12])
    dims_kind, dims_size = struct.unpack(f"{order}II", content[16:24])
    if (kind, flags_size, dims_kind) != (_UINT32, 8, _INT32) or dims_size % 4 or dims_size > len(content) - 24:
        raise MatRefused("a variable without dimensions")
    dims = struct.unpack(f"{order}{dims_size // 4}i", content[24 : 24 + dims_size])
    if flags & 0xFF != _SPARSE and (min(dims, default=0) < 0 or math.prod(dims) > size):
        raise MatRefused(f"its header says {'x'.join(map(str, dims[:8]))} elements in {size:,} bytes")
