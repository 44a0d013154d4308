"""Files that stages hand to one another, read once and compared with what was recorded when they were written."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import IO

from pipeline.core.errors import REPAIR, DataError

_TAIL = b"crc32 "  # before the four bytes of the checksum, at the end of the file


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, of which little is in memory at a time. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_recorded(path: Path, sha256: str, record: Path, remedy: str = REPAIR) -> bytes:
    """The bytes of `path`, if they are those whose SHA-256 the file `record` names.

    Raises DataError, with the remedy, where they are others, or the file is missing or can't be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run `dvc repro` (or `dvc pull`) to get it") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}; fix that, then run it again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is damaged, or not the file that {record} describes (its SHA-256 differs); {remedy}")
    return content


class ChecksumWriter:
    """Writes to a file, and at the end a checksum of all that was written: `read_checksummed` tells by it what changed.

    CRC-32, in zlib's fast form: it finds any change of up to 32 bits in a row, and of others all but one in 4e9.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._crc = file, 0

    def write(self, block: bytes) -> int:
        """Write bytes; returns how many. Raises OSError."""
        self._crc = zlib.crc32(block, self._crc)
        return self._file.write(block)

    def flush(self) -> None:
        """Hand what is written to the operating system."""
        self._file.flush()

    def finish(self) -> None:
        """Write the checksum; nothing may follow."""
        self._file.write(_TAIL + self._crc.to_bytes(4, "big"))


def read_checksummed(path: Path) -> bytes:
    """All bytes of a file that a ChecksumWriter finished, the checksum at its end among them.

    Raises DataError for one that was cut or changed, OSError for one that can't be read.
    """
    content = path.read_bytes()
    end = len(content) - len(_TAIL) - 4
    if end < 0 or content[end:-4] != _TAIL:
        raise DataError(f"{path} ends without a checksum, so it was cut")
    if zlib.crc32(memoryview(content)[:end]) != int.from_bytes(content[-4:], "big"):
        raise DataError(f"{path} has changed since it was written (its checksum is another)")
    return content
